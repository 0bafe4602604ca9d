"""Linear maps of all modalities' features, several of them in one product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.nn.content import FeatureBank


class ContentMaps(nn.Module):
    """One linear map W_m without bias from each modality's frozen features to a common width.

    Without a bias, an item that lacks a modality is the zero vector in it.

    Args:
        features: the modalities' features.
        dim: D.
    """

    def __init__(self, features: FeatureBank, dim: int) -> None:
        super().__init__()
        self.features = features
        self.weights = xavier_matrices(dim, features.dims.values())

    def forward(self, others: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Multiply the features with W_m and with one more matrix, reading them, which are large, once.

        Args:
            others: M matrices O_m (K, F_m), or none.

        Returns: F_m W_m^T (I, M, D) and F_m O_m^T (I, M, K), K = 0 for none.
        """
        products = []
        for place, (modality, weight) in enumerate(zip(self.features.dims, self.weights, strict=True)):
            stacked = torch.cat([weight, others[place]]) if others else weight
            products.append(F.linear(self.features.rows(modality), stacked))
        both = torch.stack(products, dim=1).to(weight.dtype)  # autocast multiplies in bfloat16
        return both[:, :, : len(weight)], both[:, :, len(weight) :]

    def by_modality(self) -> dict[str, Tensor]:
        """Give F_m W_m^T by modality, (I, D) each."""
        return {
            modality: F.linear(self.features.rows(modality), weight).to(weight.dtype)
            for modality, weight in zip(self.features.dims, self.weights, strict=True)
        }


def xavier_matrices(n_rows: int, widths: Iterable[int]) -> nn.ParameterList:
    """Make matrices (n_rows, width) of several widths, each Xavier-uniform."""
    return nn.ParameterList(nn.init.xavier_uniform_(torch.empty(n_rows, width)) for width in widths)
