"""Tables on disk -> data frames: CSV, TSV, RecBole's and MMRec's `.inter`, `.item`, Parquet, JSON."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import polars as pl

from triptych.data.bad_rows import BadRows
from triptych.data.columns import free_name
from triptych.data.dialect import (
    TYPED,
    Dialect,
    check_encoding,
    decoded_lines,
    encoding_of,
    find_dialect,
    is_utf8,
    table_suffix,
)
from triptych.data.json_records import (
    array_keys,
    holds_json_objects,
    is_json_array,
    json_keys,
    read_json_array,
    read_json_lines,
)
from triptych.data.lines import DAMAGED, first_lines, open_bytes, read_unpacked, unpacked
from triptych.data.quotes import check_quotes, holds_rows
from triptych.errors import DataError

_INTEGER = r"^(?:0|-?[1-9][0-9]*)$"  # nothing that would change when written again: no "007", "+7", "-0"


MOST_COLUMNS = 10_000
"""Of a text table; each is looked at for its type."""
_LONGEST_FIELD = 1 << 30
"""Letters."""
_SHOWN = 40
"""Letters of a title that is left out."""
_LINES_FOR_KEYS = 200
"""Of JSON objects, which need not have the same keys."""

_UNREADABLE = (
    pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, *DAMAGED, ValueError, RecursionError,
)  # fmt: skip
"""What reading a damaged table can end in."""


def read_table(
    path: str | Path, bad: BadRows | None = None, *, encoding: str = "utf-8", may_be_empty: bool = False
) -> pl.DataFrame:
    """Read a table by its suffix, compressed text included (`.csv.gz`).

    Text formats give strings, except for columns that hold canonical integers only: ids such as
    "007" stay as they are. Titles above the header, see `triptych.data.dialect`, are counted as left out.
    Blank lines are skipped, and so are spaces around a field and Excel's ="" around what is to stay text,
    save in RecBole's files.

    Args:
        path: the file.
        bad: counts rows that cannot be read (too many fields, not in this encoding, no JSON), and
            holds their limit; None to allow none.
        encoding: of text tables that do not begin with a byte order mark, which says what they are in.
        may_be_empty: whether a table without rows is one.

    Raises:
        ConfigError: the encoding is unknown.
        DataError: there is no such file, its suffix is unknown, it is damaged, it holds no rows, or too
            many of them cannot be read.
    """
    path = existing_file(path)
    suffix = table_suffix(path)
    reader = _READERS.get(suffix)
    if reader is None:
        raise DataError(
            f"{path} has the suffix '{suffix}'",
            wanted="a table: " + ", ".join(sorted(_READERS)),
            fix=way_to_tables(path) or "Save it as CSV, Parquet or JSON lines",
        )
    check_encoding(encoding)
    try:
        frame = reader(
            path, BadRows(limit=0.0, adjustable=False) if bad is None else bad, encoding_of(path, encoding)
        )
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path} cannot be read: {reason}",
            wanted=f"a whole {suffix} table, each row as long as the header",
            fix="Repair the file, or write it again",
        ) from error
    if not (frame.height or may_be_empty):
        raise DataError(f"{path} holds no rows", wanted="rows below the header", fix="Check how it was made")
    return frame


def read_header(path: Path, encoding: str = "utf-8") -> list[str]:
    """Name the columns of a table without reading the rest of it.

    Raises:
        ConfigError: the encoding is unknown.
        DataError: the file is empty, or its beginning cannot be read.
    """
    existing_file(path)
    check_encoding(encoding)
    suffix = table_suffix(path)
    try:
        if suffix == ".parquet":
            return pl.scan_parquet(path, glob=False).collect_schema().names()
        if suffix in (".json", ".jsonl", ".ndjson"):
            if is_json_array(path):
                return array_keys(path, _LINES_FOR_KEYS)
            filled = (line for line in decoded_lines(path, encoding) if line.strip())
            return json_keys(islice(filled, _LINES_FOR_KEYS))
        dialect = find_dialect(path, encoding_of(path, encoding))
        names = next(csv.reader([dialect.header], delimiter=dialect.separator, quotechar='"'))
        return _column_names(names, typed=suffix in TYPED)
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"the beginning of {path} cannot be read: {reason}",
            wanted=f"a whole {suffix} table",
            fix="Repair the file, name its --encoding, or move it out of the folder",
        ) from error


def is_table(path: Path) -> bool:
    """Say whether a file could be a table, by its suffix, and for `.json` and `.txt` by its beginning."""
    match table_suffix(path):
        case ".json":
            return holds_json_objects(path)
        case ".txt":  # prose is none
            return any(separator in line for line in first_lines(path) for separator in b",;\t|")
    return table_suffix(path) in _READERS


def way_to_tables(path: Path) -> str:
    """Say how to make tables of a file that is none, or of such files in a folder; empty if nobody knows."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    ways = []
    for file in files:
        suffix, name = table_suffix(file), printable(file.name)
        if suffix == ".json" and not is_table(file):
            ways.append(
                f"{name} is one JSON document: save the list of records in it by itself, or as JSON lines"
            )
        ways += [f"{name} is {what}" for suffixes, what in _HOLD_TABLES.items() if suffix in suffixes]
    return "; ".join(ways[:_MOST_WAYS])


