import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data import statistics
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import Interactions
from triptych.data.statistics import (
    CURVE_POINTS,
    degrees,
    describe,
    feature_values,
    missing,
    neighbors,
    parts,
    popularity,
    rating_values,
    texts,
    times,
)


def bought(counts):
    """Items with the given numbers of interactions, each by a user of its own."""
    item = np.repeat(np.arange(len(counts)), counts)
    return Interactions.from_ids(np.arange(len(item)), item)


def toy():
    """Three users, four items; items 10 and 20 were bought twice, 30 and 40 once."""
    pairs = Interactions.from_ids(
        np.array([0, 0, 0, 1, 1, 2]),
        np.array([10, 20, 30, 10, 20, 40]),
        rating=np.array([5.0, 4.0, 4.0, 1.0, 4.0, 5.0]),
        timestamp=86_400.0 * np.array([19_723, 20_000, 20_001, 20_002, 20_003, 20_088]),
        label=np.array([0, 1, 2, 0, 0, -1], dtype=np.int8),
    )
    table = pl.DataFrame({"item_id": [10, 20, 30, 40], "title": ["Red mug", "Lamp", None, "  "]})
    image = ItemFeatures.dense(
        np.array([[3.0, 4.0], [4.0, 3.0], [9.0, 9.0], [-4.0, 3.0]]),
        np.array([True, True, False, True]),
        "a.npy",
    )
    graph = ItemGraph.from_edges(
        np.array([0, 0, 0, 3]), np.array([0, 1, 2, 3]), np.array([9.0, 0.5, 0.75, 1.0]), 4
    )
    text = ItemFeatures(np.array([True, True, False, False]), graph=graph, source="graph")
    return Dataset("toy", pairs, table, {"image": image, "text": text})


def test_counts_of_the_toy():
    facts = describe(toy())
    assert (facts["name"], facts["users"], facts["items"], facts["interactions"]) == ("toy", 3, 4, 6)
    assert (facts["density"], facts["sparsity"]) == (0.5, 0.5)
    assert facts["hash"] == toy().content_hash
    assert facts["interactions_per_user"] == {"min": 1, "median": 2.0, "max": 3}
    assert facts["interactions_per_item"] == {"min": 1, "median": 1.5, "max": 2}
    assert (facts["ratings"], facts["timestamps"]) == (True, True)
    assert facts["labels"] == {"train": 3, "valid": 1, "test": 1, "left_out": 1}
    assert facts["item_columns"] == ["item_id", "title"]
    assert facts["modalities"] == {
        "image": {"dim": 2, "graph_edges": None, "coverage": 0.75, "source": "a.npy"},
        "text": {"dim": None, "graph_edges": 4, "coverage": 0.5, "source": "graph"},
    }


def test_what_is_not_there_is_none():
    facts = describe(Dataset.from_interactions("bare", bought([2, 1])))
    for group in ("labels", "parts", "rating_values", "times"):
        assert facts[group] is None
    assert (facts["ratings"], facts["timestamps"]) == (False, False)
    for group in ("modalities", "texts", "features", "neighbors"):
        assert facts[group] == {}
    assert facts["missing"] == {"modalities": {}, "items_without_any": 2}


def test_facts_are_plain_json(shop: Dataset):
    for data in (toy(), shop, Dataset.from_interactions("one", bought([1]))):
        facts = describe(data)
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert describe(data) == facts


def test_degrees_by_hand():
    facts = degrees(np.repeat(np.arange(5), [1, 1, 2, 3, 5]), 5)
    assert facts["histogram"] == [[1, 1, 2], [2, 2, 1], [3, 3, 1], [4, 4, 0], [5, 5, 1]]
    del facts["histogram"]
    assert facts == {"min": 1, "p25": 1.0, "median": 2.0, "p75": 3.0, "p90": pytest.approx(4.2),
                     "p99": pytest.approx(4.92), "max": 5, "mean": 2.4}  # fmt: skip


def test_bars_grow_by_half_where_numbers_are_far_apart():
    bars = degrees(np.repeat(np.arange(4), [1, 4, 40, 60]), 4)["histogram"]
    assert [first for first, _, _ in bars] == [1, 2, 3, 5, 8, 12, 18, 27, 41]
    assert [n for _, _, n in bars] == [1, 0, 1, 0, 0, 0, 0, 1, 1]
    assert bars[-1] == [41, 61, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 12), st.integers(1, 3000)), min_size=1, max_size=30))
