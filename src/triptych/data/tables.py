"""Tables on disk -> data frames: CSV, TSV, RecBole's and MMRec's `.inter`, `.item`, Parquet, JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl

from triptych.errors import DataError

_COMPRESSIONS = {".gz", ".zst"}
_INTEGER = r"^(?:0|-?[1-9][0-9]*)$"  # nothing that would change when written again: no "007", "+7", "-0"


def read_table(path: str | Path) -> pl.DataFrame:
    """Read a table by its suffix, compressed text included (`.csv.gz`).

    Text formats give strings, except for columns that hold canonical integers only: ids such as
    "007" stay as they are. Blank lines are skipped.

    Raises:
        DataError: there is no such file, its suffix is unknown, it is damaged, or it holds no rows.
    """
    path = existing_file(path)
    suffix = Path(path.stem).suffix if path.suffix.lower() in _COMPRESSIONS else path.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} has the suffix '{suffix}'",
            wanted="a table: " + ", ".join(sorted(_READERS)),
            fix="Rename or convert it",
        )
    try:
        frame = reader(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path} cannot be read: {reason}",
            wanted=f"a whole {suffix} table in UTF-8, each row as long as the header",
            fix="Repair the file, or write it again",
        ) from error
    if not frame.height:
        raise DataError(f"{path} holds no rows", wanted="rows below the header", fix="Check how it was made")
    return frame


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


def _read_text(path: Path, separator: str, *, typed_header: bool = False) -> pl.DataFrame:
    quote = None if typed_header else '"'  # RecBole's files know no quoting
    frame = pl.read_csv(path, separator=separator, quote_char=quote, infer_schema=False, glob=False)
    if typed_header:
        names = [name.partition(":")[0].strip() for name in frame.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"two columns of one name among {', '.join(names)}")
        frame.columns = names
    repeated = [name for name in frame.columns if name.rpartition("_duplicated_")[0] in frame.columns]
    if repeated:
        raise ValueError(f"the header names '{repeated[0].rpartition('_duplicated_')[0]}' twice")
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    return frame.with_columns(column.cast(pl.Int64) for column in frame if _is_integer(column))


def _is_integer(column: pl.Series) -> bool:
    canonical = column.count() > 0 and bool(column.str.contains(_INTEGER).all())
    return canonical and column.cast(pl.Int64, strict=False).null_count() == column.null_count()


def _read_json_lines(path: Path) -> pl.DataFrame:
    return pl.read_ndjson(path.read_bytes(), infer_schema_length=None)  # bytes: "[" in a path is no pattern


_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": partial(_read_text, separator=","),
    ".tsv": partial(_read_text, separator="\t"),
    ".inter": partial(_read_text, separator="\t", typed_header=True),
    ".item": partial(_read_text, separator="\t", typed_header=True),
    ".parquet": partial(pl.read_parquet, glob=False),
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}
