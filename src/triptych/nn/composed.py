"""Linear maps of a linear map, which is as wide as what it reads, and never made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ComposedMaps(nn.Module):
    """Linear maps M_k of some columns S_k of T = W f + b, where W is square.

    As M T_S + c = (M W_S) f + (M b_S + c), the maps are multiplied first, and what they make of the features
    is one product. For I rows of F columns and a total of K results that takes K F^2 + I F K multiplications
    instead of I F^2 and more, and nothing of shape (I, F).

    Letters: I rows, F columns.

    Args:
        width: F.
        consumers: name -> columns it reads, and how many results it has.
    """

    def __init__(self, width: int, consumers: Mapping[str, tuple[slice, int]]) -> None:
        super().__init__()
        self.square = nn.Linear(width, width)
        self.margins = {}  # columns left out before and after
        self.maps = nn.ModuleDict()
        for name, (columns, n_out) in consumers.items():
            start, stop, _ = columns.indices(width)
            self.margins[name] = (start, width - stop)
            self.maps[name] = nn.Linear(stop - start, n_out)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Map rows: (I, F) -> name -> (I, n_out)."""
        linears = {name: linear for name, linear in self.maps.items() if isinstance(linear, nn.Linear)}
        maps = torch.cat([F.pad(linear.weight, self.margins[name]) for name, linear in linears.items()])
        biases = torch.cat([linear.bias for linear in linears.values()])
        products = F.linear(rows, maps @ self.square.weight, maps @ self.square.bias + biases)
        sizes = [linear.out_features for linear in linears.values()]
        return dict(zip(linears, products.split(sizes, dim=1), strict=True))
