"""SAND's four variants beside other models: memory and seconds per epoch, as in Table 5 of arXiv:2406.08270.

Each measurement is a process of its own, all in turns. Variants align by SoloSim (a, b) or InfoNCE (c, d),
and drive halves apart by mutual information, which CLUB bounds (a, c), or by their squared distance (b, d).
Both have the settings of sand-baby.toml, 50 inner steps of CLUB for each step of the model; a squared
distance has no use for these, so the ratio holds all that CLUB costs, fitted as often as in the authors'
code, to all items. With five inner steps, and with steps fitted to 2,048 items, it is measured too.

The authors' code, sand-official.toml, maps features by a square matrix as wide as they are. A case of its
own has what the maps of images cost, with their gradient, where each is put together with the square one
first, as here (`triptych.nn.composed`), and where the square one's results are made, as there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.data import SEED, WIDTHS, sized_split, with_features
from benchmarks.models import recipe_of
from benchmarks.options import Options
from benchmarks.process import NotMeasured
from benchmarks.report import Case, Table, ratio_text
from benchmarks.timing import Timing, interleave, ratio
from benchmarks.training import EPOCH, NOT_MEASURED, PEAK, Job, jobs_in_turns
from triptych.models.sand import SANDConfig
from triptych.nn.composed import ComposedMaps
from triptych.training.recipe import find_recipe

ROUNDS = 5
BAR = 1.5
COMPOSED, PLAIN, TARGET = "maps, composed", "maps, as in the code", 7.0
BESIDE: Mapping[str, str] = {  # as they are printed
    "mf-bpr": "BPR", "lightgcn": "LightGCN", "vbpr": "VBPR", "mmgcn": "MMGCN", "lattice": "LATTICE",
    "freedom": "FREEDOM",
}  # fmt: skip
OFFICIAL = "SAND, as in the code"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "SAND_a": {"align": "solosim", "distance": "mi"},
    "SAND_b": {"align": "solosim", "distance": "l2"},
    "SAND_c": {"align": "infonce", "distance": "mi"},
    "SAND_d": {"align": "infonce", "distance": "l2"},
    "SAND_a, 5 inner steps": {"align": "solosim", "distance": "mi", "club_inner_steps": 5},
    "SAND_a, steps of 2,048": {"align": "solosim", "distance": "mi", "club_rows": 2048},
    "SAND_c, steps of 2,048": {"align": "infonce", "distance": "mi", "club_rows": 2048},
}


def run(options: Options) -> Iterator[Case]:
    """Measure all variants and the models beside them, or those models that are named."""
    sized = sized_split(options.data)
    jobs = {name: Job(recipe_of(name, sized.size), batches=options.batches, parts=(), device=options.device)
            for name in options.models or BESIDE}  # fmt: skip
    jobs |= {
        name: Job("sand-baby.toml", settings, batches=options.batches, parts=(), device=options.device)
        for name, settings in VARIANTS.items()
    }
    jobs[OFFICIAL] = Job("sand-official.toml", batches=options.batches, parts=(), device=options.device)
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
    if options.device == "cpu":
        yield wide_maps(sized.size, sized.split.n_items, WIDTHS["image"], options.rounds)


def wide_maps(size: str, n_items: int, width: int, rounds: int) -> Case:
    """Time the maps of one modality of the authors' code in both forms, and see that they agree."""
    torch.manual_seed(SEED)
    config = cast(SANDConfig, find_recipe("sand-official.toml").configs().model)
    generic, unique = slice(width // 2), slice(width // 2, width)
    maps = ComposedMaps(
        width,
        {
            "content": (slice(width), config.hidden_dim),
            "aligned": (generic, config.head_dim),
            "generic": (generic, config.projection_dim),
            "unique": (unique, config.projection_dim),
        },
    )
    rows = torch.randn(n_items, width)

    def plain(rows: Tensor) -> dict[str, Tensor]:
        wide = maps.square(rows)
        linears = cast(Mapping[str, nn.Linear], maps.maps)
        starts = {name: before for name, (before, _) in maps.margins.items()}
        return {
            name: linear(wide[:, starts[name] : starts[name] + linear.in_features])
            for name, linear in linears.items()
        }

    def there_and_back(form: Any) -> tuple[Tensor, ...]:
        made = torch.cat(list(form(rows).values()), dim=1)
        return made.detach(), *torch.autograd.grad(made.square().mean(), list(maps.parameters()))

    forms = {COMPOSED: partial(there_and_back, maps), PLAIN: partial(there_and_back, plain)}
    both = zip(*(form() for form in forms.values()), strict=True)
    error = max(float((got - wanted).abs().max() / wanted.abs().max()) for got, wanted in both)
    if error > 1e-3:
        raise AssertionError(f"the forms disagree: {error}")
    timings = interleave(forms, rounds)
    facts = {"items, columns": [n_items, width], "largest difference over largest entry": error}
    held = ratio(timings, PLAIN, COMPOSED, at_least=TARGET)
    return Case("sand", f"{size}, wide maps", facts, timings, [held])


def printed(data: str) -> dict[str, tuple[str, str]]:
    """Look up Table 5 on a data set: model -> seconds per epoch and GB, on the authors' GPU."""
    text = (files("triptych") / "recipes" / "papers" / "published.csv").read_text(encoding="utf-8")
    found = {
        (row["model_or_variant"], row["metric"]): row["value"]
        for row in csv.DictReader(text.splitlines())
        if (row["paper"], row["table"], row["dataset"]) == ("SAND", "5", data)
    }
    ours = {name: ours for ours, name in BESIDE.items()}
    return {
        ours.get(name, name): (seconds, found[name, "memory_gb"])
        for (name, metric), seconds in found.items()
        if metric == "seconds_per_epoch"
    }


def table(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Make the paper's Table 5 of a report's cases, the printed figures beside ours."""
    rows = []
    for case in cases:
        theirs = printed(case["size"])
        for name, timing in case["timings"].items():
            spread = f"{timing['cpu_median']:,.2f} ({min(timing['cpu']):,.2f} to {max(timing['cpu']):,.2f})"
            peak = case["facts"].get(PEAK, {}).get(name)
            rows.append(
                [name, spread, "–" if peak is None else f"{peak:,.0f}", *theirs.get(name, ("–", "–"))]
            )
    told = "; ".join(ratio_text(ratio) for case in cases for ratio in case["ratios"])
    return Table(
        ("model", "epoch, s", "peak, MB", "printed: epoch, s", "printed: GB"),
        rows,
        "CPU seconds, medians (lowest to highest round). Printed figures are of the same data, where there"
        f" are any, on the authors' GPU. {told}.",
    )
