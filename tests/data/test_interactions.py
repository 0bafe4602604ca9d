import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.ids import IdMap
from triptych.data.interactions import Interactions, k_core, row_offsets
from triptych.errors import DataError, ShapeError, UnknownIdError

small_pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60)
raw_ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), min_size=1, max_size=20
    ),
)


def from_pairs(pairs, **columns):
    users, items = np.array(pairs).T
    return Interactions.from_ids(users, items, **columns)


def test_integers_beyond_63_bits_are_refused_as_they_would_become_others():
    largest = 2**63 - 1
    found = Interactions.from_ids(np.array([1, largest], dtype=np.uint64), np.array([1, 2]))
    assert found.users.ids.tolist() == [1, largest]
    with pytest.raises(DataError, match=f"the user id {2**63 + 5}"):
        Interactions.from_ids(np.array([1, 2**63 + 5], dtype=np.uint64), np.array([1, 2]))


@given(raw_ids)
def test_id_map_is_a_bijection(raw):
    ids = IdMap(np.unique(np.array(raw)), "user")
    known = ids.ids.tolist()
    assert ids.index(known).tolist() == list(range(len(ids)))
    assert set(known) == set(raw)
    assert ids.find(raw).tolist() == ids.index(raw).tolist()


def test_id_map_takes_numbers_as_text_but_not_in_another_spelling():
    ids = IdMap(np.array([7, 12]), "item")
    assert ids.index(["12", 7, " 7"]).tolist() == [1, 0, 0]
    assert ids.find(["007", "7.0", "²", "--7", "9" * 5000, 8]).tolist() == [-1] * 6
    assert IdMap(np.array(["007", "7"]), "item").index([7, "007"]).tolist() == [1, 0]


def test_unknown_id_is_named_with_the_nearest_known_one():
    with pytest.raises(UnknownIdError, match=r"user id 'anna2' is not in the data set.*Did you mean 'anna'"):
        IdMap(np.array(["anna", "bob"]), "user").index(["bob", "anna2"])


def test_pairs_are_sorted_and_distinct():
    data = Interactions.from_ids(np.array(["b", "a", "b", "b"]), np.array([5, 9, 5, 3]))
    assert data.users.ids.tolist() == ["a", "b"]
    assert data.items.ids.tolist() == [3, 5, 9]
    assert list(zip(data.user.tolist(), data.item.tolist(), strict=True)) == [(0, 2), (1, 0), (1, 1)]
    assert data.density == 3 / 6


def test_a_repeated_pair_keeps_its_earliest_row():
    users, items = np.array([1, 1, 1]), np.array([4, 4, 4])
    rating, time = np.array([5.0, 3.0, 1.0]), np.array([30.0, 10.0, 20.0])
    timed = Interactions.from_ids(users, items, rating=rating, timestamp=time)
    assert (timed.rating.tolist(), timed.timestamp.tolist()) == ([3.0], [10.0])
    assert Interactions.from_ids(users, items, rating=rating).rating.tolist() == [5.0]


