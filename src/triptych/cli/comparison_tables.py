"""Comparisons as commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triptych.cli.output import out, print_table

if TYPE_CHECKING:
    from triptych.experiments.result import ComparisonResult, Spread
    from triptych.experiments.splits import SplitsResult

_MOST_COLUMNS = 6
"""Systems whose figures fit beside each other on a terminal."""


def print_comparison(result: ComparisonResult) -> None:
    """Print the figures of systems, which differences hold, and what is not among them."""
    from triptych.report.comparison_tables import costs_table, legacy_figures, legacy_heads, legacy_note

    length = max(result.lengths or result.protocol["k"])
    shown = list(dict.fromkeys([result.metric, f"recall@{length}", f"ndcg@{length}"]))
    legacy = legacy_figures(result)
    seeds = sorted({len(system.seeds) for system in result.systems})
    over = "–".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    split = result.split.get("kind")
    print_table(
        f"Test figures on {result.data}, split by {split}, mean ± standard deviation over {over}",
        ["system", *shown, *legacy_heads(result), f"valid {result.metric}"],
        [
            [
                system.name,
                *(worded(system.test[metric]) for metric in shown),
                *legacy[system.name],
                worded(system.valid[result.metric]),
            ]
            for system in result.systems
        ],
        notes=f"{result.protocol['users']:,} users; all items ranked, {result.protocol['masked']} items "
        "masked. Epochs chosen on validation; the test part was opened when all trainings had ended.",
    )
    if note := legacy_note(result):
        out.print(note, markup=False, highlight=False)
    if result.differences:
        _print_differences(result)
    costs = costs_table(result)
    print_table(f"\n{costs.title}", costs.columns, costs.rows, notes=costs.caption)
    if any(system.beyond for system in result.systems):
        _print_beyond(result)
    print_lacking(result)


def print_lacking(result: ComparisonResult) -> None:
    """Print what is not among the figures or made no difference to them, and why."""
    from triptych.report.comparison_tables import unread_note

    if note := unread_note(result):
        out.print(note, markup=False, highlight=False)
    for one in result.left_out:
        out.print(f"Left out: {one.name}, as {one.reason}", markup=False, highlight=False)
    for failure in result.failures:
        out.print(
            f"Failed: {failure.name}, seed {failure.seed}: {failure.error}", markup=False, highlight=False
        )


def _print_differences(result: ComparisonResult) -> None:
    from triptych.report.comparison_tables import p_value

    if result.reference is None:
        beside = "the intact system"
    else:
        how = "the best on validation" if result.reference_chosen else "as asked for"
        beside = f"{result.reference}, {how}"
    print_table(
        f"\n{result.metric} beside {beside}",
        [
            "system",
            "differs by",
            "95 % interval",
            "p",
            "p Holm",
            "p Wilcoxon",
            "detects",
            "users that differ",
        ],
        [
            [
                difference.system,
                f"{difference.difference:+.4f}",
                f"{difference.interval[0]:+.4f}\u00a0…\u00a0{difference.interval[1]:+.4f}",
                p_value(difference.p_bootstrap).replace(" ", "\u00a0"),
                p_value(difference.p_corrected).replace(" ", "\u00a0"),
                p_value(difference.p_wilcoxon).replace(" ", "\u00a0"),
                f"{difference.detectable:.4f}",
                difference.n_differing,
            ]
            for difference in result.differences
        ],
        notes="Paired by user, each user's mean over seeds; bootstrap p, corrected by Holm for this "
        "table. It detects true differences that large four times in five; one "
        "below the spread over seeds proves little.",
    )


def _print_beyond(result: ComparisonResult) -> None:
    if len(result.systems) > _MOST_COLUMNS:
        out.print("\nWhat lists are like beside accuracy: see the page.", markup=False, highlight=False)
        return
    names = dict.fromkeys(name for system in result.systems for name in system.beyond or {})
    print_table(
        "\nWhat lists are like beside accuracy",
        ["figure", *(system.name for system in result.systems)],
        [[name, *(worded((system.beyond or {}).get(name)) for system in result.systems)] for name in names],
        notes="None of these is good or bad by itself: they say what accuracy was bought with, and who "
        "has it.",
    )


def print_splits(result: SplitsResult) -> None:
    """Print what was found under each split, the orders beside each other, and how alike they are."""
    for comparison in result.comparisons.values():
        print_comparison(comparison)
    places = range(max(map(len, result.orders.values())))
    print_table(
        f"\nOrder of systems by test {result.metric} on {result.data}",
        ["place", *result.orders],
        [
            [place + 1, *(order[place] if place < len(order) else "–" for order in result.orders.values())]
            for place in places
        ],
    )
    print_table(
        "\nHow alike two orders are",
        ["split", "and", "Kendall's tau", "systems"],
        [
            [one.first, one.second, "–" if one.tau is None else f"{one.tau:+.2f}", one.systems]
            for one in result.agreements
        ],
        notes="+1: the same order; 0: none to speak of; −1: the reverse. Of few systems it is coarse.",
    )


def worded(spread: Spread | None) -> str:
    """Word a figure over seeds as pages do, in one piece."""
    from triptych.report.comparison_tables import words

    return words(spread).replace(" ", "\u00a0")
