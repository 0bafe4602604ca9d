"""Several modalities' vectors made into one, by weights that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryAttention(nn.Module):
    """Weighs the modalities of each node by how well their vectors answer a learned query.

    Scores are q . tanh(W x + b), and a softmax over the modalities makes shares of them.

    Source: MICRO (arXiv:2111.00678), section on fusing the modalities; MGCN (arXiv:2308.03588), fuser.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def forward(self, parts: Tensor, has: Tensor | None = None) -> Tensor:
        """Share out each node's attention: (M, n, D) -> (M, n), columns sum to one.

        Args:
            parts: (M, n, D) vectors of n nodes in M modalities.
            has: (M, n) bool, which modalities a node has; those it lacks get nothing, and a node
                without any has only zeros.
        """
        scores: Tensor = self.score(parts).squeeze(-1)  # (M, n)
        if has is None:
            return scores.softmax(dim=0)
        return masked_softmax(scores, has)


def masked_softmax(scores: Tensor, has: Tensor) -> Tensor:
    """Share out 1 among the modalities each node has, 0 among none.

    Args:
        scores: (M, n) or, of all nodes alike, (M, 1).
        has: (M, n) bool, which modalities a node has.

    Returns: (M, n).
    """
    return torch.where(has, scores, torch.finfo(scores.dtype).min).softmax(dim=0) * has
