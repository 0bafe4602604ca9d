"""Gates: what one vector lets through of another, and ids that each item's content lets through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triptych.nn.content import FeatureBank, Projector


class Gate(nn.Module):
    """Lets through of one vector what another one asks for, entry by entry: x * sigmoid(W y + b).

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ask = nn.Linear(dim, dim)

    def forward(self, x: Tensor, by: Tensor) -> Tensor:
        """Let through of x what y asks for: (n, D), (n, D) -> (n, D)."""
        return x * torch.sigmoid(self.ask(by))


class Purifier(nn.Module):
    """Item ids by modality: of each id stays what the item's content speaks for.

    g_m = ids * sigmoid(W2_m (W1_m f_m + b1_m) + b2_m). An item that lacks a modality is zero in it.

    Source: MGCN (arXiv:2308.03588), behavior-guided purifier; CAmgr (Mathematics 2024, 12, 2353),
        eq. 1, 5 and 6.

    Args:
        features: the modalities' raw features.
        dim: D.
        gated: if not, there are no gates and ids play no part: g_m = W1_m f_m + b1_m.
    """

    def __init__(self, features: FeatureBank, dim: int, *, gated: bool = True) -> None:
        super().__init__()
        self.features = features
        self.project = Projector(features.dims, dim)
        self.gates = nn.ModuleList(Gate(dim) for _ in features.dims) if gated else None

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Purify the ids of all items by each modality: (I, D) -> M tensors (I, D)."""
        parts = []
        for place, modality in enumerate(self.features.dims):
            part = self.project(modality, self.features.rows(modality))
            if self.gates is not None:
                part = self.gates[place](ids, part)
            parts.append(part.to(ids.dtype) * self.features.present(modality)[:, None])
        return parts

    def contents(self) -> list[Tensor]:
        """Give W1_m f_m + b1_m of all items, what gates are asked by: M tensors (I, D)."""
        return [
            self.project(modality, self.features.rows(modality)) * self.features.present(modality)[:, None]
            for modality in self.features.dims
        ]
