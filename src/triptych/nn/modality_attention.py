"""Multi-head self-attention across the modalities of a node."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import ConfigError


class ModalityAttention(nn.Module):
    """Lets each modality of a node look at all of them, in several heads, and averages what they find.

    With e_m the vector of modality m, a_mm'^h = softmax_m'((Q_h e_m) . (K_h e_m') / sqrt(D / H)), and the
    result is mean_m sum_h W_h sum_m' a_mm'^h e_m'. Queries and keys of a head have D / H entries; its values
    are the whole vectors. As all but the shares is linear, only their mean over m is ever applied.

    Source: MMSSL (arXiv:2302.10632), section on cross-modality dependencies. The authors' code sums over
    the axis along which the shares sum to one, so that each modality keeps its own vector whatever they
    are. That is sum_h W_h mean_m e_m, which `attend=False` gives, without Q and K.

    Args:
        dim: D.
        n_heads: H.
        attend: whether modalities look at each other.

    Raises:
        ConfigError: D is no multiple of H.
    """

    def __init__(self, dim: int, n_heads: int, *, attend: bool = True) -> None:
        super().__init__()
        if dim % n_heads:
            raise ConfigError(
                f"{n_heads} heads for vectors of {dim} entries",
                wanted="heads of equal width",
                fix="Set n_heads to a divisor of embedding_dim",
            )
        self.n_heads, self.attend = n_heads, attend
        self.combine = _linear(n_heads * dim, dim)
        if attend:
            self.query, self.key = _linear(dim, dim), _linear(dim, dim)

    def forward(self, parts: Tensor) -> Tensor:
        """Fuse each node's modalities: (M, n, D) -> (n, D)."""
        if self.attend:
            heads = torch.einsum("mnh,mnd->nhd", self.shares(parts), parts)
            fused: Tensor = self.combine(heads.flatten(1))
        else:
            weight = self.combine.weight.unflatten(1, (self.n_heads, -1)).sum(dim=1)
            fused = F.linear(parts.mean(dim=0), weight)
        return fused

    def shares(self, parts: Tensor) -> Tensor:
        """Say how much of each modality a node's heads take, on average over who asks: (M, n, H)."""
        queries, keys = (
            linear(parts).unflatten(-1, (self.n_heads, -1)) for linear in (self.query, self.key)
        )  # (M, n, H, D / H)
        scores: Tensor = (queries[:, None] * keys).sum(dim=-1) / math.sqrt(queries.shape[-1])  # (M, M', n, H)
        return scores.softmax(dim=1).mean(dim=0)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    linear = nn.Linear(n_in, n_out, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear
