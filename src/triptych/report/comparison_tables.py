"""What a comparison found, as a table for a paper: in Markdown and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from triptych.errors import ConfigError, nearest
from triptych.experiments.knockout import Curve, curves
from triptych.experiments.result import ComparisonResult, Spread

ALPHA = 0.05
"""A difference is marked if its p-value, after Holm's correction, is below it."""
MARK = "†"

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", MARK: r"$^{\dagger}$", "–": "--",
    "[": "{[}", "]": "{]}",  # a row that begins with one would else be a length for the line break before it
}  # fmt: skip


class Cell(NamedTuple):
    """One figure of the table, in words.

    Args:
        mean: over seeds.
        sd: over seeds; empty for a single one.
        place: 1 for the best of its column, 2 for the next, 0 for all others. What reads the same ties.
        mark: `MARK` if the difference to the reference was tested by this metric and is significant.
    """

    mean: str
    sd: str
    place: int
    mark: str


def comparison_markdown(result: ComparisonResult, metrics: Sequence[str] | None = None) -> str:
    """Write the test figures as a Markdown table, the best of each metric bold and the second underlined.

    Args:
        result: of a comparison.
        metrics: the columns; by default recall and ndcg of every length.

    Raises:
        ConfigError: a metric was not measured.
    """
    chosen = columns(result, metrics)
    ends = {0: ("", ""), 1: ("**", "**"), 2: ("<ins>", "</ins>")}
    legacy = legacy_figures(result)
    heads = [*chosen, *legacy_heads(result)]
    lines = ["| system | " + " | ".join(heads) + " |", "|:--" + "|--:" * len(heads) + "|"]
    lines += [
        " | ".join(
            [f"| {_markdown(name)}", *(_worded(cell, ends, "±") + cell.mark for cell in row), *legacy[name]]
        )
        + " |"
        for name, row in in_table(result, chosen).items()
    ]
    tables = ["\n".join(lines) + f"\n\n{_markdown(table_caption(result, chosen))}\n"]
    tables += [plain_markdown(more) for more in (*more_tables(result), costs_table(result))]
    return "\n".join(tables)


def comparison_latex(result: ComparisonResult, metrics: Sequence[str] | None = None) -> str:
    """Write the test figures as a LaTeX table, the best of each metric bold and the second underlined.

    Args:
        result: of a comparison.
        metrics: the columns; by default recall and ndcg of every length.

    Raises:
        ConfigError: a metric was not measured.
    """
    chosen = columns(result, metrics)
    ends = {0: ("", ""), 1: (r"\textbf{", "}"), 2: (r"\underline{", "}")}
    legacy = legacy_figures(result)
    rows = [
        " & ".join(
            [
                _latex(name),
                *(_worded(cell, ends, r"$\pm$") + _latex(cell.mark) for cell in row),
                *map(_latex, legacy[name]),
            ]
        )
        for name, row in in_table(result, chosen).items()
    ]
    heads = ["system", *chosen, *legacy_heads(result)]
    tables = [latex_table(heads, rows, table_caption(result, chosen))]
    tables += [plain_latex(more) for more in (*more_tables(result), costs_table(result))]
    return "\n".join(["% needs \\usepackage{booktabs}", *tables])


