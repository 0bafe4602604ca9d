"""Sparse matrices that embeddings flow through, and the flow itself.

Letters: R rows, C columns, E stored entries, N nodes, D embedding dimension, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import StorageError

Combine = Literal["mean", "sum", "last"]


class SparseGraph(nn.Module):
    """An (R, C) sparse matrix, row by row (CSR), together with its transpose for the way back.

    It is a module so that it moves and is stored with the model that holds it; it has no parameters.

    Args:
        offsets: (R + 1,) int32, where each row begins.
        indices: (E,) int32 column of each entry, rows one after the other.
        values: (E,) floating point.
        n_cols: C.
        transpose: (offsets, indices, values) of the transpose; None for a symmetric matrix, which is its own.
        persistent: whether the entries belong to the state of a model. Only graphs that `embeddings()`
            reads need that.
    """

    offsets: Tensor
    indices: Tensor
    values: Tensor
    t_offsets: Tensor | None
    t_indices: Tensor | None
    t_values: Tensor | None

    def __init__(
        self,
        offsets: Tensor,
        indices: Tensor,
        values: Tensor,
        n_cols: int,
        transpose: tuple[Tensor, Tensor, Tensor] | None,
        *,
        persistent: bool = False,
    ) -> None:
        super().__init__()
        self.n_cols = n_cols
        self._transpose_order: Tensor | None = None
        for name, tensor in (("offsets", offsets), ("indices", indices), ("values", values)):
            self.register_buffer(name, tensor, persistent=persistent)
        for name, t_tensor in zip(
            ("t_offsets", "t_indices", "t_values"), transpose or (None,) * 3, strict=True
        ):
            self.register_buffer(name, t_tensor, persistent=False)

    @classmethod
    def from_edges(
        cls, row: Tensor, col: Tensor, value: Tensor, n_rows: int, n_cols: int, *, symmetric: bool = False
    ) -> SparseGraph:
        """Build the matrix from its entries in any order; entries at one place add up.

        Args:
            row: (E,) int64.
            col: (E,) int64.
            value: (E,) floating point.
            n_rows: R.
            n_cols: C.
            symmetric: promise that the matrix equals its transpose.
        """
        keys, order = (row * n_cols + col).sort(stable=True)
        row, col, value = row[order], col[order], value[order]
        if len(keys) and bool((keys[1:] == keys[:-1]).any()):
            keys, place = torch.unique_consecutive(keys, return_inverse=True)
            value = torch.zeros(len(keys), dtype=value.dtype, device=value.device).index_add_(0, place, value)
            row, col = keys // n_cols, keys % n_cols
        forward = (_offsets(row, n_rows), col.int(), value)
        if symmetric:
            return cls(*forward, n_cols, None)
        by_col = col.argsort(stable=True)
        return cls(*forward, n_cols, (_offsets(col, n_cols), row[by_col].int(), value[by_col]))

    @property
    def n_rows(self) -> int:
        """R."""
        return len(self.offsets) - 1

    @property
    def n_entries(self) -> int:
        """E."""
        return len(self.indices)

    @property
    def symmetric(self) -> bool:
        """Whether the matrix is its own transpose."""
        return self.t_offsets is None

    def share(self, *, persistent: bool = False) -> SparseGraph:
        """Make another graph of the same tensors, so that moving one does not move the other."""
        transpose = None if self.symmetric else (self.t_offsets, self.t_indices, self.t_values)
        return SparseGraph(
            self.offsets,
            self.indices,
            self.values,
            self.n_cols,
            cast("tuple[Tensor, Tensor, Tensor] | None", transpose),
            persistent=persistent,
        )

    def with_values(self, values: Tensor) -> SparseGraph:
        """Make a graph of the same pattern, which is that of a symmetric matrix, with other values.

        Args:
            values: (E,), one for each entry, rows one after the other.

        Returns: a graph that is not taken to be symmetric.
        """
        order = self.transpose_order()
        return SparseGraph(
            self.offsets, self.indices, values, self.n_cols, (self.offsets, self.indices, values[order])
        )

    def transpose_order(self) -> Tensor:
        """Say which entry each entry of the transpose is, row by row of the transpose: (E,) int64."""
        if self._transpose_order is None or self._transpose_order.device != self.indices.device:
            row, col, _ = self.edges()
            self._transpose_order = (col * self.n_rows + row).argsort()
        return self._transpose_order

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """List the entries: row (E,) int64, col (E,) int64, value (E,)."""
        counts = self.offsets.diff().long()
        row = torch.repeat_interleave(torch.arange(self.n_rows, device=counts.device), counts)
        return row, self.indices.long(), self.values

    def to_dense(self) -> Tensor:
        """Spell out the (R, C) matrix; for small graphs and tests."""
        row, col, value = self.edges()
        return torch.zeros(self.n_rows, self.n_cols, dtype=value.dtype, device=value.device).index_put_(
            (row, col), value
        )

    def select_rows(self, rows: Tensor) -> SparseGraph:
        """Take some rows, in the order given, to multiply with or to spell out: (b,) int64 -> (b, C).

        What comes has no transpose, so `multiply_transposed` and gradients are not for it.
        """
        counts = self.offsets.diff()[rows].long()
        offsets = F.pad(counts.cumsum(0), (1, 0))
        shift = (self.offsets[rows] - offsets[:-1]).repeat_interleave(counts)
        entries = torch.arange(len(shift), device=shift.device) + shift
        return SparseGraph(offsets.int(), self.indices[entries], self.values[entries], self.n_cols, None)

    def multiply(self, x: Tensor) -> Tensor:
        """Compute A x without a gradient: (C, D) -> (R, D)."""
        return _gather_sum(self.offsets, self.indices, self.values, x)

    def multiply_transposed(self, x: Tensor) -> Tensor:
        """Compute A^T x without a gradient: (R, D) -> (C, D)."""
        if self.t_offsets is None or self.t_indices is None or self.t_values is None:
            return self.multiply(x)
        return _gather_sum(self.t_offsets, self.t_indices, self.t_values, x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take entries of another number than now, and the transpose that belongs to them."""
        if all(prefix + name in state_dict for name in ("offsets", "indices", "values")):
            offsets, indices, values = (
                state_dict[prefix + name] for name in ("offsets", "indices", "values")
            )
            if offsets.shape != self.offsets.shape:
                raise StorageError(
                    f"a stored graph of {len(offsets) - 1:,} rows for one of {self.n_rows:,}",
                    wanted="the state of a model of the same data",
                    fix="Load it into a model made from the data it was trained on",
                )
            device = self.offsets.device
            stored = SparseGraph(offsets, indices, values, self.n_cols, None)
            if not self.symmetric:
                stored = SparseGraph.from_edges(*stored.edges(), self.n_rows, self.n_cols)
            for name, tensor in stored.named_buffers():
                setattr(self, name, tensor.to(device))
            self._transpose_order = None
        super()._load_from_state_dict(state_dict, prefix, *args)


