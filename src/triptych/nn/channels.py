"""Channels: ids and the content of each modality, side by side, over users that are the same in all of them.

Letters: U users, I items, D width of a channel, M modalities, C = 1 + M channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.nn.content import FeatureBank
from triptych.nn.embedding import NodeEmbedding
from triptych.nn.linear import SameTypeLinear
from triptych.scorer import Embeddings


class Channels(nn.Module):
    """Vectors of all nodes in C channels, stacked as columns, so that one product propagates them all.

    Each channel's items have vectors of their own, learned ones in the first and W f / |f| + b in that of
    a modality; the users' learned vectors are the same in every channel. Features stay frozen. An item
    that lacks a modality, or whose row says nothing, is zero in its channel: no bias stands in for content.

    Source: SLMRec (Tao et al., IEEE TMM 2022) and MMGCL (Yi et al., SIGIR 2022), authors' codes.

    Args:
        features: modality -> features.
        modalities: which to take; channels 1 ... M are in this order.
        n_users: U.
        n_items: I.
        dim: D.

    Raises:
        ConfigError: a modality is given as an item graph only.
    """

    def __init__(
        self,
        features: Mapping[str, ItemFeatures],
        modalities: Sequence[str],
        n_users: int,
        n_items: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.features = FeatureBank(features, modalities)
        self.modalities = tuple(self.features.dims)
        self.dim = dim
        self.nodes = NodeEmbedding(n_users, n_items, dim)
        self.maps = nn.ModuleList([xavier_linear(width, dim) for width in self.features.dims.values()])
        lengths = torch.stack([self.features.rows(modality).norm(dim=1) for modality in self.modalities])
        self.register_buffer("known", lengths > 0, persistent=False)  # (M, I)
        self.register_buffer("scale", 1 / lengths.clamp(min=1e-12), persistent=False)  # (M, I)

    @property
    def width(self) -> int:
        """C D, the number of columns."""
        return (1 + len(self.modalities)) * self.dim

    def forward(self) -> Tensor:
        """Stack the channels: (U+I, C D), users first, as graphs number them; nothing is propagated yet."""
        users, items = self.nodes.ego
        contents = self.contents().values()
        return torch.cat(
            [users.repeat(1, 1 + len(contents)), torch.cat([items, *contents], dim=1)]  # (U, C D), (I, C D)
        )

    def contents(self) -> dict[str, Tensor]:
        """Project all items' features: modality -> (I, D)."""
        return {modality: self.content(place) for place, modality in enumerate(self.modalities)}

    def content(self, place: int) -> Tensor:
        """Project all items' features of modality number `place`: (I, D)."""
        rows = self.features.rows(self.modalities[place])
        linear = cast(nn.Linear, self.maps[place])
        scale, known = self.get_buffer("scale")[place], self.get_buffer("known")[place]
        # Dividing the products instead of the features gives the same and needs no second copy of them.
        products = F.linear(rows, linear.weight)  # (I, F) -> (I, D)
        return products * scale[:, None] + linear.bias * known[:, None]

    def has(self, place: int, items: Tensor) -> Tensor:
        """Say which of some items have content in modality number `place`: (n,) bool."""
        return self.get_buffer("known")[place][items]

    def columns(self, place: int) -> slice:
        """Say which columns modality number `place` has."""
        return slice((1 + place) * self.dim, (2 + place) * self.dim)

    def split(self, nodes: Tensor) -> Embeddings:
        """Part a matrix of all nodes into users and items."""
        return self.nodes.split(nodes)


class Readout(nn.Module):
    """Linear maps from the channels side by side to one vector, another one for users than for items.

    Args:
        width: C D.
        dim: length of the vector.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.user = xavier_linear(width, dim)
        self.item = xavier_linear(width, dim)

    def forward(self, channels: Embeddings) -> Embeddings:
        """Fuse the channels of users and of items."""
        return Embeddings(self.user(channels.users), self.item(channels.items))


def xavier_linear(n_in: int, n_out: int) -> SameTypeLinear:
    """Make a linear map with Xavier-uniform weights and torch's usual bias."""
    linear = SameTypeLinear(n_in, n_out)
    nn.init.xavier_uniform_(linear.weight)
    return linear
