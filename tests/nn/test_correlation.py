"""Correlations from the Gram matrix against torch's own, and the loss against its closed forms."""

import math

import pytest
import torch

from triptych.nn.correlation import column_correlation, decorrelation_loss, identity_loss, redundancy


def mixed(*shape: int, seed: int = 0) -> torch.Tensor:
    """Correlated columns whose means are far from zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x @ torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64) + 3


def measured(x: torch.Tensor) -> torch.Tensor:
    """p of a matrix, by torch.corrcoef and eq. 20 of MGNM."""
    correlation = torch.corrcoef(x.T)
    return (correlation - torch.eye(len(correlation))).norm() / math.sqrt(2)


def test_equals_corrcoef_in_value_and_gradient():
    x = mixed(40, 6).requires_grad_()
    torch.testing.assert_close(column_correlation(x), torch.corrcoef(x.T))
    torch.testing.assert_close(redundancy(x), measured(x))
    towards = torch.autograd.grad(redundancy(x), x)[0]
    assert towards.abs().max() > 1e-3
    torch.testing.assert_close(towards, torch.autograd.grad(measured(x), x)[0])


def test_by_hand():
    x = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [3.0, 6.0, 0.0]])
    expected = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(column_correlation(x), expected)
    assert redundancy(x).item() == pytest.approx(1.0)
    assert redundancy(x[:, :2] * torch.tensor([1.0, -5.0])).item() == pytest.approx(1.0)
    assert redundancy(x[:, :1]).item() == 0.0


def test_several_matrices_at_once():
    x = mixed(2, 3, 20, 4)
    assert column_correlation(x).shape == (2, 3, 4, 4)
    one_by_one = torch.stack([redundancy(part) for part in x.flatten(0, 1)]).view(2, 3)
    torch.testing.assert_close(redundancy(x), one_by_one)


def test_only_counted_rows_count_in_value_and_gradient():
    x = mixed(2, 30, 4).requires_grad_()
    counted = torch.rand(2, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = torch.stack([measured(part[rows]) for part, rows in zip(x, counted, strict=True)])
    torch.testing.assert_close(redundancy(x, counted), expected)
    found = torch.autograd.grad(redundancy(x, counted).sum(), x)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), x)[0])
    assert not found[~counted].any()
    torch.testing.assert_close(redundancy(x, torch.ones(2, 30, dtype=torch.bool)), redundancy(x))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4, -0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_that_does_not_vary_correlates_with_none_and_gets_no_gradient(value: float, dtype):
    x = mixed(50, 3).to(dtype)
    x[:, 1] = value
    x.requires_grad_()
    correlation = column_correlation(x)
    assert not correlation[1].any()
    assert not correlation[:, 1].any()
    torch.testing.assert_close(redundancy(x), correlation[0, 2].abs())
    gradient = torch.autograd.grad(redundancy(x), x)[0]
    assert gradient.isfinite().all()
    assert not gradient[:, 1].any()
    assert gradient[:, 0].any()


@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.ones(1, 3), torch.ones(5, 1)])
def test_nothing_to_compare_is_zero_with_a_gradient_of_zero(x: torch.Tensor):
    x = x.requires_grad_()
    loss = decorrelation_loss([x, x])
    loss.backward()
    assert loss.item() == 0.0
    assert not x.grad.any()
    nobody = torch.zeros(len(x), dtype=torch.bool)
    assert redundancy(x, nobody).item() == 0.0


@pytest.mark.parametrize("detach", [True, False])
def test_loss_is_the_harmonic_mean_and_its_gradient_follows_the_shares(detach: bool):
    layers = [mixed(30, 4, seed=seed).requires_grad_() for seed in range(3)]
    found = torch.stack([measured(layer) for layer in layers])
    loss = decorrelation_loss(layers, detach_weights=detach)
    assert loss.item() == pytest.approx(3 / (1 / found).sum().item())
    shares = ((1 / found) / (1 / found).sum()).detach()
    towards = shares if detach else 3 * shares**2
    expected = torch.autograd.grad((towards * found).sum(), layers)
    for ours, theirs in zip(torch.autograd.grad(loss, layers), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_loss_sums_over_matrices_each_with_shares_of_its_own():
    layers = [mixed(2, 30, 4, seed=seed) for seed in range(3)]
    counted = torch.arange(30).repeat(2, 1) % 3 > torch.tensor([[0], [1]])
    apart = [decorrelation_loss([layer[m] for layer in layers], counted[m]).item() for m in range(2)]
    assert decorrelation_loss(layers, counted).item() == pytest.approx(sum(apart))


def test_a_layer_without_redundancy_has_all_the_share():
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    alike = torch.arange(4.0)[:, None].repeat(1, 2).requires_grad_()
    assert decorrelation_loss([square, alike]).item() < 1e-6


def test_far_from_zero_in_float32():
    x = mixed(2000, 5)
    far = (x + 1000).float()
    torch.testing.assert_close(column_correlation(far).double(), torch.corrcoef(x.T), atol=1e-3, rtol=0)


def identity_distance(x: torch.Tensor) -> torch.Tensor:
    """Distance of torch's own covariance from the identity."""
    return (torch.cov(x.T) - torch.eye(x.shape[1], dtype=x.dtype)).square().sum()


