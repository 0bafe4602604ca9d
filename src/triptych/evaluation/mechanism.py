"""What a model does with content, measured on its vectors: no ranking, no labels.

Letters: n rows, D and F columns, M modalities. Information is in nats.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.losses import exponentials, info_nce

_RIDGE = 1e-3
"""Share of its mean variance that each column gets on top before a covariance is inverted."""
_COLUMNS = 64
"""Principal directions of which canonical ones are sought, at most; and at most a tenth of the rows."""
_STRENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
"""Shares of the Gaussian log ratio that a critic may be made of."""


def alignment(rows: Tensor, partners: Tensor) -> float:
    """Say how far partners are apart on the sphere: mean of |a - b|^2 over unit rows, from 0 to 4.

    Source: Wang and Isola (arXiv:2005.10242), section 4.1, with exponent 2.

    Args:
        rows: (n, D).
        partners: (n, D).
    """
    apart = F.normalize(rows.double()) - F.normalize(partners.double())
    return apart.pow(2).sum(dim=1).mean().item()


def uniformity(rows: Tensor) -> float:
    """Say how evenly rows cover the sphere: log of the mean of exp(-2 |a - b|^2) over all pairs, at most 0.

    Zero means that all point one way; even cover of a sphere of many dimensions comes near -4.

    Source: Wang and Isola (arXiv:2005.10242), section 4.1, with t = 2.

    Args:
        rows: (n, D), at least two. Memory is O(n D): pairs are never held.
    """
    unit = F.normalize(rows.double())
    blocks = exponentials(unit, unit, 4.0, skip=0)  # -2 |a - b|^2 = 4 a.b - 4
    sums = torch.cat([top + sums.log() for _, _, top, sums in blocks])
    pairs = len(unit) * (len(unit) - 1)
    return sums.logsumexp(dim=(0, 1)).item() - 4.0 - math.log(pairs)


def variance_kept(raw: Tensor, embedded: Tensor) -> float:
    """Say what share of the raw features' variance a linear map can bring back from the vectors: 0 to 1.

    Args:
        raw: (n, F).
        embedded: (n, D), of the same items.
    """
    raw, embedded = _centred(raw), _centred(embedded)
    basis, scale, _ = torch.linalg.svd(embedded, full_matrices=False)  # (n, D), (D,)
    basis = basis[:, scale > scale.max().clamp(min=1e-300) * 1e-6]
    total = raw.pow(2).sum()
    return (basis.T @ raw).pow(2).sum().div(total).item() if total > 0 else 1.0


def information_bound(rows: Tensor, partners: Tensor, seed: int = 0) -> float:
    """Bound from below how much two modalities say of each other: nats, from 0 to log of half the rows.

    The rows are halved at random. On one half canonical correlations are found and checked, which make the
    best critic if both are Gaussian; on the other the critic is tried, which gives the InfoNCE bound
    log n - loss. Both halves and both directions are averaged. No critic can push such a bound above the
    truth, save by chance; a poor one leaves it too low.

    Source: InfoNCE (arXiv:1807.03748), section 2.3; Hotelling (1936) on canonical correlations.

    Args:
        rows: (n, D), at least 40 rows.
        partners: (n, F), of the same items.
        seed: of the halving.
    """
    halves = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows))).to(rows.device).chunk(2)
    bounds = [
        _bound(rows[fit].double(), partners[fit].double(), rows[tried].double(), partners[tried].double())
        for fit, tried in (halves, halves[::-1])
    ]
    return max(0.0, sum(bounds) / len(bounds))


def _bound(fit: Tensor, fit_partners: Tensor, tried: Tensor, tried_partners: Tensor) -> float:
    """Fit the critic on one half and try it on the other."""
    n_fit = 3 * len(fit) // 4
    to_a, to_b = _Whitening(fit[:n_fit]), _Whitening(fit_partners[:n_fit])
    cross = to_a(fit[:n_fit]).T @ to_b(fit_partners[:n_fit])
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    # The correlations of the rows they were fitted to are too good to be true, above all if these are few,
    # and rows that are not Gaussian want a milder critic: the rest of the half tells both.
    a, b = to_a(fit[n_fit:]) @ left, to_b(fit_partners[n_fit:]) @ right.T
    found = F.cosine_similarity(a - a.mean(dim=0), b - b.mean(dim=0), dim=0)
    correlation = torch.where(found > n_fit**-0.5, found.clamp(max=1 - 1e-6), 0.0)
    strength = max(_STRENGTHS, key=lambda strength: _nce(a, b, correlation, strength))
    return _nce(to_a(tried) @ left, to_b(tried_partners) @ right.T, correlation, strength)


def _nce(a: Tensor, b: Tensor, correlation: Tensor, strength: float) -> float:
    """Bound the information by how well rows and partners find each other, both ways."""
    loss = (_loss(a, b, correlation, strength) + _loss(b, a, correlation, strength)) / 2
    return math.log(len(a)) - loss


def _loss(a: Tensor, b: Tensor, correlation: Tensor, strength: float) -> float:
    """Tell each row's partner from all others, with a share of the Gaussian log ratio.

    Up to what depends on a alone, the ratio is sum of (c a b - c^2 b^2 / 2) / (1 - c^2).
    """
    weight = strength * correlation / (1 - correlation.pow(2))
    rows = torch.cat([a * weight, torch.ones_like(a[:, :1])], dim=1)
    others = torch.cat([b, -(b.pow(2) @ (weight * correlation / 2))[:, None]], dim=1)
    return info_nce(rows, others, 1.0, cosine=False).item()


class _Whitening:
    """Centres rows and turns them so that the fitted ones have no correlation and variance one."""

    def __init__(self, rows: Tensor) -> None:
        self.mean = rows.mean(dim=0)
        centred = rows - self.mean
        covariance = centred.T @ centred / len(rows)
        variance, directions = torch.linalg.eigh(covariance)
        n_kept = max(1, min(_COLUMNS, len(rows) // 10, len(variance)))
        variance, directions = variance[-n_kept:], directions[:, -n_kept:]
        ridge = _RIDGE * covariance.diagonal().mean().clamp(min=1e-300)
        self.turn = directions / (variance.clamp(min=0) + ridge).sqrt()

    def __call__(self, rows: Tensor) -> Tensor:
        turned: Tensor = (rows - self.mean) @ self.turn
        return turned


def _centred(rows: Tensor) -> Tensor:
    rows = rows.double()
    return rows - rows.mean(dim=0)
