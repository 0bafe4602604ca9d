"""Tables -> `Interactions` with raw ids, and item tables: which column means what, each value checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from triptych.data.bad_rows import SHOWN, BadRows
from triptych.data.filters import Filters, Step, filter_rows, to_seconds
from triptych.data.ids import id_array, index_ids
from triptych.data.interactions import (
    TEST,
    TRAIN,
    VALID,
    BoolArray,
    FloatArray,
    IdMap,
    Interactions,
    LabelArray,
)
from triptych.data.tables import naming, read_table
from triptych.data.texts import as_text
from triptych.errors import ConfigError, DataError, nearest

LABEL_MEANING: Mapping[str, int] = {
    "0": TRAIN, "1": VALID, "2": TEST, "train": TRAIN, "valid": VALID, "test": TEST,
}  # fmt: skip
"""What labels mean unless told otherwise (MMRec's numbers)."""

# Well-known names, the clear ones first: the others only count where there is none of these.
_USER_NAMES = (
    {"user", "userid", "uid", "reviewerid", "customerid", "visitorid", "memberid"},
    {"customer", "visitor", "member", "reviewer", "client", "buyer", "account", "person"},
)
_ITEM_NAMES = (
    {"item", "itemid", "iid", "asin", "parentasin", "productid", "movieid", "videoid", "trackid", "bookid"},
    {"sku", "product", "article", "movie", "video", "track", "song", "book"},
)


@dataclass(frozen=True)
class Columns:
    """Which column of a table means what.

    Args:
        user: raw user ids; None for the one column with a well-known name, such as `user_id`.
        item: raw item ids; None as for `user`.
        rating: ratings; None to read none (a `.inter` file's `rating` is read all the same).
        timestamp: times; None to read none (or a `.inter` file's `timestamp`).
        label: parts of a given split; None to read none (or a `.inter` file's `x_label`).
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    timestamp: str | None = None
    label: str | None = None


class Read(NamedTuple):
    """Interactions and how they came out of a table.

    Args:
        interactions: what was kept, each pair once.
        steps: what was done to the rows, and how many each step removed.
        listed: the items of all usable rows, before any filter.
    """

    interactions: Interactions
    steps: list[Step]
    listed: IdMap


def read_interactions(
    path: str | Path,
    columns: Columns = Columns(),
    *,
    filters: Filters = Filters(),
    label_meaning: Mapping[str, int] | None = None,
    bad: BadRows | None = None,
) -> Read:
    """Read interactions from a table; see `interactions_from_frame`."""
    path = Path(path)
    frame = read_table(path, bad)
    with naming(path.name):
        columns = resolve_columns(frame, columns, path)
    return interactions_from_frame(
        frame, columns, file=path.name, filters=filters, label_meaning=label_meaning, bad=bad
    )


def interactions_from_frame(
    frame: pl.DataFrame,
    columns: Columns = Columns(),
    *,
    file: str = "table",
    filters: Filters = Filters(),
    label_meaning: Mapping[str, int] | None = None,
    bad: BadRows | None = None,
) -> Read:
    """Make interactions of a table with one row each, and account for every row.

    Rows without a usable user, item, rating, time or label are left out up to the limit of `bad`. Times in
    milli-, micro- or nanoseconds since 1970 become seconds.

    Args:
        frame: any columns; those that `columns` does not name are ignored.
        columns: which column means what.
        file: what messages and counts call the table.
        filters: which rows to keep; those that look at all interactions together are not applied here.
        label_meaning: label as text -> TRAIN, VALID, TEST or LEFT_OUT; None for `LABEL_MEANING`.
        bad: counts the rows that cannot be used, and holds their limit; None to allow none.

    Raises:
        DataError: a column is missing or ambiguous, or too many of its values cannot be used; the message
            names column and row.
        ConfigError: a filter without the column it looks at, or a meaning without labels.
    """
    bad = BadRows(limit=0.0) if bad is None else bad
    with naming(file):
        columns = resolve_columns(frame, columns)
        if label_meaning is not None and columns.label is None:
            raise ConfigError(
                "a meaning of labels, but no label column",
                wanted="the column that says how the rows are split",
                fix="Add --label COLUMN",
            )
        users, user = index_ids(frame[str(columns.user)])
        items, item = index_ids(frame[str(columns.item)])
        rating = None if columns.rating is None else _numbers(frame[columns.rating])
        timestamp = None if columns.timestamp is None else _times(frame[columns.timestamp])
        label = None if columns.label is None else _labels(frame[columns.label], label_meaning)
    usable = _usable_rows(frame, columns, file, bad, user=user, item=item, rating=rating,
                          timestamp=timestamp, label=label)  # fmt: skip
    columns_kept = [_kept(column, usable) for column in (user, item, rating, timestamp, label)]
    user, item, rating, timestamp, label = columns_kept
    keep, steps = filter_rows(filters, rating, timestamp, len(user))
    interactions = Interactions.from_codes(
        IdMap(users, "user"),
        IdMap(items, "item"),
        user[keep],
        item[keep],
        rating=_kept(rating, keep),
        timestamp=_kept(timestamp, keep),
        label=_kept(label, keep),
        duplicates=filters.duplicates,
    )
    read: list[Step] = [{"step": "read", "rows": frame.height}]
    if len(keep) < frame.height:
        read.append({"step": "unusable", "interactions_removed": frame.height - len(keep)})
    merged = int(keep.sum()) - len(interactions)
    steps.append({"step": "duplicates", "kept": filters.duplicates, "interactions_removed": merged})
    listed = items if usable.all() else items[np.bincount(item, minlength=len(items)) > 0]
    return Read(interactions, [*read, *steps], IdMap(listed, "item"))


def read_item_table(
    path: str | Path,
    *,
    item: str | None = None,
    title: str | None = None,
    like: str | None = None,
    bad: BadRows | None = None,
    encoding: str = "utf-8",
) -> pl.DataFrame:
    """Read what is known about items: `item_id`, `title` if there is one, then all other columns.

    Args:
        path: a table with one row per item.
        item: the column of item ids; None to find it.
        title: the column of titles; None for `title` or `name`. A column whose name it takes is dropped.
        like: what the interactions call their item column; tried before well-known names.
        bad: counts rows that cannot be read, and holds their limit; None to allow none.
        encoding: of text formats.

    Raises:
        DataError: a column is missing or ambiguous, or too many rows are bad: an item's second row is, too.
    """
    bad = BadRows(limit=0.0) if bad is None else bad
    frame = read_table(path, bad, encoding=encoding)
    with naming(Path(path).name):
        item = item_column(frame, item, like)
    frame = frame.filter(_first_rows(frame[item], Path(path).name, bad))
    with naming(Path(path).name):
        if title is None:
            title = next((name for name in frame.columns if plain_name(name) in {"title", "name"}), None)
        columns, taken = [pl.Series("item_id", id_array(frame[item]))], {item, "item_id"}
        if title is not None:
            columns.append(as_text(frame[_existing(frame, title, "--title")]).alias("title"))
            taken |= {title, "title"}
        return pl.DataFrame([*columns, *(column for column in frame if column.name not in taken)])


def _first_rows(column: pl.Series, file: str, bad: BadRows) -> pl.Series:
    """Mark the first row of each item, and count the others: rows without an id, and an item's later rows."""
    _, index = index_ids(column)
    first = np.zeros(len(index), dtype=bool)
    first[np.unique(index, return_index=True)[1]] = True
    n_rows = len(index) + bad.count(file)  # those that could not even be read
    reasons = {"no usable item": index < 0, "repeated item": (index >= 0) & ~first}
    for reason, wrong in reasons.items():
        examples = (
            f"column '{column.name}' holds {column[at]!r} in data row {at + 1}"
            for at in np.flatnonzero(wrong)[:SHOWN].tolist()
        )
        bad.add(file, reason, int(wrong.sum()), examples)
    bad.check(file, n_rows, "Repair or remove these rows")
    return pl.Series(first & (index >= 0))


def resolve_columns(frame: pl.DataFrame, columns: Columns, path: str | Path = "") -> Columns:
    """Fill in the columns left open, and check that all exist.

    Args:
        frame: the table.
        columns: what is known.
        path: where the table is from; a `.inter` file's well-known columns are read unasked.

    Raises:
        DataError: a column is missing, or nothing or too much could be the user or item column.
    """
    if Path(path).suffix.lower() == ".inter":
        usual = {"rating": "rating", "timestamp": "timestamp", "label": "x_label"}
        new = {
            role: name for role, name in usual.items() if name in frame.columns and not getattr(columns, role)
        }
        columns = replace(columns, **new)
    for role in ("rating", "timestamp", "label"):
        if (name := getattr(columns, role)) is not None:
            _existing(frame, name, f"--{role}")
    user = _guess(frame, _USER_NAMES, "--user") if columns.user is None else columns.user
    return replace(columns, user=_existing(frame, user, "--user"), item=item_column(frame, columns.item))


def item_column(frame: pl.DataFrame, item: str | None = None, like: str | None = None) -> str:
    """Name the column of item ids: `item` if given, else `like` if it is there, else the well-known one.

    Raises:
        DataError: it is missing, or nothing or too much could be it.
    """
    if item is None and like is not None:  # a table of items, where "id" can mean one thing only
        item = like if like in frame.columns else _guess(frame, (*_ITEM_NAMES, {"id"}), "--item")
    return _existing(frame, item or _guess(frame, _ITEM_NAMES, "--item"), "--item")


def plain_name(column: str) -> str:
    """Spell the name of a column as well-known names are: lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", column.lower())


def distinct_ids(column: pl.Series) -> np.ndarray[Any, Any]:
    """Turn a column of raw item ids into an int64 or str array.

    Raises:
        DataError: an id is missing or repeated.
    """
    if (repeated := column.is_duplicated() & column.is_not_null()).any():
        at = int(repeated.arg_max() or 0)
        raise DataError(
            f"column '{column.name}' lists item {column[at]!r} more than once, first in data row {at + 1}",
            wanted="one row per item",
            fix="Remove the repeated rows",
        )
    return id_array(column)


def _existing(frame: pl.DataFrame, name: str, flag: str) -> str:
    if name not in frame.columns:
        raise DataError(
            f"there is no column '{name}' ({flag})",
            wanted="one of " + ", ".join(frame.columns),
            fix=nearest(name, frame.columns),
        )
    return name


def _guess(frame: pl.DataFrame, well_known: Iterable[Collection[str]], flag: str) -> str:
    found: list[str] = []
    for names in well_known:
        found = found or [name for name in frame.columns if plain_name(name) in names]
    if len(found) != 1:
        what = "more than one column could be meant" if found else "no column has a well-known name"
        raise DataError(
            f"{what} for {flag}: the columns are {', '.join(frame.columns)}",
            wanted=f"one {flag.removeprefix('--')} id column",
            fix=f"Name it with {flag} COLUMN",
        )
    return found[0]


def _kept(column: np.ndarray[Any, Any] | None, keep: BoolArray) -> Any:
    return column if column is None or keep.all() else column[keep]


def _usable_rows(
    frame: pl.DataFrame, columns: Columns, file: str, bad: BadRows, **values: np.ndarray[Any, Any] | None
) -> BoolArray:
    """Mark the rows with a usable value in every column, and count the others under the first bad one.

    Args:
        frame: the table, for messages.
        columns: which column means what.
        file: the table's name.
        bad: counts and limit.
        values: role -> what its column was read to; -1 or NaN where it could not be.

    Raises:
        DataError: too many rows are bad.
    """
    n_rows = frame.height + bad.count(file)  # those that could not even be read
    usable = np.ones(frame.height, dtype=bool)
    for role, column in values.items():
        if column is None:
            continue
        wrong = ~np.isfinite(column) if column.dtype.kind == "f" else column == _NO_VALUE[role]
        wrong &= usable
        if wrong.any():
            name = getattr(columns, role)
            examples = (
                f"column '{name}' holds {frame[name][at]!r} in data row {at + 1}"
                for at in np.flatnonzero(wrong)[:SHOWN].tolist()
            )
            bad.add(file, f"no usable {role}", int(wrong.sum()), examples)
            usable &= ~wrong
    fix = "Repair these rows, or choose another column (--rating none, --timestamp none read none)"
    bad.check(file, n_rows, fix)
    return usable


_NO_NUMBER = 1e15


def _numbers(column: pl.Series, largest: float = _NO_NUMBER) -> FloatArray:
    """Read numbers, NaN where there is none, or one beyond all that is ever counted."""
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean)):
        raise DataError(
            f"column '{column.name}' holds {column.dtype} values",
            wanted="numbers",
            fix="Choose another column",
        )
    numbers = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    return np.where(np.abs(numbers) < largest, numbers, np.nan)


def _times(column: pl.Series) -> FloatArray:
    """Read times in seconds since 1970 (UTC), NaN where there is none.

    Numbers are brought to seconds from the unit their size speaks for; small ones, such as places in a
    sequence, stay as they are; a column of whole numbers such as 20240131, or of years, is one of dates.
    Dates, and ISO 8601 text where most of it is no number, are converted. Times before 1970 or after 2100
    count as none.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        zone = getattr(column.dtype, "time_zone", None)
        seconds = (column.cast(pl.Datetime("us", zone)).dt.epoch("us") / 1e6).fill_null(float("nan"))
        return _sensible(seconds.to_numpy())
    if column.dtype == pl.String:
        distinct = column.unique()
        numeric = distinct.cast(pl.Float64, strict=False)
        if 2 * int(numeric.null_count()) > len(distinct):
            seconds = pl.Series([_seconds(text) for text in distinct], dtype=pl.Float64)
            return _sensible(column.replace_strict(distinct, seconds).to_numpy())
    numbers = _numbers(column, largest=np.inf)
    return _sensible(_calendar(numbers) if _is_calendar(numbers) else to_seconds(numbers))


_YEAR_2100 = 4_102_444_800.0


def _is_calendar(numbers: FloatArray) -> bool:
    """Say whether numbers are years, or days such as 20240131, all from 1900 to 2099."""
    known = numbers[np.isfinite(numbers)]
    if not len(known) or (known != np.floor(known)).any():
        return False
    month, day = known // 100 % 100, known % 100
    days = (
        (known >= 1900_01_01) & (known < 2100_01_01) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    )
    return bool(days.all() or ((known >= 1900) & (known < 2100)).all())


def _calendar(numbers: FloatArray) -> FloatArray:
    """Turn years, and days such as 20240131, into seconds since 1970; NaN for a day that is none."""
    text = pl.Series(numbers).fill_nan(None).cast(pl.Int64).cast(pl.String)
    text = pl.select(pl.when(text.str.len_bytes() == 4).then(text + "0101").otherwise(text)).to_series()
    days = text.str.to_date("%Y%m%d", strict=False)
    return (days.cast(pl.Datetime("us")).dt.epoch("us") / 1e6).fill_null(float("nan")).to_numpy()


def _sensible(seconds: FloatArray) -> FloatArray:
    return np.where((seconds >= 0) & (seconds < _YEAR_2100), seconds, np.nan)


def _seconds(text: str | None) -> float:
    text = (text or "").removesuffix(" UTC")
    try:
        day = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text)  # the day comes first where dots part
        moment = datetime(int(day[3]), int(day[2]), int(day[1])) if day else datetime.fromisoformat(text)
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_NO_LABEL = np.iinfo(np.int8).min
_NO_VALUE = {"user": -1, "item": -1, "label": _NO_LABEL}


def _labels(column: pl.Series, meaning: Mapping[str, int] | None) -> LabelArray:
    """Read labels, `_NO_LABEL` where there is none."""
    meaning = LABEL_MEANING if meaning is None else meaning
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.dtype.is_float() and (column.fill_null(0) == column.fill_null(0).round()).all():
        column = column.cast(pl.Int64)
    text = column.cast(pl.String)
    unknown = sorted(set(text.drop_nulls().unique()) - meaning.keys())
    if unknown:
        shown = ", ".join(repr(label) for label in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"column '{column.name}' holds the unknown labels {shown}",
            wanted="one of " + ", ".join(meaning),
            fix='Say what each means, for example --label-meaning "0=train,1=valid,2=test", or --label none',
        )
    codes = text.replace_strict(dict(meaning), return_dtype=pl.Int8)
    return codes.fill_null(_NO_LABEL).to_numpy()