def test_histograms_hold_every_one_once(counts):
    bars = degrees(np.repeat(np.arange(len(counts)), counts), len(counts))["histogram"]
    assert bars[0][0] == min(counts)
    assert bars[-1][0] <= max(counts) <= bars[-1][1]
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bars))
    assert [n for _, _, n in bars] == [sum(first <= c <= last for c in counts) for first, last, _ in bars]
    widths = [last - first + 1 for first, last, _ in bars]
    assert widths == sorted(widths)
    if max(counts) - min(counts) > statistics.SINGLE_VALUES:
        assert len(bars) <= 2 + np.log(max(counts) / min(counts)) / np.log(1.5)


def test_popularity_by_hand():
    facts = popularity(bought([1, 1, 2, 6]))
    # one item is 1 %, 5 %, 10 % and 20 % of four, rounded up
    assert facts["top"] == {"1": 0.6, "5": 0.6, "10": 0.6, "20": 0.6}
    assert facts["gini"] == pytest.approx(0.4)
    assert facts["curve"] == [[0, 0], [0.25, 0.1], [0.5, 0.2], [0.75, 0.4], [1, 1]]
    assert popularity(bought([*range(1, 11)]))["top"] == {
        "1": 10 / 55,
        "5": 10 / 55,
        "10": 10 / 55,
        "20": 19 / 55,
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=120))
def test_popularity_against_the_double_sum_and_the_sorted_list(counts):
    facts, total, n = popularity(bought(counts)), sum(counts), len(counts)
    differences = sum(abs(one - other) for one in counts for other in counts)
    assert facts["gini"] == pytest.approx(differences / (2 * n * total), abs=1e-12)
    falling = sorted(counts, reverse=True)
    for percent, share in facts["top"].items():
        n_top = min(k for k in range(1, n + 1) if 100 * k >= int(percent) * n)
        assert share == pytest.approx(sum(falling[:n_top]) / total)
    assert len(facts["curve"]) == n + 1 if n < CURVE_POINTS else len(facts["curve"]) <= CURVE_POINTS
    assert (facts["curve"][0], facts["curve"][-1]) == ([0, 0], [1, 1])
    for x, y in facts["curve"]:
        k = round(x * n)
        assert x == pytest.approx(k / n)
        assert y == pytest.approx(sum(sorted(counts)[:k]) / total)


def test_a_long_curve_is_thinned_without_losing_its_bend():
    curve = np.array(popularity(bought([1] * 2000 + [500] * 4))["curve"])
    assert len(curve) <= CURVE_POINTS
    assert (np.diff(curve, axis=0).sum(axis=1) > 0).all()
    steep = (curve[:, 0] > 0.995) & (curve[:, 0] < 1)
    assert steep.sum() >= 2  # points at even steps of x would have none there


def test_ratings_by_hand():
    facts = rating_values(toy().interactions)
    assert facts["histogram"] == [[1.0, 1.0, 1], [4.0, 4.0, 3], [5.0, 5.0, 2]]
    assert (facts["min"], facts["median"], facts["max"]) == (1.0, 4.0, 5.0)
    assert facts["mean"] == pytest.approx(23 / 6)


def test_ratings_of_many_values_share_bars():
    pairs = bought([1] * 101)
    bars = rating_values(replace(pairs, rating=np.arange(101) / 10))["histogram"]
    assert [n for _, _, n in bars] == [10] * 9 + [11]
    assert [bars[0][0], bars[0][1], bars[-1][1]] == [0.0, 1.0, 10.0]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([1_704_067_200, 1_735_689_599], {"first": "2024-01-01", "last": "2024-12-31", "unit": "seconds"}),
        ([1_704_067_200_000] * 2, {"first": "2024-01-01", "last": "2024-01-01", "unit": "milliseconds"}),
        ([0, 1_704_067_200], {"first": 0.0, "last": 1_704_067_200.0, "unit": None}),
        ([1_704_067_200, 1_704_067_200_000], {"first": 1_704_067_200.0, "last": 1_704_067_200_000.0, "unit": None}),
        ([-3.5, 7], {"first": -3.5, "last": 7.0, "unit": None}),
    ],
)  # fmt: skip
def test_times_are_dates_where_they_look_like_it(stamps, expected):
    assert times(replace(bought([1, 1]), timestamp=np.array(stamps, dtype=np.float64))) == expected


