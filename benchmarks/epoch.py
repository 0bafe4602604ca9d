"""Epochs of LightGCN and FREEDOM through the real training loop, and where their time goes.

One epoch warms up, `rounds` are measured, one more is profiled. Batches have 2,048 pairs, vectors
64 numbers; settings are the defaults, FREEDOM with the given item graphs. Evaluation is that of
the validation part, from the weights to the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.data import SEED, Sized, sized_split
from benchmarks.options import Options
from benchmarks.profiling import MATRIX_WORK, MarkedSampler, Profiled, mark_epoch_start
from benchmarks.report import Case
from benchmarks.timing import Timing, interleave
from triptych.evaluation.ranking import evaluate_ranking
from triptych.models.base import ModelInputs
from triptych.models.registry import create_model, make_config, model_entry
from triptych.scorer import EmbeddingScorer
from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord, Observer
from triptych.training.trainer import Trainer, isolated_rng

BATCH_SIZE, DIM = 2_048, 64
MODELS = ("lightgcn", "freedom")
SKETCH = {"lightgcn": 1.8, "freedom": 2.5}
"""Seconds per epoch of the first sketch: one thread, busy machine."""
SKETCH_EVALUATION = 0.75

DEFINITION = (
    "matrix work = wall time inside torch operators, in training steps, that have an embedding-sized "
    f"input ({DIM} columns): sparse products, dense products, optimiser, elementwise and gather; all else "
    "is not: sampling and batching, the epoch's own graph, operators on smaller tensors, Python and dispatch"
)


def run(options: Options) -> Iterator[Case]:
    """Measure both models on baby."""
    sized = sized_split("baby")
    for name in MODELS:
        yield measure(sized, name, options.rounds)


def measure(sized: Sized, name: str, rounds: int) -> Case:
    """Train one model for a few epochs, and evaluate it."""
    split = sized.split
    inputs = ModelInputs.from_split(split)
    device = torch.device("cpu")
    clock = Clock(first=2, last=1 + rounds)
    # The loop evaluates its last epoch, which is therefore neither measured nor profiled.
    config = TrainConfig(epochs=rounds + 3, eval_every=rounds + 3, batch_size=BATCH_SIZE)

    def validate(scorer: EmbeddingScorer) -> dict[str, float]:
        return evaluate_ranking(scorer, split, "valid", (10, 20)).mean()

    with isolated_rng(SEED, device):
        model = create_model(make_config(model_entry(name).config, {"embedding_dim": DIM}), inputs)
        mark_epoch_start(model)
        sampler = MarkedSampler(
            inputs.user, inputs.item, inputs.n_users, inputs.n_items,
            batch_size=BATCH_SIZE, negatives=model.negatives, seed=SEED,
        )  # fmt: skip
        result = Trainer(model, sampler, validate, config, device=device, observer=clock).run()
        evaluation = interleave({"evaluation": lambda: validate(model.scorer())}, rounds)["evaluation"]
    profiled = clock.profiled
    shares = {place: seconds / profiled.lap.wall for place, seconds in profiled.seconds().items()}
    not_matrix = 1 - sum(shares[place] for place in MATRIX_WORK)
    facts: dict[str, Any] = {
        **sized.facts(),
        "settings": model.config.model_dump(mode="json"),
        "batches per epoch": sampler.n_batches,
        "epochs measured": rounds,
        "sketch, seconds": {"epoch": SKETCH[name], "evaluation of one split": SKETCH_EVALUATION},
        "definition": DEFINITION,
        "share of a profiled epoch's wall time": shares,
        "share that is not matrix work": not_matrix,
        "recall@20 on validation after these few epochs": (result.history[-1].valid or {})["recall@20"],
    }
    return Case("epoch", f"{name}, {sized.size}", facts, {"epoch": clock.timing, "evaluation": evaluation})


class Clock(Observer):
    """Times the epochs `first` to `last`, and profiles the one after them.

    Args:
        first: counted from 1, at least 2.
        last: the last one timed.
    """

    def __init__(self, first: int, last: int) -> None:
        self.timing = Timing(1)
        self.profiled = Profiled(DIM)
        self._first, self._last = first, last
        self._cpu = self._wall = 0.0

    def on_epoch(self, record: EpochRecord) -> None:
        """Note the epoch that is done, and start the clock again."""
        if self._first <= record.epoch <= self._last:
            self.timing.cpu.append(time.process_time() - self._cpu)
            self.timing.wall.append(time.perf_counter() - self._wall)
        if record.epoch == self._last + 1:
            self.profiled.__exit__()
        if record.epoch == self._last:
            self.profiled.__enter__()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
