"""Linear maps whose results are never made: of a map as wide as what it reads, and below a sum over rows."""

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


def mapped_products(x: Tensor, map_x: nn.Linear, y: Tensor, map_y: nn.Linear, counted: Tensor) -> Tensor:
    """Give f(X)^T g(Y) of some rows of two linear maps: f(x) = W x + b and g(y) = V y + c, (N, D) -> (K, L).

    It is W' [X 1]^T [Y 1] V'^T with W' = [W b] and V' = [V c], so that what has N rows is multiplied once
    instead of three times. Computed in full precision also under autocast, which would round what may cancel.

    Args:
        x: (N, D).
        map_x: f, of D columns and K results.
        y: (N, E).
        map_y: g, of E columns and L results.
        counted: (N,) bool, the rows that are summed over.
    """
    with torch.autocast(x.device.type, enabled=False):
        number = counted[:, None].to(x.dtype)  # (N, 1)
        x = x * number
        above = torch.cat([x.T @ y, x.sum(dim=0)[:, None]], dim=1)  # (D, E + 1)
        below = torch.cat([number.T @ y, number.sum(dim=0, keepdim=True)], dim=1)  # (1, E + 1)
        products = torch.cat([above, below])
        left, right = (torch.cat([part.weight, part.bias[:, None]], dim=1) for part in (map_x, map_y))
        return left @ products @ right.T