def test_parts_by_hand():
    assert parts(toy().interactions) == {
        "train": {"interactions": 3, "users": 2, "items": 2},
        "valid": {"interactions": 1, "users": 1, "items": 1},
        "test": {"interactions": 1, "users": 1, "items": 1},
        "left_out": {"interactions": 1, "users": 1, "items": 1},
    }


def test_missing_by_hand():
    assert missing(toy()) == {
        "modalities": {
            "image": {"items": 1, "of_items": 0.25, "of_interactions": pytest.approx(1 / 6)},
            "text": {"items": 2, "of_items": 0.5, "of_interactions": pytest.approx(2 / 6)},
        },
        "items_without_any": 1,
    }


def test_texts_by_hand():
    table = pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": [" one two ", None, " \n", "drei"],
            "brand": pl.Series([None] * 4, dtype=pl.String),
            "shelf": pl.Series(["x", "x", "yy", None], dtype=pl.Categorical),
            "price": [1, 2, 3, 4],
        }
    )
    assert texts(table) == {
        "title": {
            "empty": 0.5,
            "characters": {"median": 5.5, "p90": 6.7, "max": 7},
            "words": {"median": 1.5, "p90": 1.9, "max": 2},
        },
        "brand": {"empty": 1.0, "characters": None, "words": None},
        "shelf": {
            "empty": 0.25,
            "characters": {"median": 1.0, "p90": 1.8, "max": 2},
            "words": {"median": 1.0, "p90": 1.0, "max": 1},
        },
    }
    assert texts(pl.DataFrame({"title": ["日本 茶"]}))["title"]["characters"]["max"] == 4


def test_feature_values_by_hand():
    rows = np.array(
        [[3, 4, 7], [0, 0, 0], [3, 4, 7], [-0.0, 0, 7], [0, 0, 7], [99, 99, 99]], dtype=np.float32
    )
    present = np.array([True, True, True, True, True, False])
    facts = feature_values(ItemFeatures.dense(rows[:, :2], present))
    assert (facts["norm"]["min"], facts["norm"]["median"], facts["norm"]["max"]) == (0.0, 0.0, 5.0)
    assert facts["norm"]["mean"] == 2.0
    assert facts["zero_rows"] == 0.6
    assert facts["repeated_rows"] == 0.2
    assert facts["constant_columns"] == 0
    facts = feature_values(ItemFeatures.dense(rows[3:, :], present[3:]))
    # of the two present rows one repeats the other, for -0.0 is 0.0; what absent items hold does not count
    assert (facts["zero_rows"], facts["repeated_rows"], facts["constant_columns"]) == (0.0, 0.5, 3)


