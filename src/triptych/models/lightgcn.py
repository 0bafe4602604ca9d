"""LightGCN: matrix factorisation whose vectors are smoothed over the user–item graph.

Paper: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation,
SIGIR 2020 (arXiv:2002.02126). E^(l+1) = A E^l (eq. 7), final vectors are the mean of layers
0..L (eq. 8), A = D^-1/2 A D^-1/2 without self-loops. Like MMRec, from which the published figures
come, tables start Xavier-uniform and the un-squared norm of the layer-0 rows regularises; the
authors start from N(0, 0.1) and use the squared norm (eq. 15). What the codes of LATTICE and its successors
run as LightGCN propagates over (D + I)^-1 (A + I): `normalisation`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss, embedding_norm
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
from triptych.nn.embedding import NodeEmbedding
from triptych.scorer import Embeddings


class LightGCNConfig(ModelConfig):
    """Settings of LightGCN."""

    n_layers: int = Field(2, ge=0)
    """L, how often vectors are passed along the edges; MMRec searches 1 to 4."""
    normalisation: Literal["sym", "rw_loop"] = "sym"
    """Of the graph: "sym" as in the paper, "rw_loop" as in LATTICE's code."""
    reg_weight: float = Field(1e-4, ge=0)
    """Weight of the layer-0 rows' norm; MMRec searches 1e-2 ... 1e-6."""


@register("lightgcn", LightGCNConfig, paper="LightGCN (arXiv:2002.02126)", year=2020)
class LightGCN(Recommender):
    """The mean of L + 1 layers of linear propagation."""

    config: LightGCNConfig
    adj: SparseGraph

    def __init__(self, config: LightGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.register_graph("adj", inputs.graphs.bipartite(config.normalisation))

    def embeddings(self) -> Embeddings:
        return self.nodes.split(propagate(self.adj, self.nodes.weight, self.config.n_layers))

    def loss(self, batch: Triplets) -> Losses:
        ego = batch_rows(self.nodes.ego, batch)
        return {
            "bpr": bpr_loss(*pair_scores(*batch_rows(self.embeddings(), batch))),
            "reg": self.config.reg_weight * embedding_norm(*ego),
        }
