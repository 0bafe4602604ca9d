"""Dropout that draws its mask quickly on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 1 << 16


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Set each entry to zero with probability `rate`, and divide the others by 1 - rate.

    On a CPU torch's own draws one number per entry, one after the other; here four entries share a 64-bit
    one. The rate is therefore met to 1 / 65,536, and survivors are scaled by what it is.

    Args:
        x: any shape.
        rate: in [0, 1).
        training: if not, `x` is returned as it is.
    """
    dropped = min(round(rate * _STEPS), _STEPS - 1)
    if not training or not dropped:
        return x
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    pieces = words.random_(-(1 << 63), None).view(torch.int16)[: x.numel()]  # uniform on -32,768 ... 32,767
    kept = (pieces >= dropped - _STEPS // 2).view(x.shape)
    return x * kept.to(x.dtype).mul_(_STEPS / (_STEPS - dropped))
