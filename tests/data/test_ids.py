from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.ids import NO_IDS, IdMap, id_array, index_ids, whole_ids
from triptych.errors import DataError

texts = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=30)
numbers = st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=30)


@settings(deadline=None)
@given(
    st.one_of(
        texts.map(lambda raw: pl.Series(raw, dtype=pl.String)),
        numbers.map(lambda raw: pl.Series(raw, dtype=pl.Int64)),
    )
)
def test_each_row_gets_the_place_of_its_id_among_the_sorted(column):
    ids, index = index_ids(column)
    usable = [raw for raw in column if raw is not None and raw not in NO_IDS and "\0" not in str(raw)]
    assert ids.tolist() == sorted(set(usable))
    for raw, place in zip(column, index.tolist(), strict=True):
        assert (ids[place] == raw) if raw in usable else place == -1
    assert index.dtype == np.int64


def test_words_for_nothing_are_no_ids_of_raw_tables_but_of_data_sets_that_have_them():
    column = pl.Series(["NULL", "a"])
    assert index_ids(column)[0].tolist() == ["a"]
    assert id_array(column).tolist() == ["NULL", "a"]


def test_categories_and_other_integers_are_ids_too():
    assert index_ids(pl.Series(["b", "a", "b"], dtype=pl.Categorical))[0].tolist() == ["a", "b"]
    ids, index = index_ids(pl.Series([3, 2**63], dtype=pl.UInt64))
    assert (ids.tolist(), index.tolist()) == ([3], [0, -1])


def test_many_columns_do_not_disturb_each_other():
    for start in range(3):
        column = pl.Series([f"{(start * 7 + n) % 11}" for n in range(50)])
        ids, index = index_ids(column)
        assert ids[index].tolist() == column.to_list()


def test_an_array_of_ids_refuses_bad_rows():
    assert id_array(pl.Series(["007", "7"])).tolist() == ["007", "7"]
    with pytest.raises(DataError, match="'sku' has 2 empty or bad ids, first in data row 2"):
        id_array(pl.Series("sku", ["a", None, "b\0c"]))
    with pytest.raises(DataError, match="Float64"):
        index_ids(pl.Series([1.5]))


def test_one_string_is_not_taken_for_several_ids():
    known = IdMap(np.array(["0001", "0", "1"]), "user")
    for look in (known.index, known.find):
        with pytest.raises(DataError, match="one user id, '0001', in the place of several"):
            look("0001")


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(["1001.0", None, "-7.0", "NaN", "0.0"]),
        pl.Series([1001.0, None, -7.0, float("nan"), 0.0]),
        pl.Series([Decimal("1001.00"), None, Decimal("-7.00"), None, Decimal("0.00")]),
    ],
)
def test_integers_that_a_data_frame_made_floats_are_integers(column):
    assert whole_ids(column.alias("^.*$")).to_list() == [1001, None, -7, None, 0]
    assert whole_ids(column.alias("^.*$")).name == "^.*$"


@pytest.mark.parametrize(
    "ids",
    [
        ["1.0", "5.10"],
        ["1.0", "1e5"],
        ["1.0", "00123.0"],
        ["1.0", "2"],
        ["1.0", "9007199254740992.0"],
        ["NULL", None],
        [1.0, 1.5],
        [1.0, 2.0**53],
        [1.0, float("inf")],
        [Decimal("1.0"), Decimal("1.5")],
        [1, 2],
    ],
)
def test_ids_that_are_no_whole_floats_stay_as_they_are(ids):
    assert whole_ids(pl.Series(ids)).equals(pl.Series(ids))