@given(small_pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(pairs, random):
    time = list(range(len(pairs)))
    random.shuffle(time)
    rows = list(zip(pairs, time, strict=True))
    one = from_pairs([pair for pair, _ in rows], timestamp=np.array(time, dtype=float))
    random.shuffle(rows)
    other = from_pairs([pair for pair, _ in rows], timestamp=np.array([t for _, t in rows], dtype=float))
    assert one.content_hash == other.content_hash
    earliest = {pair: min(t for p, t in rows if p == pair) for pair in pairs}
    assert len(one) == len(earliest)
    for user, item, t in zip(one.user, one.item, one.timestamp, strict=True):
        assert earliest[one.users.ids[user], one.items.ids[item]] == t


def test_content_hash_sees_every_column_but_not_how_ids_are_stored():
    pairs, ones = [(0, 1), (1, 0)], np.ones(2)
    variants = [{}, {"rating": ones}, {"timestamp": ones}, {"label": ones.astype(np.int8)}]
    assert len({from_pairs(pairs, **columns).content_hash for columns in variants}) == 4
    users, items = np.array(pairs).T
    narrow = Interactions.from_ids(users.astype(np.uint8), items.astype(np.int32))
    assert narrow.content_hash == from_pairs(pairs).content_hash
    texts = Interactions.from_ids(np.array(["a", "b"]), items)
    assert Interactions.from_ids(np.array(["a", "b"], dtype=object), items).content_hash == texts.content_hash


def test_what_is_no_table_of_ids_is_refused():
    with pytest.raises(DataError, match="no interactions"):
        Interactions.from_ids(np.array([], dtype=int), np.array([], dtype=int))
    with pytest.raises(DataError, match="user ids of type float64"):
        Interactions.from_ids(np.array([1.0]), np.array([1]))
    with pytest.raises(ShapeError, match=r"lengths \[1, 2\]"):
        Interactions.from_ids(np.array([1, 2]), np.array([1]))


def test_a_pair_in_two_parts_of_a_split_is_refused():
    with pytest.raises(DataError, match="user 3 and item 8 are listed in two parts"):
        from_pairs([(3, 8), (2, 8), (3, 8)], label=np.array([0, 0, 2], dtype=np.int8))
    assert len(from_pairs([(3, 8), (2, 8), (3, 8)], label=np.array([2, 0, 2], dtype=np.int8))) == 2


def slow_core(pairs, k):
    """Drop one poor user or item at a time."""
    pairs = set(pairs)
    while True:
        for end in (0, 1):
            ends = [pair[end] for pair in pairs]
            poor = next((node for node in ends if ends.count(node) < k), None)
            if poor is not None:
                pairs = {pair for pair in pairs if pair[end] != poor}
                break
        else:
            return pairs


@given(small_pairs, st.integers(1, 4))
def test_k_core_is_the_largest_that_has_the_degrees(pairs, k):
    expected = slow_core(pairs, k)
    if not expected:
        with pytest.raises(DataError, match=f"the {k}-core"):
            k_core(from_pairs(pairs), k)
        return
    core = k_core(from_pairs(pairs), k)
    found = set(zip(core.users.ids[core.user].tolist(), core.items.ids[core.item].tolist(), strict=True))
    assert found == expected
    assert min(np.bincount(core.user).min(), np.bincount(core.item).min()) >= k
    assert len(np.unique(core.user)) == core.n_users
    assert len(np.unique(core.item)) == core.n_items


def test_take_keeps_columns_in_step():
    data = from_pairs([(0, 0), (0, 1), (1, 1)], rating=np.array([1.0, 2.0, 3.0]))
    part = data.take(np.array([False, True, True]))
    assert part.items.ids.tolist() == [1]
    assert part.rating.tolist() == [2.0, 3.0]


def test_row_offsets():
    assert row_offsets(np.array([0, 0, 2]), 4).tolist() == [0, 2, 2, 3, 3]


class Column:
    """Looks its rows up by label, as a column of pandas does, of whatever shuffled them."""

    def __init__(self, values: list[object], dtype: str | None = None) -> None:
        self.values = np.array(values, dtype=dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)

    def __getitem__(self, label: object) -> object:
        raise AssertionError("rows are taken by place")


def test_columns_of_a_frame_are_taken_by_place():
    made = Interactions.from_ids(
        Column([2, 1, 1]),
        Column([1, 2, 1]),
        rating=Column([1, 2, 3]),
        timestamp=Column(["2024-01-03", "2024-01-02", "2024-01-01T00:00:01"], "datetime64[s]"),
        label=Column([0, 1, 2]),
    )
    assert made.rating.tolist() == [3.0, 2.0, 1.0]
    assert made.label.tolist() == [2, 1, 0]
    assert made.timestamp.tolist() == [19723 * 86_400 + 1, 19724 * 86_400, 19725 * 86_400]
    assert Interactions.from_ids([2, 1, 1], [1, 2, 1], rating=[1, 2, 3]).rating.tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("times", [[1.0, np.nan], np.array(["2024-01-01", "NaT"], dtype="datetime64[D]")])
def test_missing_times_are_refused(times):
    with pytest.raises(DataError, match="1 of 2 interactions have no time"):
        Interactions.from_ids([1, 2], [1, 2], timestamp=times)
