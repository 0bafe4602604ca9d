"""Columns of times, as tables write them -> seconds since 1970 (UTC); NaN where there is none."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray, FloatArray
from triptych.data.values import read_numbers
from triptych.errors import ConfigError


def read_times(column: pl.Series) -> FloatArray:
    """Read times in seconds since 1970 (UTC), NaN where there is none.

    Numbers are brought to seconds from the unit their size speaks for; small ones, such as places in a
    sequence, stay as they are. Where more than half of those besides 0 are days such as 20240131, with or
    without a time (202401311605, 20240131160507), or years, the column is one of dates, and what is neither
    counts as none.
    Where most of a column is text and no number, it is read as ISO 8601, else as `_read_written` says. Times
    before 1970 or after 2100 count as none.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        zone = getattr(column.dtype, "time_zone", None)
        seconds = (column.cast(pl.Datetime("us", zone)).dt.epoch("us") / 1e6).fill_null(float("nan"))
        return _sensible(seconds.to_numpy())
    if column.dtype == pl.String:
        numeric = column.cast(pl.Float64, strict=False)
        if numeric.null_count() - column.null_count() > int((numeric != 0).sum()):  # 0 often stands for none
            distinct = column.unique()
            read = _sensible(np.array([_read_iso(text) for text in distinct], dtype=np.float64))
            other = np.isnan(read)
            if other.any():
                read[other] = _sensible(_read_written(distinct.filter(other)))
            return column.replace_strict(distinct, pl.Series(read), return_dtype=pl.Float64).to_numpy()
    numbers = read_numbers(column, largest=np.inf)
    dated = _look_like_dates(numbers)
    n_known = np.count_nonzero(np.isfinite(numbers) & (numbers != 0))
    if 2 * np.count_nonzero(dated) > n_known:
        return _sensible(_calendar(np.where(dated, numbers, np.nan)))
    return _sensible(to_seconds(numbers))


_YEAR_2100 = 4_102_444_800.0


def _look_like_dates(numbers: FloatArray) -> BoolArray:
    """Mark whole numbers that are years, or days such as 20240131, with a time or without; 1900 to 2099."""
    whole = np.where(np.isfinite(numbers) & (numbers == np.floor(numbers)), numbers, 0)
    whole, _ = _part(whole)
    month, day = whole // 100 % 100, whole % 100
    in_a_month = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    days = (whole >= 1900_01_01) & (whole < 2100_01_01) & in_a_month
    marks: BoolArray = days | ((whole >= 1900) & (whole < 2100))
    return marks


