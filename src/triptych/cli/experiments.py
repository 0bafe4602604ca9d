"""Commands about many trainings: comparing systems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.base import (
    Json,
    Lengths,
    MaskedOption,
    SplitKind,
    SplitSeed,
    app,
    make_split,
    read_lengths,
    read_masked,
)
from triptych.cli.output import out, print_json, print_table
from triptych.errors import ConfigError

if TYPE_CHECKING:
    from triptych.experiments.comparison import ComparisonResult, Spread


@app.command(epilog="Example: `triptych compare lightgcn freedom freedom+sand --data data/shop --seeds 5`")
def compare(
    systems: Annotated[
        list[str],
        typer.Argument(help="Models or recipes, perhaps with plug-ins: MODEL+PLUGIN.", metavar="SYSTEM..."),
    ],
    data: Annotated[Path, typer.Option("--data", help="A data set folder made by `triptych prepare`.")],
    seeds: Annotated[str, typer.Option(help="How many, or which: 5 is short for 1,2,3,4,5.")] = "3",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A setting of all systems; repeat."),
    ] = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    reference: Annotated[
        str | None,
        typer.Option(
            help="The system that the others are tested against; by default the best on validation."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(help="Trainings at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each training.")] = None,
    graph_cache: Annotated[
        Path | None,
        typer.Option(envvar="TRIPTYCH_CACHE", help="Folder that keeps item neighbours between calls."),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The experiment's folder; by default experiments/DATA.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train systems with several seeds each, then measure all on test and say which differences hold.

    What is trained already is not trained again, and what was stopped goes on: call it again after a kill,
    or with more systems or seeds.
    """
    from triptych.cli.progress import ExperimentProgress
    from triptych.data.dataset import Dataset
    from triptych.experiments.comparison import compare as compare_systems
    from triptych.experiments.jobs import Workshop
    from triptych.files import write_json
    from triptych.training.recipe import find_recipe, parse_settings

    chosen = parse_settings(settings or [])
    named = {name.replace(".toml", ""): find_recipe(name).with_settings(chosen) for name in systems}
    numbers = read_seeds(seeds)
    dataset = Dataset.load(data)
    folder = out_folder or Path("experiments") / dataset.name
    lengths = read_lengths(k)
    workshop = Workshop(
        folder, device=device, workers=workers, threads=threads, graph_cache=graph_cache, k=tuple(lengths)
    )
    with ExperimentProgress(len(named) * len(numbers)) as progress:
        result = compare_systems(
            named,
            make_split(dataset, split, split_seed),
            numbers,
            workshop,
            k=lengths,
            masked=read_masked(masked),
            reference=reference,
            observe=progress.observe,
            on_outcome=progress.on_outcome,
        )
    write_json(folder / "comparison.json", result.model_dump(mode="json"))
    if as_json:
        print_json({**result.model_dump(mode="json"), "folder": str(folder)})
        return
    _print_comparison(result)
    out.print(f"\nWritten: {folder / 'comparison.json'}", highlight=False, markup=False)


def read_seeds(text: str) -> list[int]:
    """Read "3" as 1, 2, 3, and "4,7" as these two.

    Raises:
        ConfigError: it is neither.
    """
    try:
        numbers = [int(piece) for piece in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or numbers == [0]:
        raise ConfigError(
            f"--seeds {text}", wanted="how many seeds, or a list of them", fix="Write for example --seeds 5"
        )
    return list(range(1, numbers[0] + 1)) if len(numbers) == 1 else numbers


def _print_comparison(result: ComparisonResult) -> None:
    length = max(result.protocol["k"])
    shown = list(dict.fromkeys([result.metric, f"recall@{length}", f"ndcg@{length}"]))
    seeds = sorted({len(system.seeds) for system in result.systems})
    print_table(
        f"Test figures on {result.data}, mean ± standard deviation over {'–'.join(map(str, seeds))} seeds",
        ["system", *shown, f"valid {result.metric}", "s/epoch", "MiB"],
        [
            [
                system.name,
                *(_figure(system.test[metric]) for metric in shown),
                _figure(system.valid[result.metric]),
                f"{system.seconds_per_epoch:.2f}",
                f"{system.peak_memory_bytes / 2**20:,.0f}",
            ]
            for system in result.systems
        ],
        notes=f"{result.protocol['users']:,} users; all items ranked, {result.protocol['masked']} items "
        "masked. Epochs chosen on validation; the test part was opened when all trainings had ended.",
    )
    if result.differences:
        print_table(
            f"\n{result.metric} beside {result.reference}, "
            + ("the best on validation" if result.reference_chosen else "as asked for"),
            ["system", "difference", "95 % interval", "p", "p Holm", "p Wilcoxon", "detectable"],
            [
                [
                    difference.system,
                    f"{difference.difference:+.4f}",
                    f"{difference.interval[0]:+.4f}\u00a0…\u00a0{difference.interval[1]:+.4f}",
                    _p(difference.p_bootstrap),
                    _p(difference.p_corrected),
                    _p(difference.p_wilcoxon),
                    f"{difference.detectable:.4f}",
                ]
                for difference in result.differences
            ],
            notes="Paired by user, each user's mean over seeds; bootstrap p, corrected by Holm for this "
            "table. A difference below the detectable one would mostly stay unseen, and one below the "
            "spread over seeds proves little.",
        )
    for failure in result.failures:
        out.print(f"Failed: {failure.name}, seed {failure.seed}: {failure.error}", markup=False)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _figure(spread: Spread) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f"\u00a0±\u00a0{spread.sd:.4f}")