class PlainTable(NamedTuple):
    """A table of words.

    Args:
        title: in a few words.
        columns: heads.
        rows: of cells, the row's name first.
        caption: what it shows.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str


def more_tables(result: ComparisonResult) -> list[PlainTable]:
    """Give the tables that only some comparisons have: curves by degrees, and what lists are like."""
    tables = []
    for curve in curves(result):
        amounts = sorted({amount for points in curve.points.values() for amount in points})
        tables.append(
            PlainTable(
                {"missing": "By missing content", "noisy": "By added noise"}[curve.kind],
                ["system", *(f"{amount:g} {UNITS[curve.kind]}" for amount in amounts)],
                [
                    [name, *(words(points.get(amount)) for amount in amounts)]
                    for name, points in curve.points.items()
                ],
                f"Test {result.metric} on {result.data} by {describe(curve)}.",
            )
        )  # fmt: skip
    names = dict.fromkeys(name for system in result.systems for name in system.beyond or {})
    if names:
        shared = any(name.startswith("share_") for name in names)
        tables.append(
            PlainTable(
                "Beside accuracy",
                ["figure", *(system.name for system in result.systems)],
                [
                    [name, *(words((system.beyond or {}).get(name)) for system in result.systems)]
                    for name in names
                ],
                f"What lists on {result.data} are like beside accuracy; no figure is good or bad by itself. "
                "Novelty is in bits, miscalibration in nats; items are grouped by popularity, users by "
                "training items."
                + (
                    " Shares are of the scores of listed items, of systems whose formula adds them up by "
                    "modality, on content as it is."
                    if shared
                    else ""
                ),
            )
        )
    return tables


def costs_table(result: ComparisonResult) -> PlainTable:
    """Say what each system took to train."""
    return PlainTable(
        "What it cost",
        ["system", "epochs by seed", "seconds per epoch", "memory, MiB", "parameters"],
        [
            [
                system.name,
                ", ".join(map(str, system.epochs)),
                f"{system.seconds_per_epoch:.2f}",
                f"{system.peak_memory_bytes / 2**20:,.0f}",
                parameters(system.n_parameters),
            ]
            for system in result.systems
        ],
        "Seconds of an epoch without evaluation, the median; memory of the process, the largest: both are of "
        "the machine at that time. Parameters are those learned by gradient, 0 of what is solved.",
    )


def parameters(number: int | None) -> str:
    """Word a number of parameters, a dash where it is not known."""
    return "–" if number is None else f"{number:,}"


UNITS = {"missing": "%", "noisy": "sd"}


def describe(curve: Curve) -> str:
    """Say what a curve goes by."""
    of = curve.target.replace("+", " and ")
    return {
        "missing": f"the share of items that lack {of}, of those that have it",
        "noisy": f"the noise added to {of}, in standard deviations of each column",
    }[curve.kind]


def words(spread: Spread | None) -> str:
    """Word a figure over seeds: "0.1234 ± 0.0012", a dash where there is none."""
    if spread is None:
        return "–"
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f" ± {spread.sd:.4f}")


def p_value(value: float) -> str:
    """Word a p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plain_markdown(table: PlainTable) -> str:
    """Write a table of words in Markdown."""
    lines = [table.columns, *table.rows]
    head, *body = ["| " + " | ".join(map(_markdown, line)) + " |" for line in lines]
    rule = "|:--" + "|--:" * (len(table.columns) - 1) + "|"
    return "\n".join([head, rule, *body]) + f"\n\n{_markdown(table.caption)}\n"


def plain_latex(table: PlainTable) -> str:
    """Write a table of words in LaTeX."""
    return latex_table(table.columns, [" & ".join(map(_latex, row)) for row in table.rows], table.caption)


