"""Columns of raw ids -> sorted distinct ids and the index of each row's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from triptych.data.interactions import BoolArray, IntArray
from triptych.errors import DataError

RawIds = np.ndarray[Any, Any]


def index_ids(column: pl.Series) -> tuple[RawIds, IntArray]:
    """Number the distinct ids of a column in ascending order.

    Args:
        column: (n,) integers or strings.

    Returns: the distinct ids, int64 or str, ascending; and (n,) int64 the place of each row's id among them,
        -1 where there is none: missing, empty, with a NUL character, or beyond 64 bits.

    Raises:
        DataError: the column holds something other than integers or strings.
    """
    column, bad = _usable(column)
    return _index_integers(column, bad) if column.dtype == pl.Int64 else _index_strings(column, bad)


def id_array(column: pl.Series) -> RawIds:
    """Turn a column of raw ids into an int64 or str array.

    Raises:
        DataError: an id is missing, empty, holds a NUL character, or does not fit 64 bits; or the column
            holds something other than integers or strings.
    """
    ids, bad = _usable(column)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"column '{column.name}' has {int(bad.sum()):,} empty or bad ids, first in data row {at + 1}",
            wanted="an id in every row",
            fix="Fill or remove these rows",
        )
    return ids.to_numpy() if ids.dtype == pl.Int64 else np.asarray(ids.to_list(), dtype=np.str_)


def _usable(column: pl.Series) -> tuple[pl.Series, BoolArray]:
    """Bring a column to Int64 or String, and mark the rows without a usable id."""
    if column.dtype.is_integer():
        ids = column.cast(pl.Int64, strict=False)
        return ids, ids.is_null().to_numpy()
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        ids = column.cast(pl.String)
        # a NUL is never part of an id, and numpy drops those at the end of a string
        bad = ids.is_null() | (ids.str.len_bytes() == 0) | ids.str.contains("\0", literal=True)
        return ids, bad.fill_null(value=True).to_numpy()
    raise DataError(
        f"column '{column.name}' holds {column.dtype} values",
        wanted="integer or string ids",
        fix="Choose another column for the ids, or convert it",
    )


def _index_integers(column: pl.Series, bad: BoolArray) -> tuple[RawIds, IntArray]:
    index = np.full(len(column), -1, dtype=np.int64)
    ids, index[~bad] = np.unique(column.drop_nulls().to_numpy(), return_inverse=True)
    return ids, index


def _index_strings(column: pl.Series, bad: BoolArray) -> tuple[RawIds, IntArray]:
    if bad.any():
        column = column.to_frame().with_columns(pl.when(pl.Series(~bad)).then(pl.first())).to_series()
    # codes in the order of appearance, in a dictionary of their own
    code = column.cast(pl.Categorical(pl.Categories.random())).to_physical().fill_null(-1)
    codes = code.cast(pl.Int64).to_numpy()
    n_ids = int(codes.max(initial=-1)) + 1
    somewhere = np.zeros(n_ids, dtype=np.int64)
    somewhere[codes[~bad]] = np.flatnonzero(~bad)
    ids = column.gather(somewhere)
    ascending = ids.arg_sort()
    place = np.full(n_ids + 1, -1, dtype=np.int64)  # its last entry answers for -1
    place[ascending.to_numpy()] = np.arange(n_ids)
    return np.asarray(ids.gather(ascending).to_list(), dtype=np.str_), place[codes]
