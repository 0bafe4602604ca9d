"""Adam, and its form for tables of which a step reads a few rows.

Both leave out the compiler that torch's own optimisers load: 1.6 s and 76 MB in a process that compiles
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import nn


class _Uncompiled(torch.optim.Optimizer):
    """The methods of torch's optimisers as they are beneath the wrappers that tell a compiler to keep off."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)


class Adam(_Uncompiled, torch.optim.Adam):
    """torch's Adam."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class RowAdam(_Uncompiled):
    """Adam that moves the rows a step has read, and costs what these cost.

    Moments of rows that were not read stay as they are, and so do the rows; bias is corrected by the
    number of steps, whichever rows they read. That is what `torch.optim.SparseAdam` does, without its
    passes over sparse tensors.

    Args:
        parameters: matrices whose gradients are sparse, as `torch.nn.functional.embedding` makes them.
        lr: step size.
        betas: decay of the moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows that have gradients."""
        assert closure is None, "the loop has done the backward pass"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        low, high = group["betas"]
        first = state["first"].index_select(0, rows).lerp_(values, 1 - low)
        second = state["second"].index_select(0, rows).mul_(high).addcmul_(values, values, value=1 - high)
        state["first"].index_copy_(0, rows, first)
        state["second"].index_copy_(0, rows, second)
        n_steps = state["step"].item()
        root = second.sqrt_().div_((1 - high**n_steps) ** 0.5).add_(group["eps"])
        parameter.index_add_(0, rows, first.div_(root), alpha=-group["lr"] / (1 - low**n_steps))
