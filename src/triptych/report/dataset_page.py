"""The page of a data set: what is in it, what is missing, what is alike, and where it came from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.data.statistics import TOP_PERCENT
from triptych.report.page import data_uri, in_words, write_page

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset

SHEET_PICTURES = 60

# All in the units of the drawing, which grows and shrinks with its place on the page.
WIDTH, HEIGHT, LETTER = 420, 250, 7
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 14, 52
ACROSS, UP = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

_LEVELS = {"min": "least", "p25": "25 %", "median": "median", "p75": "75 %", "p90": "90 %", "p99": "99 %",
           "max": "most", "mean": "mean"}  # fmt: skip
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: its place in the drawing, and what it says."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Chart:
    """What a drawing shows, ready to be drawn.

    Args:
        title: above it.
        says: all of it in words, for those who do not see it.
        x_label: what goes to the right.
        y_label: what goes up.
        x_ticks: place and text of the marks below.
        y_ticks: place and text of the marks at the left.
        bars: the bars, if it is made of such.
        line: the points "x,y x,y" of a curve, if it is one; then it also has a diagonal.
    """

    title: str
    says: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    bars: Sequence[Bar] = ()
    line: str = ""


def write_dataset_page(path: Path, data: Dataset, facts: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all. It needs no network, no script and no other file.

    Args:
        path: the HTML file to make or replace.
        data: the data set, of which the page takes name, titles, thumbnails and provenance.
        facts: what `triptych.data.statistics.describe` says of it; all figures are from there.
    """
    write_page(
        path,
        "dataset.html",
        facts=facts,
        header=_header(facts),
        levels=_LEVELS,
        charts=_charts(facts),
        top_percent=TOP_PERCENT,
        modalities={name: _modality(data, facts, name) for name in facts["modalities"]},
        has_pictures=data.thumbnails is not None,
        sheet=[_card(data, int(item)) for item in pictured_items(data, SHEET_PICTURES)],
        provenance=data.provenance,
        percent=percent,
        is_digest=lambda value: isinstance(value, str) and _DIGEST.fullmatch(value) is not None,
    )


def percent(share: float) -> str:
    """Word a share in percent, with three digits of it or of what is missing to 100 %, whichever is less."""
    rest = 100 * min(share, 1 - share)
    places = max(0, 2 - math.floor(math.log10(rest))) if rest > 0 else 0
    figure = f"{100 * share:.{places}f}"
    return (figure.rstrip("0").rstrip(".") if places else figure) + " %"


def pictured_items(data: Dataset, n: int) -> Sequence[int]:
    """Choose `n` items with pictures, from the most popular to the least at equal steps."""
    if data.thumbnails is None:
        return []
    pictured = np.flatnonzero(np.diff(data.thumbnails.offsets))
    degree = np.bincount(data.interactions.item, minlength=data.n_items)
    ranked = pictured[np.lexsort((pictured, -degree[pictured]))]
    steps = np.linspace(0, len(ranked) - 1, min(n, len(ranked)))
    return [int(item) for item in ranked[steps.round().astype(np.int64)]]


def bar_chart(
    title: str,
    x_label: str,
    y_label: str,
    bars: Sequence[tuple[str, float]],
    *,
    word: Callable[[float], str] = in_words,
    between: bool = False,
) -> Chart:
    """Lay out bars of one width, from zero up.

    Args:
        title: of the chart.
        x_label: what the bars stand for.
        y_label: what their height means.
        bars: label and height of each.
        word: how to word a height.
        between: mark where bars begin, with what comes before "–" in their labels.
    """
    heights = [height for _, height in bars]
    whole = word is in_words
    marks = _steps(max(heights), whole=whole)
    width = ACROSS / len(bars)
    drawn = [
        Bar(
            x=round(LEFT + at * width + min(1, width / 10), 2),
            y=round(TOP + UP * (1 - height / marks[-1]), 2),
            width=round(width - 2 * min(1, width / 10), 2),
            height=round(UP * height / marks[-1], 2),
            says=f"{label}: {word(height)}",
        )
        for at, (label, height) in enumerate(bars)
    ]
    labels = [label.partition("–")[0] if between else label for label, _ in bars]
    every = math.ceil((max(map(len, labels)) + 2) * LETTER / width)  # as many as there is room for
    return Chart(
        title=title,
        says=f"{title}. {y_label} by {x_label}: " + "; ".join(bar.says for bar in drawn),
        x_label=x_label,
        y_label=y_label,
        x_ticks=[
            (round(LEFT + (at + (0 if between else 0.5)) * width, 2), label)
            for at, label in enumerate(labels)
            if at % every == 0
        ],
        y_ticks=[
            (round(TOP + UP * (1 - mark / marks[-1]), 2), text)
            for mark, text in zip(marks, _short(marks) if whole else map(word, marks), strict=True)
        ],
        bars=drawn,
    )


