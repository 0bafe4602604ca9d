"""LATTICE: LightGCN plus vectors of alike items, over an item graph that is learned from content.

Paper: Zhang et al., Mining Latent Structures for Multimedia Recommendation, ACM MM 2021
(arXiv:2104.09036). Letters: I items, M modalities with features F_m, K neighbours, L item layers.

- K(X) keeps the K largest cosines of each row of X, itself included; N(S) = D^-1/2 S D^-1/2, D the row sums.
- Fixed graphs: O_m = N(K(F_m)), once, from the features as they are given.
- Learned graph: S = sum_m b_m K(W_m F_m + c_m), b = softmax(a). N(S) normalises the mixture, not its parts.
- Item graph: A = (1 - fixed_share) N(S) + fixed_share sum_m b_m O_m.
- Vectors: h = A^L Q; users as LightGCN gives them, items as LightGCN gives them plus h / |h|.
- Loss: BPR, and half the squares of the batch's final vectors over B.

A is learned in the first batch of each epoch, with gradient to W, c, a and F; later batches take it as a
constant, and embeddings are made with an A of the parameters as they are then. No (I, I) matrix is made: the
K nearest are found block by block, and their cosines have the gradient that the dense form gives.

The authors' code, which MMRec contains and on which the published tables rest, differs from the paper:

- It propagates over (D + I)^-1 (A + I), not D^-1/2 A D^-1/2: `normalisation`.
- The features F learn too, at four times their memory: `feature_training`.
- It ran in a torch that filled missing gradients with zeros, so that in later batches Adam's momentum went
  on moving what A is learned from, several times as far in all: the training setting `zero_missing_grads`.
- It leaves negative cosines in. The paper sets them to 0, as is done here to learned ones, and then no row
  sum can vanish. The K nearest hardly ever have any.

Beyond the paper: any modalities by name. An item takes neighbours from the modalities it has, whose shares b
are rescaled to sum to 1; where its features are all zero, it lacks the modality.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.graph.learned import LearnedGraph, propagate_sum
from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss, half_squared
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
from triptych.nn.content_graphs import ContentGraphs, ContentGraphSettings
from triptych.nn.embedding import NodeEmbedding
from triptych.nn.fusion import masked_softmax
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class LATTICEConfig(ContentConfig, ContentGraphSettings):
    """Settings of LATTICE."""

    n_layers: int = Field(2, ge=0)
    """Layers over the user–item graph; 0 leaves matrix factorisation."""
    n_item_layers: int = Field(1, gt=0)
    """L, layers over the item graph."""
    normalisation: Literal["rw_loop", "sym"] = "rw_loop"
    """Of the user–item graph: "rw_loop" as the authors' code and the published tables, "sym" as the paper."""
    reg_weight: float = Field(1e-5, ge=0)
    """Weight of the final vectors' squares; the authors search 0, 1e-5, 1e-4 and 1e-3."""


@register("lattice", LATTICEConfig, paper="Mining Latent Structures: LATTICE (arXiv:2104.09036)", year=2021)
class LATTICE(Recommender):
    """LightGCN's vectors plus those of items that content, as learned so far, finds alike."""

    config: LATTICEConfig
    adj: SparseGraph

    def __init__(self, config: LATTICEConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, dim = inputs.choose_modalities(config.modalities), config.embedding_dim
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, dim)
        self.content = ContentGraphs(inputs.features, inputs.graphs, modalities, dim, config)
        self.modality_logits = nn.Parameter(torch.zeros(len(modalities)))  # a
        self.register_graph("adj", inputs.graphs.bipartite(config.normalisation))

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        self.content.relearn()
        return ()

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        yield Step(self.loss(batch))
        self.content.hold()

    def embeddings(self) -> Embeddings:
        users, items = self.nodes.split(propagate(self.adj, self.nodes.weight, self.config.n_layers))
        alike = propagate_sum(self.item_graph(), self.nodes.ego.items, self.config.n_item_layers)
        return Embeddings(users, items + unit_rows(alike))

    def loss(self, batch: Triplets) -> Losses:
        rows = batch_rows(self.embeddings(), batch)
        return {
            "bpr": bpr_loss(*pair_scores(*rows)),
            "reg": self.config.reg_weight * half_squared(*rows) / len(batch.user),
        }

    def modality_embeddings(self) -> dict[str, Tensor]:
        return self.content.by_modality()

    def item_graph(self) -> list[LearnedGraph]:
        """Give graphs whose sum is A."""
        shares = masked_softmax(self.modality_logits[:, None], self.content.known)
        return self.content.mixed(shares)
