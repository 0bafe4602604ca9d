"""One text per item, put together from the columns of the item table."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from triptych.data.columns import TITLE_NAMES, plain_name
from triptych.data.markup import without_markup
from triptych.errors import ConfigError, DataError, nearest

USUAL_COLUMNS = ("title", "brand", "categories", "category", "genres", "description")
"""The columns a template is made of when none is given, in this order: what most papers encode."""
_ALSO_CALLED = {
    "title": TITLE_NAMES,
    "brand": ("brand", "vendor", "manufacturer"),
    "category": ("category", "producttype", "productcategory"),
    "description": ("description", "productdescription", "itemdescription", "bodyhtml"),
}
"""Other names of these, spelled as by `plain_name`; the first that a table has wins."""


@dataclass(frozen=True)
class TextTemplate:
    """Which columns make the text, such as "{title} by {brand}. {description}".

    The words before a column's place belong to it: where an item lacks the column, they are left out with
    it. The words before the first place, and those after the last, are written for every text there is.

    Args:
        pattern: words and names of columns in braces; doubled braces stand for themselves.
    """

    pattern: str

    @classmethod
    def usual(cls, columns: Sequence[str]) -> TextTemplate | None:
        """Join those of `USUAL_COLUMNS` a table has; None if it has none of them."""
        spelled = {plain_name(column): column for column in reversed(columns)}
        names = (_ALSO_CALLED.get(usual, (usual,)) for usual in USUAL_COLUMNS)
        found = (next((spelled[name] for name in some if name in spelled), None) for some in names)
        known = [column for column in found if column is not None]
        return cls(". ".join(f"{{{name}}}" for name in known)) if known else None

    @cached_property
    def _parts(self) -> tuple[list[tuple[str, str]], str]:
        """Take the pattern apart: each column with the words before it, and the words at the end."""
        try:
            pieces = list(string.Formatter().parse(self.pattern))
        except ValueError as error:
            raise self._refuse(str(error)) from None
        parts, words = [], ""
        for literal, name, form, conversion in pieces:
            words += literal
            if name is None:
                continue
            if not name or form or conversion:
                raise self._refuse("braces without the plain name of a column")
            parts.append((words, name))
            words = ""
        if not parts:
            raise self._refuse("no column")
        return parts, words

    @property
    def columns(self) -> list[str]:
        """The columns it names."""
        return [name for _, name in self._parts[0]]

    def columns_of(self, table: pl.DataFrame) -> list[str]:
        """Find the columns it names in a table: as they are spelled, or as their file spelled them.

        That is another for small letters and spaces, and the title's is called `title` in an item table.

        Raises:
            ConfigError: the table lacks a column.
        """
        spelled = {plain_name(column): column for column in reversed(table.columns)}
        found = []
        for name in self.columns:
            plain = plain_name(name)
            other = spelled.get(plain) or (spelled.get("title") if plain in TITLE_NAMES else None)
            if name not in table.columns and other is None:
                raise ConfigError(
                    f"the text template names the column '{name}'",
                    wanted="one of " + ", ".join(table.columns),
                    fix=nearest(name, table.columns),
                )
            found.append(name if name in table.columns else str(other))
        return found

    def fill(self, table: pl.DataFrame) -> list[str | None]:
        """Write the text of each row; None where all columns are empty.

        Markup is taken out, entities are resolved, and white space is drawn together; see
        `triptych.data.markup`.

        Raises:
            ConfigError: the table lacks a column; see `columns_of`.
        """
        columns = self.columns_of(table)
        cells = [[without_markup(cell or "") for cell in as_text(table[name])] for name in columns]
        return [self._write(row) for row in zip(*cells, strict=True)]

    def _write(self, cells: tuple[str, ...]) -> str | None:
        parts, end = self._parts
        if not any(cells):
            return None
        written = parts[0][0]
        begun = False
        for (words, _), cell in zip(parts, cells, strict=True):
            if cell:
                written += (words if begun else "") + cell
                begun = True
        return (written + end).strip()

    def _refuse(self, why: str) -> ConfigError:
        return ConfigError(
            f"the text template {self.pattern!r}: {why}",
            wanted="words and names of columns in braces",
            fix='Write for example --text "{title}. {description}"',
        )


def as_text(column: pl.Series) -> pl.Series:
    """Turn a column of any kind into text; lists are joined by commas.

    Raises:
        DataError: its values have no form as text.
    """
    try:
        if column.dtype in (pl.List, pl.Array):
            column = column.cast(pl.List(pl.String), strict=False).list.join(", ", ignore_nulls=True)
        return column.cast(pl.String, strict=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"column '{column.name}' holds {column.dtype} values, which are no text",
            wanted="texts, numbers or lists of them",
            fix="Convert or drop the column",
        ) from error
