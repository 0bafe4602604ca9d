"""Features as Gaussians: their codes, how far two of these lie apart, and bounds on what two codes share.

Letters: n rows, F feature width, D length of a code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.losses import info_nce
from triptych.nn.content import FeatureBank


class Gaussian(NamedTuple):
    """A normal distribution for each row, with independent entries."""

    mean: Tensor  # (n, D)
    scale: Tensor  # (n, D), standard deviations, above 0

    def draw(self) -> Tensor:
        """Draw a vector of each row: (n, D), through which gradients reach mean and scale."""
        return self.mean + self.scale * torch.randn_like(self.mean)

    def take(self, index: Tensor) -> Gaussian:
        """Pick rows."""
        return Gaussian(self.mean.index_select(0, index), self.scale.index_select(0, index))


class GaussianEncoder(nn.Module):
    """Two linear maps that give the mean and the scale of features: scale = softplus(.) + 1e-7.

    The map of means begins Xavier-normal, as projections of features do in BM3 and its kin.

    Source: Federici et al., Multi-View Information Bottleneck (arXiv:2002.07017), authors' code.

    Args:
        n_in: F.
        n_out: D.
        initial_scale: of rows of zeros before anything is learned; with None, all scales are 1 and stay so.
    """

    def __init__(self, n_in: int, n_out: int, initial_scale: float | None = 0.69) -> None:
        super().__init__()
        self.mean_map = nn.Linear(n_in, n_out)
        nn.init.xavier_normal_(self.mean_map.weight)
        self.scale_map: nn.Linear | None = None
        if initial_scale is not None:
            self.scale_map = nn.Linear(n_in, n_out)
            nn.init.constant_(self.scale_map.bias, math.log(math.expm1(initial_scale)))

    def forward(self, rows: Tensor) -> Gaussian:
        """Encode features: (n, F) -> (n, D) twice, in full precision also where products are not."""
        precision = self.mean_map.weight.dtype
        mean = self.mean_map(rows).to(precision)
        if self.scale_map is None:
            return Gaussian(mean, torch.ones_like(mean))
        return Gaussian(mean, F.softplus(self.scale_map(rows).to(precision)) + 1e-7)


class GaussianEncoders(nn.Module):
    """An encoder for each modality of a feature bank, to a common width.

    Args:
        dims: modality -> F, the bank's.
        dim: D.
        initial_scale: as of `GaussianEncoder`.
    """

    def __init__(self, dims: Mapping[str, int], dim: int, initial_scale: float | None = 0.69) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([GaussianEncoder(width, dim, initial_scale) for width in dims.values()])

    def forward(self, features: FeatureBank, items: Tensor | None = None) -> list[Gaussian]:
        """Encode some items, or all, in each modality: (n, D) twice."""
        named = zip(features.dims, self.encoders, strict=True)
        return [encode(features.rows(modality, items)) for modality, encode in named]


def average_kl(a: Gaussian, b: Gaussian) -> Tensor:
    """Average the Kullback–Leibler divergences of a from b and of b from a, row by row: (n,).

    For scales s and t, and means d apart, that is 1/4 sum [(s/t - t/s)^2 + (d/s)^2 + (d/t)^2], in which
    the logarithms of both directions have cancelled.
    """
    apart, ratio = a.mean - b.mean, a.scale / b.scale
    terms = (ratio - 1 / ratio).square() + (apart / a.scale).square() + (apart / b.scale).square()
    return terms.sum(dim=1) / 4


class JensenShannonBound(nn.Module):
    """What two codes share, as a critic T sees it: E[-softplus(-T(a, b))] - E[softplus(T(a', b))].

    The first mean is over rows that belong together, the second over as many that do not: a' is `a`, rolled
    along by a number of rows that is drawn anew each time. The best critic reaches 2 JSD - log 4, which is
    between -log 4, where nothing is shared, and 0; it grows with the mutual information, but is not it.

    Source: Deep InfoMax (arXiv:1808.06670, eq. 4), as MIB (arXiv:2002.07017) uses it.

    Args:
        dim: D.
        width: of the critic's two hidden layers; MIB's code has 1024.
    """

    def __init__(self, dim: int, width: int = 256) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            nn.Linear(2 * dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Bound what two codes of the same things share: (n, D) twice, n of 2 or more -> scalar."""
        shift = int(torch.randint(1, len(a), ()))  # drawn on the CPU, so that no device is waited for
        together, strangers = (
            self.critic(torch.cat([left, b], dim=1)).to(b.dtype)  # autocast scores in bfloat16
            for left in (a, a.roll(shift, dims=0))
        )
        return -(F.softplus(-together).mean() + F.softplus(strangers).mean())


class InfoNCEBound(nn.Module):
    """What two codes share, by how well each row finds its partner in the other: log n - InfoNCE.

    Both directions are averaged. Similarities are cosines over a temperature; there are no parameters.
    At most log n.

    Source: InfoNCE (arXiv:1807.03748, eq. 5).

    Args:
        temperature: what cosines are divided by, above 0.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Bound what two codes of the same things share: (n, D) twice -> scalar."""
        there, back = info_nce(a, b, self.temperature), info_nce(b, a, self.temperature)
        return math.log(len(a)) - (there + back) / 2


class Shared(NamedTuple):
    """What two codes have in common."""

    names: tuple[str, str]
    information: Tensor  # scalar, a bound of their mutual information
    divergence: Tensor  # scalar, mean of `average_kl`


class Bottleneck(nn.Module):
    """Compares all pairs of several codes of the same things, over those things that have both.

    Source: Multi-View Information Bottleneck (arXiv:2002.07017), for any number of views.

    Args:
        names: of the codes.
        bound: makes what estimates the mutual information of a pair, from (n, D) twice.
    """

    def __init__(self, names: Sequence[str], bound: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.pairs = list(combinations(range(len(names)), 2))
        self.bounds = nn.ModuleList([bound() for _ in self.pairs])

    def forward(
        self, codes: Sequence[Gaussian], drawn: Sequence[Tensor], at: Sequence[Tensor]
    ) -> Iterator[Shared]:
        """Compare pair by pair; both figures are 0 where fewer than two things have both codes.

        Args:
            codes: each of n things.
            drawn: (n, D) each, what stands for a code in the bound.
            at: (b,) int64 each, which of the things have the code; it is no matter how often one is named.
        """
        for (a, b), bound in zip(self.pairs, self.bounds, strict=True):
            both = at[a][torch.isin(at[a], at[b])].unique()
            if len(both) > 1:
                information = bound(drawn[a].index_select(0, both), drawn[b].index_select(0, both))
                divergence = average_kl(codes[a].take(both), codes[b].take(both)).mean()
            else:
                information = divergence = (drawn[a].sum() + drawn[b].sum()) * 0.0
            yield Shared((self.names[a], self.names[b]), information, divergence)
