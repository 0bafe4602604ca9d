"""A paper's table again, beside its JSON: our figures and the printed ones, as page and tables."""

from __future__ import annotations

from pathlib import Path

from triptych.experiments.reproduction import DataUsed, ReproducedPanel, ReproducedTable
from triptych.report.comparison import write_comparison
from triptych.report.comparison_tables import PlainTable, words


def write_reproduction(result: ReproducedTable, path: Path) -> None:
    """Write a result, NAME.json, and NAME.md, NAME.tex and NAME.html with the printed figures in them.

    Args:
        result: of one table on one data set.
        path: the JSON file to make or replace.
    """
    write_comparison(result.comparison, path, result, before=[printed_table(result)])


def printed_table(result: ReproducedTable) -> PlainTable:
    """Put our figures and the printed ones beside each other, with what is known to differ."""
    seeds = ", ".join(map(str, result.seeds))
    return PlainTable(
        "Beside the printed figures",
        ["row", "metric", "ours", "printed", "off by", "of the printed figure"],
        [
            [
                figure.row,
                figure.metric,
                words(figure.ours),
                "–" if figure.printed is None else f"{figure.printed:.4f}",
                "–" if figure.relative is None else f"{figure.relative:+.1%}",
                figure.note or "–",
            ]
            for figure in result.figures
        ],
        f"{result.paper} ({result.source}), table {result.table}, {result.title}: {result.data}, test "
        f"figures, seeds {seeds}. {data_note(result)} {result.differs}",
    )


def data_note(result: ReproducedTable | ReproducedPanel) -> str:
    """Say on what data ours was measured, and whether these can be those of the paper."""
    used = result.used
    said = (
        f"Ours is of {used.users:,} users, {used.items:,} items and {used.interactions:,} interactions, "
        f"split by {result.comparison.split.get('kind')}"
    )
    if not used.printed:
        return f"{said}; the paper prints no such numbers of {result.data}."
    if not used.differing:
        return f"{said}; the paper prints the same numbers."
    printed = ", ".join(f"{_number(used, name)} {name}" for name in used.printed)
    return f"{said}. These are not the paper's data, of which it prints {printed}."


def _number(used: DataUsed, name: str) -> str:
    text = used.printed[name]
    return f"{int(text):,}" if text.isdecimal() else text