def existing_file(path: str | Path) -> Path:
    """Check that `path` is a file with something in it.

    Raises:
        DataError: it is not.
    """
    path = Path(path)
    if printable(str(path)) != str(path):
        raise DataError(
            f"the name of {printable(str(path))} is not UTF-8", wanted="a name that is", fix="Rename the file"
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}", wanted="a file", fix="Check the path")
    if path.stat().st_size == 0:
        raise DataError(
            f"{path} is empty",
            wanted="a file with data",
            fix="Write it again, or move it out of its folder if it is not needed",
        )
    return path


def printable(name: str) -> str:
    """Spell a file's name with U+FFFD for what is no UTF-8 in it, which could be neither shown nor kept."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put `source` in front of what a `DataError` says was found, so that every message names its file."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{source}: {error.found}", wanted=error.wanted, fix=error.fix) from error


def _read_text(path: Path, bad: BadRows, encoding: str) -> pl.DataFrame:
    typed = table_suffix(path) in TYPED
    dialect = find_dialect(path, encoding)
    separator, header = dialect.separator, dialect.header
    if (n_columns := header.count(separator) + 1) > MOST_COLUMNS:
        raise ValueError(f"{n_columns:,} columns, and more than {MOST_COLUMNS:,} are not looked at")
    if "\ufffd" in header:
        raise ValueError(f"its header is not {encoding}, which another --encoding may read")
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        source = _source(path, encoding)
        quote = None if typed else '"'  # RecBole's files know no quoting
        frame = pl.read_csv(
            source,
            separator=separator,
            quote_char=quote,
            infer_schema=False,
            glob=False,
            skip_lines=dialect.n_before,
        )
        if quote:
            check_quotes(source, separator, n_columns)
        frame.columns = _distinct(_column_names(_as_written(frame.columns), typed))
    except (pl.exceptions.ComputeError, UnicodeDecodeError, csv.Error):
        frame = _read_row_by_row(path, bad, encoding, dialect, typed)
    titles = [f"'{title[:_SHOWN]}'" for title in dialect.titles]
    bad.add(path.name, "above the header", len(titles), titles, harmless=True)
    if frame.width > 1 and frame.to_series(0).null_count():
        n_rows = frame.height
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
        bad.add(path.name, "empty row", n_rows - frame.height, harmless=True)
    if not typed:
        frame = frame.with_columns(pl.all().str.strip_chars())
        frame = frame.with_columns(_without_formula(column) for column in frame)
    return frame.with_columns(column.cast(pl.Int64) for column in frame if _is_integer(column))


def _as_written(names: Sequence[str]) -> list[str]:
    """Take off what polars adds to the second column of a name."""
    known = set(names)
    plain = (re.sub(r"_duplicated_\d+$", "", name) for name in names)
    return [first if first in known else name for first, name in zip(plain, names, strict=True)]


def _column_names(names: Iterable[str], typed: bool) -> list[str]:
    """Take off types, and name columns without a name, as of an index, by their places: `column_1`."""
    plain = [(name.partition(":")[0] if typed else name).strip() for name in names]
    taken = set(plain)
    return [name or free_name(f"column_{place}", taken) for place, name in enumerate(plain, start=1)]


def _distinct(names: list[str]) -> list[str]:
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"the header names '{repeated[0]}' twice")
    return names


def _source(path: Path, encoding: str) -> Path | bytes:
    """Give polars the file itself, or its text in UTF-8."""
    if not is_utf8(encoding):
        return read_unpacked(path).decode(encoding).encode()
    return unpacked(path)


def _read_row_by_row(path: Path, bad: BadRows, encoding: str, dialect: Dialect, typed: bool) -> pl.DataFrame:
    """Read a damaged table slowly, leaving out rows badly quoted, too long or of another encoding."""
    codec = "utf-8-sig" if is_utf8(encoding) else encoding
    separator, n_before = dialect.separator, dialect.n_before
    with io.TextIOWrapper(open_bytes(path), encoding=codec, errors="surrogateescape", newline="") as text:
        for _ in range(n_before):
            text.readline()
        rows = csv.reader(
            text, delimiter=separator, strict=True, quoting=csv.QUOTE_NONE if typed else csv.QUOTE_MINIMAL
        )
        kept: list[list[str | None]] = []
        n_rows = 0
        header = _distinct(_column_names(next(rows, []), typed))
        while True:
            before = n_before + rows.line_num
            try:
                row = next(rows, None)
            except csv.Error as error:  # what a stray quote takes in; it goes on with the next line
                n_lines = n_before + rows.line_num - before
                n_rows += n_lines
                lines = f"line {before + 1:,}" + (f" to {before + n_lines:,}" if n_lines > 1 else "")
                bad.add(path.name, "badly quoted", n_lines, [f"{lines}: {error}"])
                continue
            if row is None:
                break
            if not row:
                continue
            if separator == "\t" and any(holds_rows(field.splitlines(), len(header)) for field in row):
                n_lines = n_before + rows.line_num - before
                n_rows += n_lines
                lines = f"line {before + 1:,} to {before + n_lines:,}"
                bad.add(path.name, "badly quoted", n_lines, [f"{lines}: rows between two quotes"])
                continue
            n_rows += 1
            at = f"line {n_before + rows.line_num:,}"
            if any("\udc80" <= letter <= "\udcff" for field in row for letter in field):
                bad.add(path.name, f"not {encoding}", 1, [f"{at}, which another encoding may read"])
            elif any(row[len(header) :]):
                bad.add(path.name, "too many fields", 1, [f"{at} holds more fields than the header"])
            else:
                kept.append(
                    [field or None for field in row[: len(header)]] + [None] * (len(header) - len(row))
                )
    bad.check(path.name, n_rows, "Repair these rows", "name their encoding with --encoding")
    return pl.DataFrame(kept, schema=dict.fromkeys(header, pl.String), orient="row")


def _without_formula(column: pl.Series) -> pl.Series:
    """Take Excel's way to keep noughts off: ="00123" is 00123."""
    if not column.str.starts_with('="').any():
        return column
    return column.str.replace('^="([^"]*)"$', "$1")


