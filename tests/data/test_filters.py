import numpy as np
import pytest

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.filters import Filters, filter_dataset, filter_pairs
from triptych.data.interactions import Interactions, stable_order
from triptych.data.times import read_moment
from triptych.errors import ConfigError, DataError

# user, item, rating, time: user 1 has three items, 2 two, 3 one; item 7 three users, 8 two, 9 one.
ROWS = [
    (1, 7, 5.0, 10.0),
    (1, 8, 1.0, 20.0),
    (1, 9, 4.0, 30.0),
    (2, 7, 3.0, 40.0),
    (2, 8, 4.0, 50.0),
    (3, 7, 2.0, 60.0),
]


def shop():
    user, item, rating, time = (np.array(column) for column in zip(*ROWS, strict=True))
    interactions = Interactions.from_ids(user, item, rating=rating, timestamp=time)
    data = Dataset.from_interactions("shop", interactions)
    features = {"image": ItemFeatures.dense(np.array([[7.0], [8.0], [9.0]]))}
    return Dataset("shop", interactions, data.item_table, features, {"steps": [{"step": "read", "rows": 6}]})


def pairs(data):
    return list(
        zip(
            data.users.ids[data.interactions.user].tolist(),
            data.items.ids[data.interactions.item].tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("filters", "left", "step"),
    [
        (Filters(min_rating=4), [(1, 7), (1, 9), (2, 8)], {"step": "min_rating", "min_rating": 4, "interactions_removed": 3}),
        (Filters(since=20, until=50), [(1, 8), (1, 9), (2, 7)], {"step": "time", "since": 20, "until": 50, "interactions_removed": 3}),
        (Filters(until=25), [(1, 7), (1, 8)], {"step": "time", "since": None, "until": 25, "interactions_removed": 4}),
        (Filters(min_user=2), [(1, 7), (1, 8), (1, 9), (2, 7), (2, 8)],
         {"step": "min_user", "min_user": 2, "users_removed": 1, "items_removed": 0, "interactions_removed": 1}),
        (Filters(min_item=3), [(1, 7), (2, 7), (3, 7)],
         {"step": "min_item", "min_item": 3, "users_removed": 0, "items_removed": 2, "interactions_removed": 3}),
        (Filters(core=2), [(1, 7), (1, 8), (2, 7), (2, 8)],
         {"step": "core", "core": 2, "users_removed": 1, "items_removed": 1, "interactions_removed": 2}),
    ],
)  # fmt: skip
def test_each_filter_keeps_what_it_says_and_counts_the_rest(filters, left, step):
    data = filter_dataset(shop(), filters)
    assert pairs(data) == left
    assert data.provenance["steps"] == [{"step": "read", "rows": 6}, step]
    assert data.features["image"].values.ravel().tolist() == [float(item) for item in data.items.ids]


def test_filters_apply_one_after_the_other():
    data = filter_dataset(shop(), Filters(min_rating=2, min_user=2, min_item=2))
    assert pairs(data) == [(1, 7), (2, 7)]  # users first: then items 8 and 9 have one user each
    removed = [step["interactions_removed"] for step in data.provenance["steps"][1:]]
    assert removed == [1, 1, 2]


def test_no_filter_changes_nothing():
    assert filter_dataset(shop(), Filters()).content_hash == shop().content_hash


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="--core 0"):
        Filters(core=0)
    with pytest.raises(ConfigError, match="time window"):
        Filters(since=5, until=5)
    with pytest.raises(DataError, match="none of the 6 interactions"):
        filter_dataset(shop(), Filters(min_rating=9))
    with pytest.raises(DataError, match="no users with at least 4"):
        filter_pairs(Filters(min_user=4), shop().interactions)
    plain = Dataset.from_interactions("plain", Interactions.from_ids(np.array([1]), np.array([2])))
    with pytest.raises(ConfigError, match="--rating COLUMN"):
        filter_dataset(plain, Filters(min_rating=1))
    with pytest.raises(ConfigError, match="--timestamp COLUMN"):
        filter_dataset(plain, Filters(since=1))


def test_moments_are_dates_or_numbers():
    assert (
        read_moment("1970-01-02")
        == read_moment("86400")
        == read_moment("1970-01-02T01:00:00+01:00")
        == 86400.0
    )
    assert read_moment("20240301") == read_moment("2024-03-01") == 1_709_251_200.0
    assert read_moment("202401.0") == 202_401.0
    with pytest.raises(ConfigError, match="'yesterday'"):
        read_moment("yesterday")
    with pytest.raises(ConfigError, match=r"Write 2024-01-01, or 202401\.0 for seconds"):
        read_moment("202401")
    with pytest.raises(ConfigError, match=r"the time '20240231'.*Write for example 2014-07-01"):
        read_moment("20240231")


def test_which_of_repeated_rows_is_kept():
    user, item = np.array([1, 2, 1, 1]), np.array([4, 5, 4, 4])
    rating, time = np.array([3.0, 1.0, 5.0, 5.0]), np.array([20.0, 0.0, 30.0, 10.0])

    def kept(duplicates, **columns):
        return Interactions.from_ids(user, item, duplicates=duplicates, **columns)

    assert kept("first", rating=rating, timestamp=time).timestamp.tolist() == [10.0, 0.0]
    assert kept("last", rating=rating, timestamp=time).timestamp.tolist() == [30.0, 0.0]
    assert kept("highest", rating=rating, timestamp=time).timestamp.tolist() == [10.0, 0.0]
    assert kept("last", rating=np.arange(4.0)).rating.tolist() == [3.0, 1.0]
    assert kept("highest", rating=np.array([3.0, 1.0, 9.0, 5.0])).rating.tolist() == [9.0, 1.0]
    with pytest.raises(ConfigError, match="--rating COLUMN"):
        kept("highest", timestamp=time)


@pytest.mark.parametrize("largest", [5, 2**40, 2**62])
def test_the_order_of_equal_keys_is_that_of_the_file(largest):
    keys = np.random.default_rng(0).integers(0, 3, 500) * (largest // 3)
    assert stable_order(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    assert stable_order(np.array([], dtype=np.int64)).tolist() == []
