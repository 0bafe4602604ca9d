"""MF-BPR: matrix factorisation trained to rank, the baseline below all graphs.

Paper: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009
(arXiv:1205.2618). Score p_u . q_i; loss of section 4.1, BPR-Opt. Like MMRec, from which the published figures
come, this trains with Adam and the un-squared norm of the batch's rows; Rendle's own form is
plain SGD with squared norms.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

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


class MFBPRConfig(ModelConfig):
    """Settings of MF-BPR."""

    reg_weight: float = Field(0.1, ge=0)
    """Weight of the rows' norm; MMRec searches 2, 1, 0.1 ... 1e-5."""


@register("mf-bpr", MFBPRConfig, paper="BPR: Bayesian Personalized Ranking (arXiv:1205.2618)", year=2009)
class MFBPR(Recommender):
    """One vector per user and item, scored by their inner product."""

    config: MFBPRConfig

    def __init__(self, config: MFBPRConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.nodes = NodeEmbedding(
            inputs.n_users, inputs.n_items, config.embedding_dim, nn.init.xavier_normal_
        )

    def embeddings(self) -> Embeddings:
        return self.nodes.ego

    def loss(self, batch: Triplets) -> Losses:
        users, pos, neg = batch_rows(self.embeddings(), batch)  # (B, D) each
        return {
            "bpr": bpr_loss(*pair_scores(users, pos, neg)),
            "reg": self.config.reg_weight * embedding_norm(users, pos, neg),
        }
