"""iALS: matrix factorisation of all user-item pairs, observed or not, by alternating least squares.

Papers: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008; in the form
of Rendle et al., Revisiting the Performance of iALS on Item Recommendation Benchmarks, RecSys 2022
(arXiv:2110.14037), with which it keeps up with later models. p_u and q_i are vectors, S the training pairs,
n_u and n_i how many of them a user and an item have.

    L = sum over S of (p_u q_i - 1)^2  +  alpha_0 sum over all u, i of (p_u q_i)^2
        + lambda sum_u (n_u + alpha_0 I)^nu |p_u|^2  +  lambda sum_i (n_i + alpha_0 U)^nu |q_i|^2

An epoch solves for all users with the items fixed, then for all items with the users fixed, exactly:

    p_u = (sum of q_i q_i^T over u's items + alpha_0 Q^T Q + lambda (n_u + alpha_0 I)^nu 1)^-1 (sum of q_i)

so that L never grows. Vectors start from N(0, (init_scale / sqrt(D))^2), as in the authors' code. Users and
items without training pairs come out as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from triptych.graph.sparse import SparseGraph
from triptych.models.base import ModelConfig, ModelInputs, Recommender, Step
from triptych.models.registry import register
from triptych.scorer import Embeddings

_BLOCK = 1 << 23
"""Numbers held at once while solving: 32 MiB."""


class IALSConfig(ModelConfig):
    """Settings of iALS."""

    unobserved_weight: float = Field(0.1, gt=0)
    """alpha_0, what a pair weighs that was not observed; the paper's best are 0.007 to 0.3."""
    reg_weight: float = Field(0.003, gt=0)
    """lambda; the paper's best are 0.002 to 0.02 with nu = 1."""
    reg_exponent: float = Field(1.0, ge=0)
    """nu: 0 regularises all vectors alike, 1 in proportion to the weights of their pairs."""
    init_scale: float = Field(0.1, gt=0)
    """Expected length of a vector at the start."""


@register(
    "ials",
    IALSConfig,
    paper="Implicit Feedback Datasets (ICDM 2008), as revisited in arXiv:2110.14037",
    year=2008,
)
class IALS(Recommender):
    """Users' and items' vectors, each the exact answer to the others."""

    negatives = 0
    schedule = "sweeps"
    config: IALSConfig
    items_of: SparseGraph  # (U, I), ones at the training pairs
    users_of: SparseGraph  # (I, U)
    users: Tensor  # (U, D)
    items: Tensor  # (I, D)

    def __init__(self, config: IALSConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.items_of = inputs.graphs.users_from_items("sum")
        self.users_of = inputs.graphs.items_from_users("sum")
        scale = config.init_scale / math.sqrt(config.embedding_dim)
        for name, count in (("users", inputs.n_users), ("items", inputs.n_items)):
            self.register_buffer(name, scale * torch.randn(count, config.embedding_dim))

    @torch.no_grad()
    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        self.users = self._solve(self.items_of, self.items)
        self.items = self._solve(self.users_of, self.users)
        return ()

    def embeddings(self) -> Embeddings:
        return Embeddings(self.users, self.items)

    def _solve(self, links: SparseGraph, fixed: Tensor) -> Tensor:
        """Find the best vectors of one side, (R, D), for those of the other, (C, D); links is (R, C).

        Rows are taken in the order of their degrees, so that those of a block can share one shape (B, K, D).
        """
        config, dim = self.config, fixed.shape[1]
        degree = links.offsets.diff().long()
        reg = (
            config.reg_weight * (degree + config.unobserved_weight * len(fixed)) ** config.reg_exponent
        )  # (R,)
        everywhere = config.unobserved_weight * fixed.T @ fixed  # (D, D)
        found = fixed.new_zeros(links.n_rows, dim)
        order = degree.argsort(descending=True, stable=True)
        start = 0
        while start < len(order):
            longest = int(degree[order[start]])
            if longest == 0:
                break  # the others have no pairs: zero is best
            rows = order[start : start + max(1, _BLOCK // (dim * (longest + dim)))]
            start += len(rows)
            place = torch.arange(longest, device=fixed.device)
            real = place < degree[rows, None]  # (B, K)
            entry = (links.offsets[rows, None] + place).clamp_(max=links.n_entries - 1)
            others = fixed[links.indices[entry]] * real[:, :, None]  # (B, K, D)
            system = torch.baddbmm(everywhere.expand(len(rows), -1, -1), others.mT, others)
            system.diagonal(dim1=1, dim2=2).add_(reg[rows, None])
            factor = torch.linalg.cholesky(system)  # (B, D, D)
            found[rows] = torch.cholesky_solve(others.sum(dim=1)[:, :, None], factor)[:, :, 0]
        return found
