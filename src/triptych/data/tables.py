"""Tables on disk -> data frames: CSV, TSV, RecBole's and MMRec's `.inter`, `.item`, Parquet, JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import lzma
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from triptych.data.bad_rows import BadRows
from triptych.data.lines import open_bytes, read_json_lines, read_unpacked
from triptych.errors import ConfigError, DataError

_COMPRESSIONS = {".gz", ".zst"}
_INTEGER = r"^(?:0|-?[1-9][0-9]*)$"  # nothing that would change when written again: no "007", "+7", "-0"


MOST_COLUMNS = 10_000
"""Of a text table; each is looked at for its type."""
_LONGEST_HEADER = 1 << 22
"""Letters."""

_UNREADABLE = (
    pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, zlib.error, lzma.LZMAError,
    EOFError, OSError, ValueError, RecursionError,
)  # fmt: skip
"""What reading a damaged table can end in."""


def read_table(path: str | Path, bad: BadRows | None = None, *, encoding: str = "utf-8") -> pl.DataFrame:
    """Read a table by its suffix, compressed text included (`.csv.gz`).

    Text formats give strings, except for columns that hold canonical integers only: ids such as
    "007" stay as they are. Blank lines are skipped.

    Args:
        path: the file.
        bad: counts rows that cannot be read (too many fields, not in this encoding, no JSON), and
            holds their limit; None to allow none.
        encoding: of text formats.

    Raises:
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
            fix="Rename or convert it",
        )
    _check_encoding(path, encoding)
    try:
        frame = reader(path, BadRows(limit=0.0) if bad is None else bad, encoding)
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path} cannot be read: {reason}",
            wanted=f"a whole {suffix} table, each row as long as the header",
            fix="Repair the file, or write it again",
        ) from error
    if not frame.height:
        raise DataError(f"{path} holds no rows", wanted="rows below the header", fix="Check how it was made")
    return frame


def read_header(path: Path, encoding: str = "utf-8") -> list[str]:
    """Name the columns of a table without reading the rest of it.

    Raises:
        DataError: the file is empty, or its beginning cannot be read.
    """
    existing_file(path)
    suffix = table_suffix(path)
    try:
        if suffix == ".parquet":
            return pl.scan_parquet(path, glob=False).collect_schema().names()
        first = _first_line(path, encoding)
        if suffix in (".jsonl", ".ndjson"):
            row = json.loads(first)
            names = list(row) if isinstance(row, dict) else []
            "".join(names).encode()  # half a surrogate pair is no text
            return names
        typed = suffix in _TYPED
        names = next(csv.reader([first], delimiter=_separator(first, suffix), quotechar='"'))
        return [name.partition(":")[0].strip() if typed else name for name in names]
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"the beginning of {path} cannot be read: {reason}",
            wanted=f"a whole {suffix} table",
            fix="Repair the file, name its --encoding, or move it out of the folder",
        ) from error


def is_table(path: Path) -> bool:
    """Say whether `read_table` would try to read a file, by its suffix."""
    return table_suffix(path) in _READERS


def table_suffix(path: Path) -> str:
    """Give the suffix that names a table's format, without that of its compression, in lower case."""
    compressed = path.suffix.lower() in _COMPRESSIONS
    return (Path(path.stem).suffix if compressed else path.suffix).lower()


