"""Commands about many trainings: comparing systems, varying one, and the papers' tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.base import (
    Json,
    Lengths,
    MaskedOption,
    SplitKind,
    SplitSeed,
    app,
    make_split,
    read_choice,
    read_lengths,
    read_masked,
)
from triptych.cli.output import out, print_json, print_table
from triptych.errors import ConfigError, nearest

if TYPE_CHECKING:
    from triptych.data.split import Split
    from triptych.experiments.comparison import ComparisonResult, Spread
    from triptych.experiments.jobs import Workshop
    from triptych.experiments.reproduction import ReproducedTable
    from triptych.training.recipe import Recipe

DataOption = Annotated[Path, typer.Option("--data", help="A data set folder made by `triptych prepare`.")]
Seeds = Annotated[str, typer.Option(help="How many, or which: 3 is short for 1,2,3.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A setting of all systems; repeat."),
]
Reference = Annotated[
    str | None,
    typer.Option(help="The system that the others are tested against; by default the best on validation."),
]
Protocol = Annotated[
    str,
    typer.Option(
        help="clean, or legacy: round as MMRec does, and show beside the means what choosing by the test "
        "part would print."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int, typer.Option(help="Trainings at the same time.")]
Threads = Annotated[int | None, typer.Option(help="Threads of each training.")]
GraphCache = Annotated[
    Path | None,
    typer.Option(envvar="TRIPTYCH_CACHE", help="Folder that keeps item neighbours between calls."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="The experiment's folder; by default experiments/DATA.")
]


@app.command(epilog="Example: `triptych compare lightgcn freedom freedom+ksi --data data/shop --seeds 5`")
def compare(
    systems: Annotated[
        list[str],
        typer.Argument(help="Models or recipes, perhaps with plug-ins: MODEL+PLUGIN.", metavar="SYSTEM..."),
    ],
    data: DataOption,
    seeds: Seeds = "3",
    settings: Settings = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    reference: Reference = None,
    protocol: Protocol = "clean",
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Train systems with several seeds each, then measure all on test and say which differences hold.

    What is trained already is not trained again, and what was stopped goes on: call it again after a kill,
    or with more systems or seeds.
    """
    from triptych.training.recipe import find_recipe, parse_settings

    chosen = parse_settings(settings or [])
    named = {name.replace(".toml", ""): find_recipe(name).with_settings(chosen) for name in systems}
    bench = _Bench(data, split, split_seed, k, masked, device, workers, threads, graph_cache, out_folder)
    legacy = read_choice("--protocol", protocol, ("clean", "legacy")) == "legacy"
    bench.compare(named, seeds, "comparison.json", as_json, reference=reference, legacy=legacy)


