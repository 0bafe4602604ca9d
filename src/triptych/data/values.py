"""Columns of text or numbers -> ratings and labels; NaN or `NO_LABEL` where there is none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from triptych.data.arrays import FloatArray, LabelArray
from triptych.data.ids import NO_IDS
from triptych.data.interactions import TEST, TRAIN, VALID
from triptych.errors import DataError

LABEL_MEANING: Mapping[str, int] = {
    "0": TRAIN, "1": VALID, "2": TEST, "train": TRAIN, "valid": VALID, "test": TEST,
}  # fmt: skip
"""What labels mean unless told otherwise (MMRec's numbers)."""


_NO_NUMBER = 1e15

_COMMA = r"^[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)(?:,[0-9]+)?$"
"""A number as much of Europe writes it: 4,5 and 1.234,56."""
_GROUPED = r"^[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+$"
"""What could as well be 1,234 for one thousand and more."""


def as_numbers(column: pl.Series) -> pl.Series:
    """Turn numbers and texts into Float64, null for a text that is none.

    Texts have decimal commas where all of them can be read so, and one of them in no other way: "1,234" alone
    could be a thousand and more, and is no number.
    """
    numbers = column.cast(pl.Float64, strict=False)
    if column.dtype != pl.String or numbers.null_count() == column.null_count():
        return numbers
    texts = column.alias("").set(column.is_in(NO_IDS), None)  # "^.*$" would name a pattern of columns
    with_comma = texts.filter(texts.str.contains(",", literal=True))
    if with_comma.str.contains(_GROUPED).all() or not texts.str.contains(_COMMA).all():
        return numbers
    plain = texts.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    return plain.cast(pl.Float64).alias(column.name)


def read_numbers(column: pl.Series, largest: float = _NO_NUMBER) -> FloatArray:
    """Read numbers, NaN where there is none, or one beyond all that is ever counted.

    Args:
        column: (n,) numbers, or text; see `as_numbers`.
        largest: numbers of this size and more count as none.

    Raises:
        DataError: the column holds something else.
    """
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean)):
        raise DataError(
            f"column '{column.name}' holds {column.dtype} values",
            wanted="numbers",
            fix="Choose another column",
        )
    numbers = as_numbers(column).fill_null(float("nan")).to_numpy()
    return np.where(np.abs(numbers) < largest, numbers, np.nan)


NO_LABEL = np.iinfo(np.int8).min
NO_VALUE = {"user": -1, "item": -1, "label": NO_LABEL}
"""Role of a column of whole numbers -> what stands where there is no value."""


def read_labels(column: pl.Series, meaning: Mapping[str, int] | None) -> LabelArray:
    """Read labels, `NO_LABEL` where there is none.

    Args:
        column: (n,) text or whole numbers.
        meaning: label as text -> part of a split; None for `LABEL_MEANING`.

    Raises:
        DataError: a label without a meaning.
    """
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
    return codes.fill_null(NO_LABEL).to_numpy()
