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

from dataclasses import dataclass

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray
from triptych.data.condition_parser import parse
from triptych.data.condition_tests import Node, Rows
from triptych.errors import ConfigError, ShapeError

MAX_LENGTH = 4_096
"""Characters of a condition."""


@dataclass(frozen=True)
class Condition:
    """A condition on the columns of a table.

    Args:
        text: as it was written.
        root: as it was understood.
        columns: those it names, each once.
    """

    text: str
    root: Node
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
        return cls(text, *parse(text))

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
        return self.root.matches(Rows(table)).fill_null(value=False).to_numpy()


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
