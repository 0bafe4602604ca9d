"""CLUB against torch's distributions, its printed double sum, and information that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from triptych.nn.club import ContrastiveUpperBound


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make(n_in: int = 4, n_out: int = 3, hidden: int = 6) -> ContrastiveUpperBound:
    return ContrastiveUpperBound(n_in, n_out, hidden).double()


def some(n: int = 9, n_in: int = 4, n_out: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.randn(n, n_in, dtype=torch.float64), torch.randn(n, n_out, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


def spread(club: ContrastiveUpperBound, x: torch.Tensor) -> Independent:
    """q(y | x), from the networks' matrices."""
    to_mean, to_variance = club.read.weight.chunk(2)
    bias_mean, bias_variance = club.read.bias.chunk(2)
    mean = (x @ to_mean.T + bias_mean).clamp(min=0) @ club.mean.weight.T + club.mean.bias
    raw = (x @ to_variance.T + bias_variance).clamp(min=0) @ club.log_variance.weight.T
    return Independent(Normal(mean, ((raw + club.log_variance.bias).tanh() / 2).exp()), 1)


@pytest.mark.parametrize("by_column", [False, True])
def test_misfit_is_minus_the_log_likelihood_in_value_and_gradient(by_column: bool):
    club, (x, y) = make(), some()
    constant = 3 * math.log(2 * math.pi) / 2
    plain = -spread(club, x).log_prob(y).mean() - constant
    if by_column:
        x, y = x.T.contiguous().T, y.T.contiguous().T
    found = club.misfit(x, y)
    torch.testing.assert_close(found, plain)
    parameters = list(club.parameters())
    weight = torch.tensor(1.7, dtype=torch.float64)
    fast = torch.autograd.grad(weight * found, parameters)
    torch.testing.assert_close(fast, torch.autograd.grad(weight * plain, parameters))
    assert all(grad.abs().max() > 1e-3 for grad in fast)


def test_misfit_moves_the_network_alone():
    club, (x, y) = make(), some()
    club.misfit(x, y).backward()
    assert x.grad is None
    assert y.grad is None


@pytest.mark.parametrize("n", [2, 9])
def test_exact_bound_is_the_printed_double_sum_in_value_and_gradient(n: int):
    club, (x, y) = make(), some(n)
    guess = spread(club, x)
    plain = torch.zeros((), dtype=torch.float64)
    for i in range(n):
        others = [spread(club, x[i]).log_prob(y[j]) for j in range(n)]
        plain = plain + (guess.log_prob(y)[i] - torch.stack(others).mean()) / n
    found = club.bound(x, y)
    torch.testing.assert_close(found, plain)
    assert found.abs() > 1e-3
    fast = torch.autograd.grad(found, (x, y))
    torch.testing.assert_close(fast, torch.autograd.grad(plain, (x, y)))
    assert all(grad.abs().max() > 1e-3 for grad in fast)


@pytest.mark.parametrize("negatives", ["exact", "permutation"])
def test_bound_leaves_the_network_alone(negatives):
    club, (x, y) = make(), some()
    club.bound(x, y, negatives).backward()
    assert x.grad.any()
    assert all(parameter.grad is None for parameter in club.parameters())


def test_permutation_is_one_stranger_each_and_exact_on_average():
    club, (x, y) = make(), some()
    torch.manual_seed(5)
    found = club.bound(x, y, "permutation")
    torch.manual_seed(5)
    order = torch.randperm(9)
    guess = spread(club, x)
    torch.testing.assert_close(found, (guess.log_prob(y) - guess.log_prob(y[order])).mean())
    draws = torch.stack([club.bound(x, y, "permutation").detach() for _ in range(1000)])
    assert draws.std() > 0.05
    assert draws.mean().item() == pytest.approx(
        club.bound(x, y).item(), abs=4 * draws.std().item() / 1000**0.5
    )


@pytest.mark.parametrize("correlation", [0.6, -0.3, 0.0])
def test_finds_the_information_that_was_planted(correlation: float):
    dim, n = 3, 3000

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        x, noise = torch.randn(2, n, dim)
        return x, correlation * x + (1 - correlation**2) ** 0.5 * noise

    x, y = draw()
    club = ContrastiveUpperBound(dim, dim, 16)
    optimiser = torch.optim.Adam(club.parameters(), lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        club.misfit(x, y).backward()
        optimiser.step()
    square = correlation**2
    information = -dim / 2 * math.log(1 - square)
    of_true_conditional = dim * square / (1 - square)  # what CLUB makes of jointly normal numbers
    bound = club.bound(*draw()).item()
    assert bound == pytest.approx(of_true_conditional, rel=0.1, abs=0.03)
    assert bound > information - 0.03


def test_bound_of_one_row_is_zero():
    club, (x, y) = make(), some(1)
    assert club.bound(x, y).item() == pytest.approx(0)


@pytest.mark.parametrize("negatives", ["exact", "permutation"])
def test_stays_in_full_precision_under_autocast(negatives):
    club = ContrastiveUpperBound(4, 3)
    x, y = torch.randn(50, 4).requires_grad_(), torch.randn(50, 3)
    exact = club.misfit(x, y).item(), club.bound(x, y).item()
    with torch.autocast("cpu", torch.bfloat16):
        misfit, bound = club.misfit(x, y), club.bound(x, y, negatives)
    assert misfit.dtype == bound.dtype == torch.float32
    assert misfit.item() == pytest.approx(exact[0], rel=1e-6)
    if negatives == "exact":
        assert bound.item() == pytest.approx(exact[1], abs=0.02)
    (misfit + bound).backward()
    assert x.grad.isfinite().all()
