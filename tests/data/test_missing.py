from dataclasses import replace

import numpy as np
import pytest

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import Interactions
from triptych.data.missing import fill_missing
from triptych.data.split import Split
from triptych.errors import ConfigError

# Training: user 0 has items 0, 1, 2; user 1 items 0, 2; user 2 items 2, 3; user 3 item 4; user 4 items 3, 5.
# User 3 gets item 1 in test. Items 2, 3, 4 and 5 lack pictures.
TRAIN = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 2), (2, 3), (3, 4), (4, 3), (4, 5)]
TEST = [(3, 1)]


def split(rows=TRAIN + TEST):
    users, items = np.array(rows).T
    label = np.array([0] * len(TRAIN) + [2] * (len(rows) - len(TRAIN)), dtype=np.int8)
    interactions = Interactions.from_ids(users, items, label=label)
    present = np.array([True, True, False, False, False, False])
    values = np.array([[1.0, 0.0], [0.0, 3.0], *[[9.0, 9.0]] * 4])
    data = Dataset.from_interactions("shop", interactions)
    return Split.by_label(replace(data, features={"image": ItemFeatures.dense(values, present, "photos")}))


def filled(filling, whole=None):
    return fill_missing(whole or split(), filling).data.features["image"]


def test_leaving_changes_nothing():
    whole = split()
    assert fill_missing(whole, "leave") is whole


def test_zero_and_mean():
    zero = filled("zero")
    assert zero.present.all()
    assert zero.values[2:].tolist() == [[0, 0]] * 4
    assert filled("mean").values.tolist() == [[1, 0], [0, 3], *[[0.5, 1.5]] * 4]
    assert "photos; 4 missing rows filled: mean" in filled("mean").source


def test_neighbours_are_items_with_common_users_weighted_and_in_two_rounds():
    rows = filled("neighbors").values
    # item 2 shares users 0 and 1 with item 0 (degree 2) and user 0 with item 1 (degree 1)
    a, b = 2 / np.sqrt(2), 1 / np.sqrt(1)
    second = (a * np.array([1, 0]) + b * np.array([0, 3])) / (a + b)
    assert rows[2] == pytest.approx(second)
    assert rows[3] == pytest.approx(second)  # by item 2, its only neighbour with a row, in the second round
    assert rows[4].tolist() == [0.5, 1.5]  # no neighbour at all: the mean
    assert rows[5].tolist() == [0.5, 1.5]  # three steps away: the mean
    assert rows[:2].tolist() == [[1, 0], [0, 3]]


def test_test_interactions_tell_nothing():
    """Item 4 shares user 3 with item 1 in the test part only; without that pair the rows are the same."""
    with_test, without = filled("neighbors"), filled("neighbors", split(TRAIN))
    assert (with_test.values == without.values).all()


def test_the_split_stays_and_says_so():
    whole = split()
    after = fill_missing(whole, "mean")
    assert (after.part == whole.part).all()
    assert after.protocol == {**whole.protocol, "missing": "mean"}
    assert after.content_hash != whole.content_hash
    assert not whole.data.features["image"].present.all()


def test_graphs_and_whole_modalities_stay_as_they_are():
    whole = split()
    graph = ItemGraph.from_edges(np.array([0]), np.array([1]), np.array([1.0]), 6)
    given = {
        "text": ItemFeatures(present=np.array([True, True] + [False] * 4), graph=graph),
        "audio": ItemFeatures.dense(np.ones((6, 1))),
    }
    data = replace(whole.data, features=given)
    after = fill_missing(replace(whole, data=data), "mean").data.features
    assert after["text"] is given["text"]
    assert after["audio"] is given["audio"]


def test_an_unknown_filling_is_named():
    with pytest.raises(ConfigError, match=r"--missing neighbours.*Did you mean 'neighbors'"):
        fill_missing(split(), "neighbours")
