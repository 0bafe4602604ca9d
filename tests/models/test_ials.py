"""iALS keeps the contract, and each half of an epoch is the exact least-squares answer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from planted import interactions

from triptych.data.split import Split
from triptych.models import ials
from triptych.models.base import ModelInputs
from triptych.models.ials import IALS, IALSConfig
from triptych.models.registry import create_model
from triptych.runs import train
from triptych.testing import ScoringContract, toy_dataset
from triptych.training.config import TrainConfig


class TestIALS(ScoringContract):
    config = IALSConfig(embedding_dim=8)


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(25, 10), rng=0)


def build(split: Split, **settings) -> IALS:
    torch.manual_seed(0)
    return create_model(IALSConfig(**{"embedding_dim": 5, **settings}), ModelInputs.from_split(split))


def regularisation(counts: np.ndarray, n_others: int, config: IALSConfig) -> np.ndarray:
    return config.reg_weight * (counts + config.unobserved_weight * n_others) ** config.reg_exponent


def best(x: np.ndarray, fixed: np.ndarray, config: IALSConfig) -> np.ndarray:
    """Solve each row's weighted least squares, all its pairs spelled out."""
    rows = []
    for row, reg in zip(x, regularisation(x.sum(1), x.shape[1], config), strict=True):
        # sqrt(weight) (target - q p): observed pairs want 1, and all pairs want 0 with weight alpha_0
        design = np.concatenate([
            fixed[row > 0],
            np.sqrt(config.unobserved_weight) * fixed,
            np.sqrt(reg) * np.eye(fixed.shape[1]),
        ])  # fmt: skip
        target = np.concatenate([np.ones(int(row.sum())), np.zeros(len(fixed) + fixed.shape[1])])
        rows.append(np.linalg.lstsq(design, target, rcond=None)[0])
    return np.stack(rows)


def objective(x: np.ndarray, users: np.ndarray, items: np.ndarray, config: IALSConfig) -> float:
    scores = users @ items.T
    observed = (x * (scores - 1) ** 2).sum()
    regularised = sum(
        (regularisation(counts, n_others, config) * (vectors**2).sum(1)).sum()
        for counts, n_others, vectors in ((x.sum(1), len(items), users), (x.sum(0), len(users), items))
    )
    return float(observed + config.unobserved_weight * (scores**2).sum() + regularised)


@pytest.mark.parametrize("block", [1, 300, 1 << 23])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_an_epoch_solves_for_users_then_for_items(split: Split, exponent: float, block: int, monkeypatch):
    monkeypatch.setattr(ials, "_BLOCK", block)
    model = build(split, unobserved_weight=0.3, reg_weight=0.05, reg_exponent=exponent, init_scale=1.0)
    x, items = interactions(split).numpy(), model.items.double().numpy()
    assert list(model.epoch_steps(1)) == []
    users = best(x, items, model.config)
    np.testing.assert_allclose(model.users, users, atol=1e-5)
    np.testing.assert_allclose(model.items, best(x.T, model.users.double().numpy(), model.config), atol=1e-5)


def test_the_objective_never_grows(split: Split):
    model = build(split, unobserved_weight=0.1, reg_weight=0.01, init_scale=1.0)
    x = interactions(split).numpy()
    values = []
    for epoch in range(1, 12):
        values.append(objective(x, model.users.double().numpy(), model.items.double().numpy(), model.config))
        model.epoch_steps(epoch)
    assert values[0] > 2 * values[-1]
    assert all(later <= before + 1e-4 for before, later in pairwise(values))
    assert values[-2] - values[-1] < 0.01 * values[-1]


def test_who_has_no_training_pairs_is_zero(split: Split):
    part = np.where(split.data.interactions.user == 2, -1, split.part).astype(np.int8)
    part[split.data.interactions.item == 4] = -1
    model = build(Split(split.data, part))
    model.epoch_steps(1)
    assert not model.users[2].any()
    assert not model.items[4].any()
    assert model.users[3].any()


def test_the_start_has_the_length_asked_for():
    split = Split.by_ratio(toy_dataset(300, 10), rng=0)
    lengths = build(split, embedding_dim=64, init_scale=2.0).users.norm(dim=1)
    assert lengths.mean().item() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    "changed",
    [
        {"embedding_dim": 3},
        {"unobserved_weight": 0.5},
        {"reg_weight": 0.1},
        {"reg_exponent": 0.5},
        {"init_scale": 3.0},
    ],
)
def test_every_setting_counts(split: Split, changed: dict):
    scores = []
    for settings in ({}, changed):
        model = build(split, **settings)
        model.epoch_steps(1)
        scores.append(model.scorer().score(torch.arange(split.n_users)))
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_validation_stops_it(split: Split):
    config = TrainConfig(epochs=200, patience=3, metric="recall@2")
    run = train(IALSConfig(embedding_dim=4), split, config=config, k=(2,), device="cpu")
    assert run.record.best_epoch >= 1
    assert len(run.record.history) == run.record.best_epoch + 4
    assert all(epoch.losses == {} for epoch in run.record.history)


def test_another_seed_starts_elsewhere(split: Split):
    config = TrainConfig(epochs=1, metric="recall@2")
    first, second = (train("ials", split, seed=seed, config=config, k=(2,), device="cpu") for seed in (1, 2))
    assert not torch.equal(first.weights["users"], second.weights["users"])
