"""Tables -> `Interactions` with raw ids, and item tables; every row is used or accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray
from triptych.data.bad_rows import SHOWN, BadRows
from triptych.data.columns import (
    TITLE_NAMES,
    Columns,
    existing_column,
    free_name,
    item_column,
    plain_name,
    resolve_columns,
)
from triptych.data.filters import Filters, Step, filter_rows
from triptych.data.ids import IdMap, id_array, index_ids, whole_ids
from triptych.data.interactions import Interactions
from triptych.data.tables import naming, read_table
from triptych.data.texts import as_text
from triptych.data.times import read_times
from triptych.data.values import NO_VALUE, read_labels, read_numbers
from triptych.errors import ConfigError, DataError


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
    rows: BoolArray | None = None,
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
        rows: (n,) the rows that are meant; None for all. Of the others, none is looked at but for `listed`.

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
        users, user = index_ids(whole_ids(frame[str(columns.user)]))
        items, item = index_ids(whole_ids(frame[str(columns.item)]))
        rating = None if columns.rating is None else read_numbers(frame[columns.rating])
        timestamp = None if columns.timestamp is None else read_times(frame[columns.timestamp])
        label = None if columns.label is None else read_labels(frame[columns.label], label_meaning)
    rows = np.ones(frame.height, dtype=bool) if rows is None else rows
    usable = _usable_rows(frame, columns, file, bad, rows, user=user, item=item, rating=rating,
                          timestamp=timestamp, label=label)  # fmt: skip
    listed = items
    if not usable.all():
        listed = items[np.bincount(item[(usable | ~rows) & (item >= 0)], minlength=len(items)) > 0]
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
    if n_unusable := int(rows.sum()) - len(keep):
        read.append({"step": "unusable", "interactions_removed": n_unusable})
    merged = int(keep.sum()) - len(interactions)
    steps.append({"step": "duplicates", "kept": filters.duplicates, "interactions_removed": merged})
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

    Another column called so is kept as `item_id_2`, or `title_2`.

    Args:
        path: a table with one row per item.
        item: the column of item ids; None to find it.
        title: the column of titles; None for the one with a well-known name, such as `title`.
        like: what the interactions call their item column; tried before well-known names.
        bad: counts rows that cannot be read, and holds their limit; None to allow none.
        encoding: of text formats.

    Raises:
        DataError: a column is missing or ambiguous, or too many rows are bad: an item's second row is, too.
    """
    bad = BadRows(limit=0.0) if bad is None else bad
    frame = read_table(path, bad, encoding=encoding)
    with naming(Path(path).name):
        item = item_column(frame, item, like, flag="--item-column")
    frame = frame.with_columns(whole_ids(frame[item]))
    frame = frame.filter(_first_rows(frame[item], Path(path).name, bad))
    with naming(Path(path).name):
        if title is None:
            plain = {plain_name(name): name for name in reversed(frame.columns)}
            title = next((plain[name] for name in TITLE_NAMES if name in plain and plain[name] != item), None)
        columns = [pl.Series("item_id", id_array(frame[item]))]
        if title is not None:
            columns.append(as_text(frame[existing_column(frame, title, "--title")]).alias("title"))
    others = [column for column in frame if column.name not in (item, title)]
    own, taken = {column.name for column in columns}, {column.name for column in columns + others}
    kept = (free_name(column.name, taken) if column.name in own else column.name for column in others)
    return pl.DataFrame([*columns, *(column.alias(name) for column, name in zip(others, kept, strict=True))])


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


def distinct_ids(column: pl.Series) -> np.ndarray[Any, Any]:
    """Turn a column of raw item ids into an int64 or str array.

    Raises:
        DataError: an id is missing or repeated.
    """
    column = whole_ids(column)
    if (repeated := column.is_duplicated() & column.is_not_null()).any():
        at = int(repeated.arg_max() or 0)
        raise DataError(
            f"column '{column.name}' lists item {column[at]!r} more than once, first in data row {at + 1}",
            wanted="one row per item",
            fix="Remove the repeated rows",
        )
    return id_array(column)


def _kept(column: np.ndarray[Any, Any] | None, keep: BoolArray) -> Any:
    return column if column is None or keep.all() else column[keep]


_OTHER_COLUMNS = {
    "user": "choose another column with --user",
    "item": "choose another column with --item",
    "rating": "choose another column with --rating (none reads none)",
    "timestamp": "write the times clearly (2024-01-31 is a date), or choose another column with --timestamp "
    "(none reads none)",
    "label": "choose another column with --label (none reads none)",
}
"""Role of a column -> what to do where its values cannot be used."""


def _usable_rows(
    frame: pl.DataFrame,
    columns: Columns,
    file: str,
    bad: BadRows,
    rows: BoolArray,
    **values: np.ndarray[Any, Any] | None,
) -> BoolArray:
    """Mark the rows with a usable value in every column, and count the others under the first bad one.

    Args:
        frame: the table, for messages.
        columns: which column means what.
        file: the table's name.
        bad: counts and limit.
        rows: the rows that are meant; the others are neither marked nor counted.
        values: role -> what its column was read to; -1 or NaN where it could not be.

    Raises:
        DataError: too many rows are bad.
    """
    n_rows = frame.height + bad.count(file)  # those that could not even be read
    usable = rows.copy()
    found: list[str] = []
    for role, column in values.items():
        if column is None:
            continue
        wrong = ~np.isfinite(column) if column.dtype.kind == "f" else column == NO_VALUE[role]
        wrong &= usable
        if wrong.any():
            name = getattr(columns, role)
            examples = (
                f"column '{name}' holds {frame[name][at]!r} in data row {at + 1}"
                for at in np.flatnonzero(wrong)[:SHOWN].tolist()
            )
            bad.add(file, f"no usable {role}", int(wrong.sum()), examples)
            usable &= ~wrong
            found.append(_OTHER_COLUMNS[role])
    bad.check(file, n_rows, ", or ".join(["Repair these rows", *found]))
    return usable
