"""Add-EASE keeps the contract, and is the sum of two regressions of its paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import interactions, spelled_out

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.add_ease import AddEASE, AddEASEConfig
from triptych.models.base import ModelInputs
from triptych.models.registry import create_model, make_config
from triptych.testing import ScoringContract, toy_dataset


class TestAddEASE(ScoringContract):
    config = AddEASEConfig(reg_weight=1.0, content_reg_weight=1.0)


class TestAddEASEOfContentAlone(ScoringContract):
    config = AddEASEConfig(content_reg_weight=1.0, content_share=1.0)


@pytest.fixture
def split() -> Split:
    data = toy_dataset(30, 11)
    sound = ItemFeatures.dense(np.random.default_rng(3).normal(size=(11, 14)))
    return Split.by_ratio(replace(data, features={**data.features, "sound": sound}), rng=0)


def build(split: Split, **settings) -> AddEASE:
    torch.manual_seed(0)
    return create_model(AddEASEConfig(**settings), ModelInputs.from_split(split))


def ease(observations: np.ndarray, reg: float) -> np.ndarray:
    """argmin |O - O B|^2 + reg |B|^2 with diag(B) = 0, column by column from the other columns."""
    n = observations.shape[1]
    b = np.zeros((n, n))
    for item in range(n):
        others = np.arange(n) != item
        rest = observations[:, others]
        b[others, item] = np.linalg.solve(rest.T @ rest + reg * np.eye(n - 1), rest.T @ observations[:, item])
    return b


def content(split: Split, weights: dict[str, float]) -> np.ndarray:
    """(F, I), unit columns in each modality times the root of its weight, none where it lacks."""
    parts = []
    for modality, weight in weights.items():
        values = split.data.features[modality].values.astype(np.float64)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        parts.append(np.sqrt(weight) * values / np.where(length > 0, length, 1))
    return np.concatenate(parts, axis=1).T


@pytest.mark.parametrize("rank", [None, 11])
@pytest.mark.parametrize("modalities", [("text",), ("image", "text"), ("image", "text", "sound")])
def test_weights_are_those_of_the_two_regressions(
    split: Split, modalities: tuple[str, ...], rank: int | None
):
    shares = dict(zip(modalities, (1.0, 0.5, 2.0), strict=False))
    model = build(
        split, reg_weight=3.0, content_reg_weight=0.4, content_share=0.3, modalities=modalities,
        modality_weights=shares, rank=rank,
    )  # fmt: skip
    expected = 0.7 * ease(interactions(split).numpy(), 3.0) + 0.3 * ease(content(split, shares), 0.4)
    np.testing.assert_allclose(spelled_out(model), expected, atol=2e-5)


def test_an_item_without_content_is_spoken_for_by_interactions_alone(split: Split):
    bare = np.flatnonzero(~split.data.features["text"].present)
    assert len(bare) == 1
    b = spelled_out(build(split, reg_weight=3.0, content_share=0.3, modalities=("text",)))
    expected = 0.7 * ease(interactions(split).numpy(), 3.0)
    np.testing.assert_allclose(b[bare], expected[bare], atol=1e-5)
    np.testing.assert_allclose(b[:, bare], expected[:, bare], atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"reg_weight": 20.0},
        {"content_reg_weight": 5.0},
        {"content_share": 0.2},
        {"modalities": ("text",)},
        {"modality_weights": {"image": 1.0, "text": 3.0, "sound": 1.0}},
        {"rank": 3},
    ],
)
def test_every_setting_counts(split: Split, changed: dict):
    usual = {"reg_weight": 3.0, "content_reg_weight": 0.4}
    difference = spelled_out(build(split, **usual)) - spelled_out(build(split, **{**usual, **changed}))
    assert np.abs(difference).max() > 1e-3


def test_settings_that_cannot_be_are_refused(split: Split):
    for settings in ({"content_reg_weight": 0.0}, {"content_share": 1.1}, {"embedding_dim": 8}):
        with pytest.raises(ConfigError):
            make_config(AddEASEConfig, settings)
    with pytest.raises(ConfigError, match="modality_weights names image"):
        build(split, modality_weights={"image": 1.0})
