"""Diffusion over the rows of a user–item matrix: noise is added, and learned to be taken away again.

Letters: U users, I items, B rows at once, T noise levels, H width of a denoiser, K items taken of a row.

Source: DiffRec (arXiv:2304.04971), and DiffMM (arXiv:2406.11781), authors' code, which follows it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph
from triptych.nn.embedding import take_rows

_FIRST_BETA = 1e-4
"""Of the first level, whatever the schedule."""


def noise_schedule(n_steps: int, scale: float, low: float, high: float) -> Tensor:
    """Compute how much noise each step adds to the one before it: beta_t, (T,) float64.

    The variance of all noise at level t would rise evenly from scale low to scale high; as in the authors'
    code the first beta is 1e-4 instead, and none is above 0.999.

    Args:
        n_steps: T.
        scale: at most 1.
        low: at level 0.
        high: at level T - 1, below 1.

    Raises:
        ConfigError: noise would fall from level to level.
    """
    if high < low:
        raise ConfigError(
            f"noise would fall from {low} to {high}",
            wanted="noise_min no larger than noise_max",
            fix="Change one of them",
        )
    kept = 1 - torch.linspace(scale * low, scale * high, n_steps, dtype=torch.float64)
    return F.pad((1 - kept[1:] / kept[:-1]).clamp(max=0.999), (1, 0), value=_FIRST_BETA)


def time_features(n_steps: int, dim: int) -> Tensor:
    """Describe each noise level by cosines and sines of falling frequency, with a zero last if `dim` is odd.

    Source: the sinusoids of arXiv:1706.03762, section 3.5, cosines first.

    Args:
        n_steps: T.
        dim: at least 2.

    Returns: (T, dim).
    """
    half = dim // 2
    angles = torch.arange(n_steps)[:, None] * torch.exp(-math.log(10_000) / half * torch.arange(half))
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class Denoiser(nn.Module):
    """Guesses the row that a noisy one was made of: O tanh(W x + V time_t + b) + o.

    Weights start normal with variance 2 / (inputs + outputs), biases with standard deviation 0.001. W and V
    are the two parts of one map of [x ; time], which is never put together.

    Args:
        n_items: I.
        width: H.
        n_steps: T.
        time_dim: numbers that describe a noise level.
        dropout: share of the entries of x that are dropped in training.
    """

    def __init__(self, n_items: int, width: int, n_steps: int, time_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.time = nn.Linear(time_dim, time_dim)
        self.enter = nn.Linear(n_items, width)
        self.enter_time = nn.Linear(time_dim, width, bias=False)
        self.leave = nn.Linear(width, n_items)
        self.register_buffer("levels", time_features(n_steps, time_dim), persistent=False)
        for linear, n_inputs in (
            (self.time, time_dim),
            (self.enter, n_items + time_dim),
            (self.enter_time, n_items + time_dim),
            (self.leave, width),
        ):
            nn.init.normal_(linear.weight, std=math.sqrt(2 / (n_inputs + linear.out_features)))
            if linear.bias is not None:
                nn.init.normal_(linear.bias, std=1e-3)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Guess rows without noise: (B, I) noisy rows, (B,) int64 their noise levels -> (B, I)."""
        entered = self.enter(F.dropout(x, self.dropout, self.training))  # (B, H)
        guess: Tensor = self.leave(torch.tanh(entered + take_rows(self.time_shifts(), step)))
        return guess

    def time_shifts(self) -> Tensor:
        """Give V time_t for every noise level: (T, H)."""
        shifts: Tensor = self.enter_time(self.time(self.get_buffer("levels")))
        return shifts


class Diffusion(nn.Module):
    """Noise over rows, and a denoiser that learns to take it away.

    With a_t the share of variance that is kept down to level t, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    Args:
        betas: (T,) as `noise_schedule` gives them.
        n_items: I.
        width: H of the denoiser.
        time_dim: numbers that describe a noise level to it.
        dropout: share of a noisy row's entries that it does not see in training.
    """

    def __init__(self, betas: Tensor, n_items: int, width: int, time_dim: int, dropout: float) -> None:
        super().__init__()
        self.denoiser = Denoiser(n_items, width, len(betas), time_dim, dropout)
        kept = (1 - betas).cumprod(0)  # a_t
        before = F.pad(kept[:-1], (1, 0), value=1.0)
        ratio = kept / (1 - kept)  # signal to noise
        parts = {
            "signal": kept.sqrt(),
            "noise": (1 - kept).sqrt(),
            "weight": F.pad(ratio[:-1] - ratio[1:], (1, 0), value=1.0),
            # The mean of x_(t-1), given x_t and x_0, is a sum of these two.
            "of_guess": betas * before.sqrt() / (1 - kept),
            "of_state": (1 - before) * (1 - betas).sqrt() / (1 - kept),
        }
        for name, part in parts.items():
            self.register_buffer(name, part.float(), persistent=False)  # (T,)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise of a level drawn for each row, and guess the rows: (B, I) -> (B, I) and the loss.

        The loss is the mean over rows of w_t times the mean squared error of the guess, with w_0 = 1 and
        w_t = a_(t-1) / (1 - a_(t-1)) - a_t / (1 - a_t). Randomness is torch's default generator.
        """
        weight = self.get_buffer("weight")
        step = torch.randint(len(weight), (len(rows),), device=rows.device)
        guess = self.denoiser(self.add_noise(rows, step, torch.randn_like(rows)), step)
        return guess, (weight[step] * (guess - rows).square().mean(dim=1)).mean()

    def add_noise(self, rows: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Mix rows with noise of their levels: (B, I), (B,), (B, I) -> (B, I); overwrites `noise`."""
        signal, deviation = self.get_buffer("signal")[step], self.get_buffer("noise")[step]
        return noise.mul_(deviation[:, None]).addcmul_(rows, signal[:, None])

    @torch.no_grad()
    def top_items(self, rows: SparseGraph, n_items: int, block_size: int) -> Tensor:
        """Run all rows back from level T - 1 to 0, by the means alone, and take what is then strongest.

        No noise is added before, and none on the way. The denoiser sees a row x only through W x, of which a
        step makes g W (O h + o) + s W x, h being its hidden layer, g and s weights of guess and state. With
        W O made once, all steps but the last stay in the width of the hidden layer.

        Args:
            rows: (U, I).
            n_items: K.
            block_size: users at once.

        Returns: (U, K) int64 item numbers, the strongest first.

        Cost: O(I H^2 + U H^2 T + U I H) time, O(B I + I H) memory beyond the result.
        """
        enter, leave = self.denoiser.enter, self.denoiser.leave
        # The largest of many that are close: bfloat16 could not tell them apart.
        with torch.autocast(rows.values.device.type, enabled=False):
            by_item = enter.weight.T.contiguous()  # (I, H)
            link, shift = leave.weight.T @ by_item, leave.bias @ by_item  # (W O)^T, W o
            levels = self.denoiser.time_shifts() + enter.bias  # (T, H)
            of_guess, of_state = self.get_buffer("of_guess"), self.get_buffer("of_state")
            strongest = []
            for users in torch.arange(rows.n_rows, device=by_item.device).split(block_size):
                state = rows.select_rows(users).multiply(by_item)  # W x, (B, H)
                for t in range(len(levels) - 1, 0, -1):
                    guess = torch.addmm(shift, torch.tanh(state + levels[t]), link)
                    state = of_guess[t] * guess + of_state[t] * state
                last = leave(torch.tanh(state + levels[0]))  # (B, I); at level 0 the mean is the guess
                strongest.append(last.topk(n_items, dim=1).indices)
        return torch.cat(strongest)
