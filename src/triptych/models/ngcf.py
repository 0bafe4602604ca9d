"""NGCF: graph convolution in which a neighbour also speaks of what it has in common with the node.

Paper: Wang et al., Neural Graph Collaborative Filtering, SIGIR 2019 (arXiv:1905.08108). With
S = D^-1/2 A D^-1/2, layer X is followed by LeakyReLU((S + I) X W1 + (S X * X) W2) (eq. 7); all layers
side by side, from the learned one on, are the final vectors (eq. 9). Loss: BPR plus squares (eq. 11).

The authors' code differs, and it is what published tables ran: (D+I)^-1 (A+I) takes the place of
both S and S + I, each of the two terms has a bias and a LeakyReLU of its own, and a layer's rows are
scaled to length 1 where they are set side by side, while the next layer starts from the unscaled ones.

Either way, as in the code, dropout falls on a layer's result (the paper drops messages within the sum),
and final vectors of the batch are regularised (the paper: all parameters), divided by the size of the
batch. The code divides by the nominal size, so that it differs in the last batch of an epoch alone.
Ports to torch use slope 0.01 and torch's first biases; here both are the code's, Xavier-uniform as weights.
LATTICE's code, and that of its successors, take the mean of the layers where the paper sets them side by
side: `combine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.graph.perturb import drop_entries
from triptych.graph.sparse import SparseGraph, spmm
from triptych.losses import bpr_loss, half_squared
from triptych.models.base import (
    Losses,
    ModelConfig,
    ModelInputs,
    Recommender,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.dropout import dropout
from triptych.nn.embedding import NodeEmbedding
from triptych.nn.linear import SameTypeLinear
from triptych.scorer import Embeddings
from triptych.unit import unit_rows

Variant = Literal["paper", "official"]


class NGCFConfig(ModelConfig):
    """Settings of NGCF."""

    n_layers: int = Field(3, ge=0)
    """L, how often vectors are passed along the edges."""
    combine: Literal["concat", "mean"] = "concat"
    """How layers make final vectors: side by side, which are L + 1 times as wide, or by their mean."""
    message_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the entries of each layer's result set to zero in training."""
    node_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the graph's entries set to zero in each step; the authors' code has 0.1 when asked to."""
    negative_slope: float = Field(0.2, ge=0)
    """Slope of LeakyReLU below zero: 0.2 in the authors' TensorFlow, 0.01 in ports to torch."""
    reg_weight: float = Field(1e-5, ge=0)
    """Weight of half the squares of the batch's final vectors, per training pair."""
    variant: Variant = "official"
    """"official" is the authors' code: two LeakyReLUs with biases, row means with self-loops, layers scaled
    to length 1; "paper" is eq. 7 and 9: one LeakyReLU, symmetric weights, no bias, no scaling."""


@register("ngcf", NGCFConfig, paper="Neural Graph Collaborative Filtering (arXiv:1905.08108)", year=2019)
class NGCF(Recommender):
    """All layers of a nonlinear propagation, side by side."""

    config: NGCFConfig
    adj: SparseGraph

    def __init__(self, config: NGCFConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.layers = nn.ModuleList(
            NGCFLayer(config.embedding_dim, config.variant, config.negative_slope)
            for _ in range(config.n_layers)
        )
        self.register_graph("adj", inputs.graphs.bipartite("sym" if config.variant == "paper" else "rw_loop"))

    def embeddings(self) -> Embeddings:
        return self.nodes.split(self._join(self._layers()))  # (U, D(L+1)), (I, D(L+1)), or as wide as a layer

    def loss(self, batch: Triplets) -> Losses:
        # Rows are picked from each layer before they are joined: most nodes are not in the batch.
        picked = [batch_rows(self.nodes.split(layer), batch) for layer in self._layers()]
        rows = [self._join(layers) for layers in zip(*picked, strict=True)]  # users, chosen, sampled
        return {
            "bpr": bpr_loss(*pair_scores(*rows)),
            "reg": self.config.reg_weight * half_squared(*rows) / len(batch.user),
        }

    def _layers(self) -> list[Tensor]:
        """List the layers from the learned vectors on, (N, D) each, not yet scaled."""
        adj = self.adj
        if self.training and self.config.node_dropout:
            adj = drop_entries(adj, self.config.node_dropout)
        layers: list[Tensor] = [self.nodes.weight]
        for propagate in self.layers:
            layer = propagate(adj, layers[-1])
            layers.append(dropout(layer, self.config.message_dropout, self.training))
        return layers

    def _join(self, layers: Sequence[Tensor]) -> Tensor:
        """Make final vectors of the layers: (n, D) each -> (n, D(L+1)) side by side, or (n, D)."""
        if self.config.variant == "official":
            layers = [layers[0], *(unit_rows(layer) for layer in layers[1:])]
        if self.config.combine == "mean":
            return torch.stack(tuple(layers)).mean(dim=0)
        return torch.cat(tuple(layers), dim=1)


class NGCFLayer(nn.Module):
    """One layer: what neighbours are, and what they share with the node.

    Args:
        dim: D.
        variant: as in `NGCFConfig`.
        negative_slope: of LeakyReLU.
    """

    def __init__(self, dim: int, variant: Variant, negative_slope: float) -> None:
        super().__init__()
        self.variant, self.negative_slope = variant, negative_slope
        self.of_sum = SameTypeLinear(dim, dim, bias=variant == "official")  # W1
        self.of_product = SameTypeLinear(dim, dim, bias=variant == "official")  # W2
        for parameter in self.parameters():
            with torch.no_grad():
                nn.init.xavier_uniform_(parameter if parameter.dim() == 2 else parameter.unsqueeze(0))

    def forward(self, adj: SparseGraph, nodes: Tensor) -> Tensor:
        """Pass vectors along the edges: (N, D) -> (N, D)."""
        around = spmm(adj, nodes)
        product = self.of_product(nodes * around)
        if self.variant == "paper":
            return self._activate(self.of_sum(around + nodes) + product)
        return self._activate(self.of_sum(around)) + self._activate(product)

    def _activate(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)
