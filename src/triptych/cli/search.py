"""The command that searches for settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.base import (
    Device,
    GraphCache,
    Json,
    MemoryLimit,
    Seed,
    SplitKind,
    SplitSeed,
    app,
    read_choice,
)
from triptych.cli.bench import (
    Bench,
    DataOption,
    OutFolder,
    Settings,
    Threads,
    Workers,
)
from triptych.cli.output import out, print_json, print_table
from triptych.errors import ConfigError

if TYPE_CHECKING:
    from triptych.experiments.search import SearchResult


@app.command(epilog="Example: `triptych search lightgcn freedom --data data/shop --trials 20`")
def search(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="Models or recipes, perhaps with plug-ins: MODEL+PLUGIN, each with the values that come "
            "with it for what it leaves open; or files of spaces.",
            metavar="SYSTEM...",
        ),
    ],
    data: DataOption,
    trials: Annotated[
        int, typer.Option(help="Of each system, the defaults, or the recipe's settings, among them.")
    ] = 20,
    settings: Settings = None,
    seed: Seed = 1,
    sampler: Annotated[
        str, typer.Option(help="tpe learns from earlier trials, random does not, grid tries all points.")
    ] = "tpe",
    pruner: Annotated[
        str,
        typer.Option(
            help="Stop bad trials early: none, median or halving; from the 10th evaluation on, or from the "
            "middle of fewer than 20."
        ),
    ] = "none",
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    memory_limit: MemoryLimit = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Search the settings that are best on validation, with equal budgets, and write recipes of them.

    No test pair is there. Trials are kept: call it again after a kill, or with more trials. Several calls may
    work on one folder at a time.
    """
    from triptych.experiments.search import check_plan, write_search
    from triptych.experiments.search import search as search_settings
    from triptych.experiments.study import SearchPlan
    from triptych.report.search import write_search_page
    from triptych.training.recipe import parse_settings
    from triptych.training.space import find_space

    fixed = parse_settings(settings or [])
    plans = [
        SearchPlan(
            find_space(system),
            trials,
            read_choice("--sampler", sampler, ("tpe", "random", "grid")),
            read_choice("--pruner", pruner, ("none", "median", "halving")),
            seed,
            fixed,
        )
        for system in systems
    ]
    for plan in plans:  # all of them, before the first is worked on
        check_plan(plan)
    names = [plan.space.name for plan in plans]
    if len(names) > len(set(names)):
        raise ConfigError(
            f"two spaces of {max(names, key=names.count)} among {', '.join(systems)}",
            wanted="one search of a system in a folder",
            fix="Search them in two calls, with two --out folders",
        )
    bench = Bench(
        data, split=split, split_seed=split_seed, device=device, workers=workers, threads=threads,
        graph_cache=graph_cache, memory_limit=memory_limit, out_folder=out_folder, k=None,
    )  # fmt: skip
    found = []
    for plan in plans:
        with bench.progress(trials) as progress:
            result = search_settings(
                plan, bench.split, bench.workshop, on_trial=progress.on_trial, observe=progress.observe
            )
        page = bench.workshop.folder / f"search-{result.name}.html"
        write_search_page(result, page)
        found.append((result, write_search(result, bench.workshop.folder), page))
    if as_json:
        print_json(
            {
                "searches": [
                    {**result.model_dump(mode="json"), "recipe": str(recipe), "page": str(page)}
                    for result, recipe, page in found
                ]
            }
        )
        return
    for result, recipe, page in found:
        _print_search(result, recipe, page)


def _print_search(result: SearchResult, recipe: Path, page: Path) -> None:
    states = [trial.state for trial in result.trials]
    done = sorted(
        (trial for trial in result.trials if trial.state == "done"), key=lambda trial: -(trial.value or 0)
    )
    fields = list(dict.fromkeys(name for trial in done for name in trial.settings))
    print_table(
        f"{result.name} on {result.data}: {len(states)} trials, {states.count('pruned')} stopped early, "
        f"{states.count('failed')} failed; the best of them by validation {result.metric}",
        ["trial", result.metric, "best epoch", *fields],
        [
            [trial.number, trial.value, trial.best_epoch, *(_shown(trial.settings, name) for name in fields)]
            for trial in done[:10]
        ],
        notes="One seed does not order neighbours: compare the best with others over several seeds.",
    )
    if result.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items())
        out.print(f"What made the difference: {shares}", highlight=False, markup=False)
    out.print(f"Written: {page}", highlight=False, markup=False)
    out.print(f"Written: {recipe}; triptych compare {recipe} ... measures it", highlight=False, markup=False)


def _shown(settings: dict[str, Any], name: str) -> str:
    return (
        f"{settings[name]:.4g}"
        if isinstance(settings.get(name), float)
        else str(settings.get(name, "default"))
    )
