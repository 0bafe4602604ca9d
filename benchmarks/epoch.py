"""Epochs of LightGCN and FREEDOM through the real training loop, and where their time goes.

One epoch warms up, `rounds` are measured, one more is profiled. Batches have 2,048 pairs, vectors
64 numbers; settings are the defaults, FREEDOM with the given item graphs. Evaluation is that of
the validation part, from the weights to the metrics.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.data import SEED, Sized, sized_split
from benchmarks.report import Case
from benchmarks.timing import Timing, interleave
from triptych.evaluation.ranking import evaluate_ranking
from triptych.models.base import ModelInputs, Recommender, Triplets
from triptych.models.registry import create_model, make_config, model_entry
from triptych.scorer import EmbeddingScorer
from triptych.training.config import TrainConfig
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import EpochRecord, Observer, Trainer, isolated_rng

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
_SAMPLING, _EPOCH_START = "benchmark: sampling", "benchmark: epoch start"
_SPARSE = ("aten::_embedding_bag", "aten::embedding_bag", "aten::_embedding_bag_forward_only")
_DENSE = ("aten::mm", "aten::addmm", "aten::bmm")
_OPTIMISER = ("aten::_fused_adam_",)
MATRIX_WORK = ("sparse products", "dense products", "optimiser", "elementwise and gather")


def run(rounds: int) -> Iterator[Case]:
    """Measure both models on baby."""
    sized = sized_split("baby")
    for name in MODELS:
        yield measure(sized, name, rounds)


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
        _mark_epoch_start(model)
        sampler = MarkedSampler(
            inputs.user, inputs.item, inputs.n_users, inputs.n_items,
            batch_size=BATCH_SIZE, negatives=model.negatives, seed=SEED,
        )  # fmt: skip
        result = Trainer(model, sampler, validate, config, device=device, observer=clock).run()
        evaluation = interleave({"evaluation": lambda: validate(model.scorer())}, rounds)["evaluation"]
    shares = {place: seconds / clock.profiled_seconds for place, seconds in clock.shares().items()}
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
        self.profiled_seconds = 0.0
        self._first, self._last = first, last
        self._cpu = self._wall = 0.0
        self._profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def on_epoch(self, record: EpochRecord) -> None:
        """Note the epoch that is done, and start the clock again."""
        if self._first <= record.epoch <= self._last:
            self.timing.cpu.append(time.process_time() - self._cpu)
            self.timing.wall.append(time.perf_counter() - self._wall)
        if record.epoch == self._last + 1:
            self.profiled_seconds = time.perf_counter() - self._wall
            self._profile.__exit__(None, None, None)
        if record.epoch == self._last:
            self._profile.__enter__()
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def shares(self) -> dict[str, float]:
        """Say where the profiled epoch's wall seconds went."""
        seconds: defaultdict[str, float] = defaultdict(float, dict.fromkeys(MATRIX_WORK, 0.0))
        for event in self._profile.events() or ():
            if event.name in (_SAMPLING, _EPOCH_START):
                seconds[event.name.removeprefix("benchmark: ")] += event.cpu_time_total / 1e6
            elif not _within_mark(event):
                seconds[_place(event)] += event.self_cpu_time_total / 1e6
        seconds["Python and dispatch"] += self.profiled_seconds - sum(seconds.values())
        return dict(seconds)


class MarkedSampler(TripletSampler):
    """The library's sampler, whose time the profiler sees under a name of its own."""

    def epoch(self) -> Iterator[Triplets]:
        """Draw the batches of one epoch."""
        batches = super().epoch()
        while True:
            with record_function(_SAMPLING):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _mark_epoch_start(model: Recommender) -> None:
    own = model.epoch_steps

    def marked(epoch: int) -> Any:
        with record_function(_EPOCH_START):
            return list(own(epoch))

    model.epoch_steps = marked  # type: ignore[method-assign]


def _within_mark(event: Any) -> bool:
    return any(name in (_SAMPLING, _EPOCH_START) for name in _ancestry(event))


def _ancestry(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _place(event: Any) -> str:
    """Name the kind of work that an event's own time, without that of the events in it, belongs to."""
    name: str = event.name
    if name in _SPARSE:
        return MATRIX_WORK[0]
    if name in _DENSE:
        return MATRIX_WORK[1]
    if name in _OPTIMISER:
        return MATRIX_WORK[2]
    if not name.startswith("aten::"):
        return "Python and dispatch"
    wide = any(len(shape) == 2 and shape[1] == DIM for shape in event.input_shapes)
    # The profiler knows no shapes of lists; what a split's way back joins are parts of such matrices.
    joined = name == "aten::cat" and any(of.startswith("Split") for of in _ancestry(event))
    return MATRIX_WORK[3] if wide or joined else "operators on smaller tensors"
