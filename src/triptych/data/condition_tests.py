"""The tests that conditions are made of, and the columns they read."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl

from triptych.data.values import as_numbers
from triptych.errors import ConfigError, nearest

Value = str | int | float | bool

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Rows:
    """The columns of a table, each read once, however many tests name it."""

    def __init__(self, table: pl.DataFrame) -> None:
        self._table = table
        self._known: dict[tuple[str, Callable[[pl.Series], pl.Series]], pl.Series] = {}

    def column(self, name: str) -> pl.Series:
        """Give a column with null in place of all that is missing, and texts in place of categories.

        Raises:
            ConfigError: it is not there.
        """
        if name not in self._table.columns:
            raise ConfigError(
                f"the condition names the column '{name}'",
                wanted="one of " + ", ".join(self._table.columns),
                fix=nearest(name, self._table.columns),
            )
        return self._keep(name, _without_missing, self._table.get_column)

    def read_as(self, name: str, reading: Callable[[pl.Series], pl.Series]) -> pl.Series:
        """Give what a reading makes of a column."""
        return self._keep(name, reading, self.column)

    def _keep(
        self, name: str, reading: Callable[[pl.Series], pl.Series], column: Callable[[str], pl.Series]
    ) -> pl.Series:
        if (name, reading) not in self._known:
            self._known[name, reading] = reading(column(name))
        return self._known[name, reading]


class Node(Protocol):
    """A part of a condition."""

    def matches(self, rows: Rows) -> pl.Series:
        """Say of each row whether it matches; null where that cannot be known."""


@dataclass(frozen=True)
class Joined:
    """Tests joined by and, or by or."""

    join: Callable[[Any, Any], Any]
    parts: tuple[Node, ...]

    def matches(self, rows: Rows) -> pl.Series:
        """Join what the parts say."""
        joined: pl.Series = reduce(self.join, (part.matches(rows) for part in self.parts))
        return joined


@dataclass(frozen=True)
class Not:
    """What does not match, and is not missing."""

    part: Node

    def matches(self, rows: Rows) -> pl.Series:
        """Turn around what the part says; what cannot be known stays so."""
        return ~self.part.matches(rows)


@dataclass(frozen=True)
class Missing:
    """Rows without a value."""

    column: str

    def matches(self, rows: Rows) -> pl.Series:
        """Look for null."""
        return rows.column(self.column).is_null()


@dataclass(frozen=True)
class Comparison:
    """A column beside a value."""

    column: str
    sign: str
    value: Value

    def matches(self, rows: Rows) -> pl.Series:
        """Compare, once both are of one type."""
        column = rows.column(self.column)
        if column.dtype == pl.Null:  # it never had a value
            return column.cast(pl.Boolean)
        if isinstance(self.value, bool) and self.sign not in ("=", "!="):
            raise _refused(column, f"{self.sign} {_shown(self.value)}", "= or !=")
        left, right = _comparable(rows, self.column, self.value)
        compared: pl.Series = COMPARISONS[self.sign](left, right)
        return compared


@dataclass(frozen=True)
class Pattern:
    """A text that is somewhere in a column, or all of it but for what stands for any text."""

    column: str
    word: Literal["like", "contains"]
    text: str

    def matches(self, rows: Rows) -> pl.Series:
        """Search texts, or the members of lists."""
        column = rows.column(self.column)
        if column.dtype == pl.Null:
            return column.cast(pl.Boolean)
        plain = pl.escape_regex(self.text)
        if column.dtype == pl.List(pl.String) and self.word == "contains":
            return column.list.eval(pl.element().str.contains(f"(?i)^{plain}$")).list.any()
        if column.dtype != pl.String:
            raise _refused(column, f"{self.word} {self.text!r}", "a column of text")
        wild = {"%": ".*", "_": "."}
        parts = (wild.get(part) or pl.escape_regex(part) for part in re.split("([%_])", self.text))
        return column.str.contains(f"(?is)^{''.join(parts)}$" if self.word == "like" else f"(?i){plain}")


def _without_missing(column: pl.Series) -> pl.Series:
    column = column.alias(column.name.lstrip("^"))  # polars takes a name "^p.*$" for a pattern
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        return column.set(column == "", None)
    return column.fill_nan(None) if column.dtype.is_float() else column


def _numbers(column: pl.Series) -> pl.Series:
    return as_numbers(column).fill_nan(None)


def _lower(column: pl.Series) -> pl.Series:
    return column.str.to_lowercase()


def _comparable(rows: Rows, name: str, value: Value) -> tuple[pl.Series, Value | datetime]:
    """Bring a column and a value to one type.

    Raises:
        ConfigError: they are of different kinds.
    """
    column = rows.column(name)
    if isinstance(value, bool):
        if column.dtype == pl.String and (words := rows.read_as(name, _lower)).is_in(["true", "false"]).all():
            column = words == "true"  # of tables of text
        if column.dtype != pl.Boolean:
            raise _refused(column, _shown(value), "a column of true and false")
        return column, value
    if isinstance(value, str):
        if column.dtype in (pl.Date, pl.Datetime):
            return rows.read_as(name, _utc), _moment(column, value)
        if column.dtype != pl.String:
            raise _refused(column, repr(value), "a column of text; a number is written without quotes")
        return column, value
    if column.dtype == pl.String:  # of tables of text, which hold prices such as 19.99 so
        numbers = rows.read_as(name, _numbers)
        if numbers.null_count() > column.null_count():
            strange = column.filter(column.is_not_null() & numbers.is_null())
            said = f"a column of numbers; this one holds {strange[0]!r}"
            if "," in strange[0]:
                said += ", and whether its comma parts decimals or thousands is not clear from the others"
            raise _refused(column, _shown(value), said)
        return numbers, float(value)
    if not column.dtype.is_numeric():
        raise _refused(column, _shown(value), "a column of numbers")
    if column.dtype.is_signed_integer() and isinstance(value, int) and abs(value) < 1 << 63:
        return column.cast(pl.Int64), value
    if column.dtype == pl.Float32:  # 19.99 is to find what was stored of 19.99
        value = float(np.float32(value))
    return column.cast(pl.Float64), float(value)


def _utc(column: pl.Series) -> pl.Series:
    moments = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None)))
    aware = getattr(moments.dtype, "time_zone", None) is not None
    return moments.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if aware else moments


def _moment(column: pl.Series, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _refused(column, repr(text), "a date such as '2024-01-31', or a time") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _refused(column: pl.Series, what: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"the condition compares the column '{column.name}' of {column.dtype} values with {what}",
        wanted=wanted,
        fix="Change the condition, or the column in the table",
    )


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
