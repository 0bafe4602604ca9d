"""Items predicted from items by ridge regression, in closed form: what EASE and its kin have in common.

With X of one row per observation and one column per item, G = X^T X and H = G (G + lambda I)^-1, X H is the
ridge prediction of all items from all items. Where no item may speak for itself,

    min_B |X - X B|^2 + lambda |B|^2 with diag(B) = 0  has  B_ij = H_ij / (1 - H_jj), i /= j,

which is EASE's B = I - P diag(1 / diag P) with P = (G + lambda I)^-1, as H = I - lambda P.

Letters: U users, I items, E training pairs, F feature width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.device import free_memory
from triptych.errors import ConfigError
from triptych.graph.product import sparse_product
from triptych.graph.sparse import SparseGraph
from triptych.nn.content import FeatureBank
from triptych.scorer import DenseWeights, ItemWeights, LowRankWeights

_BLOCK = 1 << 24
"""Counts that are added up at once."""
_ROWS = 1 << 13
"""Rows of features held in float64 at once."""
_OVERSAMPLING, _ITERATIONS = 1.2, 6
"""Of the subspace iteration: columns per eigenvector wanted, and products with G."""


class Ridge(Protocol):
    """H of one Gram matrix."""

    @property
    def complement(self) -> Tensor:
        """1 - H_jj, (I,), positive."""

    def predict(self, x: Tensor) -> Tensor:
        """Compute H x: (I, F) -> (I, F)."""

    def weights(self, columns: Tensor, other: Factors | None = None) -> ItemWeights:
        """Give H diag(columns), plus other factors, with zeros on the diagonal. Of no use is H after that."""


class Factors(NamedTuple):
    """A matrix left right^T of items by items."""

    left: Tensor  # (I, F)
    right: Tensor  # (I, F)


class DenseRidge:
    """H spelled out, from a Cholesky factor in float32.

    The error is about 1e-7 times the condition number, (s + lambda) / lambda with G's largest eigenvalue s:
    some hundreds or thousands on interactions, so that three digits and more are right.

    Args:
        gram: G, (I, I) float32, which is overwritten.
        reg: lambda.

    Raises:
        ConfigError: G + lambda I is not positive definite in float32.
    """

    def __init__(self, gram: Tensor, reg: float) -> None:
        gram.diagonal().add_(reg)
        info = torch.empty((), dtype=torch.int32, device=gram.device)
        torch.linalg.cholesky_ex(gram, out=(gram, info))
        if info.item() > 0:
            raise ConfigError(
                f"the items' Gram matrix plus {reg} on its diagonal is singular in float32",
                wanted="a larger regularisation weight",
                fix="Multiply the weight by 10",
            )
        self._matrix = torch.cholesky_inverse(gram, out=gram).mul_(-reg)
        self.complement = -self._matrix.diagonal().clone()
        self._matrix.diagonal().add_(1)

    def predict(self, x: Tensor) -> Tensor:
        """Compute H x: (I, F) -> (I, F)."""
        return self._matrix @ x

    def weights(self, columns: Tensor, other: Factors | None = None) -> DenseWeights:
        """Give H diag(columns), plus other factors, with zeros on the diagonal, in the place of H."""
        self._matrix.mul_(columns)
        if other is not None:
            self._matrix.addmm_(other.left, other.right.T)
        self._matrix.fill_diagonal_(0)
        return DenseWeights(self._matrix)


class LowRankRidge:
    """H by its R leading eigenvectors, the others counted as zero: V diag(s / (s + lambda)) V^T.

    Args:
        values: s, (R,), the largest eigenvalues of G.
        vectors: V, (I, R).
        reg: lambda.
    """

    def __init__(self, values: Tensor, vectors: Tensor, reg: float) -> None:
        self._vectors, self._scaled = vectors, vectors * (values / (values + reg))
        self.complement = 1 - (self._vectors * self._scaled).sum(dim=1)

    def predict(self, x: Tensor) -> Tensor:
        """Compute H x: (I, F) -> (I, F)."""
        return self._scaled @ (self._vectors.T @ x)

    def weights(self, columns: Tensor, other: Factors | None = None) -> LowRankWeights:
        """Give H diag(columns), plus other factors, with zeros on the diagonal."""
        left, right = self._scaled, columns[:, None] * self._vectors
        if other is not None:
            left, right = torch.cat([left, other.left], dim=1), torch.cat([right, other.right], dim=1)
        return LowRankWeights(left, right)


class InteractionRidge(nn.Module):
    """Regresses items on items over users.

    Args:
        n_items: I.
        rank: R, how many eigenvectors to keep; None keeps all in a dense matrix. What the search for
            eigenvectors starts from is drawn here, and is state, so that it always ends at the same ones.
    """

    signs: Tensor | None  # (I,) of 1 and -1

    def __init__(self, n_items: int, rank: int | None) -> None:
        super().__init__()
        self.rank = rank
        self.register_buffer("signs", None if rank is None else 2.0 * torch.randint(2, (n_items,)) - 1)

    def fit(self, history: SparseGraph, reg: float) -> Ridge:
        """Solve for the training pairs.

        Args:
            history: X, (U, I) of ones at the training pairs.
            reg: lambda.

        Raises:
            ConfigError: no rank is given, and (I, I) matrices do not fit into memory.

        Cost: O(I^3) time and three (I, I) matrices, or O(R E + R^2 (U + I)) time and a few (U + I, R) ones.
        """
        if self.rank is not None and self.signs is not None:
            return LowRankRidge(*leading_eigenvectors(history, self.rank, self.signs), reg)
        check_dense_fits(history.n_cols, history.values.device)
        return DenseRidge(gram_matrix(history), reg)


def content_rows(features: FeatureBank, weights: Mapping[str, float]) -> Tensor:
    """Put the modalities' rows side by side, so that two items' product is sum_m w_m cos_m: (I, sum of F).

    Each row is of length 1, times the root of its modality's weight; zero where an item lacks the modality.
    """
    rows = [
        math.sqrt(weight) * F.normalize(features.rows(modality), dim=1)
        for modality, weight in weights.items()
    ]
    return torch.cat(rows, dim=1)


def content_factors(rows: Tensor, reg: float) -> Factors:
    """Regress items on items over features: the factors of C_ij = H_ij / (1 - H_jj), whose diagonal is zero.

    H = F (F^T F + lambda I)^-1 F^T has but the rank of the features, so that C is exact without any (I, I).

    Args:
        rows: F, (I, F) float32; its columns are the observations, X^T of the module's equations.
        reg: lambda.

    Cost: O(I F^2 + F^3) time in float64, as features may be nearly dependent.
    """
    gram = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for block in rows.split(_ROWS):
        exact = block.double()
        gram.addmm_(exact.T, exact)
    gram.diagonal().add_(reg)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    scaled = []
    for block in rows.split(_ROWS):
        exact = block.double()
        smooth = exact @ inverse
        complement = 1 - (smooth * exact).sum(dim=1, keepdim=True)  # positive, as lambda is
        scaled.append((smooth / complement).float())
    return Factors(rows, torch.cat(scaled))


def gram_matrix(history: SparseGraph) -> Tensor:
    """Count in how many histories each two items meet: X^T X, (I, I) float32."""
    user, item, value = history.edges()
    by_item = SparseGraph.from_edges(item, user, value, history.n_cols, history.n_rows)
    gram = value.new_empty(history.n_cols, history.n_cols)
    meetings = by_item.multiply(history.offsets.diff().float()[:, None]).flatten().double()
    cost = (meetings + history.n_cols).cumsum(0)
    sizes = (cost // _BLOCK).unique_consecutive(return_counts=True)[1].tolist()
    for rows, counts in zip(torch.arange(history.n_cols).split(sizes), gram.split(sizes), strict=True):
        counts.copy_(sparse_product(by_item.select_rows(rows.to(value.device)), history))
    return gram


def leading_eigenvectors(history: SparseGraph, rank: int, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Find the largest eigenvalues and eigenvectors of X^T X by subspace iteration.

    Source: Halko, Martinsson and Tropp, arXiv:0909.4061, algorithm 4.4, started from cosines with random
        signs as in section 4.6, so that all chance is in one vector.

    Args:
        history: X, (U, I).
        rank: R; more than I are I.
        signs: (I,) of 1 and -1, drawn.

    Returns: values (R,), ascending, and vectors (I, R).
    """
    n_items = history.n_cols
    rank = min(rank, n_items)
    width = min(n_items, int(_OVERSAMPLING * rank) + 10)
    place, wave = (torch.arange(n, device=signs.device) for n in (n_items, width))
    basis = signs[:, None] * torch.cos((place + 0.5)[:, None] * (wave * torch.pi / n_items))  # (I, width)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(history.multiply_transposed(history.multiply(basis))).Q
    seen = history.multiply(basis)  # (U, width)
    values, turn = torch.linalg.eigh(seen.T @ seen)
    return values[-rank:].clamp(min=0), basis @ turn[:, -rank:]


def check_dense_fits(n_items: int, device: torch.device) -> None:
    """Refuse a catalogue whose item-to-item matrices do not fit into memory.

    Raises:
        ConfigError: with how many bytes are needed and how many there are.
    """
    needed, free = 3 * 4 * n_items**2, free_memory(device)
    if needed > free:
        raise ConfigError(
            f"item-to-item weights of {n_items:,} items need {needed:,} bytes of memory, {free:,} are free",
            wanted="a catalogue that fits",
            fix="Set 'rank', for example to 1000: the leading eigenvectors alone need no such matrix",
        )
