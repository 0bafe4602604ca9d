"""Popularity: everybody is offered what most others chose. Who loses to it has learned nothing of users.

Score of item i: the number of its training pairs, whoever asks. The field's name for it is TopPop; it has no
paper of its own, and became a fixed row of comparisons with Cremonesi, Koren and Turrin, Performance of
Recommender Algorithms on Top-N Recommendation Tasks, RecSys 2010.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from triptych.models.base import ModelConfig, ModelInputs, Recommender
from triptych.models.registry import register
from triptych.scorer import Embeddings


class PopularityConfig(ModelConfig):
    """Settings of Popularity: there are none."""

    embedding_dim: Literal[1] = 1
    """An item's vector is its count, a user's is 1."""


@register("popularity", PopularityConfig, paper="TopPop, as in Cremonesi et al. (RecSys 2010)", year=2010)
class Popularity(Recommender):
    """Counts of training pairs."""

    negatives = 0
    schedule = "once"
    config: PopularityConfig
    counts: Tensor  # (I,)

    def __init__(self, config: PopularityConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.register_buffer("counts", torch.bincount(inputs.item, minlength=inputs.n_items).float())

    def embeddings(self) -> Embeddings:
        return Embeddings(self.counts.new_ones(self.n_users, 1), self.counts[:, None])
