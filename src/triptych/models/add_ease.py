"""Add-EASE: EASE on interactions and EASE on item content, added up.

Paper: Jeunen, Van Balen and Goethals, Closed-Form Models for Collaborative Filtering with Side-Information,
RecSys 2020 (doi:10.1145/3383313.3418480). With X (U, I) the training pairs and S (F, I) the side-information,
a column an item,

    B_X = argmin_B |X - X B|^2 + lambda_X |B|^2  with  diag(B) = 0
    B_S = argmin_B |S - S B|^2 + lambda_S |B|^2  with  diag(B) = 0
    B = (1 - alpha) B_X + alpha B_S

and scores are X B. The authors' code sets lambda_S = lambda_X, to the best for EASE alone; here they are two.
Their S are tags, ones and zeros. As in the code of L3AE (arXiv:2508.13500), which runs it on text embeddings,
S may hold any features.

Beyond the paper: any modalities by name, side by side, so that the product of two columns of S is the sum of
w_m times their cosine in modality m; an item that lacks a modality is zero in it. B_S is exact without an
(I, I) matrix, as it has the features' rank; with `rank`, B_X does without one too.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from triptych.models.base import ContentConfig, ModelInputs
from triptych.models.closed_form import ClosedForm
from triptych.models.registry import register
from triptych.nn.content import FeatureBank
from triptych.nn.item_mixture import mixture_weights
from triptych.nn.item_ridge import Factors, InteractionRidge, content_factors, content_rows
from triptych.scorer import ItemWeights


class AddEASEConfig(ContentConfig):
    """Settings of Add-EASE."""

    embedding_dim: Literal[0] = 0
    """There are no embeddings."""
    reg_weight: float = Field(100.0, gt=0)
    """lambda_X, of the regression on interactions."""
    content_reg_weight: float = Field(10.0, gt=0)
    """lambda_S, of the regression on content."""
    content_share: float = Field(0.5, ge=0, le=1)
    """alpha: 0 is EASE, 1 is content alone."""
    modality_weights: dict[str, PositiveFloat] | None = None
    """w_m; by default 0.1 image and 0.9 text where these are the modalities, and equal shares otherwise."""
    rank: int | None = Field(None, gt=0)
    """Eigenvectors to keep of the interactions; None solves for the dense (I, I) matrix."""


@register(
    "add-ease",
    AddEASEConfig,
    paper="Closed-Form Models with Side-Information: Add-EASE (RecSys 2020)",
    year=2020,
)
class AddEASE(ClosedForm):
    """The weights of two ridge regressions, in shares."""

    config: AddEASEConfig

    def __init__(self, config: AddEASEConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        self.features = FeatureBank(inputs.features, modalities)
        self.interactions = InteractionRidge(inputs.n_items, config.rank)
        self.modality_weights = mixture_weights(config.modality_weights, modalities)

    def item_weights(self) -> ItemWeights:
        config = self.config
        rows = content_rows(self.features, self.modality_weights)
        left, right = content_factors(rows, config.content_reg_weight)
        ridge = self.interactions.fit(self.history, config.reg_weight)
        share = config.content_share
        return ridge.weights((1 - share) / ridge.complement, Factors(share * left, right))
