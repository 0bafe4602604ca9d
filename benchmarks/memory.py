"""Peak memory of models at the size of Amazon Electronics, through the real training loop, features included.

Interactions and features are generated, the features 4,096 and 384 columns wide. Each model has a process of
its own, so that the peak is its own: it builds its graphs and trains two epochs of two batches, with an
evaluation after each that ranks nothing and finds the model better than before. In the second epoch the loop
holds Adam's moments and the best weights besides, which is most of the memory where features learn.

The first batch of an epoch is timed apart from later ones: some models learn their item graphs in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.data import NAMES, SEED, WIDTHS, sized_split, with_features
from benchmarks.machine import resident_bytes
from benchmarks.options import Options
from benchmarks.process import REFUSED, NotMeasured, in_process
from benchmarks.report import Case, Table
from benchmarks.timing import Stopwatch, Timing
from benchmarks.training import NOT_MEASURED, PEAK
from triptych.device import resolve_device
from triptych.errors import TriptychError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.registry import create_model, make_config, model_entry
from triptych.scorer import Scorer
from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord, Observer
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import Trainer, isolated_rng

ROUNDS = 1
MODELS = ("lattice", "micro", "sand", "diffmm")
"""Measured where none is named; any model can be."""
SIZE = "electronics"
EPOCHS, BATCHES, BATCH_SIZE = 2, 2, 2_048
FORMS = ("first batch", "later batch", "embeddings", "epoch and embeddings")
TARGET_BYTES = 16_000_000_000
TIGHTER = dict.fromkeys(("lattice", "micro"), 8_000_000_000) | dict.fromkeys(
    ("mgnm", "camgr", "msi"), 12_000_000_000
)
"""Targets that were set before, for single models."""


def run(options: Options) -> Iterator[Case]:
    """Measure each model once, whatever the rounds are; neighbours of raw features are found once for all."""
    with TemporaryDirectory() as folder:
        for name in options.models or MODELS:
            yield measure(model_entry(name).name, Path(folder), options)


def measure(name: str, cache_dir: Path, options: Options, size: str = SIZE) -> Case:
    """Train one model in a process of its own."""
    measured = in_process(
        "benchmarks.memory", name, "--cache", str(cache_dir), "--size", size, "--device", options.device,
        threads=options.threads, most=options.most,
    )  # fmt: skip
    if isinstance(measured, NotMeasured):
        return Case("memory", f"{name}, {size}", {NOT_MEASURED: measured.reason, "crashed": measured.crashed})
    peak, target = measured["peak_bytes"], TIGHTER.get(name, TARGET_BYTES)
    facts = {
        **measured["facts"],
        "rounds": 1,
        PEAK: peak / 1e6,
        "target": f"below {target / 1e6:,.0f} MB: {'met' if peak < target else 'MISSED'}",
    }
    timings = {form: Timing(1, **seconds) for form, seconds in measured["timings"].items()}
    return Case("memory", f"{name}, {size}", facts, timings)


def table(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Put the models side by side, from the cases of a report."""
    rows = []
    for case in cases:
        facts, model = case["facts"], case["size"].partition(",")[0]
        if NOT_MEASURED in facts:
            rows.append(
                [model, f"not measured: {facts[NOT_MEASURED].splitlines()[0]}", "–", *("–" for _ in FORMS)]
            )
            continue
        spent = (case["timings"].get(form, {}).get("cpu", ()) for form in FORMS)
        seconds = ["–" if not each else f"{min(each):,.1f} to {max(each):,.1f}" for each in spent]
        rows.append([model, f"{facts[PEAK]:,.0f}", facts["target"], *seconds])
    return Table(
        ("model", "peak, MB", "target", *(f"{form}, s" for form in FORMS)),
        rows,
        "Two epochs of two batches, features included; CPU seconds of each.",
    )


def measure_here(
    name: str,
    cache_dir: Path | None,
    size: str,
    device: torch.device,
    widths: Mapping[str, int] = WIDTHS,
) -> dict[str, Any]:
    """Measure in this process."""
    sized = sized_split(size)
    inputs = ModelInputs.from_split(with_features(sized.split, widths), cache_dir)
    before, started = resident_bytes(), time.perf_counter()
    with isolated_rng(SEED, device):
        model = create_model(make_config(model_entry(name).config, {}), inputs).to(device)
        facts = {
            **sized.facts(),
            "settings": model.config.model_dump(mode="json"),
            "batch size": BATCH_SIZE,
            "seconds to build the model and its graphs": time.perf_counter() - started,
            "memory before the model was built, MB": before / 1e6,
            "peak memory until it was built, MB": resident_bytes("VmHWM") / 1e6,
        }
        sampler = FewBatches(
            inputs.user, inputs.item, inputs.n_users, inputs.n_items,
            batch_size=BATCH_SIZE, negatives=model.negatives, seed=SEED,
        )  # fmt: skip
        clock = Clock(device.type)
        config = TrainConfig(epochs=EPOCHS, batch_size=BATCH_SIZE)
        Trainer(model, sampler, clock.validate, config, device=device, observer=clock).run()
    return {
        "facts": facts,
        "timings": {
            form: {"cpu": timing.cpu, "wall": timing.wall}
            for form, timing in clock.timings.items()
            if timing.cpu
        },
        "peak_bytes": torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resident_bytes("VmHWM"),
    }


class FewBatches(TripletSampler):
    """Draws the first few batches of each epoch."""

    def epoch(self) -> Iterator[Triplets]:
        """Draw them."""
        return islice(super().epoch(), BATCHES)


class Clock(Observer):
    """Times first batches, later batches and evaluations; of a model without batches, whole epochs.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.timings = {form: Timing(1) for form in FORMS}
        self._evaluations = 0
        self._batches = 0
        self._watch = Stopwatch(device)

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Note a batch, the first one with what the epoch begins with."""
        self._batches += 1
        self._note("first batch" if done == 1 else "later batch")

    def validate(self, scorer: Scorer) -> dict[str, float]:
        """Note that users and items are embedded, and find them better than ever."""
        self._note("embeddings" if self._batches else "epoch and embeddings")
        self._evaluations += 1
        return {"recall@20": float(self._evaluations)}

    def on_epoch(self, record: EpochRecord) -> None:
        """Leave out what lies between two epochs."""
        self._watch.lap()

    def _note(self, form: str) -> None:
        lap = self._watch.lap()
        self.timings[form].cpu.append(lap.cpu)
        self.timings[form].wall.append(lap.wall)


def main() -> None:
    """Measure the model of the command line in this process, and print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--size", default=SIZE, choices=NAMES, help=f"of the data (default {SIZE})")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, help="folder where neighbours of raw features are kept")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        found = measure_here(options.model, options.cache, options.size, resolve_device(options.device))
    except TriptychError as error:
        found = {REFUSED: str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
