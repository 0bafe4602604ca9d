"""BM3: users, items and item contents predict each other's masked copies; no negatives are drawn.

Paper: Zhou et al., Bootstrap Latent Representations for Multi-modal Recommendation, WWW 2023
(arXiv:2207.05969). With [Z_U ; G] = LightGCN([P ; Q]), Z_I = G + Q and e_m = F_m W_m + b_m, each vector x has
two views: online q(x), with one linear map q for users, items and modalities, and target x~, which is
x after dropout, without gradient. With C(a, b) the mean of 1 - cos over a batch's pairs (u, i), the loss is

    C(q(Z_u), Z~_i) + C(q(Z_i), Z~_u) + c sum_m [C(q(e_mi), Z~_i) + C(q(e_mi), e~_mi)] + w (|Z_U| + |Z_I|) / I

in which the norms are those of whole tables, not squared. Scores are q(Z_u) . q(Z_i), lengths included.
This is the authors' code, which MMRec contains unchanged and from which the published figures come; in it
c is 2, where the paper prints no weight.

The code projects, drops and predicts whole tables; here it is the rows of a batch, each once however often
it occurs in it, which is the same in law. The code also learns the raw features, with an Adam that
moves all rows in every step, untouched ones by their momentum: `feature_training` "all". "rows", the
default, moves those of a step alone and costs what its batch does; "frozen" leaves them as given.

Beyond the paper: any modalities by name; an item that lacks one takes no part in its two terms.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import cosine_distance, embedding_norm
from triptych.models.base import ContentConfig, Group, Losses, ModelInputs, Recommender, Triplets
from triptych.models.registry import register
from triptych.nn.content import FeatureBank, FeatureTraining, Projector
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.views import Predictor, mutual_losses
from triptych.scorer import Embeddings


class BM3Config(ContentConfig):
    """Settings of BM3."""

    n_layers: int = Field(1, ge=0)
    """L, layers over the user–item graph; the authors search 1 and 2."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of a target's entries that are set to zero; the authors search 0.3 and 0.5."""
    cl_weight: float = Field(2.0, ge=0)
    """c, weight of the contents' terms: 2 in the authors' code, 1 as the paper prints the loss."""
    reg_weight: float = Field(0.1, ge=0)
    """w, weight of the norms; the authors search 0.1 and 0.01."""
    feature_training: FeatureTraining = "rows"
    """Which raw features learn: "rows" those a step reads, "all" as in the authors' code, "frozen" none."""


@register("bm3", BM3Config, paper="Bootstrap Latent Representations: BM3 (arXiv:2207.05969)", year=2023)
class BM3(Recommender):
    """LightGCN and projected contents, each drawn towards the other's masked copy."""

    config: BM3Config
    adj: SparseGraph
    negatives = 0

    def __init__(self, config: BM3Config, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, dim = inputs.choose_modalities(config.modalities), config.embedding_dim
        self.features = FeatureBank(inputs.features, modalities, training=config.feature_training)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, dim)
        self.project = Projector(self.features.dims, dim)
        self.predict = Predictor(dim, config.dropout)
        for matrix in self.project.parameters():
            if matrix.ndim > 1:
                nn.init.xavier_normal_(matrix)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))

    def embeddings(self) -> Embeddings:
        users, items = self._nodes()
        return Embeddings(self.predict(users), self.predict(items))

    def modality_embeddings(self) -> dict[str, Tensor]:
        return {modality: self._content(modality) for modality in self.features.dims}

    def loss(self, batch: Triplets) -> Losses:
        user, user_at = batch.user.unique(return_inverse=True)
        item, item_at = batch.pos.unique(return_inverse=True)
        nodes = self._nodes()
        users = self.predict.views(take_rows(nodes.users, user), user_at)
        items = self.predict.views(take_rows(nodes.items, item), item_at)
        losses = mutual_losses(users, items)
        for modality in self.features.dims:
            has = self.features.present(modality, batch.pos)  # (B,)
            online, target = self.predict.views(self._content(modality, item), item_at[has])
            losses[f"align_{modality}"] = self.config.cl_weight * cosine_distance(online, items.target[has])
            losses[f"mask_{modality}"] = self.config.cl_weight * cosine_distance(online, target)
        losses["reg"] = self.config.reg_weight * embedding_norm(nodes.users, nodes.items)
        return losses

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), by_row=self.features.by_row)}

    def _nodes(self) -> Embeddings:
        users, items = self.nodes.split(propagate(self.adj, self.nodes.weight, self.config.n_layers))
        return Embeddings(users, items + self.nodes.ego.items)

    def _content(self, modality: str, items: Tensor | None = None) -> Tensor:
        """Project the contents of some items, or of all: (n, D); zero where an item has none."""
        content: Tensor = self.project(modality, self.features.rows(modality, items))
        content = content.to(self.nodes.weight.dtype)  # autocast projects in bfloat16
        return content * self.features.present(modality, items)[:, None]
