"""Times as people and programs write them, in columns of one kind and of several."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.times import read_times

NOVEMBER = datetime(2016, 11, 28, tzinfo=UTC)
EVENING = datetime(2016, 11, 28, 22, 5, 7, tzinfo=UTC)
WRITTEN = {
    NOVEMBER: [
        "11/28/2016",
        "11/28/16",
        "11-28-2016",
        "2016/11/28",
        "28.11.2016",
        "28.11.16",
        "28 Nov 2016",
        "28-Nov-2016",
        "28-nov-16",
        "Nov 28, 2016",
        "November 28, 2016",
        "Monday, November 28, 2016",
        "11/28/2016 12:00 AM",
    ],
    EVENING: [
        "11/28/2016 22:05:07",
        "11/28/2016, 10:05:07 PM",
        "11/28/2016 10:05:07 p.m.",
        "28.11.2016 22:05:07",
        "28.11.2016, 22:05:07",
        "2016/11/28 22:05:07.0 UTC",
        "Mon, 28 Nov 2016 22:05:07 GMT",
    ],
}


def read(*texts: str | None) -> list[float | None]:
    seconds = read_times(pl.Series("when", texts, dtype=pl.String))
    return pl.Series(seconds).fill_nan(None).to_list()


@pytest.mark.parametrize(
    ("moment", "text"), [(moment, text) for moment, texts in WRITTEN.items() for text in texts]
)
def test_dates_are_read_as_people_write_them(moment, text):
    assert read(text) == [moment.timestamp()]


def test_days_and_months_are_told_apart_by_their_column():
    march, april, later = (datetime(2017, m, d, tzinfo=UTC).timestamp() for m, d in ((3, 4), (4, 3), (3, 28)))
    assert read("3/4/2017", "3/28/2017") == [march, later]
    assert read("3/4/2017", "28/3/2017") == [april, later]
    assert read("03-04-2017 08:00", "28-03-2017 08:00") == [april + 8 * 3600, later + 8 * 3600]
    assert read("3/4/2017", "4/3/2017") == [None, None]  # nothing tells them apart
    assert read("3/4/2017", "3/3/2017", "2017-03-28") == [
        None,
        march - 86_400,
        later,
    ]  # one is the same in both
    most = ["3/13/2017", "3/14/2017", "3/28/2017"]
    assert read(*most, "28/3/2017", "3/4/2017")[2:] == [later, None, march]


NO_DATES = ["2/30/2017", "13/13/2017", "3/4", "3/4/217", "28 Nvo 2016", "28.11.1916", "", None, "x" * 10_000]
NO_TIMES = ["11/28/2016 25:00", "11/28/2016 10:61", "11/28/2016 10:05:61", "11/28/2016 10", "11/28/2016 noon"]


@pytest.mark.parametrize("text", [*NO_DATES, *NO_TIMES])
def test_what_is_no_date_is_no_time(text):
    assert read(text, "12/31/2016") == [None, datetime(2016, 12, 31, tzinfo=UTC).timestamp()]


@settings(deadline=None)
@given(st.lists(st.datetimes(datetime(1970, 1, 2), datetime(2068, 1, 1)), min_size=1, max_size=20))
def test_what_is_written_with_a_telling_day_is_read_back(moments):
    telling = datetime(2001, 1, 31)
    texts = [moment.strftime("%d/%m/%Y %I:%M:%S %p") for moment in [telling, *moments]]
    wanted = [moment.replace(tzinfo=UTC, microsecond=0).timestamp() for moment in [telling, *moments]]
    assert read(*texts) == wanted
