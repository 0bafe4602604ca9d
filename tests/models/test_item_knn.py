"""Item kNN keeps the contract, and adds up similarities as one would by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import spelled_out

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import Interactions
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs
from triptych.models.item_knn import ItemKNN, ItemKNNConfig
from triptych.models.registry import create_model
from triptych.testing import ScoringContract, toy_dataset


class TestItemKNN(ScoringContract):
    config = ItemKNNConfig(n_neighbors=3)
    reached = 0.1  # of two neighbours of its colour an item has, one user in ten knows one


class TestItemKNNOfManyNeighbors(ScoringContract):
    config = ItemKNNConfig(n_neighbors=8, neighbors_of="history")
    reached = 0.1


def build(split: Split, **settings) -> ItemKNN:
    return create_model(ItemKNNConfig(**settings), ModelInputs.from_split(split))


def plane(features: dict[str, ItemFeatures]) -> Split:
    """Four items, of which user u has items 0 and 1, and user v has the other two; all in training."""
    pairs = Interactions.from_ids(np.array(["u", "u", "v", "v"]), np.array(["a", "b", "c", "d"]))
    data = replace(Dataset.from_interactions("plane", pairs), features=features)
    return Split(data, np.zeros(4, dtype=np.int8))


ANGLES = np.radians([0.0, 10.0, 30.0, 80.0])
LENGTHS = np.array([1.0, 2.0, 1.0, 3.0])
TEXT = ItemFeatures.dense(LENGTHS[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1))


def cosine(first: int, second: int) -> float:
    return float(np.cos(ANGLES[first] - ANGLES[second]))


@pytest.mark.parametrize("neighbors_of", ["candidate", "history"])
def test_by_hand(neighbors_of: str):
    """With one neighbour each: a's is b, b's is a, c's is b, d's is c."""
    model = build(plane({"text": TEXT}), n_neighbors=2, neighbors_of=neighbors_of)
    nearest = np.zeros((4, 4))
    for item, neighbor in ((0, 1), (1, 0), (2, 1), (3, 2)):
        nearest[item, neighbor] = cosine(item, neighbor)
    expected = nearest.T if neighbors_of == "candidate" else nearest
    np.testing.assert_allclose(spelled_out(model), expected, atol=1e-6)
    scores = model.scorer().score(torch.tensor([0, 1]))
    np.testing.assert_allclose(scores[0], expected[0] + expected[1], atol=1e-6)
    np.testing.assert_allclose(scores[1], expected[2] + expected[3], atol=1e-6)


def test_shrinking_trusts_short_rows_less():
    model = build(plane({"text": TEXT}), n_neighbors=2, shrink=4.0)
    product = LENGTHS[3] * LENGTHS[2]
    assert spelled_out(model)[2, 3] == pytest.approx(cosine(2, 3) * product / (product + 4.0), rel=1e-5)


def test_modalities_add_up_by_their_weights():
    """A given graph counts as it is, without links to oneself and to items that lack the modality."""
    row, col, weight = (np.array(part) for part in ([0, 0, 1, 2], [0, 3, 2, 1], [9.0, 0.5, 0.25, 0.125]))
    present = np.array([True, True, True, False])
    image = ItemFeatures(present=present, graph=ItemGraph.from_edges(row, col, weight.astype(np.float32), 4))
    split = plane({"image": image, "text": TEXT})
    both = spelled_out(build(split, n_neighbors=3, modality_weights={"image": 2.0, "text": 0.5}))
    text = spelled_out(build(split, n_neighbors=3, modalities=("text",)))
    graph = np.zeros((4, 4))
    graph[2, 1], graph[1, 2] = 0.25, 0.125  # candidates 1 and 2 look at 2 and 1
    np.testing.assert_allclose(both, 2.0 * graph + 0.5 * text, atol=1e-6)


def test_an_item_that_lacks_content_is_nobodys_neighbor():
    split = Split.by_ratio(toy_dataset(), rng=0)
    weights = spelled_out(build(split, modalities=("text",), n_neighbors=5))
    (bare,) = np.flatnonzero(~split.data.features["text"].present)
    assert not weights[bare].any()
    assert not weights[:, bare].any()
    assert (weights != 0).sum(axis=0).tolist() == [0 if item == bare else 4 for item in range(10)]
    assert not np.diag(weights).any()


@pytest.mark.parametrize(
    "changed",
    [
        {"n_neighbors": 4},
        {"neighbors_of": "history"},
        {"shrink": 1.0},
        {"modalities": ("text",)},
        {"modality_weights": {"image": 1.0, "text": 3.0}},
    ],
)
def test_every_setting_counts(changed: dict):
    split = Split.by_ratio(toy_dataset(), rng=0)
    usual = spelled_out(build(split, n_neighbors=3))
    assert np.abs(spelled_out(build(split, **{"n_neighbors": 3, **changed})) - usual).max() > 1e-3


def test_settings_that_cannot_be_are_refused():
    split = Split.by_ratio(toy_dataset(), rng=0)
    with pytest.raises(ConfigError, match="only 9 items have features"):
        build(split, n_neighbors=10)
    with pytest.raises(ConfigError, match="modality_weights names sound"):
        build(split, n_neighbors=3, modality_weights={"sound": 1.0})