@app.command(epilog="Example: `triptych ablate sand --data data/shop --seeds 3`")
def ablate(
    system: Annotated[
        str, typer.Argument(help="A model or recipe, perhaps with plug-ins.", metavar="SYSTEM")
    ],
    data: DataOption,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Only this one, by name; repeat.")
    ] = None,
    seeds: Seeds = "3",
    settings: Settings = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Compare a model with its documented variants: what each of its parts is worth on these data."""
    from triptych.experiments.plans import shipped_ablation
    from triptych.training.recipe import find_recipe, parse_settings

    base = find_recipe(system).with_settings(parse_settings(settings or []))
    plan = shipped_ablation(base.model)
    named = plan.systems(base)
    if not plan.variants:
        raise ConfigError(
            f"no variants of {base.model} come with Triptych",
            wanted="a model whose variants are documented",
            fix="Vary a setting with 'triptych sweep', or compare recipes with 'triptych compare'",
        )
    for variant in variants or ():
        if variant not in plan.variants:
            raise ConfigError(
                f"{base.model} has no variant '{variant}'",
                wanted="one of: " + ", ".join(plan.variants),
                fix=nearest(variant, plan.variants),
            )
    if variants:
        named = {name: recipe for name, recipe in named.items() if name in (base.name, *variants)}
    bench = _Bench(data, split, split_seed, k, masked, device, workers, threads, graph_cache, out_folder)
    bench.compare(named, seeds, f"ablation-{base.name}.json", as_json, reference=base.name)


@app.command(epilog="Example: `triptych sweep lightgcn n_layers=1,2,3,4 --data data/shop --seeds 3`")
def sweep(
    system: Annotated[
        str, typer.Argument(help="A model or recipe, perhaps with plug-ins.", metavar="SYSTEM")
    ],
    fields: Annotated[
        list[str],
        typer.Argument(
            help="FIELD=VALUE,VALUE,..., of which all combinations are tried, or one NAME of a sweep that "
            "comes with Triptych.",
            metavar="FIELD=VALUES...",
        ),
    ],
    data: DataOption,
    seeds: Seeds = "1",
    settings: Settings = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    protocol: Protocol = "clean",
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Train a model with each of some values of its settings, and compare: the papers' sensitivity curves.

    To choose a setting, look at the validation column; the test column says what choosing by it would hide.
    """
    from triptych.experiments.plans import shipped_ablation, sweep_systems
    from triptych.training.recipe import find_recipe, parse_settings

    base = find_recipe(system).with_settings(parse_settings(settings or []))
    if len(fields) == 1 and "=" not in fields[0]:
        named = shipped_ablation(base.model).sweep(fields[0], base)
    else:
        named = sweep_systems(base, _read_values(fields))
    bench = _Bench(data, split, split_seed, k, masked, device, workers, threads, graph_cache, out_folder)
    legacy = read_choice("--protocol", protocol, ("clean", "legacy")) == "legacy"
    bench.compare(named, seeds, f"sweep-{base.name}.json", as_json, legacy=legacy)


@app.command(
    epilog="Example: `triptych reproduce sand 2 --data baby=data/baby --row SAND --row MGCN --seeds 1`"
)
def reproduce(
    paper: Annotated[str, typer.Argument(help="camgr, ksi, mgnm, msi or sand.", metavar="PAPER")],
    table: Annotated[
        str | None, typer.Argument(help="As printed; without it, the tables are listed.", metavar="[TABLE]")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=FOLDER", help="A data set of the paper and its folder; repeat."),
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="Only this row, by its printed name; repeat.")
    ] = None,
    seeds: Seeds = "1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing; say what it would cost on this machine.")
    ] = False,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Train what is missing for a paper's table, and put our figures beside the printed ones."""
    from triptych.experiments.plans import shipped_paper
    from triptych.experiments.reproduction import reproduce as reproduce_table
    from triptych.experiments.reproduction import table_systems

    plan = shipped_paper(paper)
    if table is None:
        tables = [
            {"table": found.number, "title": found.title, "rows": [row.printed for row in found.rows]}
            for found in plan.tables.values()
        ]
        if as_json:
            print_json(
                {"paper": plan.paper, "title": plan.title, "datasets": dict(plan.datasets), "tables": tables}
            )
            return
        shown = [(entry["table"], entry["title"], ", ".join(entry["rows"])) for entry in tables]
        print_table(f"{plan.paper}: {plan.title} ({plan.source})", ["table", "title", "rows"], shown)
        out.print("Data sets: " + ", ".join(plan.datasets), highlight=False, markup=False)
        return
    numbers = read_seeds(seeds)
    found, estimates = [], []
    for name, folder in _read_data(data or []).items():
        systems = table_systems(plan, table, name, rows)
        bench = _Bench(
            folder,
            split,
            split_seed,
            "10,20",
            "train",
            device,
            workers,
            threads,
            graph_cache,
            out_folder,
        )
        if dry_run:
            title = f"{plan.paper}, table {table} on {name}"
            estimates.append(bench.estimate(systems, numbers, title, quiet=as_json))
            continue
        with bench.progress(len(systems) * len(numbers)) as progress:
            result = reproduce_table(
                plan,
                table,
                name,
                bench.split,
                numbers,
                bench.workshop,
                rows=rows,
                observe=progress.observe,
                on_outcome=progress.on_outcome,
            )
        file = re.sub(r"[^a-z0-9]+", "-", f"{plan.paper}-table-{table}-{name}".lower()).strip("-")
        bench.write(f"{file}.json", result.model_dump(mode="json"), result.comparison)
        found.append(result)
    if as_json:
        tables = [result.model_dump(mode="json") for result in found]
        print_json({"estimates": estimates} if dry_run else {"tables": tables})
        return
    for result in found:
        _print_reproduced(result)


