"""VBPR: matrix factorisation with a second half that sees what items look like.

Paper: He and McAuley, VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback, AAAI 2016
(arXiv:1510.01784), section Preference Predictor. This is MMRec's form, which all published tables
use: raw features of all modalities side by side, y_i = [q_i ; W f_i + b], s = p_u . y_i with one
user table of double width. The paper has images only, and item biases, which MMRec leaves out.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.losses import bpr_loss, embedding_norm
from triptych.models.base import ContentConfig, Losses, ModelInputs, Recommender, Triplets, pair_scores
from triptych.models.registry import register
from triptych.nn.content import FeatureBank
from triptych.nn.embedding import take_rows
from triptych.scorer import Embeddings


class VBPRConfig(ContentConfig):
    """Settings of VBPR."""

    reg_weight: float = Field(0.1, ge=0)
    """Weight of the norm of user rows and fused item rows; MMRec searches 2, 1, 0.1 ... 1e-5."""


@register(
    "vbpr", VBPRConfig, paper="VBPR: Visual Bayesian Personalized Ranking (arXiv:1510.01784)", year=2016
)
class VBPR(Recommender):
    """A learned vector and a projection of the features, side by side, for each item."""

    config: VBPRConfig

    def __init__(self, config: VBPRConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.features = FeatureBank(inputs.features, inputs.choose_modalities(config.modalities))
        self.users = nn.Parameter(
            nn.init.xavier_uniform_(torch.empty(inputs.n_users, 2 * config.embedding_dim))
        )
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs.n_items, config.embedding_dim)))
        self.project = nn.Linear(sum(self.features.dims.values()), config.embedding_dim)
        nn.init.xavier_normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def embeddings(self) -> Embeddings:
        return Embeddings(self.users, torch.cat([self.items, self._content()], dim=1))

    def loss(self, batch: Triplets) -> Losses:
        users = take_rows(self.users, batch.user)  # (B, 2D)
        pos, neg = self._fused(torch.cat([batch.pos, batch.neg])).split(len(batch.user))
        return {
            "bpr": bpr_loss(*pair_scores(users, pos, neg)),
            "reg": self.config.reg_weight * embedding_norm(users, pos, neg),
        }

    def modality_embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.features.dims, self._by_modality(), strict=True))

    def score_parts(self) -> dict[str, Embeddings]:
        bias = self.project.bias.expand(self.n_items, -1)  # of no modality
        parts = {"behaviour": Embeddings(self.users, torch.cat([self.items, bias], dim=1))}
        tastes = self.users[:, self.config.embedding_dim :]
        return parts | {name: Embeddings(tastes, rows) for name, rows in self.modality_embeddings().items()}

    def id_embeddings(self) -> Embeddings:
        return Embeddings(self.users[:, : self.config.embedding_dim], self.items)

    def _fused(self, items: Tensor) -> Tensor:
        """Fuse the rows of some items, (n,) -> (n, 2D), projecting each distinct item once."""
        distinct, place = items.unique(return_inverse=True)
        return torch.cat([take_rows(self.items, items), take_rows(self._content(distinct), place)], dim=1)

    def _content(self, items: Tensor | None = None) -> Tensor:
        """Project the features of some items, or of all: (n, D)."""
        return torch.stack(self._by_modality(items)).sum(dim=0) + self.project.bias

    def _by_modality(self, items: Tensor | None = None) -> list[Tensor]:
        """Project each modality alone, (n, D): the one map of all features is the sum of a map for each."""
        maps = self.project.weight.split(list(self.features.dims.values()), dim=1)  # (D, F) each
        return [
            F.linear(self.features.rows(modality, items), part)
            for modality, part in zip(self.features.dims, maps, strict=True)
        ]
