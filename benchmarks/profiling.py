"""Where the time of training steps goes, as torch's profiler sees it on a CPU."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.timing import Lap
from triptych.models.base import Recommender, Triplets
from triptych.training.sampler import TripletSampler

SPARSE_PRODUCTS, DENSE_PRODUCTS = "sparse products", "dense products"
PRODUCTS = (SPARSE_PRODUCTS, DENSE_PRODUCTS)
MATRIX_WORK = (*PRODUCTS, "optimiser", "elementwise and gather")
PRODUCTS_DEFINITION = (
    "products = wall time inside torch's products, factorisations and solutions of dense matrices, and sums "
    "of gathered rows, which is how a sparse matrix is multiplied, in a profiled epoch; all else is not"
)

_SAMPLING, _EPOCH_START = "benchmark: sampling", "benchmark: epoch start"
_SPARSE = (
    "aten::_embedding_bag",
    "aten::embedding_bag",
    "aten::_embedding_bag_forward_only",
    "aten::sparse_sampled_addmm",
)
_DENSE = (
    *(
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::addmm_",
        "aten::baddbmm",
        "aten::mv",
        "aten::addmv",
        "aten::dot",
    ),
    *("aten::linalg_cholesky_ex", "aten::cholesky_solve", "aten::_cholesky_solve_helper"),
    *("aten::cholesky_inverse", "aten::_linalg_eigh", "aten::linalg_solve_triangular"),
    *("aten::_linalg_solve_ex", "aten::linalg_inv_ex", "aten::_linalg_svd"),
    "aten::_scaled_dot_product_flash_attention_for_cpu",
)
_OPTIMISER = ("aten::_fused_adam_",)


class Profiled:
    """Profiles what is done within a `with` block.

    Args:
        dim: columns of the vectors, by which embedding-sized operands are known.
    """

    def __init__(self, dim: int) -> None:
        self.lap = Lap(0.0, 0.0)
        self._dim = dim
        self._profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def __enter__(self) -> Profiled:
        self._profile.__enter__()
        self._began = Lap(time.process_time(), time.perf_counter())
        return self

    def __exit__(self, *error: object) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.lap = Lap(cpu - self._began.cpu, wall - self._began.wall)
        self._profile.__exit__(None, None, None)

    def seconds(self) -> dict[str, float]:
        """Say where the wall seconds went."""
        seconds: defaultdict[str, float] = defaultdict(float, dict.fromkeys(MATRIX_WORK, 0.0))
        for event in self._profile.events() or ():
            if event.name in (_SAMPLING, _EPOCH_START):
                seconds[event.name.removeprefix("benchmark: ")] += event.cpu_time_total / 1e6
            elif not _within_mark(event):
                seconds[_place(event, self._dim)] += event.self_cpu_time_total / 1e6
        seconds["Python and dispatch"] += self.lap.wall - sum(seconds.values())
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


def mark_epoch_start(model: Recommender) -> None:
    """Let the profiler see what an epoch of this model begins with under a name of its own."""
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


def _place(event: Any, dim: int) -> str:
    """Name the kind of work that an event's own time, without that of the events in it, belongs to."""
    name: str = event.name
    if name in _SPARSE:
        return SPARSE_PRODUCTS
    if name in _DENSE:
        return DENSE_PRODUCTS
    if name in _OPTIMISER:
        return MATRIX_WORK[2]
    if not name.startswith("aten::"):
        return "Python and dispatch"
    wide = any(len(shape) == 2 and shape[1] == dim for shape in event.input_shapes)
    # The profiler knows no shapes of lists; what a split's way back joins are parts of such matrices.
    joined = name == "aten::cat" and any(of.startswith("Split") for of in _ancestry(event))
    return MATRIX_WORK[3] if wide or joined else "operators on smaller tensors"
