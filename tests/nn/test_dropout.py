import pytest
import torch

from triptych.nn.dropout import dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drops_the_share_it_is_told_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    out = dropout(x, rate)
    n = x.numel()
    spread = (rate * (1 - rate) / n) ** 0.5
    assert (out == 0).double().mean().item() == pytest.approx(rate, abs=5 * spread + 1 / 65536)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-4)
    assert out.double().mean().item() == pytest.approx(1.0, abs=5 * spread / (1 - rate))


def test_entries_are_dropped_each_by_itself():
    torch.manual_seed(0)
    gone = (dropout(torch.ones(4000, 256), 0.3) == 0).double()
    assert gone.mean(0).sub(0.3).abs().max() < 5 * (0.21 / 4000) ** 0.5  # every place within a word alike
    together = torch.corrcoef(gone.T[:8])
    assert (together - torch.eye(8)).abs().max() < 5 / 4000**0.5  # neighbours know nothing of each other


def test_the_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    out = dropout(x, 0.5)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, (out / x).detach())
    assert out.dtype == torch.float64


def test_nothing_happens_in_evaluation_or_at_rate_zero():
    x, state = torch.randn(3, 3), torch.get_rng_state()
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rate", [0.9999924, 0.999999, 1 - 1e-12])
def test_rates_close_to_one_keep_values_finite(rate: float):
    assert dropout(torch.ones(1000), rate).isfinite().all()
