"""Diffusion over rows, against its formulas spelled out."""

import math

import pytest
import torch

from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph
from triptych.nn.diffusion import Denoiser, Diffusion, noise_schedule, time_features

N_USERS, N_ITEMS, WIDTH, TIME = 7, 9, 5, 4


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def chosen() -> SparseGraph:
    """Rows with pairs and, of users 2 and 6, without."""
    user = torch.tensor([0, 0, 0, 1, 3, 3, 4, 5, 5])
    item = torch.tensor([1, 4, 8, 0, 2, 4, 8, 0, 7])
    return SparseGraph.from_edges(user, item, torch.ones(9), N_USERS, N_ITEMS).double()


def build(n_steps: int = 5, dropout: float = 0.0) -> Diffusion:
    """A diffusion in float64 whose noise and weights are large enough to matter."""
    diffusion = Diffusion(noise_schedule(n_steps, 1.0, 0.01, 0.5), N_ITEMS, WIDTH, TIME, dropout)
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.normal_()
    return diffusion.double()


def kept_variance() -> list[float]:
    return (1 - noise_schedule(5, 1.0, 0.01, 0.5)).cumprod(0).tolist()


def guess(denoiser: Denoiser, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The network on [x ; time], its first map in one piece."""
    time = denoiser.levels[step] @ denoiser.time.weight.T + denoiser.time.bias
    joined = torch.cat([denoiser.enter.weight, denoiser.enter_time.weight], dim=1)
    hidden = torch.tanh(torch.cat([x, time], dim=1) @ joined.T + denoiser.enter.bias)
    return hidden @ denoiser.leave.weight.T + denoiser.leave.bias


def test_schedule_by_hand():
    kept = [1 - 1e-5, 1 - 1.005e-3, 1 - 2e-3]
    expected = [1e-4, 1 - kept[1] / kept[0], 1 - kept[2] / kept[1]]
    assert noise_schedule(3, 0.1, 1e-4, 0.02).tolist() == pytest.approx(expected, rel=1e-9)
    assert noise_schedule(1, 0.1, 1e-4, 0.02).tolist() == [1e-4]
    assert noise_schedule(2, 1.0, 0.0, 0.9999).tolist() == [1e-4, 0.999]


def test_schedule_that_falls_is_refused():
    with pytest.raises(ConfigError, match=r"fall from 0\.02 to 0\.01"):
        noise_schedule(5, 0.1, 0.02, 0.01)


def test_time_features_by_hand():
    third = [math.cos(2), math.cos(0.02), math.sin(2), math.sin(0.02)]
    assert time_features(3, 4)[2].tolist() == pytest.approx(third)
    assert time_features(3, 5)[2].tolist() == pytest.approx([*third, 0])
    assert time_features(3, 4)[0].tolist() == [1, 1, 0, 0]


def test_denoiser_is_one_map_of_row_and_time():
    denoiser = build().denoiser
    x, step = torch.randn(3, N_ITEMS, dtype=torch.float64), torch.tensor([0, 4, 2])
    assert torch.allclose(denoiser(x, step), guess(denoiser, x, step))


def test_denoiser_drops_entries_of_rows_in_training_only():
    denoiser = Denoiser(400, 2, 3, TIME, 0.5)
    seen = []
    denoiser.enter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, step = torch.ones(50, 400), torch.zeros(50, dtype=torch.int64)
    denoiser(x, step)
    denoiser.eval()(x, step)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert seen[0].mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(seen[1], x)


def test_first_weights_are_normal_over_whole_maps():
    denoiser = Denoiser(300, 200, 3, 50, 0.5)
    for linear, ends in (
        (denoiser.time, 50 + 50),
        (denoiser.enter, 350 + 200),
        (denoiser.enter_time, 350 + 200),
        (denoiser.leave, 200 + 300),
    ):
        assert linear.weight.std().item() == pytest.approx((2 / ends) ** 0.5, rel=0.05)
    assert denoiser.leave.bias.std().item() == pytest.approx(1e-3, rel=0.2)


def test_noise_grows_by_the_schedule_and_keeps_the_variance():
    diffusion = build()
    rows, noise = torch.randn(2, 5, N_ITEMS, dtype=torch.float64)
    mixed = diffusion.add_noise(rows, torch.arange(5), noise.clone())
    share = 1.0
    for t, beta in enumerate(noise_schedule(5, 1.0, 0.01, 0.5).tolist()):
        share *= 1 - beta
        expected = share**0.5 * rows[t] + (1 - share) ** 0.5 * noise[t]
        assert torch.allclose(mixed[t], expected, rtol=1e-5)
    assert share == pytest.approx((1 - 1e-4) * 0.5 / 0.99)


def test_means_of_the_reverse_steps_are_those_of_two_normals():
    """x_(t-1) is known from x_0 and from x_t: the two are weighed by their precisions."""
    diffusion, betas = build(), noise_schedule(5, 1.0, 0.01, 0.5).tolist()
    kept = kept_variance()
    for t in range(1, 5):
        from_start, from_next = 1 / (1 - kept[t - 1]), (1 - betas[t]) / betas[t]
        of_guess = from_start * kept[t - 1] ** 0.5 / (from_start + from_next)
        of_state = (1 - betas[t]) ** 0.5 / betas[t] / (from_start + from_next)
        assert diffusion.of_guess[t].item() == pytest.approx(of_guess, rel=1e-6)
        assert diffusion.of_state[t].item() == pytest.approx(of_state, rel=1e-6)
    assert diffusion.of_guess[0].item() == pytest.approx(1)
    assert diffusion.of_state[0].item() == 0


def test_loss_weighs_errors_by_the_fall_of_signal_to_noise(chosen: SparseGraph):
    diffusion, rows = build(), chosen.to_dense()
    torch.manual_seed(3)
    found, loss = diffusion(rows)
    torch.manual_seed(3)
    step, noise = torch.randint(5, (N_USERS,)), torch.randn_like(rows)
    assert len(step.unique()) > 2
    expected = guess(diffusion.denoiser, diffusion.add_noise(rows, step, noise), step)
    assert torch.allclose(found, expected)
    kept = kept_variance()
    total = 0.0
    for row, t in enumerate(step.tolist()):
        fall = 1.0 if t == 0 else kept[t - 1] / (1 - kept[t - 1]) - kept[t] / (1 - kept[t])
        total += fall * (expected[row] - rows[row]).pow(2).mean().item()
    assert loss.item() == pytest.approx(total / N_USERS, rel=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_top_items_are_those_of_the_reverse_steps_spelled_out(chosen: SparseGraph, n_steps: int):
    diffusion = build(n_steps, dropout=0.5).train()
    state = chosen.to_dense()
    for t in reversed(range(n_steps)):
        step = torch.full((N_USERS,), t)
        state = diffusion.of_guess[t] * guess(diffusion.denoiser, state, step) + diffusion.of_state[t] * state
    expected = state.argsort(dim=1, descending=True)
    for n_items in (1, 3, N_ITEMS):
        for block_size in (1, 3, 100):
            assert torch.equal(diffusion.top_items(chosen, n_items, block_size), expected[:, :n_items])
    assert len(expected[:, 0].unique()) > 1


def test_no_block_of_rows_is_larger_than_asked_for(chosen: SparseGraph):
    diffusion, sizes = build(), []
    diffusion.denoiser.leave.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    diffusion.top_items(chosen, 1, 3)
    assert sizes == [3, 3, 1]


def test_top_items_are_exact_in_mixed_precision(chosen: SparseGraph):
    diffusion = build().float()
    chosen = chosen.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = diffusion.top_items(chosen, N_ITEMS, 4)
    assert torch.equal(found, diffusion.top_items(chosen, N_ITEMS, 4))


def test_learns_rows_and_finds_them_again():
    """Half of the users chose among items 0 to 9, the others among 10 to 19; each lacks one of them."""
    blocks = torch.block_diag(*[1 - torch.eye(10)] * 2)
    rows = SparseGraph.from_edges(*blocks.nonzero(as_tuple=True), torch.ones(180), 20, 20)
    diffusion = Diffusion(noise_schedule(5, 0.1, 1e-4, 0.02), 20, 16, time_dim=10, dropout=0.5)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        diffusion(blocks)[1].backward()
        optimizer.step()
    found = diffusion.top_items(rows, 10, 6)
    assert torch.equal(found.sort().values, torch.arange(20).view(2, 10).repeat_interleave(10, 0))
