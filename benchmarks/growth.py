"""How seconds and memory grow with interactions and with items: exponents of generated data.

Data have zipf-like items and a tenth as many users as interactions. Interactions grow with the fewest items,
items with the middle number of interactions. Features are 64 and 32 columns wide; neighbours of the raw
features, all pairs of items at first, are measured by themselves and then kept for all models of that size.
Each model has its default settings, each point a process of its own, which is ended and reported when it
passes the cap. An epoch is scaled up from its first batch and a few more.

An exponent is the slope of a line through the logarithms. What stays the same (Python, users as items grow)
pulls it down, so it says how the whole grows over this range and not what the largest term is. An epoch of a
model that sends all nodes' vectors through the graph in every batch has twice as many batches of twice the
work for twice the interactions: its exponent in interactions is near 2, that of a batch near 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import log, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from benchmarks.data import SEED, generate_interactions, with_features
from benchmarks.machine import resident_bytes
from benchmarks.options import Options
from benchmarks.process import UNLIMITED, Most, NotMeasured, in_process
from benchmarks.report import Case, Table
from benchmarks.timing import Stopwatch
from benchmarks.training import BUILT, EPOCH, NOT_MEASURED, PEAK, Job, case_of, in_own_process
from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.models.registry import model_entry, models

ROUNDS, BATCHES = 1, 2
MOST = Most(seconds=300, memory=16_000_000_000)
"""The cap on a point where none is asked for."""
WIDTHS = {"image": 64, "text": 32}
NEIGHBORS = 10
MOST_FOR_NEIGHBORS = Most(seconds=3_600)
MEASURED = {"epoch": EPOCH, "batch": "later batch", "memory": PEAK}
"""Name in the table -> form, or fact."""
STEEP = 1.2
"""A batch, or memory, with a higher exponent grows faster than the data."""
INTERACTIONS, ITEMS = "interactions", "items"


class Fit(NamedTuple):
    """A power law through some points.

    Args:
        exponent: slope of the line through the logarithms.
        error: its standard error; None of two points, through which every line goes.
        n: points.
    """

    exponent: float
    error: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" + ("" if self.error is None else f" ± {self.error:.2f}")


def fit(points: Sequence[tuple[float, float]]) -> Fit | None:
    """Fit y = a x^exponent by least squares of the logarithms; None of fewer than two different x."""
    n = len(points)
    x, y = ([log(value) for value in values] for values in zip(*points, strict=True)) if points else ([], [])
    if len(set(x)) < 2:
        return None
    x_mean, y_mean = sum(x) / n, sum(y) / n
    squares = sum((a - x_mean) ** 2 for a in x)
    slope = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / squares
    rest = sum((b - y_mean - slope * (a - x_mean)) ** 2 for a, b in zip(x, y, strict=True))
    return Fit(slope, sqrt(rest / (n - 2) / squares) if n > 2 else None, n)


def points_of(options: Options) -> list[tuple[int, int]]:
    """List the sizes, (interactions, items), small ones first: one line along each of the two."""
    fewest, middle = options.items[0], options.interactions[(len(options.interactions) - 1) // 2]
    along = {(count, fewest) for count in options.interactions} | {(middle, count) for count in options.items}
    return sorted(point for point in along if max(point[0] // 10, point[1]) <= point[0])


def run(options: Options) -> Iterator[Case]:
    """Measure the models that are named, or all, at every size."""
    names = [model_entry(name).name for name in options.models] or [entry.name for entry in models()]
    most = options.most if options.most != UNLIMITED else MOST
    for n_interactions, n_items in points_of(options):
        size = f"{n_interactions:,} x {n_items:,}"
        facts: dict[str, Any] = {
            INTERACTIONS: n_interactions, ITEMS: n_items, "users": n_interactions // 10, "seed": SEED,
            "columns of features": WIDTHS, "cap": asdict(most),
        }  # fmt: skip
        with TemporaryDirectory() as name:
            folder, cache = Path(name) / "data", Path(name) / "cache"
            write_data(folder, n_interactions, n_items)
            neighbors = in_process(
                "benchmarks.growth", str(folder), str(cache), threads=options.threads, most=MOST_FOR_NEIGHBORS
            )
            found = neighbors if isinstance(neighbors, NotMeasured) else [neighbors]
            yield case_of("growth", f"item neighbours, {size}", found, {"model": "item neighbours", **facts})
            for model in names:
                job = Job(
                    model,
                    batches=options.batches,
                    parts=(),
                    device=options.device,
                    cache=str(cache.resolve()),
                )
                measured = in_own_process(job, folder, threads=options.threads, most=most)
                found = measured if isinstance(measured, NotMeasured) else [measured]
                yield case_of("growth", f"{model}, {size}", found, {"model": model, **facts})


def write_data(folder: Path, n_interactions: int, n_items: int) -> None:
    """Generate a labelled data set with features."""
    rng = np.random.default_rng(SEED)
    interactions = generate_interactions(n_interactions // 10, n_items, n_interactions, rng, least=1)
    split = Split.by_ratio(Dataset.from_interactions("growth", interactions), rng)
    with_features(split, WIDTHS).labelled().save(folder)


def table(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Fit the exponents of every model, from the cases of a report."""
    rows, steep, left = [], [], []
    for model in dict.fromkeys(case["facts"]["model"] for case in cases):
        own = [case for case in cases if case["facts"]["model"] == model]
        left += [
            f"{case['size']}: {case['facts'][NOT_MEASURED]}" for case in own if NOT_MEASURED in case["facts"]
        ]
        measured = [case for case in own if NOT_MEASURED not in case["facts"]]
        row = [model]
        for axis in (INTERACTIONS, ITEMS):
            line = _along(axis, measured)
            for what in MEASURED.values():
                found = fit([point for case in line for point in _point(case, axis, what)])
                row.append("–" if found is None else str(found))
                if found is not None and found.exponent > STEEP and what != EPOCH:
                    steep.append(f"{model} ({'memory' if what == PEAK else 'a batch'}, {axis}: {found})")
        largest = max(
            measured, key=lambda case: (case["facts"][INTERACTIONS], case["facts"][ITEMS]), default=None
        )
        row.append("–" if largest is None else f"{largest['timings'][EPOCH]['cpu_median']:,.1f} s at "
                   + largest["size"].partition(", ")[2])  # fmt: skip
        rows.append(row)
    columns = [f"{what}, by {axis}" for axis in (INTERACTIONS, ITEMS) for what in MEASURED]
    return Table(
        ("model", *columns, "epoch of the largest measured"),
        rows,
        "Exponents of CPU seconds and of the peak memory beyond Python and libraries, ± standard error."
        f"\n\nGrows faster than the data, exponent above {STEEP:g}: {'; '.join(steep) or 'none'}."
        f"\n\nNot measured: {'; '.join(left) or 'none'}.",
    )