def latex_table(columns: Sequence[str], rows: Sequence[str], caption: str) -> str:
    """Write a LaTeX table of rows that are LaTeX already."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex, columns)) + r" \\",
        r"\midrule",
        *(row + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def columns(result: ComparisonResult, metrics: Sequence[str] | None = None) -> list[str]:
    """Give the metrics to show: those asked for, or the usual ones and that by which systems are tested.

    Raises:
        ConfigError: a metric was not measured.
    """
    measured = result.systems[0].test
    if metrics is None:
        usual = [f"{name}@{length}" for name in ("recall", "ndcg") for length in result.protocol["k"]]
        return usual if result.metric in usual else [result.metric, *usual]
    for metric in metrics:
        if metric not in measured:
            raise ConfigError(
                f"'{metric}' was not measured",
                wanted="some of: " + ", ".join(measured),
                fix=nearest(metric, measured),
            )
    return list(metrics)


def in_table(result: ComparisonResult, metrics: Sequence[str]) -> dict[str, list[Cell]]:
    """Give the row of cells of each system."""
    marked = significant(result)
    places = {}
    for metric in metrics:
        means = sorted({f"{system.test[metric].mean:.4f}" for system in result.systems}, key=float)
        places[metric] = {} if len(result.systems) == 1 else {means.pop(): 1, **dict.fromkeys(means[-1:], 2)}
    return {
        system.name: [
            Cell(
                mean=(mean := f"{system.test[metric].mean:.4f}"),
                sd="" if (sd := system.test[metric].sd) is None else f"{sd:.4f}",
                place=places[metric].get(mean, 0),
                mark=MARK if metric == result.metric and system.name in marked else "",
            )
            for metric in metrics
        ]
        for system in result.systems
    }


def legacy_heads(result: ComparisonResult) -> list[str]:
    """Give the head of the column of legacy figures; none where they were not asked for."""
    return [f"legacy {result.metric}"] if result.legacy_choice else []


def legacy_figures(result: ComparisonResult) -> dict[str, list[str]]:
    """Word the legacy figure of each system: a list of one, or of none where they were not asked for."""
    metric = result.metric
    worded = {of.name: f"{of.legacy[metric]:.4f}" if of.legacy else "–" for of in result.systems}
    return {name: [figure] if result.legacy_choice else [] for name, figure in worded.items()}


def legacy_note(result: ComparisonResult) -> str:
    """Say what the legacy figures are; nothing where they were not asked for."""
    if not result.legacy_choice:
        return ""
    best = max(result.systems, key=lambda system: system.valid[result.metric].mean).name
    return (
        "Legacy figures are not to be quoted: as in MMRec, epochs are compared by a figure rounded to 4 "
        "places, the seed that is best on test is printed, and train items alone are masked. "
        f"Choosing so would take {result.legacy_choice}; validation takes {best}."
    )


def unread_note(result: ComparisonResult) -> str:
    """Say which settings make no difference; nothing where all do."""
    named = "; ".join(f"{name}: {', '.join(of)}" for name, of in result.unread.items())
    return f"Not read, as these systems are solved: {named}." if named else ""


def significant(result: ComparisonResult) -> set[str]:
    """Name the systems whose difference to the reference is significant."""
    return {one.system for one in result.differences if one.p_corrected < ALPHA}


def table_caption(result: ComparisonResult, metrics: Sequence[str]) -> str:
    """Say in plain words what the table shows."""
    several = any(len(system.seeds) > 1 for system in result.systems)
    parts = [
        f"Test figures on {result.data}, " + ("mean ± standard deviation over " if several else "")
        + f"{name_seeds(result)}.",
        f"{result.protocol['users']:,} users; all items ranked, {result.protocol['masked']} items masked; "
        "epochs chosen on validation.",
    ]  # fmt: skip
    if len(result.systems) > 1:
        parts.append("Best bold, second underlined.")
    if result.differences:
        how = "the best on validation" if result.reference_chosen else "as asked for"
        tested = (
            "from the intact system"
            if result.reference is None
            else f"from the reference {result.reference} ({how})"
        )
        paired = f"p < {ALPHA}, paired by user, bootstrap, Holm's correction"
        if not significant(result):
            parts.append(f"No system differs in {result.metric} {tested} significantly ({paired}).")
        elif result.metric in metrics:
            parts.append(f"{MARK} differs in {result.metric} {tested} significantly ({paired}).")
    if result.legacy_choice:
        parts.append(legacy_note(result))
    if result.failures:
        failed = ", ".join(f"{failure.name} with seed {failure.seed}" for failure in result.failures)
        parts.append(f"Not in it, as the training failed: {failed}.")
    if result.left_out:
        without = "; ".join(f"{one.name} ({one.reason})" for one in result.left_out)
        parts.append(f"Left out: {without}.")
    return " ".join(parts)


def name_seeds(result: ComparisonResult) -> str:
    """Name the seeds, "seeds 1, 2", and how many of them each system has where a system lacks some."""
    seeds = sorted({seed for system in result.systems for seed in system.seeds})
    fewest = min(len(system.seeds) for system in result.systems)
    named = ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
    return named if fewest == len(seeds) else f"{named} (at least {fewest} of them)"


def _worded(cell: Cell, ends: Mapping[int, tuple[str, str]], between: str) -> str:
    before, after = ends[cell.place]
    return f"{before}{cell.mean}{after}" + (f" {between} {cell.sd}" if cell.sd else "")


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
