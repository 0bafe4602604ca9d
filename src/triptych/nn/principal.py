"""The directions in which rows vary most."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 1 << 13
"""Rows held in float64 at once."""
_ROUNDING = 1e-12
"""Share of the largest variance up to which a direction does not vary; float32 rounds off about 1e-14."""


def principal_components(rows: Tensor, dim: int, counted: Tensor, *, whiten: bool = False) -> Tensor:
    """Describe rows by their principal components, largest variance first: (N, F) -> (N, D) float32.

    Rows are centred by the mean of those that count. Where these vary in fewer than D directions, the columns
    left over are zero. The sign of a direction is the one by which its entry of largest size is positive, so
    that the same rows always give the same components.

    Source: Pearson (1901).

    Args:
        rows: (N, F).
        dim: D.
        counted: (N,) bool, which rows count; the others come out as zeros.
        whiten: bring components to variance 1.

    Cost: O(N F^2 + F^3) time if F <= N, else O(F N^2 + N^3); in memory the square of the smaller one.
    """
    n_rows, width = rows.shape
    n_counted = max(1, int(counted.sum()))
    mean = rows.new_zeros(width, dtype=torch.float64)
    for block in _blocks(rows, counted, mean.clone()):
        mean += block.sum(dim=0) / n_counted
    if width <= n_rows:
        products = rows.new_zeros(width, width, dtype=torch.float64)
        for block in _blocks(rows, counted, mean):
            products.addmm_(block.T, block)
    else:
        (centred,) = _blocks(rows, counted, mean, n_rows)
        products = centred @ centred.T
    squares, vectors = _largest_eigenpairs(products, dim)
    varies = squares > _ROUNDING * squares[0].clamp(min=0)
    squares, vectors = squares[varies], vectors[:, varies]
    directions = vectors if width <= n_rows else centred.T @ vectors / squares.sqrt()
    directions = directions * directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    if whiten:
        directions = directions * (squares / max(1, n_counted - 1)).rsqrt()
    components = torch.cat([block @ directions for block in _blocks(rows, counted, mean)])
    return F.pad(components.float(), (0, dim - len(squares)))


def _largest_eigenpairs(symmetric: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Give the n largest eigenvalues, falling, and their vectors as columns; all, if there are no more."""
    from scipy.linalg import eigh  # torch's would find them all, in four times the time

    size = len(symmetric)
    wanted = (max(0, size - n), size - 1)
    found = eigh(symmetric.numpy(force=True), subset_by_index=wanted)
    squares, vectors = (symmetric.new_tensor(part).flip(-1) for part in found)
    return squares, vectors


def _blocks(rows: Tensor, counted: Tensor, mean: Tensor, size: int = _BLOCK) -> Iterator[Tensor]:
    """Centre rows, block by block, and set those that do not count to zero."""
    for block, counts in zip(rows.split(size), counted.split(size), strict=True):
        yield (block.double() - mean) * counts[:, None]
