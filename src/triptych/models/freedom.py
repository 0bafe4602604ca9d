"""FREEDOM: LightGCN plus a frozen graph of alike items, trained on a thinned user–item graph.

Paper: Zhou and Shen, A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
Recommendation, ACM MM 2023 (arXiv:2211.06924). Item graph S = sum_m a_m S_m of binary k-nearest
neighbours, normalised by row sums; each epoch keeps a degree-aware sample of the
user–item edges; item vectors are LightGCN's plus S^l Q; the loss adds one BPR
term per modality. As in the authors' code, which MMRec contains: `edge_dropout` is the
share of edges *dropped*, scoring uses all edges, and the item part is added without normalising.

Beyond the paper: any modalities by name; a modality may be a given item graph; an item that lacks
a modality draws its neighbours from those it has, and takes no part in that modality's loss.
Raw features stay frozen (the authors' code trains them; `train_features` does so here).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from triptych.errors import ConfigError
from triptych.graph.perturb import thinned_bipartite
from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss
from triptych.models.base import (
    ContentConfig,
    Group,
    Losses,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.content import FeatureBank, Projector
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.item_mixture import mixture_weights
from triptych.scorer import Embeddings


class FREEDOMConfig(ContentConfig):
    """Settings of FREEDOM."""

    n_layers: int = Field(2, ge=0)
    """Layers over the user–item graph."""
    n_item_layers: int = Field(1, ge=0)
    """Layers over the item graph."""
    n_neighbors: int = Field(10, gt=0)
    """K of the item graphs, the item itself included."""
    modality_weights: dict[str, PositiveFloat] | None = None
    """Share of each modality in the item graph; by default the paper's 0.1 image and 0.9 text where
    these are the modalities, and equal shares otherwise."""
    edge_dropout: float = Field(0.8, ge=0, lt=1)
    """Share of user–item edges left out in each epoch; the authors search 0.8 and 0.9."""
    feature_loss_weight: float = Field(0.0, ge=0)
    """Weight of the per-modality BPR terms; the authors search 0, 1e-5, 1e-4 and 1e-3."""
    train_features: bool = False
    """Whether the per-modality terms also move the raw features, each step those of its items alone."""


@register("freedom", FREEDOMConfig, paper="A Tale of Two Graphs: FREEDOM (arXiv:2211.06924)", year=2023)
class FREEDOM(Recommender):
    """LightGCN's vectors plus those of alike items."""

    item_graphs = True
    ways_out: ClassVar = {
        "modality_embeddings": "Give FREEDOM its loss on features, which has them: "
        "--set feature_loss_weight=0.001, or the recipe freedom-baby.toml"
    }
    config: FREEDOMConfig
    adj: SparseGraph
    item_adj: SparseGraph

    def __init__(self, config: FREEDOMConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        weights = mixture_weights(config.modality_weights, modalities)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        self.register_graph("item_adj", inputs.graphs.mixed_items(weights, config.n_neighbors))
        self.register_buffer("user", inputs.user, persistent=False)  # (E,)
        self.register_buffer("item", inputs.item, persistent=False)  # (E,)
        self.train_adj = inputs.graphs.bipartite("sym")  # until the first epoch draws its own
        self.features: FeatureBank | None = None
        if config.feature_loss_weight > 0:
            self.features = FeatureBank(
                inputs.features,
                modalities,
                training="rows" if config.train_features else "frozen",
                required=False,
            )
            if not self.features.dims:
                raise ConfigError(
                    "feature_loss_weight is positive, but the modalities are given as item graphs only",
                    wanted="dense features for the per-modality loss",
                    fix="Set feature_loss_weight to 0, or prepare the data set with a features file",
                )
            self.project = Projector(self.features.dims, config.embedding_dim)

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        user, item = self.get_buffer("user"), self.get_buffer("item")
        self.train_adj = thinned_bipartite(
            user, item, self.n_users, self.n_items, self.config.edge_dropout, by_degree=True
        )
        return ()

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), by_row=self.features.by_row if self.features else ())}

    def embeddings(self) -> Embeddings:
        adj = self.train_adj if self.training else self.adj
        users, items = self.nodes.split(propagate(adj, self.nodes.weight, self.config.n_layers))
        alike = propagate(self.item_adj, self.nodes.ego.items, self.config.n_item_layers, combine="last")
        return Embeddings(users, items + alike)

    def loss(self, batch: Triplets) -> Losses:
        users, pos, neg = batch_rows(self.embeddings(), batch)  # (B, D) each
        losses = {"bpr": bpr_loss(*pair_scores(users, pos, neg))}
        if self.features is not None:
            for modality in self.features.dims:
                term = self._feature_loss(self.features, modality, users, batch)
                losses[f"bpr_{modality}"] = self.config.feature_loss_weight * term
        return losses

    def modality_embeddings(self) -> dict[str, Tensor]:
        if self.features is None:
            return {}
        return {
            modality: self.project(modality, self.features.rows(modality))
            * self.features.present(modality)[:, None]
            for modality in self.features.dims
        }

    def _feature_loss(self, features: FeatureBank, modality: str, users: Tensor, batch: Triplets) -> Tensor:
        both = features.present(modality, batch.pos) & features.present(modality, batch.neg)
        if not both.any():
            return users.sum() * 0.0  # nothing to compare in this batch
        items, place = torch.cat([batch.pos[both], batch.neg[both]]).unique(return_inverse=True)
        projected = self.project(modality, features.rows(modality, items))  # each distinct item once
        pos, neg = take_rows(projected, place).chunk(2)
        return bpr_loss(*pair_scores(users[both], pos, neg))
