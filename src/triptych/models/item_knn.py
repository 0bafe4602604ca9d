"""Item kNN on content: an item is offered to those who have items like it.

Papers: Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms, TOIS 2004, for the rule; the
content-based form is a fixed row of comparisons since Ferrari Dacrema et al., RecSys 2019 (arXiv:1907.06902).
N_m(i) are the K items nearest to i in modality m by cosine, i itself among them; f are raw features.

    s_m(i, j) = cos(f_i, f_j) |f_i| |f_j| / (|f_i| |f_j| + shrink)
    score(u, i) = sum over m of w_m, over j of u's training items with j in N_m(i) and j /= i, of s_m(i, j)

as the 2019 code has it, except that neighbours are chosen before the similarity is shrunk. Deshpande and
Karypis go from the items a user has to their neighbours, i in N_m(j): `neighbors_of`.

Beyond the papers: any modalities by name; a modality may be a given item graph, whose weights are taken as
they are; an item that lacks a modality has no neighbours in it and is nobody's.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from triptych.data.features import ItemFeatures
from triptych.graph.neighbors import knn_edges
from triptych.graph.sparse import SparseGraph
from triptych.models.base import ContentConfig, ModelInputs
from triptych.models.closed_form import ClosedForm
from triptych.models.registry import register
from triptych.nn.item_mixture import mixture_weights
from triptych.scorer import SparseWeights


class ItemKNNConfig(ContentConfig):
    """Settings of Item kNN."""

    embedding_dim: Literal[0] = 0
    """There are no embeddings."""
    n_neighbors: int = Field(20, gt=1)
    """K, the item itself included."""
    neighbors_of: Literal["candidate", "history"] = "candidate"
    """Whose neighbours count: those of the item that is scored, or those of the items a user has."""
    shrink: float = Field(0.0, ge=0)
    """Added to the product of two rows' lengths: similarities between short rows are trusted less."""
    modality_weights: dict[str, PositiveFloat] | None = None
    """w_m; by default 0.1 image and 0.9 text where these are the modalities, and equal shares otherwise."""


@register(
    "item-knn", ItemKNNConfig, paper="Item-Based Top-N Recommendation (TOIS 2004), on content", year=2004
)
class ItemKNN(ClosedForm):
    """Item-to-item weights that are similarities of content."""

    item_graphs = True
    config: ItemKNNConfig
    similar: SparseGraph  # (I, I), from the items users have to those that are scored

    def __init__(self, config: ItemKNNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        weights = mixture_weights(config.modality_weights, modalities)
        row, col, value = (
            torch.cat(parts)
            for parts in zip(
                *(self._neighbors(inputs.features[modality], weight) for modality, weight in weights.items()),
                strict=True,
            )
        )
        if config.neighbors_of == "candidate":
            row, col = col, row
        self.similar = SparseGraph.from_edges(row, col, value, inputs.n_items, inputs.n_items)

    def item_weights(self) -> SparseWeights:
        return SparseWeights(self.similar.share())

    def _neighbors(self, features: ItemFeatures, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """List the edges from each item to its neighbours, each with its similarity times `weight`."""
        row, col, similarity = knn_edges(features, self.config.n_neighbors)
        if features.graph is None and features.values is not None:
            length = torch.from_numpy(features.values).norm(dim=1)
            product = length[row] * length[col]
            similarity = similarity * product / (product + self.config.shrink)
        present = torch.from_numpy(features.present)
        keep = (row != col) & present[row] & present[col]
        return row[keep], col[keep], weight * similarity[keep]
