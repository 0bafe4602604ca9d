"""A linear map that gives back the type it was given."""

from __future__ import annotations

from torch import Tensor, nn


class SameTypeLinear(nn.Linear):
    """W x + b in the type of x: autocast multiplies in bfloat16, and what is added up goes on in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) -> (..., n_out)."""
        return super().forward(x).to(x.dtype)
