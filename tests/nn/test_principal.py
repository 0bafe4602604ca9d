"""Principal components against numpy's singular values, whichever of both products is the smaller."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.nn import principal
from triptych.nn.principal import principal_components

EVERY = torch.ones(60, dtype=torch.bool)


def features(n_rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated columns of different variance, far from zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_rows, width)) * np.linspace(3, 0.5, width)
    return (x @ rng.normal(size=(width, width)) + 50).astype(np.float32)


def by_svd(x: np.ndarray, dim: int) -> np.ndarray:
    """Rows x centred directions; the largest entry of each direction is positive."""
    x = x.astype(np.float64)
    centred = x - x.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:dim]
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)]
    return centred @ (directions * np.sign(largest)[:, None]).T


@pytest.mark.parametrize(("width", "dim"), [(9, 4), (9, 9), (60, 5), (200, 7)])
def test_equals_the_singular_value_decomposition(width: int, dim: int):
    x = features(60, width)
    found = principal_components(torch.from_numpy(x), dim, EVERY)
    assert found.dtype == torch.float32
    expected = by_svd(x, dim)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    covariance = np.cov(found.numpy().T)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4 * covariance.max())
    assert (np.diff(np.diag(covariance)) < 0).all()


@pytest.mark.parametrize("width", [9, 200])
def test_the_size_of_a_block_does_not_matter(monkeypatch: pytest.MonkeyPatch, width: int):
    x = torch.from_numpy(features(60, width))
    whole = principal_components(x, 5, EVERY)
    monkeypatch.setattr(principal, "_BLOCK", 7)
    torch.testing.assert_close(principal_components(x, 5, EVERY), whole)


@pytest.mark.parametrize("width", [9, 200])
def test_only_rows_that_count_are_described(width: int):
    x = features(60, width)
    counted = np.random.default_rng(1).random(60) < 0.6
    found = principal_components(torch.from_numpy(x), 5, torch.from_numpy(counted)).numpy()
    expected = by_svd(x[counted], 5)
    np.testing.assert_allclose(found[counted], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert not found[~counted].any()


@pytest.mark.parametrize("width", [9, 200])
def test_whitened_components_have_variance_one(width: int):
    x = torch.from_numpy(features(60, width))
    counted = torch.arange(60) % 4 > 0
    plain, white = (principal_components(x, 5, counted, whiten=whiten) for whiten in (False, True))
    torch.testing.assert_close(white[counted].T.cov(), torch.eye(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        plain[counted] / plain[counted].std(dim=0), white[counted], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("width", [3, 100])
def test_directions_beyond_those_that_vary_are_zero(width: int, whiten: bool):
    line = torch.linspace(-1, 1, 60)[:, None] * torch.linspace(0.1, 2, width) + 3  # one direction
    found = principal_components(line, 6, EVERY, whiten=whiten)
    assert found.shape == (60, 6)
    assert found[:, 0].abs().min() > 0
    assert not found[:, 1:].any()
    constant = principal_components(torch.full((60, width), 1e4), 6, EVERY, whiten=whiten)
    assert not constant.any()


@pytest.mark.parametrize("n_counted", [0, 1, 2])
def test_few_rows(n_counted: int):
    found = principal_components(torch.from_numpy(features(60, 9)), 4, torch.arange(60) < n_counted)
    assert found.isfinite().all()
    assert found.any() == (n_counted == 2)
    assert not found[:, 1:].any()


def test_by_hand():
    # Along (0.6, -0.8): -5, 0 and 5. The larger entry is -0.8, so it is (-0.6, 0.8) that counts.
    rows = torch.tensor([[7.0, -4.0], [10.0, -8.0], [13.0, -12.0]])
    found = principal_components(rows, 2, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[5.0, 0.0], [0.0, 0.0], [-5.0, 0.0]]))


def test_equal_rows_give_equal_components():
    x = torch.from_numpy(features(60, 9))
    assert torch.equal(principal_components(x, 4, EVERY), principal_components(x.clone(), 4, EVERY))
    torch.testing.assert_close(
        principal_components(x + 7, 4, EVERY), principal_components(x, 4, EVERY), atol=1e-3, rtol=1e-3
    )
