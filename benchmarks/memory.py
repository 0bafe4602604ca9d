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
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.data import SEED, Sized, sized_split
from benchmarks.machine import ROOT, resident_bytes
from benchmarks.report import Case
from benchmarks.timing import Timing
from triptych.data.features import ItemFeatures
from triptych.models.base import ModelInputs, Triplets
from triptych.models.registry import create_model, make_config, model_entry
from triptych.scorer import EmbeddingScorer
from triptych.training.config import TrainConfig
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import EpochRecord, Observer, Trainer, isolated_rng

MODELS = ("lattice", "micro")
SIZE = "electronics"
WIDTHS = {"image": 4_096, "text": 384}
EPOCHS, BATCHES, BATCH_SIZE = 2, 2, 2_048
TARGET_BYTES = 8_000_000_000


def run(rounds: int) -> Iterator[Case]:
    """Measure each model once, whatever `rounds` is; neighbours of raw features are found once for all."""
    with TemporaryDirectory() as folder:
        for name in MODELS:
            yield measure(name, Path(folder))


def measure(name: str, cache_dir: Path) -> Case:
    """Train one model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", name]
    command += ["--threads", str(torch.get_num_threads()), "--cache", str(cache_dir)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout)
    peak = measured["peak_bytes"]
    facts = {
        **measured["facts"],
        "rounds": 1,
        "peak memory of the process, MB": peak / 1e6,
        "target": f"below {TARGET_BYTES / 1e6:,.0f} MB: {'met' if peak < TARGET_BYTES else 'MISSED'}",
    }
    timings = {form: Timing(1, **seconds) for form, seconds in measured["timings"].items()}
    return Case("memory", f"{name}, {SIZE}", facts, timings)


def _measure_here(name: str, cache_dir: Path | None) -> dict[str, Any]:
    sized = _with_features(sized_split(SIZE))
    inputs = ModelInputs.from_split(sized.split, cache_dir)
    device = torch.device("cpu")
    before, started = resident_bytes(), time.perf_counter()
    with isolated_rng(SEED, device):
        model = create_model(make_config(model_entry(name).config, {}), inputs)
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
        clock = Clock()
        config = TrainConfig(epochs=EPOCHS, batch_size=BATCH_SIZE)
        Trainer(model, sampler, clock.validate, config, device=device, observer=clock).run()
    return {
        "facts": facts,
        "timings": {form: {"cpu": timing.cpu, "wall": timing.wall} for form, timing in clock.timings.items()},
        "peak_bytes": resident_bytes("VmHWM"),
    }


class FewBatches(TripletSampler):
    """Draws the first few batches of each epoch."""

    def epoch(self) -> Iterator[Triplets]:
        """Draw them."""
        return islice(super().epoch(), BATCHES)


class Clock(Observer):
    """Times first batches, later batches and evaluations."""

    def __init__(self) -> None:
        self.timings = {form: Timing(1) for form in ("first batch", "later batch", "embeddings")}
        self._evaluations = 0
        self._restart()

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Note a batch, the first one with what the epoch begins with."""
        self._note("first batch" if done == 1 else "later batch")

    def validate(self, scorer: EmbeddingScorer) -> dict[str, float]:
        """Note that users and items are embedded, and find them better than ever."""
        self._note("embeddings")
        self._evaluations += 1
        return {"recall@20": float(self._evaluations)}

    def on_epoch(self, record: EpochRecord) -> None:
        """Leave out what lies between two epochs."""
        self._restart()

    def _note(self, form: str) -> None:
        self.timings[form].cpu.append(time.process_time() - self._cpu)
        self.timings[form].wall.append(time.perf_counter() - self._wall)
        self._restart()

    def _restart(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()


def _with_features(sized: Sized) -> Sized:
    """Give each item random features, as float32 from the start."""
    rng = np.random.default_rng(SEED)
    n_items = sized.split.n_items
    features = {
        modality: ItemFeatures(
            present=np.ones(n_items, dtype=bool),
            values=rng.standard_normal((n_items, width), dtype=np.float32),
            source="generated",
        )
        for modality, width in WIDTHS.items()
    }
    return replace(sized, split=replace(sized.split, data=replace(sized.split.data, features=features)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="folder where neighbours of raw features are kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(_measure_here(options.model, options.cache)))
