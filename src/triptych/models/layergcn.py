"""LayerGCN: propagation in which each layer counts as far as it still points where the first vectors do.

Paper: Zhou et al., Layer-refined Graph Convolutional Networks for Recommendation, ICDE 2023
(arXiv:2207.11088). With G = D^-1/2 A D^-1/2 without self-loops, Y = G X^(l-1) and
X^l = cos(Y, X^0) * Y row by row, where the cosine may be negative and passes gradients on; final
vectors are X^1 + ... + X^L, a sum that leaves X^0 out. Each epoch trains on a part of the edges,
normalised by their own degrees; scoring uses all. Loss: BPR summed over the batch, not averaged,
plus w/2 times the squared layer-0 rows.

The authors' code, which MMRec contains and all tables come from, prunes by degree and uniformly in turns, and
so does this unless asked otherwise; epochs count from 1 and odd ones go by degree. As the loss is a sum,
`reg_weight` is per training pair; in MMRec's other models the regulariser meets a mean instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from triptych.graph.perturb import thinned_bipartite
from triptych.graph.sparse import SparseGraph, spmm
from triptych.losses import bpr_loss, half_squared
from triptych.models.base import (
    Losses,
    ModelConfig,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.embedding import NodeEmbedding
from triptych.scorer import Embeddings
from triptych.unit import unit_rows

EPSILON = 1e-8
"""No length in a cosine counts as smaller, as in torch's own."""


class LayerGCNConfig(ModelConfig):
    """Settings of LayerGCN."""

    n_layers: int = Field(4, gt=0)
    """L, how often vectors are passed along the edges."""
    edge_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of user–item edges left out in each epoch; the authors search 0, 0.1 and 0.2."""
    pruning: Literal["mixed", "degree", "uniform"] = "mixed"
    """Which edges are left out: "degree" keeps an edge with a chance that falls with the degrees of its
    ends, "uniform" treats all alike, "mixed" does the one in odd epochs and the other in even ones."""
    reg_weight: float = Field(1e-3, ge=0)
    """Weight of half the squares of a training pair's layer-0 rows; the authors search 1e-2 ... 1e-5."""


@register("layergcn", LayerGCNConfig, paper="LayerGCN (arXiv:2207.11088)", year=2023)
class LayerGCN(Recommender):
    """The sum of L layers, each weighed node by node by its cosine with layer 0."""

    config: LayerGCNConfig
    adj: SparseGraph

    def __init__(self, config: LayerGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        self.register_buffer("user", inputs.user, persistent=False)  # (E,)
        self.register_buffer("item", inputs.item, persistent=False)  # (E,)
        self.train_adj = inputs.graphs.bipartite("sym")  # until the first epoch draws its own

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        user, item = self.get_buffer("user"), self.get_buffer("item")
        by_degree = self.config.pruning == "degree" or (self.config.pruning == "mixed" and epoch % 2 == 1)
        self.train_adj = thinned_bipartite(
            user, item, self.n_users, self.n_items, self.config.edge_dropout, by_degree=by_degree
        )
        return ()

    def embeddings(self) -> Embeddings:
        adj = self.train_adj if self.training else self.adj
        layer: Tensor = self.nodes.weight  # (N, D)
        unit = unit_rows(layer, eps=EPSILON)
        total = torch.zeros_like(layer)
        for _ in range(self.config.n_layers):
            layer = refine(spmm(adj, layer), unit)
            total = total + layer
        return self.nodes.split(total)

    def loss(self, batch: Triplets) -> Losses:
        scores = pair_scores(*batch_rows(self.embeddings(), batch))
        ego = batch_rows(self.nodes.ego, batch)
        return {
            "bpr": self.loss_scale(batch) * bpr_loss(*scores),
            "reg": self.config.reg_weight * half_squared(*ego),
        }

    def loss_scale(self, batch: Triplets) -> float:
        return float(len(batch.user))  # its loss is a sum over the batch


def refine(nodes: Tensor, unit: Tensor) -> Tensor:
    """Scale each row by its cosine with the same row of layer 0: (N, D) -> (N, D).

    A zero row, such as that of a node whose edges are all left out, stays zero and passes no gradient on.

    Args:
        nodes: (N, D) what came along the edges.
        unit: (N, D) rows of layer 0, scaled to length 1 once for all layers.
    """
    return cast(Tensor, _Refine.apply(nodes, unit))  # type: ignore[no-untyped-call]


class _Refine(torch.autograd.Function):
    """The gradient written out takes half the time of the one torch puts together."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, unit: Tensor) -> Tensor:
        length: Tensor = nodes.norm(dim=1, keepdim=True).clamp_min_(EPSILON)  # (N, 1)
        cosine = (nodes * unit).sum(dim=1, keepdim=True) / length
        ctx.save_for_backward(nodes, unit, length, cosine)
        return cosine * nodes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        nodes, unit, length, cosine = ctx.saved_tensors
        pull = (grads[0] * nodes).sum(dim=1, keepdim=True) / length  # (N, 1)
        to_nodes = (cosine * grads[0]).addcmul_(pull, unit).addcmul_(pull * cosine / length, nodes, value=-1)
        return to_nodes, pull * nodes
