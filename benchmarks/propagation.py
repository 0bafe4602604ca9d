"""Three layers over the user–item graph, forward and backward, against torch's sparse COO product.

Reference: the form most published code has. The normalised adjacency matrix is a coalesced
`torch.sparse_coo_tensor`, each layer is `torch.sparse.mm`, the layers are averaged, and autograd
finds the way back. It is measured with a running sum of the layers (the leaner way) and with all
layers stacked before their mean (the usual way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.data import SEED, Sized, sized_splits
from benchmarks.options import Options
from benchmarks.report import Case
from benchmarks.timing import interleave, ratio
from triptych.graph.bipartite import bipartite_graph
from triptych.graph.sparse import propagate

DIM, N_LAYERS = 64, 3
TARGET = 4.0

OURS, SUMMED, STACKED = "triptych", "COO, running sum", "COO, stacked layers"


def run(options: Options) -> Iterator[Case]:
    """Measure all sizes."""
    for sized in sized_splits():
        yield measure(sized, options.rounds)


def measure(sized: Sized, rounds: int) -> Case:
    """Time one size, and see that values and gradients agree."""
    split = sized.split
    user, item = torch.from_numpy(split.train.user), torch.from_numpy(split.train.item)
    graph = bipartite_graph(user, item, split.n_users, split.n_items, "sym")
    row, col, value = graph.edges()
    coo = torch.sparse_coo_tensor(
        torch.stack([row, col]), value, (graph.n_rows, graph.n_cols), check_invariants=False
    ).coalesce()
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(graph.n_cols, DIM, generator=generator).requires_grad_()
    grad = torch.randn(graph.n_rows, DIM, generator=generator)

    def ours() -> Tensor:
        return propagate(graph, x, N_LAYERS, combine="mean")

    def summed() -> Tensor:
        layer = total = x
        for _ in range(N_LAYERS):
            layer = torch.sparse.mm(coo, layer)
            total = total + layer
        return total / (N_LAYERS + 1)

    def stacked() -> Tensor:
        layers = [x]
        for _ in range(N_LAYERS):
            layers.append(torch.sparse.mm(coo, layers[-1]))
        return torch.stack(layers, dim=1).mean(dim=1)

    forms = {OURS: ours, SUMMED: summed, STACKED: stacked}
    results = {}
    for name, form in forms.items():
        out = form()
        results[name] = (out.detach(), torch.autograd.grad(out, x, grad)[0])
    errors = {
        what: max(_error(results[name][at], results[OURS][at]) for name in (SUMMED, STACKED))
        for at, what in enumerate(("values", "gradients"))
    }
    if not all(error <= 1e-5 for error in errors.values()):
        raise AssertionError(f"the forms disagree: {errors}")
    del results
    timings = interleave(
        {name: partial(_there_and_back, form, x, grad) for name, form in forms.items()}, rounds
    )
    return Case(
        "propagation",
        sized.size,
        {
            **sized.facts(),
            "entries": graph.n_entries,
            "layers, dimension": [N_LAYERS, DIM],
            "largest difference over largest entry": errors,
        },
        timings,
        [ratio(timings, SUMMED, OURS, at_least=TARGET), ratio(timings, STACKED, OURS)],
    )


def _there_and_back(form: Callable[[], Tensor], x: Tensor, grad: Tensor) -> Tensor:
    return torch.autograd.grad(form(), x, grad)[0]


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())
