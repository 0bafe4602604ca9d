"""Conditions on the columns of a table: "category = 'shoes' and price < 50". Read, never executed.

    condition: tests joined by not, and, or (the first binds most), and parentheses
    test:      COLUMN = VALUE              also != < <= > >=
               COLUMN [not] in (VALUE, ...)
               COLUMN [not] like 'a%'      % stands for any text, _ for one character
               COLUMN [not] contains 'a'   somewhere in a text, or as a member of a list
               COLUMN is [not] missing
    COLUMN:    a word, or any name in double quotes
    VALUE:     'text' (a quote in it is doubled), a number, true or false; a time is a text: '2024-01-31'

Comparisons and `in` take texts as they are; `like` and `contains` ignore upper and lower case. A column of
text that holds nothing but numbers, as read from CSV, may be compared with a number (4,5 is one where all of
the column can be read so), and one of the words true and false alone with these. What is missing (null, NaN,
an empty text) matches nothing but `is missing`: neither a test nor its `not`, as in SQL.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray
from triptych.data.values import as_numbers
from triptych.errors import ConfigError, ShapeError, nearest

MAX_LENGTH = 4_096
"""Characters of a condition."""

MAX_DEPTH = 32
"""Parentheses and nots inside each other."""

Value = str | int | float | bool

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_KEYWORDS = frozenset({"and", "or", "not", "in", "like", "contains", "is", "missing", "true", "false"})
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*")
    | (?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?![\w.])
    | (?P<word>[^\W\d]\w*)
    | (?P<sign>!=|<=|>=|[=<>(),])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


class _Node(Protocol):
    """A part of a condition."""

    def matches(self, table: pl.DataFrame) -> pl.Series:
        """Say of each row whether it matches; null where that cannot be known."""


@dataclass(frozen=True)
class Condition:
    """A condition on the columns of a table.

    Args:
        text: as it was written.
        root: as it was understood.
        columns: those it names, each once.
    """

    text: str
    root: _Node
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition; the module says how it is written.

        Raises:
            ConfigError: it is too long, nested too deeply, or not written so; the message says where.
        """
        if len(text) > MAX_LENGTH:
            raise ConfigError(
                f"a condition of {len(text):,} characters",
                wanted=f"at most {MAX_LENGTH:,}",
                fix="Put what it selects into a column of the table",
            )
        parser = _Parser(text)
        root = parser.read()
        return cls(text, root, tuple(dict.fromkeys(parser.columns)))

    def mask(self, table: pl.DataFrame, n_items: int) -> BoolArray:
        """Mark the items that match: (I,).

        Args:
            table: one row per item in index order.
            n_items: I.

        Raises:
            ConfigError: a column is not there, or does not hold what it is compared with.
            ShapeError: the table is one of other items.
        """
        if table.height != n_items:
            raise ShapeError(
                f"the item table has {table.height:,} rows",
                wanted=f"one for each of {n_items:,} items",
                fix="Take the item table of the same data set",
            )
        return self.rows(table)

    def rows(self, table: pl.DataFrame) -> BoolArray:
        """Mark the rows of any table that match: (n,).

        Raises:
            ConfigError: a column is not there, or does not hold what it is compared with.
        """
        return self.root.matches(table).fill_null(value=False).to_numpy()


def matching_items(where: str | BoolArray | None, table: pl.DataFrame, n_items: int) -> BoolArray | None:
    """Mark the items that may be listed: (I,); None for all.

    Args:
        where: a condition; or the marks themselves, (I,).
        table: one row per item in index order.
        n_items: I.

    Raises:
        ConfigError: the condition cannot be read, or does not fit the table.
        ShapeError: the table, or the marks, are of other items.
    """
    if where is None or isinstance(where, str):
        return None if where is None else Condition.parse(where).mask(table, n_items)
    if where.shape != (n_items,) or where.dtype != np.bool_:
        raise ShapeError(
            f"marks of shape {where.shape} and type {where.dtype}",
            wanted=f"true or false for each of {n_items:,} items",
            fix="Mark the items in index order, or write a condition",
        )
    return where


@dataclass(frozen=True)
class _Joined:
    join: Callable[[Any, Any], Any]
    parts: tuple[_Node, ...]

    def matches(self, table: pl.DataFrame) -> pl.Series:
        joined: pl.Series = reduce(self.join, (part.matches(table) for part in self.parts))
        return joined


@dataclass(frozen=True)
class _Not:
    part: _Node

    def matches(self, table: pl.DataFrame) -> pl.Series:
        return ~self.part.matches(table)


@dataclass(frozen=True)
class _Missing:
    column: str

    def matches(self, table: pl.DataFrame) -> pl.Series:
        return _column(table, self.column).is_null()


@dataclass(frozen=True)
class _Comparison:
    column: str
    sign: str
    value: Value

    def matches(self, table: pl.DataFrame) -> pl.Series:
        column = _column(table, self.column)
        if column.dtype == pl.Null:  # it never had a value
            return column.cast(pl.Boolean)
        if isinstance(self.value, bool) and self.sign not in ("=", "!="):
            raise _refused(column, f"{self.sign} {_shown(self.value)}", "= or !=")
        left, right = _comparable(column, self.value)
        compared: pl.Series = _COMPARISONS[self.sign](left, right)
        return compared


@dataclass(frozen=True)
class _Pattern:
    column: str
    word: Literal["like", "contains"]
    text: str

    def matches(self, table: pl.DataFrame) -> pl.Series:
        column = _column(table, self.column)
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


