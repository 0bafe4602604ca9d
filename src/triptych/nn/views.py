"""Two views of the same vectors, one of which is to predict the other of something else."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from triptych.losses import cosine_distance
from triptych.nn.dropout import dropout
from triptych.nn.embedding import take_rows
from triptych.nn.linear import SameTypeLinear


class Views(NamedTuple):
    """What predicts, and what is to be predicted."""

    online: Tensor  # (B, D)
    target: Tensor  # (B, D), without gradient


class Predictor(SameTypeLinear):
    """Makes views: online W x + b, one map for users, items and modalities; target x after dropout.

    Source: BM3 (arXiv:2207.05969), section on the contrastive view generator.

    Args:
        dim: D.
        rate: share of a target's entries that are set to zero in training.
    """

    def __init__(self, dim: int, rate: float) -> None:
        super().__init__(dim, dim)
        self.rate = rate
        nn.init.xavier_normal_(self.weight)

    def views(self, rows: Tensor, at: Tensor) -> Views:
        """View n vectors, each once, and spread them to the B pairs of a batch.

        Args:
            rows: (n, D).
            at: (B,) int64, which of the rows each pair has.
        """
        target = dropout(rows.detach(), self.rate, self.training)
        return Views(take_rows(self(rows), at), take_rows(target, at))


def mutual_losses(users: Views, items: Views) -> dict[str, Tensor]:
    """Have the users and the items of a batch's pairs predict each other: mean of 1 - cos, either way.

    Source: BM3 (arXiv:2207.05969), section on the graph reconstruction loss.
    """
    return {
        "user_to_item": cosine_distance(users.online, items.target),
        "item_to_user": cosine_distance(items.online, users.target),
    }
