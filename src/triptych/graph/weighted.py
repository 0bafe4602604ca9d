"""Products over a fixed pattern of entries whose values are learned, as in attention over edges.

Nothing of shape (E, D) is ever made: the product with a vector per entry and the inner product per
entry are each other's derivatives, and both run over the pattern itself.

Letters: R rows, C columns, E stored entries, D embedding dimension. The pattern is that of a
`SparseGraph`, whose own values play no part here; entries are in its order, rows one after the other.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor

from triptych.graph.sparse import SparseGraph


def spmm_weighted(graph: SparseGraph, values: Tensor, x: Tensor) -> Tensor:
    """Multiply a pattern that holds these values with a dense matrix: A(v) x, (E,), (C, D) -> (R, D).

    With g the gradient of the result, that of entry (r, c) is g[r] . x[c], and that of x is A(v)^T g.
    Cost: O(E D) time; `values` and `x` are kept for the backward pass.

    Args:
        graph: the pattern, of any shape.
        values: (E,).
        x: (C, D).
    """
    return cast(Tensor, _WeightedSpmm.apply(values, x, graph))  # type: ignore[no-untyped-call]


def edge_dots(graph: SparseGraph, rows: Tensor, cols: Tensor) -> Tensor:
    """Compute rows[r] . cols[c] for each entry (r, c) of a pattern: (R, D), (C, D) -> (E,).

    With g the gradient of the result, that of `rows` is A(g) cols, and that of `cols` is A(g)^T rows.
    Cost: O(E D) time; `rows` and `cols` are kept for the backward pass.

    Args:
        graph: the pattern, of any shape.
        rows: (R, D) float32 or float64.
        cols: (C, D) of the same type.
    """
    return cast(Tensor, _EdgeDots.apply(rows, cols, graph))  # type: ignore[no-untyped-call]


def segment_softmax(graph: SparseGraph, scores: Tensor) -> Tensor:
    """Turn the scores of each row's entries into shares that sum to one: (E,) -> (E,).

    Each row's largest score is taken off first, so scores of any size do.

    Args:
        graph: the pattern; rows without entries have no shares.
        scores: (E,).
    """
    return cast(Tensor, _SegmentSoftmax.apply(scores, graph))  # type: ignore[no-untyped-call]


# The backward passes are made of the functions above and can be differentiated in turn.


class _WeightedSpmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, graph: SparseGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(values, x)
        weighted = SparseGraph(graph.offsets, graph.indices, values, graph.n_cols, None)
        return weighted.multiply(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, x = ctx.saved_tensors
        to_values = edge_dots(ctx.graph, grads[0], x) if ctx.needs_input_grad[0] else None
        to_x = _spmm_transposed(ctx.graph, values, grads[0]) if ctx.needs_input_grad[1] else None
        return to_values, to_x, None


class _EdgeDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor, graph: SparseGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(rows, cols)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            pattern = torch.sparse_csr_tensor(
                graph.offsets,
                graph.indices,
                rows.new_zeros(graph.n_entries),
                (graph.n_rows, graph.n_cols),
                check_invariants=False,
            )
        dots: Tensor = torch.sparse.sampled_addmm(pattern, rows, cols.T, beta=0.0)
        return dots.values()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, cols = ctx.saved_tensors
        to_rows = spmm_weighted(ctx.graph, grads[0], cols) if ctx.needs_input_grad[0] else None
        to_cols = _spmm_transposed(ctx.graph, grads[0], rows) if ctx.needs_input_grad[1] else None
        return to_rows, to_cols, None


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, graph: SparseGraph) -> Tensor:
        ctx.graph = graph
        largest = torch.segment_reduce(scores, "max", offsets=graph.offsets)  # (R,); -inf in empty rows
        shares = (scores - _spread(graph, largest)).exp_()
        shares /= _spread(graph, _row_sums(graph, shares))
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (shares,) = ctx.saved_tensors
        pull = shares * grads[0]
        return pull - shares * _spread(ctx.graph, _row_sums(ctx.graph, pull)), None


def _spmm_transposed(graph: SparseGraph, values: Tensor, x: Tensor) -> Tensor:
    return spmm_weighted(_transpose(graph), values.index_select(0, graph.transpose_order()), x)


def _transpose(graph: SparseGraph) -> SparseGraph:
    if graph.t_offsets is None or graph.t_indices is None or graph.t_values is None:
        return graph
    forward = (graph.offsets, graph.indices, graph.values)
    return SparseGraph(graph.t_offsets, graph.t_indices, graph.t_values, graph.n_rows, forward)


def _row_sums(graph: SparseGraph, values: Tensor) -> Tensor:
    return torch.segment_reduce(values, "sum", offsets=graph.offsets)  # (E,) -> (R,)


def _spread(graph: SparseGraph, per_row: Tensor) -> Tensor:
    counts = graph.offsets.diff()
    return torch.repeat_interleave(per_row, counts, output_size=graph.n_entries)  # (R,) -> (E,)
