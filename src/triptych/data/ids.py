"""Raw ids and their indices: `IdMap`, and columns of ids -> distinct ids and the index of each row."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray, IntArray, RawId
from triptych.errors import DataError, UnknownIdError, nearest

RawIds = np.ndarray[Any, Any]
NO_IDS = ("", "NULL", "null", r"\N", "NaN", "nan", "None", "<NA>")
"""What databases and data frames write where there is no id; looked for in raw tables only."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_POINTED = r"^(?:0|-?[1-9][0-9]{0,15})\.0$"
_EXACT = 1 << 53
"""Up to here a float names one whole number."""


@dataclass(frozen=True, eq=False)
class IdMap:
    """Raw ids and their indices: `ids[index]` is the raw id, and ids are sorted and distinct.

    Args:
        ids: (n,) int64 or str, ascending, without repetition.
        kind: "user" or "item", for messages.
    """

    ids: np.ndarray[Any, Any]
    kind: str

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _index(self) -> dict[RawId, int]:
        return {raw: index for index, raw in enumerate(self.ids.tolist())}

    def index(self, raw_ids: Iterable[RawId]) -> IntArray:
        """Look up the indices of raw ids; where ids are integers, "12" finds 12.

        Raises:
            UnknownIdError: an id is not in the map; the message names the first such id.
        """
        return np.array([self._index_of(raw) for raw in self.several(raw_ids)], dtype=np.int64)

    def find(self, raw_ids: Iterable[RawId]) -> IntArray:
        """Look up raw ids as `index` does, but give -1 for those that are not in the map."""
        ids = self.several(raw_ids)
        return np.array([self._index.get(self._key(raw), -1) for raw in ids], dtype=np.int64)

    def several(self, raw_ids: Iterable[RawId]) -> Iterable[RawId]:
        """Refuse one id in the place of several: a string would be taken apart into its letters.

        Raises:
            DataError: it is one.
        """
        if isinstance(raw_ids, str | bytes) or not isinstance(raw_ids, Iterable):
            raise DataError(
                f"one {self.kind} id, {raw_ids!r}, in the place of several",
                wanted="a list of ids",
                fix=f"Give [{raw_ids!r}]",
            )
        return raw_ids

    def _key(self, raw: RawId) -> RawId:
        """Spell an id as the map does; "007" is no way to write 7."""
        if not np.issubdtype(self.ids.dtype, np.integer):
            return str(raw)
        return int(raw) if isinstance(raw, str) and _INTEGER.fullmatch(raw.strip()) else raw

    def _index_of(self, raw: RawId) -> int:
        found = self._index.get(self._key(raw))
        if found is None:
            known = [str(known) for known in self.ids.tolist()]
            raise UnknownIdError(
                f"{self.kind} id {raw!r} is not in the data set",
                wanted=f"one of its {len(self):,} {self.kind} ids, such as {known[0]!r}",
                fix=nearest(str(raw), known),
            )
        return found

    def take(self, keep: IntArray | BoolArray) -> IdMap:
        """Keep the ids at ascending indices, or where a mask is true."""
        return IdMap(self.ids[keep], self.kind)


def whole_ids(column: pl.Series) -> pl.Series:
    """Read ids of a raw table as the integers they were before a data frame made them floats.

    One missing value is enough for that: all others are then written as `1001.0`, in text formats and others.
    Columns in which any id is something else stay as they are: so do "5.10", "1e5" and "00123".
    """
    if column.dtype == pl.String:
        if not _known(column.head(100)).str.contains(_POINTED).all():
            return column  # spares a look at all the others
        plain = _known(column)
        if not (plain.count() and plain.str.contains(_POINTED).all()):
            return column
        numbers = plain.str.head(-2).cast(pl.Int64)
    elif column.dtype.is_float() or column.dtype.is_decimal():
        plain = column.fill_nan(None) if column.dtype.is_float() else column
        numbers = plain.cast(pl.Int64, strict=False)
        if numbers.null_count() > plain.null_count() or not (numbers.cast(plain.dtype) == plain).all():
            return column
    else:
        return column
    exact = plain.dtype.is_decimal() or int(numbers.abs().max() or 0) < _EXACT  # type: ignore[arg-type]
    return numbers.alias(column.name) if exact else column


def _known(column: pl.Series) -> pl.Series:
    return column.alias("").set(column.is_in(NO_IDS), None)  # "^.*$" would name a pattern of columns


def index_ids(column: pl.Series) -> tuple[RawIds, IntArray]:
    """Number the distinct ids of a column in ascending order.

    Args:
        column: (n,) integers or strings.

    Returns: the distinct ids, int64 or str, ascending; and (n,) int64 the place of each row's id among them,
        -1 where there is none: missing, one of `NO_IDS`, with a NUL character, or beyond 64 bits.

    Raises:
        DataError: the column holds something other than integers or strings.
    """
    column = _plain(column)
    return _index_integers(column) if column.dtype == pl.Int64 else _index_strings(column)


def id_array(column: pl.Series) -> RawIds:
    """Turn a column of raw ids into an int64 or str array.

    Raises:
        DataError: an id is missing, empty, holds a NUL character, or does not fit 64 bits; or the column
            holds something other than integers or strings.
    """
    ids = _plain(column)
    bad = ids.is_null().to_numpy() | _unusable(ids, [""])
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"column '{column.name}' has {int(bad.sum()):,} empty or bad ids, first in data row {at + 1}",
            wanted="an id in every row",
            fix="Fill or remove these rows",
        )
    return _array(ids)


def _plain(column: pl.Series) -> pl.Series:
    """Bring a column to Int64, null where a number does not fit, or to String."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    raise DataError(
        f"column '{column.name}' holds {column.dtype} values",
        wanted="integer or string ids",
        fix="Choose another column for the ids, or convert it",
    )


def _unusable(ids: pl.Series, words: Collection[str]) -> BoolArray:
    """Mark texts that are no id: some words, and those with a NUL, which numpy drops at the end."""
    if ids.dtype == pl.Int64:
        return np.zeros(len(ids), dtype=bool)
    bad = ids.is_in(words) | ids.str.contains("\0", literal=True)
    return bad.fill_null(value=False).to_numpy()


def _array(ids: pl.Series) -> RawIds:
    return ids.to_numpy() if ids.dtype == pl.Int64 else np.asarray(ids.to_list(), dtype=np.str_)


def _index_integers(column: pl.Series) -> tuple[RawIds, IntArray]:
    known = column.is_not_null().to_numpy()
    index = np.full(len(column), -1, dtype=np.int64)
    ids, index[known] = np.unique(column.drop_nulls().to_numpy(), return_inverse=True)
    return ids, index


def _index_strings(column: pl.Series) -> tuple[RawIds, IntArray]:
    # A dictionary of this column's own gives codes in the order of appearance, null where there is no text.
    appearance = column.cast(pl.Categorical(pl.Categories.random())).to_physical()
    code = appearance.cast(pl.Int64).fill_null(-1).to_numpy()
    n_ids = int(code.max(initial=-1)) + 1
    somewhere = np.zeros(n_ids + 1, dtype=np.int64)  # one place more, which takes and answers for -1
    somewhere[code] = np.arange(len(code))
    ids = column.gather(somewhere[:-1])
    ascending = ids.arg_sort().to_numpy()
    ascending = ascending[~_unusable(ids, NO_IDS)[ascending]]
    place = np.full(n_ids + 1, -1, dtype=np.int64)
    place[ascending] = np.arange(len(ascending))
    return _array(ids.gather(ascending)), place[code]
