"""Tables -> `Interactions` with raw ids, and item tables: which column means what, each value checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triptych.data.dataset import id_array
from triptych.data.interactions import TEST, TRAIN, VALID, FloatArray, Interactions, LabelArray
from triptych.data.tables import naming, read_table
from triptych.errors import ConfigError, DataError, nearest

LABEL_MEANING: Mapping[str, int] = {
    "0": TRAIN, "1": VALID, "2": TEST, "train": TRAIN, "valid": VALID, "test": TEST,
}  # fmt: skip
"""What labels mean unless told otherwise (MMRec's numbers)."""

_USER_NAMES = {"user", "userid", "uid", "reviewerid", "customerid", "visitorid"}
_ITEM_NAMES = {"item", "itemid", "iid", "asin", "parentasin", "productid", "movieid", "videoid"}


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


@dataclass(frozen=True)
class ReadCounts:
    """What became of the rows of a table.

    Args:
        rows: how many there were.
        below_threshold: how many had a rating below `min_rating`.
        duplicates: how many of the others repeated a pair and were merged.
    """

    rows: int
    below_threshold: int
    duplicates: int

    def as_dict(self) -> dict[str, int]:
        """Give the counts by name."""
        return asdict(self)


def read_interactions(
    path: str | Path,
    columns: Columns = Columns(),
    *,
    min_rating: float | None = None,
    label_meaning: Mapping[str, int] | None = None,
) -> tuple[Interactions, ReadCounts]:
    """Read interactions from a table; see `interactions_from_frame`."""
    frame = read_table(path)
    with naming(Path(path).name):
        columns = resolve_columns(frame, columns, path)
        return interactions_from_frame(frame, columns, min_rating=min_rating, label_meaning=label_meaning)


def interactions_from_frame(
    frame: pl.DataFrame,
    columns: Columns = Columns(),
    *,
    min_rating: float | None = None,
    label_meaning: Mapping[str, int] | None = None,
) -> tuple[Interactions, ReadCounts]:
    """Make interactions of a table with one row each, and count what was dropped or merged.

    Args:
        frame: any columns; those that `columns` does not name are ignored.
        columns: which column means what.
        min_rating: drop rows with a lower rating.
        label_meaning: label as text -> TRAIN, VALID, TEST or LEFT_OUT; None for `LABEL_MEANING`.

    Raises:
        DataError: a column is missing or ambiguous, or a value is; the message names column and row.
        ConfigError: a threshold without ratings, or a meaning without labels.
    """
    columns = resolve_columns(frame, columns)
    if min_rating is not None and columns.rating is None:
        raise ConfigError(
            f"a lowest rating of {min_rating:g}, but no rating column",
            wanted="the column that holds the ratings",
            fix="Add --rating COLUMN",
        )
    if label_meaning is not None and columns.label is None:
        raise ConfigError(
            "a meaning of labels, but no label column",
            wanted="the column that says how the rows are split",
            fix="Add --label COLUMN",
        )
    users, items = id_array(frame[str(columns.user)]), id_array(frame[str(columns.item)])
    rating = None if columns.rating is None else _numbers(frame[columns.rating])
    timestamp = None if columns.timestamp is None else _times(frame[columns.timestamp])
    label = None if columns.label is None else _labels(frame[columns.label], label_meaning or LABEL_MEANING)
    keep = np.ones(frame.height, dtype=bool)
    if min_rating is not None and rating is not None:
        keep = rating >= min_rating
    interactions = Interactions.from_ids(
        users[keep],
        items[keep],
        rating=None if rating is None else rating[keep],
        timestamp=None if timestamp is None else timestamp[keep],
        label=None if label is None else label[keep],
    )
    n_kept = int(keep.sum())
    return interactions, ReadCounts(frame.height, frame.height - n_kept, n_kept - len(interactions))


def read_item_table(
    path: str | Path, *, item: str | None = None, title: str | None = None, like: str | None = None
) -> pl.DataFrame:
    """Read what is known about items: `item_id`, `title` if there is one, then all other columns.

    Args:
        path: a table with one row per item.
        item: the column of item ids; None to find it.
        title: the column of titles; None for `title` or `name`. A column whose name it takes is dropped.
        like: what the interactions call their item column; tried before well-known names.

    Raises:
        DataError: a column is missing or ambiguous, or an item has two rows.
    """
    frame = read_table(path)
    with naming(Path(path).name):
        item = item_column(frame, item, like)
        if title is None:
            title = next((name for name in frame.columns if name.lower() in {"title", "name"}), None)
        columns, taken = [pl.Series("item_id", distinct_ids(frame[item]))], {item, "item_id"}
        if title is not None:
            columns.append(frame[_existing(frame, title, "--title")].cast(pl.String).alias("title"))
            taken |= {title, "title"}
        return pl.DataFrame([*columns, *(column for column in frame if column.name not in taken)])


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
    if item is None:
        item = like if like in frame.columns else _guess(frame, _ITEM_NAMES, "--item")
    return _existing(frame, item, "--item")


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


def _guess(frame: pl.DataFrame, well_known: Collection[str], flag: str) -> str:
    found = [name for name in frame.columns if name.lower().replace("_", "") in well_known]
    if len(found) != 1:
        what = "more than one column could be meant" if found else "no column has a well-known name"
        raise DataError(
            f"{what} for {flag}: the columns are {', '.join(frame.columns)}",
            wanted=f"one {flag.removeprefix('--')} id column",
            fix=f"Name it with {flag} COLUMN",
        )
    return found[0]


def _numbers(column: pl.Series) -> FloatArray:
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean)):
        raise DataError(
            f"column '{column.name}' holds {column.dtype} values",
            wanted="numbers",
            fix="Choose another column",
        )
    numbers = column.cast(pl.Float64, strict=False)
    _refuse(column, ~numbers.is_finite().fill_null(value=False), "a finite number")
    return numbers.to_numpy()


def _times(column: pl.Series) -> FloatArray:
    """Give numbers as they are; dates, and ISO 8601 text that is no number, in seconds since 1970 (UTC)."""
    if column.dtype in (pl.Date, pl.Datetime):
        seconds = (
            column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None))).dt.epoch("us") / 1e6
        )
    elif column.dtype == pl.String and column.head(1).cast(pl.Float64, strict=False).null_count():
        seconds = pl.Series([_seconds(text) for text in column], dtype=pl.Float64)
    else:
        return _numbers(column)
    _refuse(column, seconds.is_null(), "a number, or a date such as 2024-05-01T12:00:00")
    return seconds.to_numpy()


def _seconds(text: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _labels(column: pl.Series, meaning: Mapping[str, int]) -> LabelArray:
    if column.dtype.is_float() and (column.fill_null(0) == column.fill_null(0).round()).all():
        column = column.cast(pl.Int64)
    _refuse(column, column.is_null(), "a label")
    text = column.cast(pl.String)
    unknown = sorted(set(text.unique()) - meaning.keys())
    if unknown:
        shown = ", ".join(repr(label) for label in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"column '{column.name}' holds the unknown labels {shown}",
            wanted="one of " + ", ".join(meaning),
            fix='Say what each means, for example --label-meaning "0=train,1=valid,2=test"',
        )
    return text.replace_strict(dict(meaning), return_dtype=pl.Int8).to_numpy()


def _refuse(column: pl.Series, bad: pl.Series, wanted: str) -> None:
    if bad.any():
        at = int(bad.arg_max() or 0)
        raise DataError(
            f"column '{column.name}' holds {column[at]!r} in data row {at + 1}",
            wanted=f"{wanted} in every row",
            fix="Repair or remove such rows, or choose another column",
        )
