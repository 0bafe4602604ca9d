"""The command that trains the papers' tables and figures again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from triptych.cli.base import (
    Device,
    GraphCache,
    Json,
    MemoryLimit,
    SplitKind,
    SplitSeed,
    app,
    each_once,
    needs,
    read_pair,
)
from triptych.cli.bench import Bench, OutFolder, Seeds, Threads, Workers, file_name, print_written, read_seeds
from triptych.cli.comparison_tables import print_comparison, print_lacking, worded
from triptych.cli.output import out, print_json, print_table
from triptych.errors import ConfigError

if TYPE_CHECKING:
    from triptych.experiments.plans import PaperPlan
    from triptych.experiments.reproduction import ReproducedPanel, ReproducedTable
    from triptych.training.recipe import Recipe


@app.command(
    epilog="Example: `triptych reproduce sand 2 --data baby=data/baby --row SAND --row MGCN --seeds 1`"
)
def reproduce(
    context: typer.Context,
    paper: Annotated[str, typer.Argument(help="camgr, ksi, mgnm, msi or sand.", metavar="PAPER")],
    table: Annotated[
        str | None,
        typer.Argument(help="As printed; without it, tables and figures are listed.", metavar="[TABLE]"),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            help="A figure instead of a table, by its number: curves or bars, whose points no paper prints."
        ),
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
    memory_limit: MemoryLimit = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Train what is missing for a paper's table, and put our figures beside the printed ones."""
    from triptych.experiments.plans import shipped_paper
    from triptych.experiments.reproduction import figure_systems, table_systems

    plan = shipped_paper(paper)
    given = table is not None or figure is not None
    others = {"paper", "table", "figure", "as_json"}
    options = [option.opts[0] for option in context.command.params if option.name not in others]
    needs(context, options, "a table or --figure", met=given)
    if not given:
        _list(plan, as_json)
        return
    if figure is not None and (table is not None or rows):
        raise ConfigError(
            f"--figure {figure} with " + ("a table" if table is not None else "--row"),
            wanted="a figure, or a table and perhaps its rows",
            fix="Leave one of them out",
        )
    numbers, folders = read_seeds(seeds), _read_data(data or [])
    tables: list[tuple[ReproducedTable, _Written]] = []
    panels: list[tuple[ReproducedPanel, _Written]] = []
    estimates: list[dict[str, Any]] = []
    asked = []
    for name, folder in folders.items():  # all of them, before the first is worked on
        systems = (
            {"": table_systems(plan, table, name, rows)}
            if table is not None
            else figure_systems(plan, figure or "", name)
        )
        bench = Bench(
            folder, split=split, split_seed=split_seed, device=device, workers=workers, threads=threads,
            graph_cache=graph_cache, memory_limit=memory_limit, out_folder=out_folder,
        )  # fmt: skip
        asked.append((name, systems, bench))
    what = f"table {table}" if table is not None else f"figure {figure}"
    for name, systems, bench in asked:
        if dry_run:
            for shown, of in systems.items():
                title = f"{plan.paper}, {what} on {name}" + (f": {shown}" if shown else "")
                estimates.append(_estimate(bench, of, numbers, title))
        elif table is not None:
            tables.append(_reproduce_table(bench, plan, table, name, numbers, rows, len(systems[""])))
        else:
            total = sum(map(len, systems.values()))
            panels += _reproduce_figure(bench, plan, figure or "", name, numbers, total)
    if as_json:
        made = {"tables": tables} if table is not None else {"figures": panels}
        found = {kind: [one.model_dump(mode="json") for one, _ in of] for kind, of in made.items()}
        print_json({"estimates": estimates} if dry_run else found)
        return
    for estimate in estimates:
        _print_estimate(estimate)
    for one, written in tables:
        _print_table(one)
        print_written(*written)
    for panel, written in panels:
        _print_panel(panel)
        print_written(*written)


def _list(plan: PaperPlan, as_json: bool) -> None:
    """Say which tables and figures there are."""
    tables = [
        {"table": found.number, "title": found.title, "rows": [row.printed for row in found.rows]}
        for found in plan.tables.values()
    ]
    figures = [
        {"figure": found.number, "title": found.title, "datasets": found.datasets, "panels": found.panels}
        for found in plan.figures.values()
    ]
    if as_json:
        head = {"paper": plan.paper, "title": plan.title, "datasets": dict(plan.datasets)}
        print_json({**head, "tables": tables, "figures": figures})
        return
    print_table(
        f"{plan.paper}: {plan.title} ({plan.source})",
        ["table", "title", "rows"],
        [(found.number, found.title, ", ".join(row.printed for row in found.rows))
         for found in plan.tables.values()],
    )  # fmt: skip
    if figures:
        print_table(
            "\nFigures: curves and bars that can be drawn again",
            ["figure", "title", "varied", "on"],
            [
                (found.number, found.title, ", ".join(found.panels), ", ".join(found.datasets))
                for found in plan.figures.values()
            ],
        )
    out.print("Data sets: " + ", ".join(plan.datasets), highlight=False, markup=False)


