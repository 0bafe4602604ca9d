"""How much the columns of a matrix repeat each other, and losses against it.

Letters: N rows, D columns, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from triptych.unit import unit_rows

Scaling = Literal["row", "largest", "column"]

_ROUNDING = 8
"""A column varies if its deviation is above this many rounding errors of its size."""


def column_correlation(x: Tensor, counted: Tensor | None = None) -> Tensor:
    """Correlate the columns of a matrix with one another: (..., N, D) -> (..., D, D).

    A column that does not vary correlates with none, itself included, and gets no gradient.
    Cost: O(N D^2) time, O(N D) memory.

    Args:
        x: one matrix, or several.
        counted: (..., N) bool, which rows count; by default all.
    """
    products, mean, n_rows = _products(x, counted)
    squares = products.diagonal(dim1=-2, dim2=-1)  # (..., D)
    rounding = _ROUNDING * torch.finfo(x.dtype).eps
    varies = squares > rounding**2 * (squares + (n_rows * mean.square()).squeeze(-2))
    scale = torch.where(varies, squares, 1.0).rsqrt() * varies
    return products * scale[..., :, None] * scale[..., None, :]


def redundancy(x: Tensor, counted: Tensor | None = None) -> Tensor:
    """Measure how much columns repeat each other: p = |corr - 1|_F / sqrt(2), (..., N, D) -> (...).

    That is the norm of the correlations above the diagonal: 0 where no two columns correlate,
    sqrt(D (D - 1) / 2) where all are alike.

    Source: AFDGCF (arXiv:2403.17416), authors' code.

    Args:
        x: one matrix, or several.
        counted: (..., N) bool, which rows count; by default all.
    """
    with torch.autocast(x.device.type, enabled=False):
        correlation = column_correlation(x.float() if x.dtype == torch.bfloat16 else x, counted)
        norm: Tensor = torch.linalg.vector_norm(correlation.triu(diagonal=1), dim=(-2, -1))
    return norm


def decorrelation_loss(
    layers: Sequence[Tensor], counted: Tensor | None = None, *, detach_weights: bool = True
) -> Tensor:
    """Lower the redundancy of layers, the less a layer has the more: sum of mu_l p_l, mu_l ~ 1 / p_l.

    The weights sum to 1, so the value is L / sum_l (1 / p_l) either way. With weights taken as constants the
    gradient to p_l is mu_l, otherwise L mu_l^2.

    Source: AFDGCF (arXiv:2403.17416), whose authors' code takes the weights as constants.

    Args:
        layers: L of shape (..., N, D), at least one; the losses of several matrices are summed.
        counted: (..., N) bool, which rows count in every layer; by default all.
        detach_weights: take the weights as constants.
    """
    found = torch.stack([redundancy(layer, counted) for layer in layers])  # (L, ...)
    inverse = 1 / found.clamp(min=1e-12)
    weights = inverse / inverse.sum(dim=0)
    return ((weights.detach() if detach_weights else weights) * found).sum()


def identity_loss(x: Tensor, counted: Tensor | None = None, scaling: Scaling = "row") -> Tensor:
    """Let each column vary by itself: |C - 1|_F^2, C the covariance of the columns, (..., N, D) -> (...).

    Rows of length 1 have variances that sum to N / (N - 1) at most, so that the value cannot fall below about
    (D - 1)^2 / D, where no two columns correlate and all have mean 0. Cost: as that of `column_correlation`.

    Source: KSI (arXiv:2305.07419), eq. 5-8.

    Args:
        x: one matrix, or several.
        counted: (..., N) bool, which rows count; by default all.
        scaling: what precedes the covariance. Each "row" is scaled to length 1; or all are divided by the
            length of the "largest"; or each "column" is scaled to mean 0 and variance 1, so that C is the
            correlation.
    """
    with torch.autocast(x.device.type, enabled=False):  # 1 is far from most of C
        if scaling == "column":
            matrix = column_correlation(x, counted)
        else:
            scaled = unit_rows(x) if scaling == "row" else _by_largest(x, counted)
            products, _, n_rows = _products(scaled, counted)
            matrix = products / (n_rows - 1).clamp(min=1)
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        distance: Tensor = (matrix - identity).square().sum(dim=(-2, -1))
    return distance


def _by_largest(x: Tensor, counted: Tensor | None) -> Tensor:
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., N, 1)
    known = lengths if counted is None else lengths * counted[..., None]
    longest: Tensor = known.amax(dim=-2, keepdim=True)
    return x / longest.clamp(min=1e-12)


def _products(x: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Give inner products of the centred columns (..., D, D), their means (..., 1, D), the number of rows.

    Centred columns sum to 0, so that a small shift of a mean changes no product: gradients need not go
    through it.
    """
    with torch.no_grad():
        if counted is None:
            n_rows, mean = x.new_tensor(x.shape[-2]), x.mean(dim=-2, keepdim=True)
        else:
            rows = counted[..., None].to(x.dtype)  # (..., N, 1)
            n_rows = rows.sum(dim=-2, keepdim=True)  # (..., 1, 1)
            mean = rows.mT @ x / n_rows.clamp(min=1)
    centred = x - mean
    if counted is not None:
        centred.mul_(rows)
    return cast(Tensor, _Gram.apply(centred)), mean, n_rows  # type: ignore[no-untyped-call]


class _Gram(torch.autograd.Function):
    """Inner products of columns. As both factors are one matrix, one product is its gradient, not two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.mT @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return x @ (grads[0] + grads[0].mT)