def existing_file(path: str | Path) -> Path:
    """Check that `path` is a file with something in it.

    Raises:
        DataError: it is not.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}", wanted="a file", fix="Check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", wanted="a file with data", fix="Check how it was made")
    return path


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put `source` in front of what a `DataError` says was found, so that every message names its file."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{source}: {error.found}", wanted=error.wanted, fix=error.fix) from error


def _first_line(path: Path, encoding: str) -> str:
    """Read the first line that is not blank."""
    if path.suffix.lower() == ".zst":  # polars alone reads these
        lines = pl.scan_csv(path, has_header=False, separator="\0", quote_char=None, n_rows=1).collect()
        return str(lines.item(0, 0))
    with open_bytes(path) as file:
        text = io.TextIOWrapper(
            file, encoding="utf-8-sig" if _is_utf8(encoding) else encoding, errors="replace"
        )
        while line := text.readline(_LONGEST_HEADER):
            if line.strip():
                return line.rstrip("\r\n")
    return ""


def _separator(first_line: str, suffix: str) -> str:
    """Say what parts the fields: what the suffix promises, or else what the first line holds instead."""
    usual = "," if suffix == ".csv" else "\t"
    if usual in first_line or suffix in _TYPED:
        return usual
    return next((other for other in (";", "\t", "|", ",") if other in first_line), usual)


def _read_text(path: Path, bad: BadRows, encoding: str) -> pl.DataFrame:
    suffix = table_suffix(path)
    typed_header = suffix in _TYPED
    quote = None if typed_header else '"'  # RecBole's files know no quoting
    first_line = _first_line(path, encoding)
    separator = _separator(first_line, suffix)
    if (n_columns := first_line.count(separator) + 1) > MOST_COLUMNS:
        raise ValueError(f"{n_columns:,} columns, and more than {MOST_COLUMNS:,} are not looked at")
    try:
        source = _source(path, encoding)
        frame = pl.read_csv(source, separator=separator, quote_char=quote, infer_schema=False, glob=False)
    except (pl.exceptions.ComputeError, UnicodeDecodeError):
        if path.suffix.lower() == ".zst":  # polars alone reads these
            raise
        frame = _read_row_by_row(path, bad, encoding, separator, quote)
    if typed_header:
        names = [name.partition(":")[0].strip() for name in frame.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"two columns of one name among {', '.join(names)}")
        frame.columns = names
    known = set(frame.columns)
    repeated = [name for name in frame.columns if name.rpartition("_duplicated_")[0] in known]
    if repeated:
        raise ValueError(f"the header names '{repeated[0].rpartition('_duplicated_')[0]}' twice")
    if frame.width > 1 and frame.to_series(0).null_count():
        n_rows = frame.height
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
        bad.add(path.name, "empty row", n_rows - frame.height, harmless=True)
    return frame.with_columns(column.cast(pl.Int64) for column in frame if _is_integer(column))


def _check_encoding(path: Path, encoding: str) -> None:
    """Refuse an unknown encoding, and UTF-16 that is not announced as such."""
    try:
        "".encode(encoding)  # rot13 and the like are known, but no encodings of text
        known = codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(
            f"the encoding {encoding!r}", wanted="a known one", fix="Try utf-8, latin-1 or cp1252"
        ) from None
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and known != "utf-16":
            raise DataError(
                f"{path} is UTF-16", wanted=known, fix="Name its encoding, with --encoding utf-16"
            )


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


def _source(path: Path, encoding: str) -> Path | bytes:
    """Give polars the file itself, or its text in UTF-8."""
    if not _is_utf8(encoding):
        return read_unpacked(path).decode(encoding).encode()
    return read_unpacked(path) if path.suffix.lower() == ".gz" else path


def _read_row_by_row(
    path: Path, bad: BadRows, encoding: str, separator: str, quote: str | None
) -> pl.DataFrame:
    """Read a damaged table slowly, leaving out rows with too many fields or of another encoding."""
    csv.field_size_limit(1 << 30)
    codec = "utf-8-sig" if _is_utf8(encoding) else encoding
    with io.TextIOWrapper(open_bytes(path), encoding=codec, errors="surrogateescape", newline="") as text:
        rows = csv.reader(
            text, delimiter=separator, quotechar=quote, strict=True,
            quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
        )  # fmt: skip
        kept: list[list[str | None]] = []
        n_rows = 0
        try:
            header = next(rows, [])
            if len(set(header)) < len(header):
                raise ValueError(f"two columns of one name among {', '.join(header)}")
            for row in rows:
                if not row:
                    continue
                n_rows += 1
                at = f"line {rows.line_num:,}"
                if any("\udc80" <= letter <= "\udcff" for field in row for letter in field):
                    bad.add(path.name, f"not {encoding}", 1, [f"{at}, which another --encoding may read"])
                elif len(row) > len(header):
                    bad.add(path.name, "too many fields", 1, [f"{at} holds more fields than the header"])
                else:
                    kept.append([field or None for field in row] + [None] * (len(header) - len(row)))
        except csv.Error as error:  # where a quote went astray, nobody can say which rows are meant
            raise ValueError(f"line {rows.line_num:,}: {error}") from error
    bad.check(path.name, n_rows, "Repair these rows, name their encoding with --encoding")
    return pl.DataFrame(kept, schema=dict.fromkeys(header, pl.String), orient="row")


def _is_integer(column: pl.Series) -> bool:
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
    if path.suffix.lower() == ".zst":  # polars alone reads these
        return pl.read_ndjson(path.read_bytes(), infer_schema_length=None)
    return read_json_lines(path, bad=bad)


_TYPED = {".inter", ".item"}  # RecBole's and MMRec's: tabs, no quoting, types in the header
_READERS: dict[str, Callable[[Path, BadRows, str], pl.DataFrame]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".inter": _read_text,
    ".item": _read_text,
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
}
