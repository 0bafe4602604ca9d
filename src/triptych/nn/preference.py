"""What users want of a modality, beside what items are in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triptych.unit import unit_rows


class ModalityNodes(nn.Module):
    """The nodes of one modality: for each user a vector of what they want of it, then the items' content.

    Rows are scaled to length 1. An item that lacks the modality is a row of zeros: it says nothing,
    where the bias of a projection would make it look like all others that lack it.

    Source: MMGCN (ACM MM 2019), authors' code; GRCN and DualGNN begin alike.

    Args:
        n_users: U.
        dim: D.
        present: (I,) bool, which items have the modality.
        trainable: whether the users' vectors learn; if not, they stay as drawn and belong to the
            state nevertheless.
    """

    preference: Tensor  # (U, D)
    present: Tensor  # (I, 1)

    def __init__(self, n_users: int, dim: int, present: Tensor, *, trainable: bool = True) -> None:
        super().__init__()
        drawn = nn.init.xavier_normal_(torch.empty(n_users, dim))
        if trainable:
            self.preference = nn.Parameter(drawn)
        else:
            self.register_buffer("preference", drawn)
        self.register_buffer("present", present[:, None], persistent=False)

    def forward(self, content: Tensor) -> Tensor:
        """Put users above the items' content: (I, D) -> (U+I, D)."""
        return unit_rows(torch.cat([self.preference, content * self.present]))
