"""A batch told from all nodes, value and gradient, against the whole matrix of products and autograd.

Reference: products of the batch with all nodes as one matrix, `torch.logsumexp` over its rows, and
autograd back. Vectors have length 1, so that products are cosines, over a temperature of 0.2; those of
four columns are memberships in hyperedges, as LGMRec and MGNM compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.data import SEED
from benchmarks.options import Options
from benchmarks.report import Case
from benchmarks.timing import interleave, ratio
from triptych.losses import mean_log_sum_exp

BATCH, SCALE = 2048, 5.0
SIZES = {
    "baby's items, 64 columns": (7_050, 64),
    "sports' users, 64 columns": (35_598, 64),
    "sports' users, 4 columns": (35_598, 4),
}
TARGET = 1.5

OURS, HALVED, WHOLE = "triptych", "triptych, bf16", "whole matrix"


def run(options: Options) -> Iterator[Case]:
    """Measure all sizes."""
    for size, (n_nodes, dim) in SIZES.items():
        yield measure(size, n_nodes, dim, options.rounds)


def measure(size: str, n_nodes: int, dim: int, rounds: int) -> Case:
    """Time one size, and see that values and gradients agree."""
    generator = torch.Generator().manual_seed(SEED)
    rows, others = (
        F.normalize(torch.randn(n, dim, generator=generator)).requires_grad_() for n in (BATCH, n_nodes)
    )

    def ours() -> Tensor:
        return mean_log_sum_exp(rows, others, SCALE)

    def halved() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return mean_log_sum_exp(rows, others, SCALE)

    def whole() -> Tensor:
        return (SCALE * rows @ others.T).logsumexp(dim=1).mean()

    forms = {OURS: ours, HALVED: halved, WHOLE: whole}
    jobs = {name: partial(_there_and_back, form, rows, others) for name, form in forms.items()}
    results = {name: job() for name, job in jobs.items()}
    errors = {
        name: max(_error(got, wanted) for got, wanted in zip(results[name], results[WHOLE], strict=True))
        for name in (OURS, HALVED)
    }
    if errors[OURS] > 1e-4 or errors[HALVED] > 0.05:
        raise AssertionError(f"the forms disagree: {errors}")
    timings = interleave(jobs, rounds)
    facts = {"batch, nodes, columns": [BATCH, n_nodes, dim], "largest difference over largest entry": errors}
    ratios = [ratio(timings, WHOLE, OURS, at_least=TARGET), ratio(timings, WHOLE, HALVED)]
    return Case("contrast", size, facts, timings, ratios)


def _there_and_back(form: Callable[[], Tensor], rows: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    value = form()
    return value.detach(), *torch.autograd.grad(value, (rows, others))


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())
