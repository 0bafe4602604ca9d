"""EASE keeps the contract, and is the constrained ridge regression of its paper in both of its forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import interactions, spelled_out

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs
from triptych.models.ease import EASE, EASEConfig
from triptych.models.registry import create_model, make_config
from triptych.nn import item_ridge
from triptych.runs import diagnose, train
from triptych.scorer import DenseWeights, LowRankWeights
from triptych.testing import ScoringContract, toy_dataset
from triptych.training.config import TrainConfig


class TestEASE(ScoringContract):
    config = EASEConfig(reg_weight=1.0)


class TestEASEOfLowRank(ScoringContract):
    config = EASEConfig(reg_weight=1.0, rank=4)


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(30, 11), rng=0)


def build(split: Split, **settings) -> EASE:
    torch.manual_seed(0)
    return create_model(EASEConfig(**settings), ModelInputs.from_split(split))


@pytest.mark.parametrize("rank", [None, 11, 50])
@pytest.mark.parametrize("reg", [0.7, 30.0])
def test_weights_are_the_closed_form_and_solve_the_problem(split: Split, reg: float, rank: int | None):
    x, b = interactions(split).numpy(), spelled_out(build(split, reg_weight=reg, rank=rank))
    p = np.linalg.inv(x.T @ x + reg * np.eye(11))
    expected = -p / np.diag(p)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(b, expected, atol=2e-5)
    np.testing.assert_allclose(np.diag(b), 0, atol=1e-5)
    slope = x.T @ (x @ b - x) + reg * b  # zero but for the diagonal, whose multipliers are free
    np.testing.assert_allclose(slope - np.diag(np.diag(slope)), 0, atol=1e-3)


@pytest.mark.parametrize("rank", [None, 6])
def test_users_are_scored_by_the_sum_over_their_items(split: Split, rank: int | None):
    model = build(split, reg_weight=2.0, rank=rank)
    kind = DenseWeights if rank is None else LowRankWeights
    assert isinstance(model.scorer().weights, kind)
    scores = model.scorer().score(torch.arange(split.n_users))
    np.testing.assert_allclose(scores, interactions(split).numpy() @ spelled_out(model), atol=1e-5)


def test_every_setting_counts(split: Split):
    usual = spelled_out(build(split, reg_weight=2.0))
    for settings in ({"reg_weight": 3.0}, {"reg_weight": 2.0, "rank": 3}):
        assert np.abs(spelled_out(build(split, **settings)) - usual).max() > 1e-3


def test_settings_that_cannot_be_are_refused():
    for settings in ({"reg_weight": 0.0}, {"rank": 0}, {"embedding_dim": 8}):
        with pytest.raises(ConfigError):
            make_config(EASEConfig, settings)


def test_it_is_solved_once_and_has_no_state(split: Split):
    model = build(split)
    assert list(build(split, rank=3).state_dict()) == ["interactions.signs"]
    assert model.state_dict() == {}
    scorer = model.scorer()
    assert model.scorer() is scorer
    assert list(model.epoch_steps(1)) == []
    assert model.scorer() is not scorer


def test_a_catalogue_too_large_is_refused_before_anything_is_solved(split: Split, monkeypatch):
    monkeypatch.setattr(item_ridge, "free_memory", lambda device: 1451)
    with pytest.raises(ConfigError, match="11 items need 1,452 bytes of memory, 1,451 are free"):
        train("ease", split, config=TrainConfig(metric="recall@2"), k=(2,), device="cpu")


def test_there_is_nothing_to_diagnose_and_nothing_to_plug_into(split: Split):
    config = TrainConfig(metric="recall@2")
    run = train("ease", split, config=config, k=(2,), device="cpu")
    with pytest.raises(ConfigError, match="a run of ease, which ranks without embeddings"):
        diagnose(run, split.data)
    with pytest.raises(ConfigError, match="the plug-in 'ksi' on 'ease', which learns from no batches"):
        train("ease", split, plugins={"ksi": {}}, config=config, k=(2,), device="cpu")
