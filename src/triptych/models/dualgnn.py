"""DualGNN: what users want of each modality, smoothed over the items they chose and over users like them.

Paper: Wang et al., DualGNN: Dual Graph Neural Network for Multimedia Recommendation, IEEE Transactions
on Multimedia 2021. Nodes of modality m are x = [T_m ; MLP(f_m)], rows of length 1, T_m being what users
want of it; r_m = x + A x + A^2 x over the user–item graph, A = D^-1/2 A D^-1/2. Items are z_i = sum_m r_m.
Users weigh the modalities by weights of their own, p_u = sum_m w_um r_m, and add those of the 40 users
with the most items in common: z_u = p_u + sum_v a_uv p_v, with a_u the softmax of the counts.

The published tables come from MMRec, where adding up the items' vectors in place also changes what the
users are made of: the first modality's r becomes sum_m r_m. With M modalities the weights (w_1, ..., w_M)
then act as (w_1, w_1 + w_2, ..., w_1 + w_M). `variant` has both. Also as in the codes: -log2 sigmoid, so
that BPR weighs 1.44 times what it does elsewhere; users with fewer than 40 others have some of those in
several slots, drawn anew each epoch.

Where counts are equal MMRec's neighbours are torch's choice; here the lower index comes first. Left out
is what has no part in any score: items' modality weights (which only shrink), more linear maps, and edge
lists with modalities dropped. An item that lacks a modality enters that graph as zeros, and has there
what its users tell of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.graph.cooccurrence import resampled_graph
from triptych.graph.sparse import SparseGraph, propagate, spmm
from triptych.losses import bpr_loss
from triptych.models.base import (
    ContentConfig,
    Losses,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.content import FeatureBank
from triptych.nn.embedding import take_rows
from triptych.nn.preference import ModalityNodes
from triptych.scorer import Embeddings


class DualGNNConfig(ContentConfig):
    """Settings of DualGNN."""

    n_layers: int = Field(2, ge=0)
    """Layers over the user–item graph; the codes always run 2."""
    n_neighbors: int = Field(40, gt=0)
    """K, slots for users with items in common; the codes always have 40."""
    hidden_dim: int = Field(256, gt=0)
    """Width between the two maps of each modality's content; 4 embedding_dim in the codes."""
    reg_weight: float = Field(0.1, ge=0)
    """Weight of the mean squared entries of the preferences and of the users' modality weights; MMRec
    searches 0.1 ... 1e-5."""
    variant: Literal["paper", "mmrec"] = "mmrec"
    """"paper", which the authors' code follows: a user weighs the modalities. "mmrec", which the published
    tables come from: the weight of the first modality (in the order of `modalities`) counts for all."""


@register("dualgnn", DualGNNConfig, paper="DualGNN: Dual Graph Neural Network (TMM 2021)", year=2021)
class DualGNN(Recommender):
    """LightGCN on content and preferences, then a round over users with items in common."""

    config: DualGNNConfig
    adj: SparseGraph
    user_adj: SparseGraph

    def __init__(self, config: DualGNNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        self.features = FeatureBank(inputs.features, modalities)
        self.content, self.nodes = nn.ModuleList(), nn.ModuleList()
        for modality, width in self.features.dims.items():
            present = torch.from_numpy(inputs.features[modality].present)
            self.content.append(
                nn.Sequential(
                    nn.Linear(width, config.hidden_dim),
                    nn.LeakyReLU(),
                    nn.Linear(config.hidden_dim, config.embedding_dim),
                )
            )
            self.nodes.append(ModalityNodes(inputs.n_users, config.embedding_dim, present))
        drawn = nn.init.xavier_normal_(torch.empty(inputs.n_users, len(self.nodes)))
        self.weights = nn.Parameter(drawn.softmax(dim=1))  # (U, M), free to become anything
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        edges = inputs.graphs.similar_users(config.n_neighbors)
        for name, part in zip(("row", "col", "count"), edges, strict=True):
            self.register_buffer(name, part, persistent=False)
        self._draw_users()

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        self._draw_users()
        return ()

    def embeddings(self) -> Embeddings:
        users, items = self._by_modality()  # (U, M, D), (I, M, D)
        wanted = (self._effective_weights()[:, :, None] * users).sum(dim=1)
        return Embeddings(wanted + spmm(self.user_adj, wanted), items.sum(dim=1))

    def loss(self, batch: Triplets) -> Losses:
        bpr = bpr_loss(*pair_scores(*batch_rows(self.embeddings(), batch)))
        tables = [nodes.preference for nodes in cast("list[ModalityNodes]", list(self.nodes))]
        squares = [take_rows(table, batch.user).pow(2).mean() for table in tables]
        regulariser = torch.stack([*squares, self.weights.pow(2).mean()]).sum()
        return {"bpr": bpr / math.log(2), "reg": self.config.reg_weight * regulariser}

    def content_codes(self) -> dict[str, Tensor]:
        return {
            modality: project(self.features.rows(modality)) * self.features.present(modality)[:, None]
            for modality, project in zip(self.features.dims, self.content, strict=True)
        }

    def modality_embeddings(self) -> dict[str, Tensor]:
        items = self._by_modality()[1]
        return dict(zip(self.features.dims, items.unbind(dim=1), strict=True))

    def score_parts(self) -> dict[str, Embeddings]:
        users = self.embeddings().users
        return {name: Embeddings(users, rows) for name, rows in self.modality_embeddings().items()}

    def _by_modality(self) -> tuple[Tensor, Tensor]:
        """Give r_m of users (U, M, D) and of items (I, M, D)."""
        nodes = [
            make(project(self.features.rows(modality)))
            for modality, project, make in zip(self.features.dims, self.content, self.nodes, strict=True)
        ]
        stacked = torch.cat(nodes, dim=1)  # (U+I, M D): one product for all modalities
        smooth = propagate(self.adj, stacked, self.config.n_layers, combine="sum")
        users, items = smooth.unflatten(1, (len(nodes), -1)).split([self.n_users, self.n_items])
        return users, items

    def _effective_weights(self) -> Tensor:
        if self.config.variant == "paper":
            return self.weights
        first, others = self.weights[:, :1], self.weights[:, 1:]
        return torch.cat([first, first + others], dim=1)

    def _draw_users(self) -> None:
        edges = self.get_buffer("row"), self.get_buffer("col"), self.get_buffer("count")
        graph = resampled_graph(edges, self.n_users, self.config.n_neighbors)
        self.register_graph("user_adj", graph)
