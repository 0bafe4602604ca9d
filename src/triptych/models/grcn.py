"""GRCN: a user–item graph whose edges are weighed by how well content explains them.

Paper: Wei et al., Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit
Feedback, ACM MM 2020 (arXiv:2008.10401). For each modality m, items are projected features and
users a learned preference, both of unit length. Letters: U users, I items, N = U + I nodes, E pairs,
D width, M modalities; edges j -> i run both ways, so there are 2E.

- Routing (prototypical network): p_u <- norm(p_u + sum_i a_ui f_i), a = softmax over the items of u
  of p_u . f_i, T times.
- Attention: a_m,ij = softmax over the neighbours j of i of x_i . x_j; content c_m = x + sum_j a_m,ij x_j.
- Refining: edge j -> i weighs w_ij = max_m a_m,ij s_jm, where s (N, M) is how far each node trusts each
  modality; pruning cuts what is below zero.
- Ids: x0 = norm(id), id = x0 + W x0 + W W x0, without degrees. Result: [id | c_1 | ... | c_M].

Where the authors' code differs: its routing sums at the items and then reads the users, where nothing
arrived, so the preferences are only scaled to unit length. MMRec keeps that, and its published figures rest
on it: it is `routing="off"` here, "paper" is the equation above. The authors' commands run without
pruning, MMRec with it. The regulariser takes all modalities alike; MMRec adds the squares of *all* users'
preferences in the first one, which its figures contain and this does not.

Beyond the paper: any modalities by name. An item that lacks one has the zero vector there: it
sends nothing, its score is 0, and it receives what its users prefer.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.graph.sparse import SparseGraph
from triptych.graph.weighted import edge_dots, segment_softmax, spmm_weighted
from triptych.losses import bpr_loss
from triptych.models.base import (
    ContentConfig,
    Losses,
    ModelInputs,
    Recommender,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.content import FeatureBank, Projector
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class GRCNConfig(ContentConfig):
    """Settings of GRCN."""

    routing: Literal["off", "paper"] = "off"
    """How preferences learn from items before the attention: "off" not at all, as in the authors' code
    and MMRec, on which the published figures rest; "paper" by the paper's routing."""
    n_routings: int = Field(3, gt=0)
    """T, how often preferences are routed; without effect where routing is "off"."""
    pruning: bool = True
    """Whether edges of negative weight are cut; the authors' commands leave them in."""
    reg_weight: float = Field(1e-3, ge=0)
    """Weight of the mean squares of ids and preferences; MMRec searches 1e-1 ... 1e-5."""


@register("grcn", GRCNConfig, paper="Graph-Refined Convolutional Network: GRCN (arXiv:2008.10401)", year=2020)
class GRCN(Recommender):
    """Ids smoothed over refined edges, and attended content of each modality, side by side."""

    config: GRCNConfig
    adj: SparseGraph
    choices: SparseGraph

    def __init__(self, config: GRCNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.features = FeatureBank(inputs.features, inputs.choose_modalities(config.modalities))
        self.modalities = tuple(self.features.dims)
        self.project = Projector(self.features.dims, config.embedding_dim)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        n_modalities = len(self.modalities)
        self.preferences = nn.Parameter(torch.empty(n_modalities, inputs.n_users, config.embedding_dim))
        self.confidence = nn.Parameter(torch.empty(inputs.n_users + inputs.n_items, n_modalities))
        maps = [part for part in self.project.parameters() if part.ndim > 1]
        for matrix in (self.nodes.weight, self.confidence, *self.preferences, *maps):
            nn.init.xavier_normal_(matrix)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))  # its edges, not its weights
        if config.routing == "paper":
            ones = torch.ones(len(inputs.user))
            choices = SparseGraph.from_edges(inputs.user, inputs.item, ones, inputs.n_users, inputs.n_items)
            self.register_graph("choices", choices)

    def embeddings(self) -> Embeddings:
        contents, weights = [], []
        trust = take_rows(self.confidence, self.adj.indices)  # (2E, M), that of the sending node
        for m, (modality, preference) in enumerate(zip(self.modalities, self.preferences, strict=True)):
            x = self._content(modality, preference)
            attention = segment_softmax(self.adj, edge_dots(self.adj, x, x))  # (2E,)
            contents.append(x + spmm_weighted(self.adj, attention, x))
            weights.append(attention * trust[:, m])
        return self.nodes.split(torch.cat([self._ids(weights), *contents], dim=1))

    def loss(self, batch: Triplets) -> Losses:
        users, pos, neg = batch_rows(self.nodes.ego, batch)
        squares = users.square().mean() + torch.cat([pos, neg]).square().mean()
        tastes = self.preferences.index_select(1, batch.user)  # (M, B, D)
        squares = squares + len(tastes) * tastes.square().mean()
        return {
            "bpr": bpr_loss(*pair_scores(*batch_rows(self.embeddings(), batch))),
            "reg": self.config.reg_weight * squares,
        }

    def modality_embeddings(self) -> dict[str, Tensor]:
        return {
            modality: self._content(modality, preference)[self.n_users :]
            for modality, preference in zip(self.modalities, self.preferences, strict=True)
        }

    def score_parts(self) -> dict[str, Embeddings]:
        names = ("behaviour", *self.modalities)
        users, items = (side.chunk(len(names), dim=1) for side in self.embeddings())
        return {name: Embeddings(*part) for name, *part in zip(names, users, items, strict=True)}

    def _content(self, modality: str, preference: Tensor) -> Tensor:
        """Give the unit vectors of users and items in one modality: (U, D) preferences -> (N, D)."""
        present = self.features.present(modality)
        hidden = F.leaky_relu(self.project(modality, self.features.rows(modality)))
        items = unit_rows(hidden.to(preference.dtype)) * present[:, None]  # autocast projects in bfloat16
        users = unit_rows(preference)
        if self.config.routing == "paper":
            for _ in range(self.config.n_routings):
                attention = segment_softmax(self.choices, edge_dots(self.choices, users, items))
                users = unit_rows(users + spmm_weighted(self.choices, attention, items))
        return torch.cat([users, items])

    def _ids(self, weights: list[Tensor]) -> Tensor:
        """Smooth the ids over the refined edges: M tensors (2E,) -> (N, D)."""
        weight = torch.stack(weights).amax(dim=0)
        if self.config.pruning:
            weight = weight.relu()
        ids = unit_rows(self.nodes.weight)
        once = spmm_weighted(self.adj, weight, ids)
        return ids + once + spmm_weighted(self.adj, weight, once)