def _is_integer(column: pl.Series) -> bool:
    column = column.alias("")  # "^.*$" would name a pattern of columns
    if not column.head(100).drop_nulls().str.contains(_INTEGER).all():
        return False  # spares a look at all the others
    canonical = column.count() > 0 and bool(column.str.contains(_INTEGER).all())
    return canonical and column.cast(pl.Int64, strict=False).null_count() == column.null_count()


def _read_parquet(path: Path, bad: BadRows, encoding: str) -> pl.DataFrame:
    _try_apart(path)
    return pl.read_parquet(path, glob=False)


_TRIAL = """
import sys, polars
try:
    polars.read_parquet(sys.argv[1], glob=False)
except BaseException as error:
    sys.exit(print(error) or 1)
"""


def _try_apart(path: Path) -> None:
    """Read a Parquet file in a process of its own before this one does.

    Damage within a page can make polars ask for more memory than there could be, which ends the process: no
    error can be caught. Footers and checksums do not show it, as Parquet files mostly have none for pages.

    Raises:
        ValueError: that process did not end well.
    """
    command = [sys.executable, "-P", "-c", _TRIAL, os.fspath(path)]  # -P: nothing is imported from here
    trial = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603  no shell
    if trial.returncode < 0:
        raise ValueError(f"it is damaged: the process that reads it dies of signal {-trial.returncode}")
    if trial.returncode:
        raise ValueError(trial.stdout)


def _read_json(path: Path, bad: BadRows, encoding: str) -> pl.DataFrame:
    if is_json_array(path):
        return read_json_array(path, bad)
    return read_json_lines(path, bad=bad)


_MOST_WAYS = 3
_HOLD_TABLES = {
    (".zip", ".7z", ".rar", ".tar", ".tgz"): "an archive: unpack it, and give the folder",
    (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"): "a workbook: save its sheets as CSV, a file each",
}
_READERS: dict[str, Callable[[Path, BadRows, str], pl.DataFrame]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".inter": _read_text,
    ".item": _read_text,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
}
