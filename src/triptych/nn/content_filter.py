"""Filters made of item content."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.nn.channels import xavier_linear


class ContentFilter(nn.Module):
    """What features let through of a vector: sigmoid(W2 a(W1 f + b1) + b2), to be multiplied with it.

    Args:
        width: F.
        dim: D; there are 4 D entries between the maps.
        linear: a is nothing; if not, a leaky ReLU.
    """

    def __init__(self, width: int, dim: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.inner, self.outer = xavier_linear(width, 4 * dim), xavier_linear(4 * dim, dim)
        for part in (self.inner, self.outer):
            nn.init.zeros_(part.bias)

    @property
    def first(self) -> Tensor:
        """What features are to be multiplied with: W1 (4 D, F), or W2 W1 (D, F) where a is nothing."""
        return self.outer.weight @ self.inner.weight if self.linear else self.inner.weight

    def forward(self, products: Tensor) -> Tensor:
        """Say how much passes, given the features' products with `first`: (I, D), entries in (0, 1)."""
        if self.linear:
            return torch.sigmoid(products + self.outer(self.inner.bias))
        return torch.sigmoid(self.outer(F.leaky_relu(products + self.inner.bias)))