def _part(numbers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Part days with a time, such as 202401311605 or 20240131160507, into the day and the time's seconds."""
    day, seconds = numbers, np.zeros(len(numbers))
    for size, to_hhmmss in ((1e4, 100), (1e6, 1)):
        clock = numbers % size * to_hhmmss
        hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
        fits = (numbers >= 1900_01_01 * size) & (numbers < 2100_01_01 * size)
        fits &= (hour < 24) & (minute < 60) & (second < 60)
        day = np.where(fits, numbers // size, day)
        seconds = np.where(fits, 3600 * hour + 60 * minute + second, seconds)
    return day, seconds


def _calendar(numbers: FloatArray) -> FloatArray:
    """Turn years, and days such as 20240131, into seconds since 1970; NaN for a day that is none."""
    numbers, clock = _part(numbers)
    text = pl.Series(numbers).fill_nan(None).cast(pl.Int64).cast(pl.String)
    text = pl.select(pl.when(text.str.len_bytes() == 4).then(text + "0101").otherwise(text)).to_series()
    days = text.str.to_date("%Y%m%d", strict=False)
    return (days.cast(pl.Datetime("us")).dt.epoch("us") / 1e6).fill_null(float("nan")).to_numpy() + clock


def _sensible(seconds: FloatArray) -> FloatArray:
    return np.where((seconds >= 0) & (seconds < _YEAR_2100), seconds, np.nan)


def _read_iso(text: str | None) -> float:
    with suppress(ValueError):
        moment = datetime.fromisoformat((text or "").strip().removesuffix(" UTC"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float("nan")


_CLOCK = (
    r"^(?<day>.*?)"
    r"(?:[ T](?<hour>\d{1,2}):(?<minute>\d\d)(?::(?<second>\d\d(?:\.\d+)?))?(?: ?(?<half>[AP])\.?M\.?)?"
    r"(?: ?(?<zone>[+-]\d\d:?\d\d))?)?$"
)
_ANY_ORDER = [
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d %B %y",
    "%d.%m.%y",
    "%d.%m.%Y",
    "%d %B %Y",
    "%d-%B-%Y",
    "%d-%B-%y",
    "%B %d %Y",
]
_MONTH_FIRST = [*_ANY_ORDER, "%m/%d/%y", "%m/%d/%Y", "%m-%d-%Y"]
_DAY_FIRST = [*_ANY_ORDER, "%d/%m/%y", "%d/%m/%Y", "%d-%m-%Y"]


def _read_written(texts: pl.Series) -> FloatArray:
    """Read dates with slashes, dots, dashes or English names of months, with or without a time of day (UTC).

    Whether 3/4/2017 is in March or in April is told by the others of its column: that order is taken in which
    more of them are dates. Where both are as good, what differs counts as none.

    Args:
        texts: (n,) distinct.
    """
    plain = texts.str.to_uppercase().str.replace_all(",", "").str.replace_all(r"\s+", " ").str.strip_chars()
    plain = plain.str.replace(r" ?(?:UTC|GMT|Z)$", "").str.replace(r"(\d)(?:ST|ND|RD|TH)\b", "$1")
    parts = (
        plain.str.replace(r"^(?:MON|TUE|WED|THU|FRI|SAT|SUN)[A-Z]* ", "").str.extract_groups(_CLOCK).struct
    )
    day_first, month_first = (_read_days(parts.field("day"), order) for order in (_DAY_FIRST, _MONTH_FIRST))
    n_day, n_month = np.isfinite(day_first).sum(), np.isfinite(month_first).sum()
    days = day_first if n_day > n_month else month_first
    if n_day == n_month:
        days = np.where(day_first == month_first, days, np.nan)
    return days + _read_clock(parts)


def _read_days(texts: pl.Series, formats: list[str]) -> FloatArray:
    """Read days as seconds since 1970, each in the first of the formats that it has; NaN if it has none."""
    distinct = texts.unique()
    seconds = np.full(len(distinct), np.nan)
    for form in reversed(formats):
        days = distinct.str.to_date(form, strict=False).cast(pl.Datetime("us")).dt.epoch("us") / 1e6
        read = _sensible(days.cast(pl.Float64).fill_null(float("nan")).to_numpy())  # 3/4/17 has no year 3
        seconds = np.where(np.isnan(read), seconds, read)
    return texts.replace_strict(distinct, pl.Series(seconds), return_dtype=pl.Float64).to_numpy()


def _read_clock(parts: Any) -> FloatArray:
    """Read times of day as seconds, 0 where there is none; NaN for what no clock shows."""
    hour, minute, second = (
        parts.field(name).cast(pl.Float64).fill_null(0.0).to_numpy() for name in ("hour", "minute", "second")
    )
    half = parts.field("half").fill_null("").to_numpy()  # A, P or nothing
    hour = np.where(half == "", hour, hour % 12 + 12 * (half == "P"))
    shown = (hour < 24) & (minute < 60) & (second < 60)
    zone = parts.field("zone").str.replace(":", "").cast(pl.Float64).fill_null(0.0).to_numpy()
    ahead = np.sign(zone) * (np.abs(zone) // 100 * 60 + np.abs(zone) % 100)  # +0130 is 90 minutes
    return np.where(shown, 3600 * hour + 60 * (minute - ahead) + second, np.nan)


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
