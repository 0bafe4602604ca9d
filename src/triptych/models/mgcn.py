"""MGCN: ids that content has purified, smoothed among alike items, beside ids smoothed by behaviour.

Paper: Yu et al., Multi-View Graph Convolutional Network for Multimedia Recommendation, ACM MM 2023
(arXiv:2308.03588). Letters: P, Q learned vectors of users and items, f_m raw features, M modalities.

- Purifier: g_m = Q * sigmoid(W2_m (W1_m f_m + b1_m) + b2_m).
- Item view: items x_m = S_m^L g_m, users R x_m; E_m is both. S_m holds the cosines of the K nearest items,
  divided by the roots of both ends' row sums; R is the users' part of D^-1/2 A D^-1/2.
- User–item view: C = LightGCN([P ; Q]), the mean of the layers.
- Fuser: common K = sum_m a_m E_m, a = softmax over m of q . tanh(W3 E_m + b3); of its own each modality
  has s_m = sigmoid(V_m C + v_m) * (E_m - K). Side vectors S = (K + sum_m s_m) / (M + 1); final C + S.
- Loss: BPR, plus a contrast of S with C within the batch, users and chosen items each by themselves
  (InfoNCE of cosines, from S to C), plus half the squares of the batch's final rows over its size.

Where the paper differs from the authors' code, on which the published figures rest and which MMRec
contains: its eq. 15 is S = K + sum_m s_m / M, `variant` "paper". The code trains the raw features as well,
`feature_training` "all"; and it divides the squares by the nominal size of a batch, so that it differs in
an epoch's last batch alone.

Beyond the paper: any modalities by name. In a modality that it lacks, a node has no vector, no share of the
attention and nothing of its own; a node that lacks all is its C, and as the zero vector moves nothing in the
contrast. With one modality alone K is E_1 and nothing is left for s_1.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss, half_squared, info_nce
from triptych.models.base import ContentConfig, Losses, ModelInputs, Recommender, Triplets, pair_scores
from triptych.models.registry import register
from triptych.nn.content import FeatureBank
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.fusion import QueryAttention
from triptych.nn.gate import Gate, Purifier
from triptych.nn.item_view import ItemView
from triptych.scorer import Embeddings


class MGCNConfig(ContentConfig):
    """Settings of MGCN."""

    n_layers: int = Field(2, ge=0)
    """Layers over the user–item graph."""
    n_item_layers: int = Field(1, ge=0)
    """Layers over each modality's item graph."""
    n_neighbors: int = Field(10, gt=0)
    """K of the item graphs, the item itself included."""
    contrast_weight: float = Field(0.01, ge=0)
    """Weight of the contrasts; the authors search 0.001, 0.01 and 0.1 and find 0.01 best in most cases."""
    temperature: float = Field(0.2, gt=0)
    """What cosines are divided by in the contrasts."""
    reg_weight: float = Field(1e-4, ge=0)
    """Weight of half the squares of the batch's final vectors, per training pair."""
    feature_training: Literal["all", "frozen"] = "all"
    """Whether the raw features learn, as in the authors' code, for four times their memory; all rows are
    read in every step."""
    variant: Literal["official", "paper"] = "official"
    """What side vectors are: "official", the authors' code, the sum of the common and the own parts over
    M + 1; "paper", eq. 15, the common part plus the mean of the own ones."""


@register("mgcn", MGCNConfig, paper="Multi-View Graph Convolutional Network (arXiv:2308.03588)", year=2023)
class MGCN(Recommender):
    """LightGCN's vectors plus what the modalities have in common and what each has of its own."""

    config: MGCNConfig
    adj: SparseGraph

    def __init__(self, config: MGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, graphs = inputs.choose_modalities(config.modalities), inputs.graphs
        features = FeatureBank(inputs.features, modalities, training=config.feature_training)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.purify = Purifier(features, config.embedding_dim)
        self.attention = QueryAttention(config.embedding_dim)
        self.prefer = nn.ModuleList(Gate(config.embedding_dim) for _ in modalities)
        self.register_graph("adj", graphs.bipartite("sym"))
        self.item_view = ItemView(
            [graphs.items(modality, config.n_neighbors, "cosine") for modality in modalities],
            torch.stack([features.present(modality) for modality in modalities]),
            graphs.users_from_items("sym"),
        )

    def embeddings(self) -> Embeddings:
        behaviour, views = self._views()
        return self.nodes.split(behaviour + self._fuse(behaviour, views, self.item_view.has))

    def loss(self, batch: Triplets) -> Losses:
        # All views come of all nodes, but only the batch's need fusing.
        rows = torch.cat([batch.user, self.n_users + batch.pos, self.n_users + batch.neg])
        behaviour, views = (take_rows(part, rows) for part in self._views())
        side = self._fuse(behaviour, views, self.item_view.has[rows])
        nodes = (behaviour + side).chunk(3)  # users, chosen and sampled items: (B, D) each
        contrasts = [
            info_nce(anchor, other, self.config.temperature)
            for anchor, other in zip(side.chunk(3)[:2], behaviour.chunk(3)[:2], strict=True)
        ]
        return {
            "bpr": bpr_loss(*pair_scores(*nodes)),
            "contrast": self.config.contrast_weight * torch.stack(contrasts).sum(),
            "reg": self.config.reg_weight * half_squared(*nodes) / len(batch.user),
        }

    def content_codes(self) -> dict[str, Tensor]:
        return dict(zip(self.purify.features.dims, self.purify.contents(), strict=True))

    def modality_embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.purify.features.dims, self.purify(self.nodes.ego.items), strict=True))

    def _views(self) -> tuple[Tensor, Tensor]:
        """Give C (N, D) and E (N, M, D) of all nodes."""
        behaviour = propagate(self.adj, self.nodes.weight, self.config.n_layers)
        return behaviour, self.item_view(self.purify(self.nodes.ego.items), self.config.n_item_layers)

    def _fuse(self, behaviour: Tensor, views: Tensor, has: Tensor) -> Tensor:
        """Make side vectors of C (n, D), E (n, M, D) and which nodes have what, (n, M): (n, D)."""
        shares = self.attention(views.transpose(0, 1), has.T).T  # (n, M)
        common: Tensor = (shares[:, :, None] * views).sum(dim=1)
        owns = [
            prefer(view - common, behaviour) * known[:, None]
            for prefer, view, known in zip(self.prefer, views.unbind(1), has.unbind(1), strict=True)
        ]
        own: Tensor = torch.stack(owns).sum(dim=0)
        if self.config.variant == "paper":
            return common + own / len(owns)
        return (common + own) / (len(owns) + 1)
