"""EASE: every item predicted from all others by ridge regression, solved in closed form.

Paper: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019 (arXiv:1905.03375).
X (U, I) holds ones at the training pairs.

    min_B |X - X B|^2 + lambda |B|^2  with  diag(B) = 0        (section 2)
    P = (X^T X + lambda I)^-1,  B_ij = -P_ij / P_jj, i /= j    (section 3.1)

Scores are X B. The paper's code solves in numpy's float64; this takes a Cholesky factor in float32, see
`DenseRidge` for what that costs in digits.

Beyond the paper: with `rank`, the R leading eigenvectors of X^T X stand for all, and no (I, I) matrix is
made, neither to solve nor to score:

    X^T X = V diag(s) V^T,  P = (1 / lambda) (I - V diag(s / (s + lambda)) V^T),  B as above

which with all eigenvectors is the same B.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triptych.models.base import ModelConfig, ModelInputs
from triptych.models.closed_form import ClosedForm
from triptych.models.registry import register
from triptych.nn.item_ridge import InteractionRidge
from triptych.scorer import ItemWeights


class EASEConfig(ModelConfig):
    """Settings of EASE."""

    embedding_dim: Literal[0] = 0
    """There are no embeddings."""
    reg_weight: float = Field(100.0, gt=0)
    """lambda; Jeunen et al. (RecSys 2020) search 50 to 1,000 on data of millions of pairs."""
    rank: int | None = Field(None, gt=0)
    """R, eigenvectors to keep; None solves for the dense (I, I) matrix, if memory is enough for that."""


@register("ease", EASEConfig, paper="EASE: Embarrassingly Shallow Autoencoders (arXiv:1905.03375)", year=2019)
class EASE(ClosedForm):
    """Item-to-item weights of one ridge regression."""

    config: EASEConfig

    def __init__(self, config: EASEConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.interactions = InteractionRidge(inputs.n_items, config.rank)

    def item_weights(self) -> ItemWeights:
        ridge = self.interactions.fit(self.history, self.config.reg_weight)
        return ridge.weights(1 / ridge.complement)