def histogram(title: str, x_label: str, y_label: str, bars: Sequence[Sequence[float]]) -> Chart:
    """Lay out a histogram of bars [first value, last value, count]."""
    ranges = any(first != last for first, last, _ in bars)
    labelled = [
        (in_words(first) if first == last else f"{in_words(first)}–{in_words(last)}", count)
        for first, last, count in bars
    ]
    return bar_chart(title, x_label, y_label, labelled, between=ranges)


def lorenz_chart(popularity: Mapping[str, Any]) -> Chart:
    """Lay out the Lorenz curve of popularity; were all items equal, it would be the diagonal."""
    marks = [(share, percent(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    says = "; ".join(
        f"the least popular {percent(x)} of items have {percent(y)} of interactions"
        for x, y in popularity["curve"][1:-1:6]
    )
    return Chart(
        title="How evenly interactions fall on items",
        says=f"Lorenz curve. Gini coefficient {popularity['gini']:.3f}. {says}",
        x_label="share of items, the least popular first",
        y_label="share of interactions",
        x_ticks=[(LEFT + ACROSS * share, text) for share, text in marks],
        y_ticks=[(TOP + UP * (1 - share), text) for share, text in marks],
        line=" ".join(f"{LEFT + ACROSS * x:.2f},{TOP + UP * (1 - y):.2f}" for x, y in popularity["curve"]),
    )


def _header(facts: Mapping[str, Any]) -> dict[str, str]:
    header = {name: in_words(facts[name]) for name in ("users", "items", "interactions")}
    header["density"] = percent(facts["density"])
    if facts["times"] is not None:
        header |= {f"{end} interaction": in_words(facts["times"][end]) for end in ("first", "last")}
    return header | {"modalities": ", ".join(facts["modalities"]) or "none"}


def _charts(facts: Mapping[str, Any]) -> dict[str, Chart]:
    popularity, ratings = facts["popularity"], facts["rating_values"]
    charts = {
        of: histogram(
            f"Interactions per {of[:-1]}",
            f"interactions of one {of[:-1]}",
            f"number of {of}",
            facts["degrees"][of]["histogram"],
        )
        for of in ("users", "items")
    }
    charts["lorenz"] = lorenz_chart(popularity)
    charts["top"] = bar_chart(
        "How much goes to the most popular items",
        "most popular items",
        "share of interactions",
        [(f"{step} %", popularity["top"][str(step)]) for step in TOP_PERCENT],
        word=percent,
    )
    if ratings is not None:
        charts["ratings"] = histogram("Ratings", "rating", "number of interactions", ratings["histogram"])
    return charts


def _steps(largest: float, *, whole: bool) -> list[float]:
    """Find three to six round numbers from 0 to `largest` or just above it."""
    if largest <= 0:
        return [0, 1]
    step = 10.0 ** math.floor(math.log10(largest / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if largest <= 5 * factor * step)
    step = max(1, round(step)) if whole else step
    return [step * at for at in range(math.ceil(largest / step) + 1)]


def _short(marks: Sequence[float]) -> list[str]:
    """Word round numbers so that they fit beside an axis; that of 20,000 has 5k, 10k, 15k."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if marks[-1] >= 10 * size:
            return [f"{mark / size:,.0f}{letter}" if mark else "0" for mark in marks]
    return [in_words(int(mark)) for mark in marks]


def _modality(data: Dataset, facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    nearest = facts["neighbors"][name]
    return {
        "about": facts["modalities"][name],
        "values": facts["features"][name],
        "by": nearest["by"],
        "examples": [
            [_named_card(data, example) | {"hit": True}]
            + [_named_card(data, other) for other in example["neighbors"]]
            for example in nearest["examples"]
        ],
    }


def _named_card(data: Dataset, named: Mapping[str, Any]) -> dict[str, Any]:
    (item,) = data.items.index([named["item_id"]])
    return _card(data, int(item)) | {"score": named.get("similarity")}


def _card(data: Dataset, item: int) -> dict[str, Any]:
    item_id = str(data.items.ids[item])
    jpeg = None if data.thumbnails is None else data.thumbnails.jpeg(item)
    return {
        "item_id": item_id,
        "title": (data.titles[item] if data.titles else "") or item_id,
        "subtitle": "",
        "score": None,
        "hit": False,
        "source": None if jpeg is None else data_uri(jpeg, "image/jpeg"),
    }
