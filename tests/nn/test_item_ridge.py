"""The block under the closed forms, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures
from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph
from triptych.nn import item_ridge
from triptych.nn.content import FeatureBank
from triptych.nn.item_ridge import (
    DenseRidge,
    Factors,
    InteractionRidge,
    LowRankRidge,
    content_factors,
    content_rows,
    gram_matrix,
    leading_eigenvectors,
)

CPU = torch.device("cpu")


def histories(n_users: int = 30, n_items: int = 12, share: float = 0.3, seed: int = 0) -> np.ndarray:
    x = (np.random.default_rng(seed).random((n_users, n_items)) < share).astype(np.float64)
    x[4], x[:, 5] = 0, 0  # a user and an item without pairs
    return x


def graph(x: np.ndarray) -> SparseGraph:
    row, col = (torch.from_numpy(part) for part in x.nonzero())
    return SparseGraph.from_edges(row, col, torch.ones(len(row)), *x.shape)


def smoother(gram: np.ndarray, reg: float) -> np.ndarray:
    return gram @ np.linalg.inv(gram + reg * np.eye(len(gram)))


def without_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix - np.diag(np.diag(matrix))


def interaction_ridge(history: SparseGraph, reg: float, rank: int | None = None):
    torch.manual_seed(0)
    return InteractionRidge(history.n_cols, rank).fit(history, reg)


def spelled_out(weights) -> np.ndarray:
    everybody = SparseGraph.from_edges(
        *torch.arange(weights.n_items).repeat(2, 1), torch.ones(weights.n_items), *[weights.n_items] * 2
    )
    return weights.sums(everybody).double().numpy()


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
def test_gram_matrix_counts_meetings_whatever_the_block(block: int, monkeypatch):
    monkeypatch.setattr(item_ridge, "_BLOCK", block)
    x = histories()
    assert np.array_equal(gram_matrix(graph(x)).numpy(), x.T @ x)


@pytest.mark.parametrize("rank", [None, 12, 99])
@pytest.mark.parametrize("reg", [0.5, 20.0])
def test_both_forms_predict_weigh_and_complement_alike(rank: int | None, reg: float):
    x = histories()
    ridge = interaction_ridge(graph(x), reg, rank)
    h = smoother(x.T @ x, reg)
    rng = np.random.default_rng(1)
    columns, left, right = rng.normal(size=12), rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
    assert isinstance(ridge, DenseRidge if rank is None else LowRankRidge)
    np.testing.assert_allclose(ridge.complement, 1 - np.diag(h), atol=1e-5)
    np.testing.assert_allclose(ridge.predict(torch.from_numpy(left).float()), h @ left, atol=1e-5)
    other = Factors(*(torch.from_numpy(part).float() for part in (left, right)))
    weights = ridge.weights(torch.from_numpy(columns).float(), other)
    np.testing.assert_allclose(
        spelled_out(weights), without_diagonal(h * columns + left @ right.T), atol=2e-5
    )


def test_the_leading_eigenvectors_are_those_of_numpy():
    x = histories(80, 40)
    values, vectors = leading_eigenvectors(graph(x), 5, (-1.0) ** (torch.arange(40) // 3))
    expected, directions = np.linalg.eigh(x.T @ x)
    np.testing.assert_allclose(values, expected[-5:], rtol=1e-3)
    ours, theirs = vectors.double().numpy(), directions[:, -5:]
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=0.02)
    np.testing.assert_allclose(ours.T @ ours, np.eye(5), atol=1e-5)


def test_float32_is_enough_for_the_regularisation_weights_that_are_searched():
    """A long tail of 900 items, and the condition number of some ten thousands that lambda = 1 gives."""
    rng = np.random.default_rng(0)
    x = (rng.random((4000, 900)) < 0.6 / np.arange(1, 901) ** 0.7).astype(np.float64)
    for reg in (1.0, 100.0):
        p = np.linalg.inv(x.T @ x + reg * np.eye(900))
        expected = without_diagonal(-p / np.diag(p))
        ridge = interaction_ridge(graph(x), reg)
        assert isinstance(ridge, DenseRidge)
        found = ridge.weights(1 / ridge.complement).matrix.double().numpy()
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        scores, exact = x[:50] @ found, x[:50] @ expected
        assert np.abs(scores - exact).max() < 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("n_items", [5, 40])
def test_content_is_regressed_exactly_with_more_or_fewer_items_than_features(n_items: int):
    rows = np.random.default_rng(2).normal(size=(n_items, 9))
    rows[1] = 0  # no content
    rows[3] = rows[2]  # twins
    p = np.linalg.inv(rows @ rows.T + 0.3 * np.eye(n_items))
    left, right = content_factors(torch.from_numpy(rows).float(), 0.3)
    np.testing.assert_allclose(
        without_diagonal((left @ right.T).double().numpy()), without_diagonal(-p / np.diag(p)), atol=1e-4
    )
    assert not right[1].any()


def test_products_of_content_rows_are_weighted_cosines():
    image = ItemFeatures.dense(np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]), np.array([True, False, True]))
    text = ItemFeatures.dense(np.array([[2.0], [5.0], [0.0]]))
    bank = FeatureBank({"image": image, "text": text}, ("image", "text"))
    rows = content_rows(bank, {"image": 4.0, "text": 0.25})
    torch.testing.assert_close(rows, torch.tensor([[1.2, 1.6, 0.5], [0, 0, 0.5], [2.0, 0, 0]]))


def test_a_catalogue_that_does_not_fit_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(item_ridge, "free_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"12 items need 1,728 bytes of memory, 1,000 are free.*Set 'rank'"):
        interaction_ridge(graph(histories()), 1.0)
    interaction_ridge(graph(histories()), 1.0, rank=3)


def test_a_weight_too_small_for_float32_is_refused():
    x = np.ones((300, 20))
    with pytest.raises(ConfigError, match="singular in float32"):
        interaction_ridge(graph(x), 1e-12)
