"""The figures of a comparison's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triptych.experiments.knockout import Curve
from triptych.experiments.knockout import curves as content_curves
from triptych.experiments.result import ComparisonResult, Spread
from triptych.report.comparison_tables import describe
from triptych.report.svg import ACCENT, N_COLORS, PANEL, QUIET, WIDTH, color, dashes, draw_svg
from triptych.runs import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT, ROW = 260, 36
"""Of curves, and of a row in a figure that has such; in the units of the drawings."""
LONGEST_NAME = 52
WIDEST_GRID = 8
"""Columns of a grid that leave room for a number in each."""


@dataclass(frozen=True)
class Drawn:
    """A figure, ready for the page.

    Args:
        title: above it.
        note: below the title: how to read it.
        svg: the drawing, of safe marks.
        key: label, number of the colour and dashes of each line, where there are several.
    """

    title: str
    note: str
    svg: str
    key: Sequence[tuple[str, int, str]] = ()


def draw_all(
    result: ComparisonResult,
    records: Mapping[str, Sequence[RunRecord]],
    differing: Mapping[str, Sequence[Any]],
    *,
    alpha: float,
) -> dict[str, Drawn]:
    """Draw what there is to draw, by name.

    "differences", "curves", "sweep", "grid-validation" with "grid-test", and "content-0" and so on for
    changes of content by degrees.

    Args:
        result: of the comparison.
        records: of the runs of each system; some or all may be missing.
        differing: the settings in which systems differ, with the values in the order of systems.
        alpha: level of significance.
    """
    drawn = {}
    if result.differences:
        drawn["differences"] = _forest(result, alpha)
    if any(_curve(record, result.metric) for of in records.values() for record in of):
        drawn["curves"] = _curves(result, records)
    for at, curve in enumerate(content_curves(result)):
        drawn[f"content-{at}"] = _content(f"content-{at}", result, curve)
    if result.reference is None or not all(records.values()):
        return drawn  # systems may differ in more than is known
    if len(differing) == 1:
        ((field, values),) = differing.items()
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            drawn["sweep"] = _sensitivity(result, field, values)
    if len(differing) == 2:
        rows, columns = (list(map(str, values)) for values in differing.values())
        points = list(zip(rows, columns, strict=True))
        if len(set(points)) == len(points) == len(set(rows)) * len(set(columns)):
            for part, spreads in _parts(result).items():
                drawn[f"grid-{part}"] = _grid(result.metric, part, list(differing), points, spreads)
    return drawn


def _forest(result: ComparisonResult, alpha: float) -> Drawn:
    """Draw the interval of each difference around zero, the system's name above it."""
    differences = result.differences

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=QUIET, linewidth=1, linestyle=(0, (3, 3)))
        for row, one in enumerate(differences):
            holds = one.p_corrected < alpha
            axes.plot(one.interval, (row, row), color=ACCENT, linewidth=2.5, solid_capstyle="round")
            axes.plot(
                one.difference, row, "o", color=ACCENT, markersize=8,
                markerfacecolor=ACCENT if holds else PANEL, markeredgewidth=2,
            )  # fmt: skip
            axes.text(
                0, row - 0.36, _short(one.system), transform=axes.get_yaxis_transform(), va="center",
                bbox={"facecolor": PANEL, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.set_ylim(len(differences) - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"difference in test {result.metric}")

    says = "; ".join(
        f"{one.system}: {one.difference:+.4f}, from {one.interval[0]:+.4f} to {one.interval[1]:+.4f}"
        for one in differences
    )
    title = f"Differences to {result.reference or 'the intact system'}"
    return Drawn(
        title,
        f"Lines are 95 % intervals. A full dot is significant after Holm’s correction (p < {alpha}).",
        draw_svg("differences", title, says, draw, ROW * len(differences) + 58),
    )


def _curves(result: ComparisonResult, records: Mapping[str, Sequence[RunRecord]]) -> Drawn:
    """Draw the validation figure of each training by epoch, a dot at the epoch that was kept."""
    series = {name: at for at, name in enumerate(records)}

    def draw(axes: Axes) -> None:
        axes.grid(axis="y")
        for name, of in records.items():
            for record in of:
                points = _curve(record, result.metric)
                of_series, line = color(series[name]), (0, dashes(series[name]))
                axes.plot(*_across(points), color=of_series, linestyle=line, linewidth=1.4)
                kept = [point for point in points if point[0] == record.best_epoch]
                axes.plot(*_across(kept), "o", color=of_series, markersize=5)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {result.metric}")
        axes.locator_params(axis="x", integer=True, nbins=6)

    says = "; ".join(
        f"{name}: best in epoch {', '.join(str(record.best_epoch) for record in of)} of "
        + ", ".join(str(len(record.history)) for record in of)
        for name, of in records.items()
        if of
    )
    title = f"Validation {result.metric} by epoch"
    return Drawn(
        title,
        "One line for each seed; the dot is the epoch that was kept.",
        draw_svg("curves", title, says, draw, HEIGHT),
        _key({name: at for name, at in series.items() if records[name]}),
    )


def _content(name: str, result: ComparisonResult, curve: Curve) -> Drawn:
    """Draw the test figures of each system by how much was done to its content, at true distances."""
    several = any(spread.sd is not None for points in curve.points.values() for spread in points.values())

    def draw(axes: Axes) -> None:
        axes.grid(axis="y")
        for at, points in enumerate(curve.points.values()):
            axes.errorbar(
                list(points), [spread.mean for spread in points.values()],
                yerr=[spread.sd or 0 for spread in points.values()], marker="os^D"[at % 4], markersize=6,
                capsize=4 if several else 0, color=color(at), linestyle=(0, dashes(at)), linewidth=1.8,
            )  # fmt: skip
        axes.set_xlabel(
            "items without it, %" if curve.kind == "missing" else "added noise, standard deviations"
        )
        axes.set_ylabel(f"test {result.metric}")

    title = f"{result.metric} by {'missing' if curve.kind == 'missing' else 'noisy'} {curve.target}"
    says = "; ".join(
        f"{system}: " + ", ".join(f"{amount:g} {spread.mean:.4f}" for amount, spread in points.items())
        for system, points in curve.points.items()
    )
    return Drawn(
        title,
        f"By {describe(curve)}." + (" Bars are the standard deviation over seeds." if several else ""),
        draw_svg(name, title, says, draw, HEIGHT),
        _key({system: at for at, system in enumerate(curve.points)}),
    )


def _sensitivity(result: ComparisonResult, field: str, values: Sequence[float]) -> Drawn:
    """Draw the figures by the values of a setting, in their order, at equal steps."""
    order = sorted(range(len(values)), key=values.__getitem__)
    parts = _parts(result)

    def draw(axes: Axes) -> None:
        axes.grid(axis="y")
        for at, spreads in enumerate(parts.values()):
            axes.errorbar(
                range(len(order)), [spreads[s].mean for s in order], yerr=[spreads[s].sd or 0 for s in order],
                marker="os"[at], markersize=6, capsize=4 if spreads[0].sd is not None else 0,
                color=color(at), linewidth=1.8,
            )  # fmt: skip
        axes.set_xticks(range(len(order)), [f"{values[s]:g}" for s in order])
        axes.margins(x=0.08)
        axes.set_xlabel(field)
        axes.set_ylabel(result.metric)

    says = "; ".join(
        f"{field} {values[s]:g}: " + ", ".join(f"{part} {parts[part][s].mean:.4f}" for part in parts)
        for s in order
    )
    title = f"{result.metric} by {field}"
    bars = "Bars are the standard deviation over seeds. "
    return Drawn(
        title,
        (bars if parts["test"][0].sd is not None else "")
        + "Choose by validation; values stand at equal steps.",
        draw_svg("sweep", title, says, draw, HEIGHT),
        _key({part: at for at, part in enumerate(parts)}),
    )


def _grid(
    metric: str,
    part: str,
    fields: Sequence[str],
    points: Sequence[tuple[str, str]],
    spreads: Sequence[Spread],
) -> Drawn:
    """Draw the means of all combinations of two settings, in more colour the higher they are."""
    rows, columns = (list(dict.fromkeys(of)) for of in zip(*points, strict=True))
    means = [spread.mean for spread in spreads]
    least, span = min(means), (max(means) - min(means)) or 1.0

    def draw(axes: Axes) -> None:
        for (row, column), mean in zip(points, means, strict=True):
            x, y = columns.index(column), rows.index(row)
            axes.bar(
                x, 0.94, 0.94, y - 0.47, color=ACCENT, alpha=round(0.06 + 0.44 * (mean - least) / span, 3)
            )
            if len(columns) <= WIDEST_GRID:
                best = "bold" if mean == max(means) else "normal"
                axes.text(x, y, f"{mean:.4f}", ha="center", va="center", fontsize=11, fontweight=best)
        axes.set_xticks(
            range(len(columns)), columns, rotation=90 if 7 * sum(map(len, columns)) > WIDTH - 100 else 0
        )
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xlabel(fields[1])
        axes.set_ylabel(fields[0])

    says = "; ".join(
        f"{fields[0]} {row}, {fields[1]} {column}: {mean:.4f}"
        for (row, column), mean in zip(points, means, strict=True)
    )
    title = f"{part.capitalize()} {metric} by {fields[0]} and {fields[1]}"
    note = {"validation": "choose by this one", "test": "what a choice led to"}[part]
    return Drawn(
        title,
        f"More colour is higher; {note}.",
        draw_svg(f"grid-{part}", title, says, draw, max(ROW * len(rows) + 60, 150)),
    )


def _parts(result: ComparisonResult) -> dict[str, list[Spread]]:
    """Give the figures of all systems by the part they were measured on."""
    return {
        "validation": [system.valid[result.metric] for system in result.systems],
        "test": [system.test[result.metric] for system in result.systems],
    }


def _curve(record: RunRecord, metric: str) -> list[tuple[int, float]]:
    """Give the epochs at which a training was evaluated, with their figures."""
    return [
        (epoch.epoch, epoch.valid[metric])
        for epoch in record.history
        if epoch.valid is not None and metric in epoch.valid
    ]


def _across(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _key(series: Mapping[str, int]) -> list[tuple[str, int, str]]:
    return [(label, at % N_COLORS, " ".join(map(str, dashes(at)))) for label, at in series.items()]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
