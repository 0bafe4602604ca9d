"""What holds for any data: splits part them, ids and indices map onto each other, cores are what is left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.dataset import Dataset
from triptych.data.ids import NO_IDS, IdMap, index_ids
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions, k_core
from triptych.data.readers import interactions_from_frame
from triptych.data.split import PARTS, Split
from triptych.errors import DataError

EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.long)])

TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=4
).filter(lambda text: text not in NO_IDS)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.integers(0, 5)
IDS = st.sampled_from([TEXTS, NUMBERS, PLAIN])


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[str | int, str | int, float]]:
    """Draw rows of user, item and time, with repeated pairs and times."""
    users, items = draw(IDS), draw(IDS)
    known = [draw(st.lists(ids, min_size=1, max_size=8, unique=True)) for ids in (users, items)]
    row = st.tuples(*(st.sampled_from(ids) for ids in known), st.integers(0, 6).map(float))
    return draw(st.lists(row, min_size=1, max_size=60))


def interactions(rows: list[tuple[str | int, str | int, float]]) -> Interactions:
    users, items, times = zip(*rows, strict=True)
    return Interactions.from_ids(np.array(users), np.array(items), timestamp=np.array(times))


def raw_pairs(
    data: Interactions, keep: np.ndarray | slice = slice(None)
) -> list[tuple[str | int, str | int]]:
    columns = data.users.ids[data.user[keep]].tolist(), data.items.ids[data.item[keep]].tolist()
    return list(zip(*columns, strict=True))


@EXAMPLES
def test_rows_become_pairs_and_ids_indices_and_back(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(tables())
    def check(rows: list[tuple[str | int, str | int, float]]) -> None:
        data = interactions(rows)
        first = {}
        for user, item, time in sorted(rows, key=lambda row: row[2]):
            first.setdefault((user, item), time)
        assert dict(zip(raw_pairs(data), data.timestamp.tolist(), strict=True)) == first
        assert raw_pairs(data) == sorted(first)
        for ids, at in ((data.users, 0), (data.items, 1)):
            assert ids.ids.tolist() == sorted({row[at] for row in rows})
            assert ids.index(ids.ids.tolist()).tolist() == list(range(len(ids)))
        read = interactions_from_frame(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"))
        assert raw_pairs(read.interactions) == raw_pairs(data)
        assert sum(step.get("interactions_removed", 0) for step in read.steps) == len(rows) - len(data)

    check()


@EXAMPLES
def test_distinct_ids_are_numbered_in_order(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(st.one_of(st.lists(st.none() | TEXTS, min_size=1), st.lists(st.none() | NUMBERS, min_size=1)))
    def check(column: list[str | int | None]) -> None:
        kind = pl.String if any(isinstance(raw, str) for raw in column) else pl.Int64
        ids, index = index_ids(pl.Series("id", column, dtype=kind))
        assert ids.tolist() == sorted({raw for raw in column if raw is not None})
        assert [None if at < 0 else ids[at].item() for at in index] == column
        known = IdMap(ids, "item")
        assert known.find(ids.tolist()).tolist() == list(range(len(ids)))
        assert known.find([""]).tolist() == [-1]

    check()


def splits(data: Dataset, seed: int) -> list[Split]:
    """Split in every way there is; those that leave nothing for training are refused, and left out."""
    ways = [
        lambda: Split.by_ratio(data, seed),
        lambda: Split.leave_one_out(data, seed),
        lambda: Split.by_time(data, train=0.5, valid=0.2),
        lambda: Split.by_label(data),
    ]
    made = []
    for way in ways:
        try:
            made.append(way())
        except DataError as refused:
            assert "left for training" in str(refused)  # noqa: PT017
    return made


@EXAMPLES
def test_every_split_parts_the_data(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(tables(), st.integers(0, 10**6))
    def check(rows: list[tuple[str | int, str | int, float]], seed: int) -> None:
        pairs = interactions(rows)
        label = np.random.default_rng(seed).integers(-1, 3, len(pairs)).astype(np.int8)
        data = Dataset.from_interactions("drawn", pairs.with_label(label))
        made = splits(data, seed)
        assert len(made) >= 2  # ratio and leave-one-out always leave something
        for split in made:
            parts = {name: raw_pairs(pairs, split.part == code) for name, code in PARTS.items()}
            parts["left_out"] = raw_pairs(pairs, split.part == LEFT_OUT)
            assert Counter(pair for part in parts.values() for pair in part) == Counter(raw_pairs(pairs))
            assert {name: split.protocol[name] for name in parts} == {
                name: len(part) for name, part in parts.items()
            }
            assert all(part == sorted(part) for part in parts.values())  # order kept
            trained = {user for user, _ in parts["train"]}
            assert {user for user, _ in parts["valid"] + parts["test"]} <= trained
            assert split.n_users == pairs.n_users
            if split.protocol["kind"] in ("ratio", "leave-one-out"):
                assert trained == set(pairs.users.ids.tolist())  # no user is lost
            sealed = split.without_test()
            assert raw_pairs(sealed.data.interactions) == raw_pairs(pairs, split.part != TEST)
            again = Split.by_label(split.labelled())
            assert again.part.tolist() == split.part.tolist()

    check()


@EXAMPLES
def test_what_is_split_by_time_never_looks_back(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(tables(), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
    def check(rows: list[tuple[str | int, str | int, float]], train: float, valid: float) -> None:
        data = Dataset.from_interactions("drawn", interactions(rows))
        if train + valid >= 1:
            return
        try:
            split = Split.by_time(data, train=train, valid=valid)
        except DataError:
            return
        time = data.interactions.timestamp
        ends = [time[split.part == part] for part in (TRAIN, VALID, TEST)]
        assert ends[0].max() < split.protocol["valid_from"] <= ends[1].min(initial=np.inf)
        assert ends[1].max(initial=-np.inf) < split.protocol["test_from"] <= ends[2].min(initial=np.inf)

    check()


@EXAMPLES
def test_a_core_is_what_dropping_one_by_one_leaves(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(tables(), st.integers(1, 4))
    def check(rows: list[tuple[str | int, str | int, float]], k: int) -> None:
        data = interactions(rows)
        left = set(raw_pairs(data))
        while True:
            counts = Counter(("user", user) for user, _ in left) + Counter(("item", item) for _, item in left)
            few = {pair for pair in left if min(counts["user", pair[0]], counts["item", pair[1]]) < k}
            if not few:
                break
            left -= few
        if left:
            assert raw_pairs(k_core(data, k)) == sorted(left)
        else:
            with pytest.raises(DataError, match="empty"):
                k_core(data, k)

    check()


@pytest.mark.parametrize("examples", [15, pytest.param(300, marks=pytest.mark.long)])
def test_a_data_set_is_read_back_as_it_was_written(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(tables())
    def check(rows: list[tuple[str | int, str | int, float]]) -> None:
        data = Dataset.from_interactions("drawn", interactions(rows))
        with TemporaryDirectory() as folder:
            data.save(Path(folder) / "data")
            again = Dataset.load(Path(folder) / "data")
        assert again.content_hash == data.content_hash
        assert again.item_table.equals(data.item_table)

    check()