class _Written(NamedTuple):
    """Where a report is, and where it was wanted."""

    path: Path
    asked: Path


def _reproduce_table(
    bench: Bench,
    plan: PaperPlan,
    table: str,
    data: str,
    seeds: Sequence[int],
    rows: Sequence[str] | None,
    n_systems: int,
) -> tuple[ReproducedTable, _Written]:
    from triptych.experiments.reproduction import reproduce as reproduce_table
    from triptych.report.comparison import free_path
    from triptych.report.reproduction import write_reproduction

    with bench.progress(n_systems * len(seeds)) as progress:
        result = reproduce_table(
            plan,
            table,
            data,
            bench.split,
            seeds,
            bench.workshop,
            rows=rows,
            observe=progress.observe,
            on_outcome=progress.on_outcome,
        )
    name = file_name(plan.paper.lower(), "table", table, data, *(rows or ()), bench.split_kind)
    asked = bench.workshop.folder / f"{name}.json"
    path = free_path(asked, result.comparison)
    write_reproduction(result, path)
    return result, _Written(path, asked)


def _reproduce_figure(
    bench: Bench, plan: PaperPlan, figure: str, data: str, seeds: Sequence[int], n_systems: int
) -> list[tuple[ReproducedPanel, _Written]]:
    from triptych.experiments.reproduction import reproduce_figure
    from triptych.report.comparison import free_path, write_comparison

    with bench.progress(n_systems * len(seeds)) as progress:
        panels = reproduce_figure(
            plan,
            figure,
            data,
            bench.split,
            seeds,
            bench.workshop,
            observe=progress.observe,
            on_outcome=progress.on_outcome,
        )
    written = []
    for panel in panels:
        name = file_name(plan.paper.lower(), "figure", figure, data, panel.panel, bench.split_kind)
        asked = bench.workshop.folder / f"{name}.json"
        path = free_path(asked, panel.comparison)
        write_comparison(panel.comparison, path, panel)
        written.append((panel, _Written(path, asked)))
    return written


def _estimate(
    bench: Bench, systems: Mapping[str, Recipe], seeds: Sequence[int], title: str
) -> dict[str, Any]:
    """Say what training would cost."""
    from triptych.experiments.reproduction import estimate

    costs = estimate(systems, bench.split, seeds, bench.workshop)
    rows = [{**cost.model_dump(mode="json"), "seconds": cost.seconds} for cost in costs]
    return {"title": title, "rows": rows, "seconds": sum(cost.seconds for cost in costs)}


def _print_estimate(estimate: Mapping[str, Any]) -> None:
    from triptych.experiments.reproduction import ASSUMED_EPOCHS

    print_table(
        estimate["title"],
        ["row", "missing", "s/epoch", "epochs", "minutes"],
        [
            (row["row"], row["missing"], "–", "–", "–") if row["error"] is not None
            else (row["row"], row["missing"], row["seconds_per_epoch"],
                  f"{'' if row['known'] else '~'}{row['epochs']}", round(row["seconds"] / 60, 1))
            for row in estimate["rows"]
        ],
        notes=f"{estimate['seconds'] / 3600:.1f} hours one after the other. ~: never trained here; one "
        f"epoch was measured, and {ASSUMED_EPOCHS} epochs, or the recipe's limit, are assumed.",
    )  # fmt: skip
    for row in estimate["rows"]:
        if row["error"] is not None:
            out.print(f"Cannot be trained: {row['row']}: {row['error']}", highlight=False, markup=False)


def _print_table(result: ReproducedTable) -> None:
    from triptych.report.reproduction import data_note

    metrics = list(dict.fromkeys(figure.metric for figure in result.figures))
    shown = [metric for metric in ("recall@20", "ndcg@20") if metric in metrics] or metrics[:2]
    cells = {(figure.row, figure.metric): figure for figure in result.figures}
    table = []
    for row in dict.fromkeys(figure.row for figure in result.figures):
        line = [row]
        for metric in shown:
            cell = cells[row, metric]
            line += [
                worded(cell.ours),
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
        notes=f"{data_note(result)} {result.differs}",
    )
    print_lacking(result.comparison)


def _print_panel(panel: ReproducedPanel) -> None:
    from triptych.report.reproduction import data_note

    out.print(
        f"\n{panel.paper}, figure {panel.figure}, {panel.title}: {panel.panel}",
        style="bold",
        highlight=False,
        markup=False,
    )
    print_comparison(panel.comparison)
    out.print(data_note(panel), highlight=False, markup=False)


def _read_data(texts: list[str]) -> dict[str, Path]:
    """Read "baby=data/baby" pieces."""
    if not texts:
        raise ConfigError(
            "no data set is named", wanted="--data NAME=FOLDER", fix="Write for example --data baby=data/baby"
        )
    pairs = [read_pair("--data", "NAME=FOLDER", text, "baby=data/baby") for text in texts]
    each_once("--data", [name for name, _ in pairs])
    return {name: Path(folder) for name, folder in pairs}