def test_no_dense_rows_have_no_values():
    assert feature_values(toy().features["text"]) is None
    assert feature_values(ItemFeatures.dense(np.ones((3, 2)), np.zeros(3, dtype=bool))) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_blocks_change_nothing(seed):
    rng = np.random.default_rng(seed)
    n, width = rng.integers(1, 40), rng.integers(1, 4)
    features = ItemFeatures.dense(rng.integers(-1, 2, (n, width)), rng.random(n) < 0.8)
    data = Dataset(
        "x", bought(rng.integers(1, 5, n)), pl.DataFrame({"item_id": range(n)}), {"image": features}
    )
    whole, near = feature_values(features), neighbors(data, n_examples=3, n_neighbors=4, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_BLOCK_ENTRIES", 5)
        assert feature_values(features) == whole
        again = neighbors(data, n_examples=3, n_neighbors=4, seed=0)
    assert [e["item_id"] for e in again["image"]["examples"]] == [
        e["item_id"] for e in near["image"]["examples"]
    ]
    rows = features.values[features.present].astype(int)
    if len(rows):
        pointing = [tuple(row) for row in rows if row.any()]
        assert whole["zero_rows"] == pytest.approx(1 - len(pointing) / len(rows))
        assert whole["repeated_rows"] == pytest.approx((len(pointing) - len(set(pointing))) / len(rows))
        assert whole["constant_columns"] == sum(len(set(column)) == 1 for column in rows.T)


def test_neighbors_by_hand():
    found = neighbors(toy(), n_examples=9, n_neighbors=2, seed=0)
    assert found["image"]["by"] == "cosine"
    by_item = {example["item_id"]: example for example in found["image"]["examples"]}
    assert list(by_item)[2] == 40  # the least popular comes last
    assert set(by_item) == {10, 20, 40}
    assert by_item[10]["title"] == "Red mug"
    assert by_item[10]["neighbors"] == [
        {"item_id": 20, "title": "Lamp", "similarity": pytest.approx(0.96)},
        {"item_id": 40, "title": "  ", "similarity": pytest.approx(0.0)},
    ]
    assert [other["item_id"] for other in by_item[40]["neighbors"]] == [10, 20]
    assert by_item[40]["neighbors"][1]["similarity"] == pytest.approx(-0.28)
    # item 40 has only an edge to itself; item 10's is heavier than those to others, and left out
    assert found["text"] == {
        "by": "given graph",
        "examples": [
            {
                "item_id": 10,
                "title": "Red mug",
                "neighbors": [
                    {"item_id": 30, "title": "", "similarity": 0.75},
                    {"item_id": 20, "title": "Lamp", "similarity": 0.5},
                ],
            }
        ],
    }


@pytest.mark.parametrize("seed", range(5))
def test_neighbors_against_the_whole_matrix(seed):
    rng = np.random.default_rng(seed)
    n = 60
    values, present = rng.normal(size=(n, 5)), rng.random(n) < 0.8
    values[7] = 0
    counts = rng.integers(1, 30, n)
    data = Dataset(
        "x",
        bought(counts),
        pl.DataFrame({"item_id": range(n)}),
        {"audio": ItemFeatures.dense(values, present)},
    )
    able = [item for item in range(n) if present[item] and item != 7]
    unit = values.astype(np.float32).astype(np.float64)
    unit[able] /= np.linalg.norm(unit[able], axis=1)[:, None]
    examples = neighbors(data, n_examples=4, n_neighbors=5, seed=seed)["audio"]["examples"]
    assert len({example["item_id"] for example in examples}) == 4
    popular = sorted((counts[item] for item in able), reverse=True)[: max(4, -(-len(able) // 10))]
    for example in examples:
        item = example["item_id"]
        assert example["title"] is None
        assert item in able
        assert counts[item] >= popular[-1]
        expected = sorted(
            (other for other in able if other != item), key=lambda other: -unit[item] @ unit[other]
        )
        assert [near["item_id"] for near in example["neighbors"]] == expected[:5]
        for near in example["neighbors"]:
            assert near["similarity"] == pytest.approx(unit[item] @ unit[near["item_id"]])


def test_the_seed_chooses_the_examples_and_modalities_share_them(shop: Dataset):
    chosen = {
        seed: {name: [example["item_id"] for example in near["examples"]] for name, near in found.items()}
        for seed in range(3)
        for found in [neighbors(shop, n_examples=4, n_neighbors=1, seed=seed)]
    }
    assert len({tuple(lists["image"]) for lists in chosen.values()}) == 3
    for lists in chosen.values():
        assert len(set(lists["image"]) & set(lists["text"])) >= 2
    without = [{k: v for k, v in describe(shop, seed=s).items() if k != "neighbors"} for s in (0, 1)]
    assert without[0] == without[1]


def test_few_or_no_neighbors():
    data = Dataset(
        "x", bought([1]), pl.DataFrame({"item_id": [0]}), {"image": ItemFeatures.dense(np.ones((1, 2)))}
    )
    assert neighbors(data, n_examples=4, n_neighbors=5, seed=0)["image"]["examples"] == [
        {"item_id": 0, "title": None, "neighbors": []}
    ]
    nothing = replace(data, features={"image": ItemFeatures.dense(np.zeros((1, 2)))})
    assert neighbors(nothing, n_examples=4, n_neighbors=5, seed=0)["image"]["examples"] == []
    assert neighbors(data, n_examples=0, n_neighbors=5, seed=0)["image"]["examples"] == []
