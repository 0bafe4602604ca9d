"""What comparisons under several splits found: JSON, a page, and tables in Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path

from triptych.experiments.splits import SplitsResult, mean_figures
from triptych.files import write_json, write_text
from triptych.report.comparison import write_comparison
from triptych.report.comparison_tables import PlainTable, plain_latex, plain_markdown
from triptych.report.page import write_page


def write_splits(result: SplitsResult, path: Path) -> None:
    """Write a result, NAME.json, with page and tables beside it, and each comparison as NAME-SPLIT.json.

    Args:
        result: of the comparisons.
        path: the JSON file to make or replace.
    """
    tables = [orders_table(result), agreement_table(result)]
    pages = {}
    for name, comparison in result.comparisons.items():
        of_split = path.with_name(f"{path.stem}-{name}{path.suffix}")
        write_comparison(comparison, of_split)
        pages[name] = of_split.with_suffix(".html").name
    write_json(path, result.model_dump(mode="json"))
    write_text(path.with_suffix(".md"), "\n".join(map(plain_markdown, tables)))
    write_text(
        path.with_suffix(".tex"),
        "\n".join(["% needs \\usepackage{booktabs}", *map(plain_latex, tables)]),
    )
    write_page(path.with_suffix(".html"), "splits.html", result=result, tables=tables, pages=pages)


def orders_table(result: SplitsResult) -> PlainTable:
    """Put the place of each system under each split, with its figure, beside each other."""
    means = {name: mean_figures(comparison) for name, comparison in result.comparisons.items()}
    systems = dict.fromkeys(system for order in result.orders.values() for system in order)
    rows = [
        [
            system,
            *(
                f"{order.index(system) + 1} ({means[name][system]:.4f})" if system in order else "–"
                for name, order in result.orders.items()
            ),
        ]
        for system in systems
    ]
    return PlainTable(
        "Order of systems",
        ["system", *result.orders],
        rows,
        f"Place of each system by test {result.metric} on {result.data}, under each split, and the figure. "
        "Figures of different splits ask different questions: compare the places.",
    )


def agreement_table(result: SplitsResult) -> PlainTable:
    """Say how alike the orders of two splits are."""
    return PlainTable(
        "How alike the orders are",
        ["splits", "Kendall's tau", "systems"],
        [
            [f"{one.first} and {one.second}", "–" if one.tau is None else f"{one.tau:+.2f}", str(one.systems)]
            for one in result.agreements
        ],
        "How alike two splits order the systems: +1 the same, -1 the reverse. Of few systems it is coarse.",
    )
