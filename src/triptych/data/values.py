"""Columns of text or numbers -> ratings, times and labels; NaN or `NO_LABEL` where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray, FloatArray, LabelArray
from triptych.data.interactions import TEST, TRAIN, VALID
from triptych.errors import ConfigError, DataError

LABEL_MEANING: Mapping[str, int] = {
    "0": TRAIN, "1": VALID, "2": TEST, "train": TRAIN, "valid": VALID, "test": TEST,
}  # fmt: skip
"""What labels mean unless told otherwise (MMRec's numbers)."""


_NO_NUMBER = 1e15


def read_numbers(column: pl.Series, largest: float = _NO_NUMBER) -> FloatArray:
    """Read numbers, NaN where there is none, or one beyond all that is ever counted.

    Args:
        column: (n,) numbers, or text.
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
    numbers = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    return np.where(np.abs(numbers) < largest, numbers, np.nan)


def read_times(column: pl.Series) -> FloatArray:
    """Read times in seconds since 1970 (UTC), NaN where there is none.

    Numbers are brought to seconds from the unit their size speaks for; small ones, such as places in a
    sequence, stay as they are. Where more than half of those besides 0 are days such as 20240131, or years,
    the column is one of dates, and what is neither counts as none.
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
    numbers = read_numbers(column, largest=np.inf)
    dated = _look_like_dates(numbers)
    n_known = np.count_nonzero(np.isfinite(numbers) & (numbers != 0))  # 0 often stands for no date
    if 2 * np.count_nonzero(dated) > n_known:
        return _sensible(_calendar(np.where(dated, numbers, np.nan)))
    return _sensible(to_seconds(numbers))


_YEAR_2100 = 4_102_444_800.0


def _look_like_dates(numbers: FloatArray) -> BoolArray:
    """Mark whole numbers that are years, or days such as 20240131, from 1900 to 2099."""
    whole = np.where(np.isfinite(numbers) & (numbers == np.floor(numbers)), numbers, 0)
    month, day = whole // 100 % 100, whole % 100
    in_a_month = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    days = (whole >= 1900_01_01) & (whole < 2100_01_01) & in_a_month
    marks: BoolArray = days | ((whole >= 1900) & (whole < 2100))
    return marks


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


def to_seconds(numbers: FloatArray) -> FloatArray:
    """Bring numbers to seconds, each from the unit since 1970 that its size speaks for."""
    milli, micro, nano = 1e11, 1e14, 1e17  # from here on; in seconds, 1e11 is the year 5138
    unit = np.select([numbers < milli, numbers < micro, numbers < nano], [1.0, 1e3, 1e6], 1e9)
    seconds: FloatArray = numbers / unit
    return seconds


def read_moment(text: str) -> float:
    """Read a year, a date or a time (ISO 8601, UTC unless it says otherwise), or a plain number, as a time.

    Days such as 20240131 are dates. Other numbers that are as large as milli-, micro- or nanoseconds since
    1970 are brought to seconds.

    Raises:
        ConfigError: it is none of these.
    """
    written = re.fullmatch("((?:19|20)[0-9]{2})([0-9]{2})?([0-9]{2})?", text)
    if written and written[2] and not written[3]:
        raise ConfigError(
            f"the time {text!r}",
            wanted="a date, and this could be a month or seconds since 1970",
            fix=f"Write {written[1]}-{written[2]}-01, or {text}.0 for seconds",
        )
    if written is None:
        with suppress(ValueError):
            number = float(to_seconds(np.array([float(text)]))[0])
            if np.isfinite(number):
                return number
    try:
        day = "-".join(part or "01" for part in written.groups()) if written else text
        moment = datetime.fromisoformat(day)
    except ValueError:
        raise ConfigError(
            f"the time {text!r}",
            wanted="a date, a date with a time, or seconds since 1970",
            fix="Write for example 2014-07-01",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
