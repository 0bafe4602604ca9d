"""What lists are like beside right: by hand, and beside plain loops over users and items."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import TEST, TRAIN, VALID, Interactions
from triptych.data.split import Pairs, Split
from triptych.errors import ConfigError, DataError, StorageError
from triptych.evaluation import beyond
from triptych.evaluation.beyond import (
    POPULARITY_GROUPS,
    accuracy_by_degree,
    coverage,
    diversity,
    exposure,
    gini,
    measure_lists,
    miscalibration,
    novelty,
    popularity,
    popularity_groups,
    popularity_lift,
    recall_by_popularity,
)
from triptych.evaluation.ranking import Ranking, evaluate_ranking, find_hits, rank_lists
from triptych.models.base import ModelInputs
from triptych.runs import beyond as runs_beyond
from triptych.runs import train
from triptych.runs.beyond import measure_beyond
from triptych.runs.rebuild import rebuild
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig

NAN = math.nan
LISTS = np.array([[0, 1, 2], [0, 3, -1], [-1, -1, -1]])
TAKEN = np.array([8, 4, 2, 0, 2])  # training interactions of five items


def integer(rows):
    return np.array(rows, dtype=np.int64)


def random_world(seed, n_users=30, n_items=24, k=6):
    """A split, random vectors, and features of three modalities, one of them a graph alone."""
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, n_items + 1)
    known = {}
    for user in range(n_users):
        size = rng.integers(3, n_items)
        for place, item in enumerate(rng.choice(n_items, size, replace=False, p=weight / weight.sum())):
            known[user, int(item)] = {0: TEST, 1: VALID}.get(place, TRAIN)
    for item in range(n_items):  # every item occurs, some in test alone
        known.setdefault((item % n_users, item), TEST)
    for user in range(n_items):
        known[user, n_items] = TEST  # one that nobody trained with
    user, item = np.array(sorted(known)).T
    n_items += 1
    edges = ItemGraph.from_edges(integer([0]), integer([1]), np.ones(1, np.float32), n_items)
    features = {
        "image": ItemFeatures.dense(rng.normal(size=(n_items, 7)), rng.random(n_items) < 0.7),
        "text": ItemFeatures.dense(rng.normal(size=(n_items, 3))),
        "bought": ItemFeatures(present=np.ones(n_items, bool), graph=edges),
    }
    data = replace(Dataset.from_interactions("toy", Interactions.from_ids(user, item)), features=features)
    split = Split(data, np.array([known[pair] for pair in sorted(known)], dtype=np.int8))
    scorer = EmbeddingScorer(
        Embeddings(*(torch.from_numpy(rng.normal(size=(n, 4)) + 0.5) for n in (split.n_users, split.n_items)))
    )
    users = np.unique(split.test.user)
    return split, scorer, users, rank_lists(scorer, split, users, k)


def items_of(pairs, user):
    return pairs.item[pairs.user == user].tolist()


# Coverage and exposure


def test_coverage_and_exposure_by_hand():
    assert exposure(LISTS, 5).tolist() == [2, 1, 1, 1, 0]
    assert coverage(LISTS, 5) == 4 / 5
    assert coverage(np.full((2, 3), -1), 5) == 0.0


def test_gini_by_hand():
    assert gini(integer([3, 3, 3])) == 0.0
    assert gini(integer([0, 0, 0, 9])) == 3 / 4
    assert gini(integer([1, 3])) == 1 / 4  # mean difference of all pairs 1, over twice the mean 2
    assert gini(integer([0, 0])) == 0.0


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 50)), st.integers(1, 9))
def test_gini_is_half_the_relative_mean_difference(amounts, factor):
    found = gini(amounts)
    n = len(amounts)
    assert 0 <= found <= (n - 1) / n + 1e-12
    if amounts.sum():
        apart = sum(abs(a - b) for a in amounts.tolist() for b in amounts.tolist())
        assert found == pytest.approx(apart / (2 * n * amounts.sum()))
    assert gini(amounts * factor) == pytest.approx(found)
    assert gini(amounts[::-1]) == pytest.approx(found)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(8, 20))
def test_the_same_list_for_all_covers_one_list(n_users, k, n_items):
    lists = np.tile(np.random.default_rng(0).permutation(n_items)[:k], (n_users, 1))
    assert coverage(lists, n_items) == k / n_items
    assert gini(exposure(lists, n_items)) == pytest.approx(1 - k / n_items)  # k items share it all


# Novelty and popularity


def test_novelty_by_hand():
    # shares 1/2, 1/4, 1/8, an untaken item as if 1/16: 1, 2, 3 and 4 bits
    np.testing.assert_allclose(novelty(LISTS, TAKEN), [2.0, 2.5, NAN])


def test_popularity_by_hand():
    np.testing.assert_allclose(popularity(LISTS, TAKEN), [14 / 3, 4.0, NAN])


def test_popularity_lift_by_hand():
    history = Pairs(integer([0, 0, 1, 2]), integer([1, 2, 2, 0]))
    # lists 14/3 and 4, histories 3 and 2; the third user has no list and does not count
    assert popularity_lift(LISTS, history, TAKEN) == pytest.approx((14 / 3 + 4) / 5 - 1)
    assert popularity_lift(integer([[1, 2]]), Pairs(integer([0, 0]), integer([2, 1])), TAKEN) == 0.0
    nobody = Pairs(integer([]), integer([]))
    assert np.isnan(popularity_lift(LISTS, nobody, TAKEN))


# Diversity


def test_diversity_by_hand():
    values = np.array([[2, 0], [0, 3], [-1, 0], [0, 0], [5, 0]], dtype=np.float32)
    lists = integer([[0, 1, -1], [0, 2, -1], [0, 1, 2], [0, 4, 3], [3, 0, -1], [-1, -1, -1]])
    # right angles; opposites; 0, -1 and 0; equal, beside one without direction; none to compare with
    np.testing.assert_allclose(diversity(lists, values), [1, 2, 4 / 3, 0, NAN, NAN], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 1000))
def test_diversity_of_equal_vectors_is_zero(k, width, seed):
    rng = np.random.default_rng(seed)
    one = rng.normal(size=width)
    values = (rng.uniform(0.1, 50, size=(10, 1)) * one).astype(np.float32)
    lists = np.stack([rng.permutation(10)[:k] for _ in range(4)])
    np.testing.assert_allclose(diversity(lists, values), 0, atol=1e-6)  # float32 knows them no better
    values = np.tile(values[:1], (10, 1))
    np.testing.assert_allclose(diversity(lists, values), 0, atol=1e-12)


def slow_diversity(lists, values):
    found = []
    for items in lists.tolist():
        rows = [values[i].astype(float) for i in items if i >= 0 and values[i].any()]
        cosines = [a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in combinations(rows, 2)]
        found.append(1 - sum(cosines) / len(cosines) if cosines else NAN)
    return found


@pytest.mark.parametrize("entries", [1, 100, 1 << 22])
def test_diversity_agrees_with_all_pairs(entries, monkeypatch):
    monkeypatch.setattr(beyond, "_BLOCK_ENTRIES", entries)
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20, 11)).astype(np.float32)
    values[rng.random(20) < 0.4] = 0
    lists = np.stack([rng.permutation(20)[:7] for _ in range(30)])
    for row, length in enumerate(rng.integers(0, 8, size=30)):
        lists[row, length:] = -1
    expected = slow_diversity(lists, values)
    assert np.isnan(expected).any()
    np.testing.assert_allclose(diversity(lists, values), expected, atol=1e-12)


# Calibration


def test_miscalibration_by_hand():
    groups = integer([0, 0, 1, 1, 2])
    history = Pairs(integer([0, 0, 1, 1, 1, 1, 2]), integer([0, 2, 0, 1, 0, 2, 4]))
    lists = integer([[1, 3], [2, 3], [-1, -1], [0, 1]])
    # half and half in both; three quarters against none; no list; no history
    far = 0.75 * math.log(0.75 / (0.01 * 0.75)) + 0.25 * math.log(0.25 / (0.99 + 0.0025))
    np.testing.assert_allclose(miscalibration(lists, history, groups), [0, far, NAN, NAN], atol=1e-12)
    softer = 0.75 * math.log(2) + 0.25 * math.log(0.25 / (0.5 + 0.125))
    found = miscalibration(lists, history, groups, smoothing=0.5)
    np.testing.assert_allclose(found, [0, softer, NAN, NAN], atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.integers(0, 11)),
    hnp.arrays(np.int64, 12, elements=st.integers(0, 3)),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 11)), max_size=30),
    st.integers(1, 3),
)
def test_miscalibration_is_a_divergence(lists, groups, history, repeats):
    taken = integer([pair for pair in history if pair[0] < len(lists)]).reshape(-1, 2)
    pairs = Pairs(taken[:, 0], taken[:, 1])
    found = miscalibration(lists, pairs, groups)
    assert (np.isnan(found) == ~np.isin(np.arange(len(lists)), pairs.user)).all()
    known = found[~np.isnan(found)]
    assert (known >= -1e-12).all()
    assert (known <= -math.log(0.01) + 1e-12).all()
    # a history of the same shares, whatever its length
    row = np.repeat(np.arange(len(lists)), lists.shape[1] * repeats)
    same = Pairs(row, np.tile(lists, (1, repeats)).ravel())
    np.testing.assert_allclose(miscalibration(lists, same, groups), 0, atol=1e-12)


# Groups of items and users


def names(taken):
    return [POPULARITY_GROUPS[number] for number in popularity_groups(integer(taken))]


def test_popularity_groups_by_hand():
    # 20 interactions: 5 on the head (4 would do), 1 + 1 + 2 = 4 on the tail
    assert names([3, 5, 1, 0, 4, 1, 4, 2]) == ["mid", "head", "tail", "cold", "mid", "tail", "mid", "tail"]
    # equally popular items are not parted: both of 4 are head, though one would do
    assert names([4, 3, 3, 2, 4, 2, 2]) == ["head", "mid", "mid", "tail", "head", "tail", "tail"]
    assert names([9, 1]) == ["head", "tail"]
    assert names([9, 0]) == ["head", "cold"]
    assert names([2, 2, 2]) == ["head"] * 3


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 12)), st.randoms(use_true_random=False)
)
def test_popularity_groups_hold_what_they_should(taken, random):
    group = popularity_groups(taken)
    head, mid, tail, cold = (taken[group == number] for number in range(4))
    assert (cold == 0).all()
    assert (np.concatenate([head, mid, tail]) > 0).all()
    total = taken.sum()
    if total:
        assert head.sum() >= total / 5  # and no less would do:
        assert head[head > head.min()].sum() < total / 5
        assert len(mid) == 0 or tail.sum() >= total / 5
        assert len(tail) == 0 or tail[tail < tail.max()].sum() < total / 5
    for more, less in ((head, mid), (mid, tail), (head, tail)):
        assert not len(more) or not len(less) or more.min() > less.max()
    order = list(range(len(taken)))
    random.shuffle(order)
    np.testing.assert_array_equal(popularity_groups(taken[order]), group[order])


def degree_world(degrees):
    """Users with so many training items each, and one test item."""
    n_items = max(degrees) + 1
    pairs = [(user, item) for user, degree in enumerate(degrees) for item in range(degree + 1)]
    user, item = np.array(pairs).T
    part = [TEST if item == degrees[user] else TRAIN for user, item in pairs]
    split = Split(
        Dataset.from_interactions("toy", Interactions.from_ids(user, item)), np.array(part, np.int8)
    )
    assert split.n_items == n_items
    return split


def test_users_are_grouped_by_degree():
    split = degree_world([1, 9, 2, 2, 5, 1, 3, 4, 1])
    users = np.arange(1, 9)  # the first is not measured
    ranking = Ranking(users, {"recall@2": users / 10, "hit@2": users * 1.0}, {})
    found = accuracy_by_degree(ranking, split, n_groups=4)
    # degrees 9 2 2 5 1 3 4 1, so 1 1 | 2 2 | 3 4 | 5 9
    assert [(group.name, group.n_users) for group in found] == [("1", 2), ("2", 2), ("3-4", 2), ("5-9", 2)]
    assert [group.mean["hit@2"] for group in found] == [(5 + 8) / 2, (2 + 3) / 2, (6 + 7) / 2, (1 + 4) / 2]
    assert found[0].mean["recall@2"] == pytest.approx(0.65)
    (everyone,) = accuracy_by_degree(ranking, split, n_groups=1)
    assert (everyone.name, everyone.n_users, everyone.mean["hit@2"]) == ("1-9", 8, 4.5)
    assert json.loads(json.dumps([asdict(group) for group in found]))[2]["name"] == "3-4"


def test_users_of_one_degree_are_never_parted():
    split = degree_world([2] * 7 + [3, 6])
    ranking = Ranking(np.arange(9), {"hit@1": np.ones(9)}, {})
    found = accuracy_by_degree(ranking, split, n_groups=4)
    assert [(group.name, group.n_users) for group in found] == [("2", 7), ("3-6", 2)]


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_by_degree_is_the_whole_in_parts(seed):
    split, scorer, _, _ = random_world(seed)
    ranking = evaluate_ranking(scorer, split, "test", (3,))
    found = accuracy_by_degree(ranking, split)
    assert sum(group.n_users for group in found) == len(ranking.users)
    for name, mean in ranking.mean().items():
        whole = sum(group.n_users * group.mean[name] for group in found) / len(ranking.users)
        assert whole == pytest.approx(mean)
    ends = [int(end) for group in found for end in group.name.split("-")]
    assert ends == sorted(ends)


def slow_recall_by_popularity(lists, users, split, part):
    taken = Counter(split.train.item.tolist())
    group = names([taken[item] for item in range(split.n_items)])
    found = {}
    for name in POPULARITY_GROUPS:
        recalls = []
        for user, items in zip(users.tolist(), lists.tolist(), strict=True):
            wanted = {item for item in items_of(split.pairs(part), user) if group[item] == name}
            if wanted:
                recalls.append(len(wanted & set(items)) / len(wanted))
        if recalls:
            found[name] = (len(recalls), sum(recalls) / len(recalls))
    return found


@pytest.mark.parametrize("part", ["test", "valid"])
@pytest.mark.parametrize("seed", range(3))
def test_recall_by_popularity_agrees_with_a_slow_one(seed, part):
    split, _, users, lists = random_world(seed)
    users, lists = users[::-1], lists[::-1]  # in any order
    found = recall_by_popularity(lists, users, split, part)
    expected = slow_recall_by_popularity(lists, users, split, part)
    assert {group.name: group.n_users for group in found} == {name: n for name, (n, _) in expected.items()}
    for group in found:
        assert group.mean == {"recall@6": pytest.approx(expected[group.name][1])}
    assert part == "valid" or {"head", "cold"} <= expected.keys()


def test_recall_of_cold_items_is_seen():
    # item 2 is in no training interaction; of users 0 and 1 who want it one finds it
    split = degree_world([2, 2, 1])
    assert np.bincount(split.train.item, minlength=3).tolist() == [3, 2, 0]
    found = recall_by_popularity(integer([[2, -1], [1, -1], [1, -1]]), np.arange(3), split)
    assert [(group.name, group.n_users, group.mean) for group in found] == [
        ("tail", 1, {"recall@2": 1.0}),
        ("cold", 2, {"recall@2": 0.5}),
    ]


# All together


def slow_measures(lists, users, split, features):
    """As the definitions say, user by user."""
    taken = [items_of(Pairs(split.train.item, split.train.user), item) for item in range(split.n_items)]
    count = [len(of_item) for of_item in taken]
    group = names(count)
    by_user = {name: [] for name in ("novelty", "popularity", "taken", "miscalibration")}
    for user, listed in zip(users.tolist(), lists.tolist(), strict=True):
        items, history = [item for item in listed if item >= 0], items_of(split.train, user)
        if items:
            bits = [-math.log2(max(count[item], 1) / sum(count)) for item in items]
            by_user["novelty"].append(sum(bits) / len(items))
            by_user["popularity"].append(sum(count[item] for item in items) / len(items))
        if items and history:
            by_user["taken"].append(sum(count[item] for item in history) / len(history))
            divergence = 0.0
            for name in POPULARITY_GROUPS:
                p = sum(group[item] == name for item in history) / len(history)
                q = sum(group[item] == name for item in items) / len(items)
                divergence += p * math.log(p / (0.99 * q + 0.01 * p)) if p else 0.0
            by_user["miscalibration"].append(divergence)
    mean = {name: float(np.mean(values)) for name, values in by_user.items()}
    shown = Counter(item for listed in lists.tolist() for item in listed if item >= 0)
    amounts = sorted(shown[item] for item in range(split.n_items))
    lorenz = sum(sum(amounts[: i + 1]) for i in range(len(amounts))) / sum(amounts)
    found = {
        "coverage": len(shown) / split.n_items,
        "gini": (split.n_items + 1 - 2 * lorenz) / split.n_items,
        "popularity_lift": mean["popularity"] / mean.pop("taken") - 1,
        **mean,
    }
    for name in ("image", "text"):
        found[f"diversity_{name}"] = float(np.nanmean(slow_diversity(lists, features[name].values)))
    return {f"{name}@{lists.shape[1]}": value for name, value in found.items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 20])
def test_all_measures_agree_with_slow_ones(seed, k):
    split, _, users, lists = random_world(seed, k=k)
    assert (lists < 0).any() == (k == 20)  # where candidates run out
    found = measure_lists(lists, users, split)
    expected = slow_measures(lists, users, split, split.data.features)
    assert found.keys() == expected.keys()  # a graph alone has no directions
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert json.loads(json.dumps(found)) == found
    order = np.random.default_rng(seed).permutation(len(users))
    assert measure_lists(lists[order], users[order], split) == pytest.approx(found)


def test_features_and_groups_can_be_given():
    split, _, users, lists = random_world(0)
    features = {"sound": ItemFeatures.dense(np.ones((split.n_items, 2)))}
    groups = np.arange(split.n_items) % 2
    found = measure_lists(lists, users, split, features=features, groups=groups)
    assert found["diversity_sound@6"] == pytest.approx(0, abs=1e-12)
    assert "diversity_text@6" not in found
    assert found["miscalibration@6"] != measure_lists(lists, users, split)["miscalibration@6"]
    one_group = measure_lists(lists, users, split, groups=np.zeros_like(groups))
    assert one_group["miscalibration@6"] == pytest.approx(0, abs=1e-12)


def test_what_nobody_has_a_figure_of_is_left_out():
    split, _, users, lists = random_world(0)
    absent = {"image": ItemFeatures.dense(np.ones((split.n_items, 2)), np.zeros(split.n_items, bool))}
    assert "diversity_image@6" not in measure_lists(lists, users, split, features=absent)
    alone = measure_lists(lists[:, :1], users, split)
    assert [name for name in alone if name.startswith("diversity")] == []
    assert alone["coverage@1"] > 0


def test_lists_that_belong_to_nobody_are_refused():
    split, _, users, lists = random_world(0)
    twice = users.copy()
    twice[1] = twice[0]
    for wrong in (
        (lists[1:], users),
        (lists, twice),
        (lists[0], users[:1]),
        (np.full_like(lists, -1), users),
    ):
        with pytest.raises(DataError, match="one list for each user"):
            measure_lists(*wrong, split)
        with pytest.raises(DataError, match="one list for each user"):
            recall_by_popularity(*wrong, split)


# The lists themselves


@pytest.mark.parametrize("masked", ["train", "train+valid"])
def test_lists_hold_the_best_items_that_are_not_masked(masked):
    split, scorer, users, _ = random_world(5)
    scores = scorer.score(torch.from_numpy(users)).numpy()
    lists = rank_lists(scorer, split, users, 20, masked=masked, block_size=7)
    assert lists.dtype == np.int64
    for row, user in enumerate(users):
        known = set(items_of(split.train, user))
        if masked == "train+valid":
            known |= set(items_of(split.valid, user))
        best = [item for item in np.argsort(-scores[row], kind="stable").tolist() if item not in known][:20]
        assert lists[row].tolist() == best + [-1] * (20 - len(best))


def test_lists_longer_than_the_catalogue_are_refused():
    split, scorer, users, _ = random_world(5)
    with pytest.raises(ConfigError, match="1 to 25"):
        rank_lists(scorer, split, users, 26)


def test_hits_are_found_for_users_in_any_order():
    lists, users = integer([[2, 0], [1, -1], [2, 1]]), integer([2, 0, 1])
    wanted = Pairs(integer([0, 1, 2, 2]), integer([1, 2, 0, 2]))
    assert find_hits(lists, users, wanted, 3).tolist() == [[True, True], [True, False], [True, False]]
    # "no item" of user 1 is not the last item of user 0
    assert find_hits(integer([[-1]]), integer([1]), Pairs(integer([0]), integer([2])), 3).tolist() == [
        [False]
    ]


# Of a whole run


@pytest.fixture(scope="module")
def run():
    """A run whose items have categories, and features, one of them a graph and one that nobody has."""
    split = random_world(2)[0]
    n_items = split.n_items
    nobody = ItemFeatures.dense(np.ones((n_items, 2)), np.zeros(n_items, bool))
    table = split.data.item_table.with_columns(
        category=pl.Series([None if item == 3 else "ab"[item % 2] for item in range(n_items)])
    )
    data = replace(split.data, item_table=table, features={**split.data.features, "sound": nobody})
    config = TrainConfig(epochs=2, batch_size=64, metric="recall@2")
    return train("mf-bpr", replace(split, data=data), config=config, k=(2, 6), device="cpu")


@pytest.mark.parametrize("on", ["test", "valid"])
def test_a_run_is_measured_as_its_lists_are(run, on):
    found = measure_beyond(run, run.split.data, (6, 2), on=on)
    ranking = evaluate_ranking(run.scorer, run.split, on, (2, 6))
    users = ranking.users
    assert (found.k, found.users, found.part, found.masked) == ((2, 6), len(users), on, "train")
    assert (found.model, found.data, found.groups) == ("mf-bpr", "toy", "popularity")
    expected, by_popularity = {}, {}
    for k in (2, 6):
        lists = rank_lists(run.scorer, run.split, users, k)
        expected |= slow_measures(lists, users, run.split, run.split.data.features)
        for name, (n, recall) in slow_recall_by_popularity(lists, users, run.split, on).items():
            by_popularity.setdefault(name, (n, {}))[1][f"recall@{k}"] = pytest.approx(recall)
    assert found.figures == pytest.approx(expected, abs=1e-9)
    assert {one.name: (one.n_users, one.mean) for one in found.by_popularity} == by_popularity
    assert [one.name for one in found.by_popularity] == [
        name for name in POPULARITY_GROUPS if name in by_popularity
    ]
    assert found.by_degree == accuracy_by_degree(ranking, run.split)
    assert found.without == {
        "diversity_bought": "given as an item graph alone, which has no directions",
        "diversity_sound": "no list holds two items that have it",
        "share": "mf-bpr knows behaviour alone",
    }
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_without_data_there_is_no_diversity_and_it_says_so(run):
    found = measure_beyond(run, k=(6,), masked="train+valid")
    assert [name for name in found.figures if name.startswith("diversity")] == []
    assert found.without == {
        "diversity": "a run keeps no features; give the data set that it was trained on",
        "share": "mf-bpr knows behaviour alone",
    }
    users = np.unique(run.split.test.user)
    lists = rank_lists(run.scorer, run.split, users, 6, masked="train+valid")
    assert found.figures == measure_lists(lists, users, run.split, features={})


def test_histories_and_lists_are_compared_by_a_column(run):
    found = measure_beyond(run, k=(6,), groups="category")
    numbers = np.array([2 if item == 3 else item % 2 for item in range(run.split.n_items)])
    users = np.unique(run.split.test.user)
    lists = rank_lists(run.scorer, run.split, users, 6)
    assert found.figures == pytest.approx(measure_lists(lists, users, run.split, features={}, groups=numbers))
    assert found.groups == "category"


def test_scores_of_listed_items_are_shared_out_among_modalities():
    split = Split.by_ratio(toy_dataset(30, 24), rng=0)
    config = TrainConfig(epochs=2, batch_size=64, metric="recall@2")

    def measured(model, data=split.data, **settings):
        run = train(model, split, seed=1, config=config, k=(2,), device="cpu", settings=settings)
        return run, measure_beyond(run, data, (2, 6))

    run, found = measured("vbpr", embedding_dim=8)
    parts = rebuild(run, ModelInputs.from_split(split)).score_parts()
    users = np.unique(split.test.user)
    for k in (2, 6):
        each = [
            {name: (of.users[user] @ of.items[item]).item() for name, of in parts.items()}
            for user, listed in zip(users, rank_lists(run.scorer, split, users, k), strict=True)
            for item in listed
        ]
        for name in ("behaviour", "image", "text"):
            share = np.mean([one[name] / sum(map(abs, one.values())) for one in each])
            assert found.figures[f"share_{name}@{k}"] == pytest.approx(share, abs=1e-5)
    assert found.without == {}

    for model, data, why in (
        ("vbpr", None, "a run keeps no features"),
        ("vbpr", toy_dataset(30, 24, seed=9), "the run was trained on toy of hash"),
        ("freedom", split.data, "the scores of freedom are no sum by modality"),
        ("lightgcn", None, "lightgcn knows behaviour alone"),
    ):
        _, found = measured(model, data)
        assert [name for name in found.figures if name.startswith("share")] == []
        assert why in found.without["share"]


def test_what_a_run_cannot_be_measured_by_is_refused(run, monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'category'"):
        measure_beyond(run, groups="categroy", k=(2,))
    monkeypatch.setattr(runs_beyond, "_MOST_GROUPS", 2)
    with pytest.raises(ConfigError, match="'category' has 3 different values"):
        measure_beyond(run, groups="category", k=(2,))
    other = Dataset.from_interactions("other", Interactions.from_ids(integer([0, 1]), integer([0, 1])))
    with pytest.raises(StorageError, match="trained on toy with 25 items, other holds 2"):
        measure_beyond(run, other, (2,))
    part = np.where(run.split.part == TEST, TRAIN, run.split.part).astype(np.int8)
    untested = replace(run, split=replace(run.split, part=part))
    with pytest.raises(DataError, match="the test part of 'toy' is empty"):
        measure_beyond(untested, k=(2,))