class _Bench:
    """The data and the workshop that the options of a command name."""

    def __init__(
        self,
        data: Path,
        split: str | None,
        split_seed: int,
        k: str,
        masked: str,
        device: str,
        workers: int,
        threads: int | None,
        graph_cache: Path | None,
        out_folder: Path | None,
    ) -> None:
        from triptych.data.dataset import Dataset
        from triptych.experiments.jobs import Workshop

        self.lengths, self.masked = read_lengths(k), read_masked(masked)
        dataset = Dataset.load(data)
        self.split: Split = make_split(dataset, split, split_seed)
        self.workshop: Workshop = Workshop(
            out_folder or Path("experiments") / dataset.name,
            device=device,
            workers=workers,
            threads=threads,
            graph_cache=graph_cache,
            k=tuple(self.lengths),
        )

    def progress(self, total: int) -> Any:
        """Make what shows the trainings."""
        from triptych.cli.progress import ExperimentProgress

        return ExperimentProgress(total)

    def write(self, name: str, content: Mapping[str, Any], comparison: ComparisonResult) -> Path:
        """Keep what was found in the experiment's folder, with a page and tables beside it."""
        from triptych.files import write_json
        from triptych.report.comparison import write_comparison

        path = self.workshop.folder / name
        write_json(path, dict(content))
        write_comparison(comparison, path)
        return path

    def compare(
        self,
        systems: Mapping[str, Recipe],
        seeds: str,
        file: str,
        as_json: bool,
        *,
        reference: str | None = None,
        legacy: bool = False,
    ) -> None:
        """Compare, write down, and print."""
        from triptych.experiments.comparison import compare as compare_systems

        numbers = read_seeds(seeds)
        with self.progress(len(systems) * len(numbers)) as progress:
            result = compare_systems(
                systems,
                self.split,
                numbers,
                self.workshop,
                k=self.lengths,
                masked=self.masked,
                reference=reference,
                legacy=legacy,
                observe=progress.observe,
                on_outcome=progress.on_outcome,
            )
        path = self.write(file, result.model_dump(mode="json"), result)
        if as_json:
            print_json({**result.model_dump(mode="json"), "folder": str(self.workshop.folder)})
            return
        _print_comparison(result)
        out.print(f"\nWritten: {path}, and .html, .md, .tex beside it", highlight=False, markup=False)

    def estimate(
        self, systems: Mapping[str, Recipe], seeds: Sequence[int], title: str, *, quiet: bool
    ) -> dict[str, Any]:
        """Say what training would cost, and print it unless `quiet`."""
        from triptych.experiments.reproduction import ASSUMED_EPOCHS, estimate

        costs = estimate(systems, self.split, seeds, self.workshop, self._measured_epoch())
        total = sum(cost.seconds for cost in costs)
        rows = [{**cost.model_dump(mode="json"), "seconds": cost.seconds} for cost in costs]
        answer = {"title": title, "rows": rows, "seconds": total}
        if quiet:
            return answer
        print_table(
            title,
            ["row", "missing", "s/epoch", "epochs", "minutes"],
            [
                (cost.row, cost.missing, cost.seconds_per_epoch, f"{'' if cost.known else '~'}{cost.epochs}",
                 round(cost.seconds / 60, 1))
                for cost in costs
            ],
            notes=f"{total / 3600:.1f} hours one after the other. ~: never trained here; one epoch was "
            f"measured, and {ASSUMED_EPOCHS} epochs, or the recipe's limit, are assumed.",
        )  # fmt: skip
        return answer

    def _measured_epoch(self) -> Callable[[Recipe], float]:
        from triptych.runs import train

        sealed = self.split.without_test()

        def measure(recipe: Recipe) -> float:
            configs = recipe.configs()
            one = configs.training.model_copy(update={"epochs": 1})
            run = train(
                configs.model,
                sealed,
                plugins=configs.plugins,
                config=one,
                device=self.workshop.device,
                k=self.workshop.k,
                graph_cache=self.workshop.graph_cache,
            )
            return run.record.seconds_per_epoch + run.record.seconds_per_evaluation

        return measure


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


