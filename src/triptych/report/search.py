"""What a search found, beside its JSON: a page of all trials, and of what made the difference."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.experiments.search import SearchResult
from triptych.report.comparison_figures import HEIGHT, ROW, Drawn
from triptych.report.comparison_tables import PlainTable
from triptych.report.page import draw_if_possible, in_words, write_page
from triptych.report.svg import ACCENT, INK, PANEL, QUIET, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_search_page(result: SearchResult, path: Path) -> None:
    """Write the page, whole or not at all. It needs no network, no script and no other file.

    Figures need the 'report' extra; without it the page says so and has the table.

    Args:
        result: of a search.
        path: the HTML file to make or replace.
    """
    figures, without_figures = draw_if_possible(lambda: _draw_all(result))
    states = [trial.state for trial in result.trials]
    write_page(
        path,
        "search.html",
        result=result,
        facts={
            "trials": len(states),
            "stopped early": states.count("pruned"),
            "failed": states.count("failed"),
            f"best validation {result.metric}": f"{result.best_value:.4f}",
            "seed": result.seed,
        },
        figures=figures or [],
        without_figures=without_figures,
        table=trials_table(result),
        recipe=result.recipe.to_toml(),
    )


def trials_table(result: SearchResult) -> PlainTable:
    """List the trials in their order: settings, value, and what became of them."""
    fields = list(dict.fromkeys(name for trial in result.trials for name in trial.settings))
    rows = [
        [
            str(trial.number),
            "–" if trial.value is None else f"{trial.value:.4f}",
            *(in_words(trial.settings.get(name, "as it is")) for name in fields),
            in_words(trial.best_epoch),
            in_words(trial.epochs),
            in_words(trial.seconds),
            trial.error or {"done": "done", "pruned": "stopped early", "failed": "failed"}[trial.state],
        ]
        for trial in result.trials
    ]
    return PlainTable(
        "All trials",
        ["trial", result.metric, *fields, "best epoch", "epochs", "seconds", "ending"],
        rows,
        "In the order in which they were begun. The value is the best on the validation part; of a trial "
        "that was stopped early, the best until then.",
    )


def _draw_all(result: SearchResult) -> list[Drawn]:
    return [_trials(result), *([_importance(result)] if result.importance else [])]


def _trials(result: SearchResult) -> Drawn:
    """Draw the value of each trial by its number, and the best so far."""
    values = {
        trial.number: trial.value
        for trial in result.trials
        if trial.value is not None and trial.state != "failed"
    }
    done = {trial.number: values[trial.number] for trial in result.trials if trial.state == "done"}
    early = {number: value for number, value in values.items() if number not in done}
    best = list(accumulate(done.values(), max))

    def draw(axes: Axes) -> None:
        axes.grid(axis="y")
        axes.step([*done, max(values)], [*best, best[-1]], where="post", color=QUIET, linewidth=1.4)
        for points, fill in ((done, ACCENT), (early, PANEL)):
            axes.plot(
                list(points), list(points.values()), "o", color=ACCENT, markersize=6,
                markerfacecolor=fill, markeredgewidth=1.5,
            )  # fmt: skip
        axes.set_xlabel("trial")
        axes.set_ylabel(f"validation {result.metric}")
        axes.locator_params(axis="x", integer=True, nbins=6)

    title = f"Validation {result.metric} by trial"
    says = "; ".join(f"trial {number}: {value:.4f}" for number, value in values.items())
    return Drawn(
        title,
        "The line is the best so far. A hollow dot was stopped early; what failed has none.",
        draw_svg("trials", title, says, draw, HEIGHT),
    )


def _importance(result: SearchResult) -> Drawn:
    """Draw the share of each setting as a bar, its name above it."""
    shares = result.importance

    def draw(axes: Axes) -> None:
        axes.barh(range(len(shares)), list(shares.values()), height=0.34, color=ACCENT)
        for row, (name, share) in enumerate(shares.items()):
            axes.text(0, row - 0.36, f"{name}  {share:.0%}", va="center", color=INK)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(shares) - 0.6, -0.75)
        axes.set_yticks([])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])

    title = "What made the difference"
    says = "; ".join(f"{name}: {share:.0%}" for name, share in shares.items())
    return Drawn(
        title,
        "Share of the differences between finished trials that each setting explains, by fANOVA.",
        draw_svg("importance", title, says, draw, ROW * len(shares) + 58),
    )
