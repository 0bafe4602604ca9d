"""What users chose, modality by modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triptych.graph.sparse import SparseGraph, spmm
from triptych.nn.content import FeatureBank


class ChosenContent(nn.Module):
    """Gives users the sum or the mean of their items, in each modality those that have it.

    Letters: U users, I items, M modalities, D width. An item that lacks a modality counts neither in the sum
    nor in the number; a user none of whose items has it is zero in it.

    Args:
        choices: (U, I) graph whose entries are 1.
        features: of M modalities.
    """

    choices: SparseGraph
    counts: Tensor  # (U, M) how many of a user's items have a modality, at least 1
    has: Tensor  # (U+I, M) bool, which nodes have which modality

    def __init__(self, choices: SparseGraph, features: FeatureBank) -> None:
        super().__init__()
        self.choices = choices.share(persistent=True)
        present = torch.stack([features.present(modality) for modality in features.dims], dim=1)  # (I, M)
        counts = choices.multiply(present.float())  # (U, M)
        self.register_buffer("counts", counts.clamp(min=1), persistent=False)
        self.register_buffer("has", torch.cat([counts > 0, present]), persistent=False)

    def forward(self, items: Tensor, *, mean: bool) -> Tensor:
        """Put users above their items: (I, M, D) -> (U+I, M, D)."""
        items = items * self.has[self.choices.n_rows :, :, None]
        users = spmm(self.choices, items.flatten(1)).unflatten(1, items.shape[1:])
        return torch.cat([users / self.counts[:, :, None] if mean else users, items])