def _column(table: pl.DataFrame, name: str) -> pl.Series:
    """Give a column with null in place of all that is missing, and texts in place of categories."""
    if name not in table.columns:
        raise ConfigError(
            f"the condition names the column '{name}'",
            wanted="one of " + ", ".join(table.columns),
            fix=nearest(name, table.columns),
        )
    column = table.get_column(name).alias(name.lstrip("^"))  # polars takes a name "^p.*$" for a pattern
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        return column.set(column == "", None)
    return column.fill_nan(None) if column.dtype.is_float() else column


def _comparable(column: pl.Series, value: Value) -> tuple[pl.Series, Value | datetime]:
    """Bring a column and a value to one type.

    Raises:
        ConfigError: they are of different kinds.
    """
    if isinstance(value, bool):
        if column.dtype == pl.String and (words := column.str.to_lowercase()).is_in(["true", "false"]).all():
            column = words == "true"  # of tables of text
        if column.dtype != pl.Boolean:
            raise _refused(column, _shown(value), "a column of true and false")
        return column, value
    if isinstance(value, str):
        if column.dtype in (pl.Date, pl.Datetime):
            return _utc(column), _moment(column, value)
        if column.dtype != pl.String:
            raise _refused(column, repr(value), "a column of text; a number is written without quotes")
        return column, value
    if column.dtype == pl.String:  # of tables of text, which hold prices such as 19.99 so
        numbers = as_numbers(column).fill_nan(None)
        strange = column.filter(column.is_not_null() & numbers.is_null())
        if len(strange):
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


class _Token(NamedTuple):
    kind: str  # "text", "name", "number", "word", "end"; a keyword or a sign is its own kind
    text: str
    place: int


class _Parser:
    """Reads a condition from left to right, each rule of the grammar by one method."""

    def __init__(self, text: str) -> None:
        self.columns: list[str] = []
        self._text = text
        self._next = 0
        self._tokens: list[_Token] = []
        place = 0
        while not self._tokens or self._tokens[-1].kind != "end":
            found = _TOKEN.match(text, place)
            if found is None:
                at = len(text) - len(text[place:].lstrip())
                raise self._unreadable(text[at : at + 12], at)
            kind = group = str(found.lastgroup)
            word = found[group]
            if kind == "sign" or (kind == "word" and word.lower() in _KEYWORDS):
                kind = word.lower()
            self._tokens.append(_Token(kind, word, found.start(group)))
            place = found.end()

    def read(self) -> _Node:
        """Read all of it."""
        condition = self._any(depth=0)
        self._take("end", wanted="and, or, or the end")
        return condition

    def _any(self, depth: int) -> _Node:
        parts = [self._all(depth)]
        while self._skip("or"):
            parts.append(self._all(depth))
        return _Joined(operator.or_, tuple(parts)) if len(parts) > 1 else parts[0]

    def _all(self, depth: int) -> _Node:
        parts = [self._one(depth)]
        while self._skip("and"):
            parts.append(self._one(depth))
        return _Joined(operator.and_, tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"a condition nested more than {MAX_DEPTH} deep",
                wanted="fewer parentheses and nots inside each other",
                fix="Write it more plainly",
            )
        if self._skip("not"):
            return _Not(self._one(depth + 1))
        if self._skip("("):
            inner = self._any(depth + 1)
            self._take(")")
            return inner
        return self._test()

    def _test(self) -> _Node:
        column = _unquoted(self._take("word", "name", wanted="a column"))
        self.columns.append(column)
        if self._skip("is"):
            negated = self._skip("not")
            self._take("missing")
            return _Not(_Missing(column)) if negated else _Missing(column)
        if self._tokens[self._next].kind in _COMPARISONS:
            return _Comparison(column, self._take(*_COMPARISONS).kind, self._value())
        negated = self._skip("not")
        word = self._take("in", "like", "contains", wanted="=, !=, <, <=, >, >=, in, like, contains or is")
        test: _Node
        if word.kind == "in":
            self._take("(")
            tests = [_Comparison(column, "=", self._value())]
            while self._skip(","):
                tests.append(_Comparison(column, "=", self._value()))
            self._take(")", wanted=", or )")
            test = _Joined(operator.or_, tuple(tests))
        else:
            text = _unquoted(self._take("text", wanted="a text in single quotes"))
            test = _Pattern(column, "like" if word.kind == "like" else "contains", text)
        return _Not(test) if negated else test

    def _value(self) -> Value:
        token = self._take("text", "number", "true", "false", wanted="a number, or a text in single quotes")
        if token.kind == "text":
            return _unquoted(token)
        if token.kind != "number":
            return token.kind == "true"
        number = float(token.text)
        if not math.isfinite(number):
            raise self._unreadable(token.text, token.place, "a number within the range of 64 bits")
        return int(token.text) if token.text.lstrip("+-").isdecimal() else number

    def _skip(self, kind: str) -> bool:
        """Go past the next token if it is of this kind, and say whether it was."""
        found = self._tokens[self._next].kind == kind
        self._next += found
        return found

    def _take(self, *kinds: str, wanted: str | None = None) -> _Token:
        token = self._tokens[self._next]
        if token.kind not in kinds:
            raise self._unreadable(token.text, token.place, wanted or " or ".join(kinds))
        self._next += 1
        return token

    def _unreadable(self, what: str, place: int, wanted: str = "a column, a value or a sign") -> ConfigError:
        found = f"{what!r} at character {place + 1}" if what else "its end"
        return ConfigError(
            f"the condition {self._text!r} cannot be read: it meets {found}",
            wanted=wanted,
            fix="Write for example \"category = 'shoes' and price < 50\"",
        )


def _unquoted(token: _Token) -> str:
    if token.kind == "word":
        return token.text
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote)
