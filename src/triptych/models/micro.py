"""MICRO: item graphs learned from content, one for each modality, and a contrast that makes them agree.

Paper: Zhang et al., Latent Structure Mining with Contrastive Modality Fusion for Multimedia Recommendation,
IEEE TKDE 2022 (arXiv:2111.00678). Letters: I items, M modalities with features F_m, K neighbours, L item
layers.

- K(X) keeps the K largest cosines of each row of X, itself included; N(S) = D^-1/2 S D^-1/2, D the row sums.
- Item graphs: A_m = (1 - fixed_share) N(K(W_m F_m + c_m)) + fixed_share N(K(F_m)), the second one made
  once, from the features as they are given.
- Fusion: h_m = A_m^L Q; g = softmax over m of q . tanh(W h_m + b); h = sum_m g_m h_m.
- Vectors: users as LightGCN gives them, items as LightGCN gives them plus h / |h|.
- Loss: BPR, half the squares of the batch's final vectors over B, and contrast_weight sum_m C(h_m, h).
  C(x, y) is the mean over items i of -log e^s(x_i, y_i) / (sum_j e^s(x_i, y_j) + sum_(j != i) e^s(x_i, x_j)),
  s = cosine / temperature; all items are in it, not those of the batch alone.

A_m is learned in the first batch of each epoch, with gradient to W_m, c_m and F_m; later batches take it as a
constant, and embeddings are made with graphs of the parameters as they are then. No (I, I) matrix is made,
but the contrast takes O(I^2 D) time in every batch.

The authors' code differs from the paper as LATTICE's does: `normalisation` of the user–item graph, features
that learn (`feature_training`), gradients that are zero where they are missing (the training setting
`zero_missing_grads`), and negative cosines, which it leaves in; here learned ones below 0 are 0.

Beyond the paper: any modalities by name. An item that lacks one, or whose features are all zero there, has no
neighbours in it, gives it no share in the fusion, and takes no part in its contrast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triptych.graph.learned import propagate_sum
from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss, half_squared, info_nce
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
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.fusion import QueryAttention
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class MICROConfig(ContentConfig, ContentGraphSettings):
    """Settings of MICRO."""

    n_layers: int = Field(2, ge=0)
    """Layers over the user–item graph; 0 leaves matrix factorisation."""
    n_item_layers: int = Field(1, gt=0)
    """L, layers over each item graph."""
    normalisation: Literal["rw_loop", "sym"] = "rw_loop"
    """Of the user–item graph: "rw_loop" as in the authors' code, "sym" as in the paper."""
    contrast_weight: float = Field(0.03, ge=0)
    """Weight of each modality's contrast."""
    temperature: float = Field(0.5, gt=0)
    """What cosines in the contrast are divided by."""
    reg_weight: float = Field(1e-5, ge=0)
    """Weight of the final vectors' squares."""


@register("micro", MICROConfig, paper="Latent Structure Mining: MICRO (arXiv:2111.00678)", year=2022)
class MICRO(Recommender):
    """LightGCN's vectors plus those of items that each modality, as learned so far, finds alike."""

    config: MICROConfig
    adj: SparseGraph

    def __init__(self, config: MICROConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, dim = inputs.choose_modalities(config.modalities), config.embedding_dim
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, dim)
        self.content = ContentGraphs(inputs.features, inputs.graphs, modalities, dim, config)
        self.attention = QueryAttention(dim)
        self.register_graph("adj", inputs.graphs.bipartite(config.normalisation))

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        self.content.relearn()
        return ()

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        yield Step(self.loss(batch))
        self.content.hold()

    def embeddings(self) -> Embeddings:
        return self._embed(self._fuse(self._by_modality()))

    def loss(self, batch: Triplets) -> Losses:
        by_modality = self._by_modality()
        fused = self._fuse(by_modality)
        rows = batch_rows(self._embed(fused), batch)
        losses = {
            "bpr": bpr_loss(*pair_scores(*rows)),
            "reg": self.config.reg_weight * half_squared(*rows) / len(batch.user),
        }
        if self.config.contrast_weight > 0:
            parts = zip(self.content.features.dims, by_modality, self.content.known, strict=True)
            for modality, part, known in parts:
                term = self._contrast(part, fused, known.nonzero().squeeze(1))
                losses[f"contrast_{modality}"] = self.config.contrast_weight * term
        return losses

    def content_codes(self) -> dict[str, Tensor]:
        return self.content.by_modality()

    def modality_embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.content.features.dims, self._by_modality(), strict=True))

    def _by_modality(self) -> list[Tensor]:
        """Give h_m, (I, D) each."""
        items = self.nodes.ego.items
        return [propagate_sum(parts, items, self.config.n_item_layers) for parts in self.content.apart()]

    def _fuse(self, by_modality: list[Tensor]) -> Tensor:
        """Give h, (I, D)."""
        stacked = torch.stack(by_modality)
        shares: Tensor = self.attention(stacked, self.content.known)  # (M, I)
        return (shares[:, :, None] * stacked).sum(dim=0)

    def _embed(self, alike: Tensor) -> Embeddings:
        users, items = self.nodes.split(propagate(self.adj, self.nodes.weight, self.config.n_layers))
        return Embeddings(users, items + unit_rows(alike))

    def _contrast(self, part: Tensor, fused: Tensor, items: Tensor) -> Tensor:
        """Tell each item's fused vector from others by its vector in one modality."""
        return info_nce(take_rows(part, items), take_rows(fused, items), self.config.temperature, within=True)
