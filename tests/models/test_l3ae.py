"""L3AE keeps the contract, and solves the two problems of its paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import interactions, spelled_out

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs
from triptych.models.ease import EASEConfig
from triptych.models.l3ae import L3AE, L3AEConfig
from triptych.models.registry import create_model, make_config
from triptych.testing import ScoringContract, toy_dataset


class TestL3AE(ScoringContract):
    config = L3AEConfig(reg_weight=-1.0, content_reg_weight=1.0, content_pull=3.0)


@pytest.fixture
def split() -> Split:
    data = toy_dataset(30, 11)
    sound = ItemFeatures.dense(np.random.default_rng(3).normal(size=(11, 14)))
    return Split.by_ratio(replace(data, features={**data.features, "sound": sound}), rng=0)


def build(split: Split, config=None, **settings) -> L3AE:
    torch.manual_seed(0)
    return create_model(config or L3AEConfig(**settings), ModelInputs.from_split(split))


def unit_columns(split: Split, modality: str) -> np.ndarray:
    values = split.data.features[modality].values.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(length > 0, length, 1)).T


def solve(gram: np.ndarray, reg: float, pull: float, target: np.ndarray) -> np.ndarray:
    """argmin |X - X B|^2 + reg |B|^2 + pull |B - T|^2 with diag(B) = 0, column by column."""
    n = len(gram)
    b = np.zeros((n, n))
    for item in range(n):
        others = np.arange(n) != item
        system = gram[np.ix_(others, others)] + (reg + pull) * np.eye(n - 1)
        b[others, item] = np.linalg.solve(system, gram[others, item] + pull * target[others, item])
    return b


@pytest.mark.parametrize("rank", [None, 11])
@pytest.mark.parametrize(("reg", "pull"), [(-2.0, 5.0), (0.0, 4.0), (3.0, 1.0)])
@pytest.mark.parametrize("modalities", [("text",), ("image", "text", "sound")])
def test_weights_solve_both_problems(
    split: Split, modalities: tuple[str, ...], reg: float, pull: float, rank: int | None
):
    model = build(
        split, reg_weight=reg, content_reg_weight=0.4, content_pull=pull, modalities=modalities, rank=rank
    )
    x, s = (
        interactions(split).numpy(),
        np.concatenate([unit_columns(split, modality) for modality in modalities]),
    )
    s = s / np.sqrt(len(modalities))  # equal shares
    c = solve(s.T @ s, 0.4, 0.0, np.zeros((11, 11)))
    b = spelled_out(model)
    np.testing.assert_allclose(b, solve(x.T @ x, reg, pull, c), atol=5e-5)
    slope = x.T @ (x @ b - x) + reg * b + pull * (b - c)
    np.testing.assert_allclose(slope - np.diag(np.diag(slope)), 0, atol=1e-3)


def test_it_is_the_form_of_the_authors(split: Split):
    x, s = interactions(split).numpy(), unit_columns(split, "text")
    p1 = np.linalg.inv(s.T @ s + 0.4 * np.eye(11))
    c = -p1 / np.diag(p1)
    np.fill_diagonal(c, 0)
    p = np.linalg.inv(x.T @ x + 3.0 * np.eye(11))
    pc = p @ c
    expected = 5.0 * pc - p * ((1 + 5.0 * np.diag(pc)) / np.diag(p))
    np.fill_diagonal(expected, 0)
    found = spelled_out(
        build(split, reg_weight=-2.0, content_reg_weight=0.4, content_pull=5.0, modalities=("text",))
    )
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_without_pull_it_is_ease_and_with_a_strong_one_it_is_content(split: Split):
    alone = spelled_out(build(split, reg_weight=3.0, content_pull=0.0))
    np.testing.assert_allclose(alone, spelled_out(build(split, EASEConfig(reg_weight=3.0))), atol=1e-6)
    s = unit_columns(split, "text")
    c = solve(s.T @ s, 0.4, 0.0, np.zeros((11, 11)))
    strong = spelled_out(build(split, content_reg_weight=0.4, content_pull=1e6, modalities=("text",)))
    np.testing.assert_allclose(strong, c, atol=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"reg_weight": 20.0},
        {"content_reg_weight": 5.0},
        {"content_pull": 9.0},
        {"modalities": ("text",)},
        {"modality_weights": {"image": 1.0, "text": 3.0, "sound": 1.0}},
        {"rank": 3},
    ],
)
def test_every_setting_counts(split: Split, changed: dict):
    usual = {"reg_weight": 1.0, "content_reg_weight": 0.4, "content_pull": 3.0}
    difference = spelled_out(build(split, **usual)) - spelled_out(build(split, **{**usual, **changed}))
    assert np.abs(difference).max() > 1e-3


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="must be positive"):
        make_config(L3AEConfig, {"reg_weight": -5.0, "content_pull": 5.0})
    for settings in ({"content_pull": -1.0}, {"content_reg_weight": 0.0}, {"embedding_dim": 8}):
        with pytest.raises(ConfigError):
            make_config(L3AEConfig, settings)