def spmm(graph: SparseGraph, x: Tensor) -> Tensor:
    """Multiply a graph with a dense matrix: A x, with the gradient A^T g. (C, D) -> (R, D).

    The graph's values are constants. Cost: O(E D) time, nothing kept for the backward pass.
    """
    return cast(Tensor, _Spmm.apply(x, graph))  # type: ignore[no-untyped-call]


def propagate(graph: SparseGraph, x: Tensor, n_layers: int, combine: Combine = "mean") -> Tensor:
    """Send embeddings through `n_layers` linear layers and combine the layers. (N, D) -> (N, D).

    "mean" is (x + A x + ... + A^L x) / (L + 1), as LightGCN (arXiv:2002.02126, eq. 8) does; "sum"
    leaves the division out; "last" is A^L x. Mean and sum are evaluated as x + A (x + A (x + ...)),
    so that no layer is kept, neither for the sum nor for the backward pass.
    """
    return cast(Tensor, _Propagate.apply(x, graph, n_layers, combine))  # type: ignore[no-untyped-call]


def propagate_layers(graph: SparseGraph, x: Tensor, n_layers: int) -> list[Tensor]:
    """List x, A x, ..., A^L x, for models that treat the layers differently; each is (N, D)."""
    layers = [x]
    for _ in range(n_layers):
        layers.append(spmm(graph, layers[-1]))
    return layers


def combine_layers(layers: Sequence[Tensor], how: Combine) -> Tensor:
    """Make one of several layers, as `propagate` does: L + 1 of one shape -> that shape."""
    if how == "last":
        return layers[-1]
    total = functools.reduce(torch.add, layers)
    return total / len(layers) if how == "mean" else total


class _Spmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: SparseGraph) -> Tensor:
        ctx.graph = graph
        return graph.multiply(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.graph.multiply_transposed(grads[0]), None


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: SparseGraph, n_layers: int, combine: Combine) -> Tensor:
        ctx.graph, ctx.n_layers, ctx.combine = graph, n_layers, combine
        return _polynomial(graph.multiply, x, n_layers, combine)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        # The transpose of a polynomial in A is the same polynomial in A^T.
        return (
            _polynomial(ctx.graph.multiply_transposed, grads[0], ctx.n_layers, ctx.combine),
            None,
            None,
            None,
        )


def _polynomial(multiply: Any, x: Tensor, n_layers: int, combine: Combine) -> Tensor:
    total = x
    for _ in range(n_layers):
        total = multiply(total)
        if combine != "last":
            total += x
    if n_layers == 0:
        return x.clone()
    return total.div_(n_layers + 1) if combine == "mean" else total


def _gather_sum(offsets: Tensor, indices: Tensor, values: Tensor, x: Tensor) -> Tensor:
    # embedding_bag is the fastest sparse product torch has on a CPU, and also runs on CUDA.
    return F.embedding_bag(
        indices,
        x.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=values.to(x.dtype),
        include_last_offset=True,
    )


def _offsets(sorted_rows: Tensor, n_rows: int) -> Tensor:
    offsets = torch.zeros(n_rows + 1, dtype=torch.int32, device=sorted_rows.device)
    offsets[1:] = torch.bincount(sorted_rows, minlength=n_rows).cumsum(0)
    return offsets
