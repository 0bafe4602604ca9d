"""Hyperedges that all nodes belong to in part, and what nodes learn of each other through them.

Letters: U users, I items, N = U + I nodes, M modalities, A hyperedges of each modality, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from triptych.nn.dropout import dropout
from triptych.unit import unit_rows


class HypergraphSettings(BaseModel):
    """Settings of soft hyperedges, for models that have them; the defaults are LGMRec's for Amazon Baby."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    n_hyperedges: int = Field(4, gt=0)
    """Hyperedges of each modality; LGMRec's authors search 2, 4, 8, ... 256."""
    n_hyper_layers: int = Field(1, gt=0)
    """n, how often vectors pass through the hyperedges; LGMRec's authors search 1 to 4."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Rate for memberships, one minus LGMRec's keep rate, of which its authors search all tenths."""
    temperature: float = Field(0.2, gt=0)
    """t, what logits of memberships are divided by, and cosines of the contrast."""
    noise: float = Field(1.0, ge=0)
    """What Gumbel noise in the memberships is multiplied by, in training and in scores. At 1, as LGMRec has
    it, first logits of features whose rows have length 1, as text encoders give them, are far below it."""
    scoring_noise: bool = False
    """Whether scores keep Gumbel noise in the memberships, one draw that belongs to the model's state."""


class HyperView(NamedTuple):
    """Nodes as the hyperedges of each modality show them: vectors = members @ edges."""

    members: Tensor  # (M, n, A), how much each node belongs to each hyperedge
    edges: Tensor  # (M, A, D)
    vectors: Tensor  # (M, n, D)
    has: Tensor  # (M, n) bool, which nodes have which modality

    def split(self, n_users: int) -> tuple[HyperView, HyperView]:
        """Part the nodes into users and items."""
        sizes = (n_users, self.has.shape[1] - n_users)
        nodes = (part.split(sizes, dim=1) for part in (self.members, self.vectors, self.has))
        users, items = (HyperView(m, self.edges, v, h) for m, v, h in zip(*nodes, strict=True))
        return users, items


class SoftHypergraph(nn.Module):
    """Passes items' vectors through soft hyperedges to all nodes.

    Memberships H are softmax((logits + g) / temperature) over the hyperedges of a modality, with fresh Gumbel
    noise g in training and none otherwise, then dropout. A layer is X <- H_i (H_i^T X) on items, and users
    receive H_u (H_i^T X) of the last one. A node that lacks a modality belongs to no hyperedge of it.

    No I x I matrix is made: O(N A D) time for a layer. Sums over items are divided by I / A, the mean size of
    a hyperedge, so that vectors keep their size at any depth; that changes no direction.

    Source: LGMRec (arXiv:2312.16400), section on the global hypergraph.

    Args:
        has: (N, M) bool, which nodes have which modality.
        n_users: U.
        settings: of the hyperedges. With `scoring_noise`, the noise outside training is drawn here, once.
    """

    has: Tensor
    noise: Tensor | None  # (N, M, A)

    def __init__(self, has: Tensor, n_users: int, settings: HypergraphSettings) -> None:
        super().__init__()
        self.n_users, self.settings = n_users, settings
        self.register_buffer("has", has, persistent=False)
        shape = (*has.shape, settings.n_hyperedges)
        self.register_buffer("noise", gumbel_like(torch.empty(shape)) if settings.scoring_noise else None)

    def forward(self, logits: Tensor, start: Tensor) -> HyperView:
        """Show all nodes what comes through the hyperedges.

        Args:
            logits: (N, M, A).
            start: X of items, (I, D), or (M, I, D) where modalities begin differently.
        """
        members = self.memberships(logits).transpose(0, 1)  # (M, N, A)
        items = members[:, self.n_users :]
        size = items.shape[1] / items.shape[2]
        edges = items.mT @ start / size  # (M, A, D)
        for _ in range(self.settings.n_hyper_layers - 1):
            edges = items.mT @ (items @ edges) / size
        return HyperView(members, edges, members @ edges, self.has.T)

    def memberships(self, logits: Tensor) -> Tensor:
        """Say how much each node belongs to each hyperedge: (N, M, A) -> (N, M, A)."""
        if self.training:
            logits = logits + self.settings.noise * gumbel_like(logits)
        elif self.noise is not None:
            logits = logits + self.settings.noise * self.noise
        members = (logits / self.settings.temperature).softmax(dim=2) * self.has[:, :, None]
        return dropout(members, self.settings.dropout, self.training)


def gumbel_like(x: Tensor) -> Tensor:
    """Draw a standard Gumbel variable for each entry: -log of an Exp(1) variable."""
    return -torch.empty_like(x).exponential_().log()


def unit_sum(parts: Tensor, dim: int, *, each: bool) -> Tensor:
    """Sum vectors over a dimension, and bring to length 1 the sum, or each of them before."""
    return unit_rows(parts).sum(dim) if each else unit_rows(parts.sum(dim))