def _along(axis: str, cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the cases of the longest line along an axis: those that share the other count with most."""
    other = ITEMS if axis == INTERACTIONS else INTERACTIONS
    lines: dict[int, list[Mapping[str, Any]]] = {}
    for case in cases:
        lines.setdefault(case["facts"][other], []).append(case)
    return max(lines.values(), key=len, default=[])


def _point(case: Mapping[str, Any], axis: str, what: str) -> Iterator[tuple[float, float]]:
    if what == PEAK:
        yield case["facts"][axis], case["facts"][PEAK] - case["facts"][BUILT]
    elif what in case["timings"]:
        yield case["facts"][axis], case["timings"][what]["cpu_median"]


def main() -> None:
    """Find the neighbours of the raw features of a data set, and keep them."""
    from triptych.models.base import ModelInputs

    libraries = resident_bytes()
    split = Split.by_label(Dataset.load(sys.argv[1]))
    inputs = ModelInputs.from_split(split, Path(sys.argv[2]))
    watch = Stopwatch()
    for modality in WIDTHS:
        inputs.graphs.neighbors(modality, NEIGHBORS)
    found = {
        "laps": {EPOCH: watch.lap()},
        "shares": {},
        "settings": {"n_neighbors": NEIGHBORS},
        "schedule": "once",
        "libraries": libraries,
        "peak": resident_bytes("VmHWM"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
