"""SAND's four variants beside other models: memory and seconds per epoch, as in Table 5 of arXiv:2406.08270.

Each measurement is a process of its own, all in turns. Variants align by SoloSim (a, b) or InfoNCE (c, d),
and drive halves apart by mutual information, which CLUB bounds (a, c), or by their squared distance (b, d).
Both have the settings of sand-baby.toml, 50 inner steps of CLUB for each step of the model; a squared
distance has no use for these, so the ratio holds all that CLUB costs, fitted as often as in the authors'
code, to all items. With five inner steps, and with steps fitted to 2,048 items, it is measured too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.data import sized_split, with_features
from benchmarks.models import recipe_of
from benchmarks.options import Options
from benchmarks.process import NotMeasured
from benchmarks.report import Case, Table, ratio_text
from benchmarks.timing import Timing, ratio
from benchmarks.training import EPOCH, NOT_MEASURED, PEAK, Job, jobs_in_turns

ROUNDS = 5
BAR = 1.5
BESIDE = ("mf-bpr", "lightgcn", "vbpr", "mmgcn", "lattice", "freedom")
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "SAND_a": {"align": "solosim", "distance": "mi"},
    "SAND_b": {"align": "solosim", "distance": "l2"},
    "SAND_c": {"align": "infonce", "distance": "mi"},
    "SAND_d": {"align": "infonce", "distance": "l2"},
    "SAND_a, 5 inner steps": {"align": "solosim", "distance": "mi", "club_inner_steps": 5},
    "SAND_a, steps of 2,048": {"align": "solosim", "distance": "mi", "club_rows": 2048},
    "SAND_c, steps of 2,048": {"align": "infonce", "distance": "mi", "club_rows": 2048},
}
PRINTED = {  # Baby: seconds per epoch, memory in GB, on the authors' GPU
    "mf-bpr": (0.86, 1.59), "lightgcn": (1.81, 1.69), "vbpr": (1.04, 1.89), "mmgcn": (6.35, 2.69),
    "lattice": (3.42, 4.53), "freedom": (2.58, 2.13), "SAND_d": (4.58, 2.54), "SAND_c": (18.81, 3.42),
    "SAND_b": (3.75, 2.54), "SAND_a": (16.04, 3.42),
}  # fmt: skip


def run(options: Options) -> Iterator[Case]:
    """Measure all variants and the models beside them, or those models that are named."""
    sized = sized_split(options.data)
    jobs = {name: Job(recipe_of(name, sized.size), batches=options.batches, parts=(), device=options.device)
            for name in options.models or BESIDE}  # fmt: skip
    jobs |= {
        name: Job("sand-baby.toml", settings, batches=options.batches, parts=(), device=options.device)
        for name, settings in VARIANTS.items()
    }
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with_features(sized.split).labelled().save(data)
        found = jobs_in_turns(jobs, data, options)
    timings, memory, left = {}, {}, {}
    for name, rounds in found.items():
        if isinstance(rounds, NotMeasured):
            left[name] = rounds.reason
            continue
        epochs = zip(*(each["laps"][EPOCH] for each in rounds), strict=True)
        timings[name] = Timing(1, *map(list, epochs))
        memory[name] = median(each["peak"] for each in rounds) / 1e6
    facts = {
        **sized.facts(),
        "recipes": {name: job.recipe for name, job in jobs.items()},
        "batches of an epoch that are measured": 1 + options.batches,
        "rounds": options.rounds,
        PEAK: memory,
    }
    if left:
        crashed = any(each.crashed for each in found.values() if isinstance(each, NotMeasured))
        facts |= {NOT_MEASURED: left, "crashed": crashed}
    plain = {"solosim": "SAND_b", "infonce": "SAND_d"}
    pairs = [(name, plain[of["align"]]) for name, of in VARIANTS.items() if of["distance"] == "mi"]
    ratios = [
        ratio(timings, above, below, at_most=BAR)
        for above, below in pairs
        if above in timings and below in timings
    ]
    yield Case("sand", sized.size, facts, timings, ratios)


def table(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Make the paper's Table 5 of a report's cases, the printed figures beside ours."""
    rows = []
    for case in cases:
        for name, timing in case["timings"].items():
            printed = [f"{figure:g}" for figure in PRINTED.get(name, ())] or ["–", "–"]
            spread = f"{timing['cpu_median']:,.2f} ({min(timing['cpu']):,.2f} to {max(timing['cpu']):,.2f})"
            rows.append([name, spread, f"{case['facts'][PEAK][name]:,.0f}", *printed])
    told = "; ".join(ratio_text(ratio) for case in cases for ratio in case["ratios"])
    return Table(
        ("model", "epoch, s", "peak, MB", "printed: epoch, s", "printed: GB"),
        rows,
        "CPU seconds, medians (lowest to highest round). Printed figures are of Baby on the authors' GPU."
        f" {told}.",
    )
