"""How much one code tells of another, bounded from above by a network that guesses the one from the other.

Letters: n rows, X and Y widths of the two codes, H neurons.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

Negatives = Literal["exact", "permutation"]


class ContrastiveUpperBound(nn.Module):
    """CLUB: E log q(y_i | x_i), over rows i, less E log q(y_j | x_i), over all i and j.

    q(y | x) is normal with independent entries, mean A relu(W x + b) + a and log-variance
    tanh(C relu(V x + d) + c). If q is the true conditional, this is no less than the mutual information.
    Variances lie between 1/e and e, so that entries far smaller than 1 count for next to nothing.

    Source: CLUB (arXiv:2006.12013, eq. 5 and 9), authors' code.

    Args:
        n_in: X.
        n_out: Y.
        hidden: H, even: one half for the mean, one for the variance.
    """

    def __init__(self, n_in: int, n_out: int, hidden: int = 16) -> None:
        super().__init__()
        self.read = nn.Linear(n_in, hidden)
        self.mean, self.log_variance = nn.Linear(hidden // 2, n_out), nn.Linear(hidden // 2, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Guess y: mean and log-variance, (n, X) -> (n, Y) each."""
        for_mean, for_variance = self.read(x).relu().chunk(2, dim=1)
        mean, log_variance = self.mean(for_mean), self.log_variance(for_variance).tanh()
        return mean.to(x.dtype), log_variance.to(x.dtype)  # autocast guesses in bfloat16

    def misfit(self, x: Tensor, y: Tensor) -> Tensor:
        """Average -log q(y | x) without its constant: (n, X), (n, Y) -> scalar, with a gradient to q alone.

        It is quickest where columns are contiguous, not rows.
        """
        parameters = [
            part for linear in (self.read, self.mean, self.log_variance) for part in linear.parameters()
        ]
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, _Misfit.apply(x.detach(), y.detach(), *parameters))  # type: ignore[no-untyped-call]

    def bound(self, x: Tensor, y: Tensor, negatives: Negatives = "exact") -> Tensor:
        """Bound what x tells of y: (n, X), (n, Y) -> scalar, with a gradient to x and y, and none to q.

        Args:
            x: what is read.
            y: what is guessed.
            negatives: "exact", all pairs i and j, which takes no more than the mean and variance of y;
                "permutation", a j for each i, drawn anew each time, which is the same on average.
        """
        held = {name: parameter.detach() for name, parameter in self.named_parameters()}
        mean, log_variance = functional_call(self, held, (x,))
        if negatives == "permutation":
            other = y.index_select(0, torch.randperm(len(y), device=y.device))
            farther = (other - mean).square() - (y - mean).square()
        else:  # the mean over j of (y_j - mean)^2 is var(y) + (mean(y) - mean)^2
            centre = y.mean(dim=0)
            farther = y.var(dim=0, correction=0) + (y - centre) * (2 * mean - y - centre)
        bound: Tensor = (farther * torch.exp(-log_variance)).sum() / (2 * len(y))
        return bound


class _Misfit(torch.autograd.Function):
    """The misfit, and with it its gradient, which is made of the same numbers.

    A bound is fitted many times over for one step of the model; so it takes a fifth of the time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        read, read_bias, to_mean, mean_bias, to_variance, variance_bias = parameters
        x, y = x.T, y.T
        hidden = torch.addmm(read_bias[:, None], read, x).relu_()  # (H, n)
        for_mean, for_variance = hidden.chunk(2)
        # Minus the log-variance: -tanh(z) is 2 sigmoid(-2 z) - 1, which torch computes sooner.
        minus = torch.addmm(-2 * variance_bias[:, None], -2 * to_variance, for_variance)  # (Y, n)
        minus = minus.sigmoid_().mul_(2).sub_(1)
        apart = torch.addmm(mean_bias[:, None], to_mean, for_mean).sub_(y)
        by_mean = apart * minus.exp()
        squares = apart.mul_(by_mean)
        misfit = (squares.sum() - minus.sum()) / (2 * y.shape[1])
        by_variance = squares.sub_(1).mul_(minus.square_().sub_(1))  # twice what tanh hands back
        by_read = torch.cat([to_mean.T @ by_mean, 0.5 * to_variance.T @ by_variance]).mul_(hidden.sign())
        of_read, of_mean, of_variance = (
            (by @ at.T / y.shape[1], by.sum(dim=1) / y.shape[1])
            for by, at in ((by_read, x), (by_mean, for_mean), (by_variance, for_variance))
        )
        ctx.save_for_backward(*of_read, *of_mean, *(0.5 * part for part in of_variance))
        return misfit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(part * grads[0] for part in ctx.saved_tensors)
