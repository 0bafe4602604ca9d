"""BUIR: users and items predict each other's slowly moving twin; no negatives are drawn.

Paper: Lee et al., Bootstrapping User and Item Representations for One-Class Collaborative Filtering,
SIGIR 2021 (arXiv:2105.06323), with LightGCN as the encoder (BUIR-NB). An online table X_o learns; a
target table follows it, X_t <- m X_t + (1 - m) X_o, and gets no gradient. With o = LightGCN(G_1, X_o)
and t = LightGCN(G_2, X_t) on two independently thinned graphs, and a linear predictor q, the loss of a
pair (u, i) is [2 - 2 cos(q(o_u), t_i)] + [2 - 2 cos(q(o_i), t_u)], and its score
q(o_u) . o_i + o_u . q(o_i) on the whole graph: one inner product of [q(o_u) ; o_u] and [o_i ; q(o_i)].

The defaults are those of the MMRec author's BUIR, from which the published figures come: width 64, edges
dropped at a rate drawn from U(0, 1) for each graph and batch, no weight decay. The authors' code has
width 250, `edge_dropout` 0 (0.2 if switched on) and `weight_decay` 1e-4. It moves the target after each
step, as here; the other one before each, which is the same but for the last step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.graph.perturb import drop_entries
from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import cosine_bootstrap
from triptych.models.base import Group, Losses, ModelConfig, ModelInputs, Recommender, Step, Triplets
from triptych.models.registry import register
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.scorer import Embeddings


class BUIRConfig(ModelConfig):
    """Settings of BUIR."""

    n_layers: int = Field(3, ge=0)
    """L, layers over the user–item graph."""
    momentum: float = Field(0.995, ge=0, lt=1)
    """m, how much of the target table stays as it is in each step."""
    edge_dropout: float = Field(1.0, ge=0, le=1)
    """Bound of the share of edge entries left out: each batch draws from U(0, this), for each graph anew."""
    weight_decay: float = Field(0.0, ge=0)
    """Adam's pull towards zero; the authors' code has 1e-4."""


@register(
    "buir",
    BUIRConfig,
    paper="Bootstrapping User and Item Representations: BUIR (arXiv:2105.06323)",
    year=2021,
)
class BUIR(Recommender):
    """LightGCN that predicts where its own slow copy puts the other side of a pair."""

    config: BUIRConfig
    adj: SparseGraph
    negatives = 0

    def __init__(self, config: BUIRConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.predict = nn.Linear(config.embedding_dim, config.embedding_dim)
        self.register_buffer("target", self.nodes.weight.detach().clone())  # (U+I, D)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))

    def embeddings(self) -> Embeddings:
        users, items = self._encode(self.adj, self.nodes.weight)
        return Embeddings(
            torch.cat([self.predict(users), users], dim=1), torch.cat([items, self.predict(items)], dim=1)
        )  # (U, 2D), (I, 2D)

    def loss(self, batch: Triplets) -> Losses:
        online = self._encode(self._thinned(), self.nodes.weight)
        with torch.no_grad():
            target = self._encode(self._thinned(), self.get_buffer("target"))
        users, items = take_rows(online.users, batch.user), take_rows(online.items, batch.pos)
        return {
            "user_to_item": cosine_bootstrap(self.predict(users), take_rows(target.items, batch.pos)),
            "item_to_user": cosine_bootstrap(self.predict(items), take_rows(target.users, batch.user)),
        }

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        yield Step(self.loss(batch))
        with torch.no_grad():
            self.get_buffer("target").lerp_(self.nodes.weight, 1 - self.config.momentum)

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), {"weight_decay": self.config.weight_decay})}

    def _thinned(self) -> SparseGraph:
        rate = torch.rand((), device=self.adj.values.device) * self.config.edge_dropout
        return drop_entries(self.adj, rate)

    def _encode(self, adj: SparseGraph, table: Tensor) -> Embeddings:
        return self.nodes.split(propagate(adj, table, self.config.n_layers))