def _read_values(texts: list[str]) -> dict[str, list[Any]]:
    """Read "n_layers=1,2,3" pieces; values are TOML, and anything else is a string."""
    from triptych.training.recipe import parse_settings

    found = {}
    for text in texts:
        name, _, values = text.partition("=")
        whole = parse_settings([f"{name}=[{values}]" if "=" in text else text])
        (listed,) = whole.values()
        pieces = [f"{name}={piece}" for piece in values.split(",")]
        found[name] = (
            listed if isinstance(listed, list) else [parse_settings([piece])[name] for piece in pieces]
        )
    return found


def _read_data(texts: list[str]) -> dict[str, Path]:
    """Read "baby=data/baby" pieces."""
    found = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise ConfigError(
                f"--data {text}", wanted="NAME=FOLDER", fix="Write for example --data baby=data/baby"
            )
        found[name] = Path(folder)
    if not found:
        raise ConfigError(
            "no data set is named", wanted="--data NAME=FOLDER", fix="Write for example --data baby=data/baby"
        )
    return found


def _print_comparison(result: ComparisonResult) -> None:
    length = max(result.protocol["k"])
    shown = list(dict.fromkeys([result.metric, f"recall@{length}", f"ndcg@{length}"]))
    best_seed = ["best seed by test"] if result.legacy_choice else []
    seeds = sorted({len(system.seeds) for system in result.systems})
    print_table(
        f"Test figures on {result.data}, mean ± standard deviation over {'–'.join(map(str, seeds))} seeds",
        ["system", *shown, *best_seed, f"valid {result.metric}", "s/epoch", "MiB"],
        [
            [
                system.name,
                *(_figure(system.test[metric]) for metric in shown),
                *(f"{(system.legacy or {})[result.metric]:.4f}" for _ in best_seed),
                _figure(system.valid[result.metric]),
                f"{system.seconds_per_epoch:.2f}",
                f"{system.peak_memory_bytes / 2**20:,.0f}",
            ]
            for system in result.systems
        ],
        notes=f"{result.protocol['users']:,} users; all items ranked, {result.protocol['masked']} items "
        "masked. Epochs chosen on validation; the test part was opened when all trainings had ended.",
    )
    if result.legacy_choice:
        out.print(
            "Legacy: the seed that is best on test is chosen by what it measures, and promises too much. "
            f"Choosing by it would take {result.legacy_choice}; validation takes {_best(result)}.",
            markup=False,
            highlight=False,
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


def _best(result: ComparisonResult) -> str:
    return max(result.systems, key=lambda system: system.valid[result.metric].mean).name


def _print_reproduced(result: ReproducedTable) -> None:
    metrics = list(dict.fromkeys(figure.metric for figure in result.figures))
    shown = [metric for metric in ("recall@20", "ndcg@20") if metric in metrics] or metrics[:2]
    cells = {(figure.row, figure.metric): figure for figure in result.figures}
    table = []
    for row in dict.fromkeys(figure.row for figure in result.figures):
        line = [row]
        for metric in shown:
            cell = cells[row, metric]
            line += [
                _figure(cell.ours),
                "–" if cell.printed is None else f"{cell.printed:.4f}",
                "–" if cell.relative is None else f"{cell.relative:+.1%}",
            ]
        table.append(line)
    columns = [name for metric in shown for name in (metric, "printed", "off by")]
    print_table(
        f"{result.paper}, table {result.table}, {result.title}: {result.data}, seeds "
        + ", ".join(map(str, result.seeds)),
        ["row", *columns],
        table,
        notes=result.differs,
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _figure(spread: Spread) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f"\u00a0±\u00a0{spread.sd:.4f}")
