"""L3AE: EASE whose weights are drawn towards those that item content alone would give.

Paper: Moon, Park and Lee, LLM-Enhanced Linear Autoencoders for Recommendation, CIKM 2025 (arXiv:2508.13500).
X (U, I) holds the training pairs, S (F, I) the content, a column an item. The two phases are

    C = argmin_C |S - S C|^2 + lambda_F |C|^2                         with diag(C) = 0
    B = argmin_B |X - X B|^2 + lambda_X |B|^2 + lambda_E |B - C|^2    with diag(B) = 0

and scores are X B. As in the authors' code, with lambda = lambda_X + lambda_E and P = (X^T X + lambda I)^-1,

    B_ij = lambda_E (P C)_ij - P_ij (1 + lambda_E (P C)_jj) / P_jj,   i /= j

which asks for lambda > 0 only: the authors' best settings have lambda_X below zero (Games: -50, with
lambda_E = 150), so that B is drawn beyond C. With H = I - lambda P, r = lambda_E / lambda and the factors
C = offdiag(L R^T), which `content_factors` gives,

    B = offdiag(H diag(m + r c) + r (L - H L) R^T),   c_j = (L R^T)_jj,
    m_j = (1 - r (H C)_jj) / (1 - H_jj),              (H C)_jj = (H L R^T)_jj - H_jj c_j

so that C is never spelled out, and with `rank` B is not either.

Beyond the paper, whose content are text embeddings: any modalities by name, side by side, so that the product
of two columns of S is the sum of w_m times their cosine in modality m; an item that lacks one is zero in it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from triptych.models.base import ContentConfig, ModelInputs
from triptych.models.closed_form import ClosedForm
from triptych.models.registry import register
from triptych.nn.content import FeatureBank
from triptych.nn.item_mixture import mixture_weights
from triptych.nn.item_ridge import Factors, InteractionRidge, content_factors, content_rows
from triptych.scorer import ItemWeights


class L3AEConfig(ContentConfig):
    """Settings of L3AE."""

    embedding_dim: Literal[0] = 0
    """There are no embeddings."""
    reg_weight: float = 0.0
    """lambda_X, which pulls weights to zero; may be negative as long as lambda_X + lambda_E is not."""
    content_reg_weight: float = Field(10.0, gt=0)
    """lambda_F, of the regression on content; the authors' best are 5 and 10."""
    content_pull: float = Field(150.0, ge=0)
    """lambda_E, which pulls weights to those of content; the authors' best are 150 and 200."""
    modality_weights: dict[str, PositiveFloat] | None = None
    """w_m; by default 0.1 image and 0.9 text where these are the modalities, and equal shares otherwise."""
    rank: int | None = Field(None, gt=0)
    """Eigenvectors to keep of the interactions; None solves for the dense (I, I) matrix."""

    @model_validator(mode="after")
    def _positive_in_sum(self) -> Self:
        if self.reg_weight + self.content_pull <= 0:
            raise ValueError("reg_weight + content_pull must be positive")
        return self


@register("l3ae", L3AEConfig, paper="LLM-Enhanced Linear Autoencoders: L3AE (arXiv:2508.13500)", year=2025)
class L3AE(ClosedForm):
    """The weights of one ridge regression, drawn towards those of another."""

    config: L3AEConfig

    def __init__(self, config: L3AEConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        self.features = FeatureBank(inputs.features, modalities)
        self.interactions = InteractionRidge(inputs.n_items, config.rank)
        self.modality_weights = mixture_weights(config.modality_weights, modalities)

    def item_weights(self) -> ItemWeights:
        config = self.config
        reg = config.reg_weight + config.content_pull
        pull = config.content_pull / reg  # r
        rows = content_rows(self.features, self.modality_weights)
        left, right = content_factors(rows, config.content_reg_weight)
        ridge = self.interactions.fit(self.history, reg)
        smooth = ridge.predict(left)  # H L
        own = (left * right).sum(dim=1)  # c
        meeting = (smooth * right).sum(dim=1) - (1 - ridge.complement) * own  # diag(H C)
        columns = (1 - pull * meeting) / ridge.complement + pull * own
        return ridge.weights(columns, Factors(pull * (left - smooth), right))