SCALED = {
    "row": lambda x: x / x.norm(dim=1, keepdim=True),
    "largest": lambda x: x / x.norm(dim=1).max(),
    "column": lambda x: (x - x.mean(0)) / x.std(0),
}


@pytest.mark.parametrize("scaling", list(SCALED))
def test_identity_loss_equals_cov_in_value_and_gradient(scaling: str):
    x = mixed(2, 40, 6).requires_grad_()
    expected = torch.stack([identity_distance(SCALED[scaling](part)) for part in x])
    found = identity_loss(x, scaling=scaling)
    torch.testing.assert_close(found, expected)
    weights = torch.tensor([1.0, 0.3])
    grads = [torch.autograd.grad((weights * value).sum(), x)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads)
    assert grads[0].abs().max() > 1e-6


@pytest.mark.parametrize("scaling", list(SCALED))
def test_identity_loss_of_counted_rows_alone(scaling: str):
    x = mixed(30, 4)
    x[5] *= 100  # the largest of all
    x[6] = 0
    counted = torch.arange(30) % 3 > 0
    counted[[5, 6]] = False
    x.requires_grad_()
    expected = identity_distance(SCALED[scaling](x[counted]))
    found = identity_loss(x, counted, scaling)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads)
    assert not grads[0][~counted].any()


def test_identity_loss_by_hand():
    x = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -0.5]])
    # Rows of length 1 have mean 0 and C = diag(2, 2) / 3.
    assert identity_loss(x).item() == pytest.approx(2 / 9)
    # Divided by 3, columns (2, -1, 0, 0) / 3 and (0, 0, 3, -0.5) / 3 have means 1/12 and 5/24.
    c11 = (5 / 9 - 4 / 144) / 3
    c22 = (9.25 / 9 - 4 * (5 / 24) ** 2) / 3
    c12 = -4 * (1 / 12) * (5 / 24) / 3
    expected = (c11 - 1) ** 2 + (c22 - 1) ** 2 + 2 * c12**2
    assert identity_loss(x, scaling="largest").item() == pytest.approx(expected)
    r = torch.corrcoef(x.T)[0, 1].item()
    assert identity_loss(x, scaling="column").item() == pytest.approx(2 * r**2)


def test_the_floor_of_identity_loss_is_reached_by_centred_isotropic_rows():
    dim = 8
    rows = torch.cat([torch.eye(dim), -torch.eye(dim)]).repeat(500, 1).double()
    floor = (dim - 1) ** 2 / dim
    assert identity_loss(rows).item() == pytest.approx(floor, rel=1e-3)
    assert identity_loss(mixed(8000, dim)).item() > floor
    assert identity_loss(rows, scaling="column").item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("scaling", list(SCALED))
@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.ones(1, 3), torch.ones(5, 3)])
def test_identity_loss_where_nothing_varies(x: torch.Tensor, scaling: str):
    x = x.clone().requires_grad_()
    loss = identity_loss(x, scaling=scaling)
    loss.backward()
    assert loss.item() == pytest.approx(3.0)
    assert x.grad.isfinite().all()
    assert identity_loss(x, torch.zeros(len(x), dtype=torch.bool), scaling).item() == pytest.approx(3.0)


def test_identity_loss_stays_exact_in_mixed_precision():
    x = mixed(500, 16).float()
    exact = identity_loss(x).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert identity_loss(x).item() == exact
