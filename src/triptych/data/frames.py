"""Tables that are made piece by piece -> one file, whole or absent, of which only a piece is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from triptych.errors import ConfigError
from triptych.files import write_atomic

SUFFIXES = (".parquet", ".csv", ".jsonl")
"""What `write_frames` writes."""

_PIECE = 250_000
"""Rows that are written at once."""


def check_suffix(path: Path) -> None:
    """Refuse a file that `write_frames` could not write, before any work is done for it.

    Raises:
        ConfigError: its suffix names no format.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path} has the suffix '{path.suffix}'",
            wanted="a table: " + ", ".join(SUFFIXES),
            fix="Name the file with one of these",
        )


def write_frames(path: Path, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> int:
    """Write frames below each other as one table, by the file's suffix, and return the number of rows.

    Args:
        path: the file; one that is there is replaced when the last frame has come.
        frames: each of this schema.
        schema: of the table, also if no frame comes.

    Raises:
        ConfigError: the suffix names no format.
    """
    check_suffix(path)
    n_rows = 0

    def pieces() -> Iterator[pl.DataFrame]:
        nonlocal n_rows
        yield pl.DataFrame(schema=schema)  # the columns, even where no row follows
        for piece in _gathered(frames):
            n_rows += piece.height
            yield piece

    suffix = path.suffix.lower()

    def write(file: Path) -> None:
        if suffix == ".parquet":
            _write_parquet(file, pieces())
            return
        with file.open("wb") as stream:
            for number, piece in enumerate(pieces()):
                if suffix == ".csv":
                    piece.write_csv(stream, include_header=number == 0)
                else:
                    piece.write_ndjson(stream)

    write_atomic(path, write)
    return n_rows


def _gathered(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Put small frames together."""
    held: list[pl.DataFrame] = []
    n_rows = 0
    for frame in frames:
        held.append(frame)
        n_rows += frame.height
        if n_rows >= _PIECE:
            yield pl.concat(held)
            held, n_rows = [], 0
    if held:
        yield pl.concat(held)


def _write_parquet(file: Path, pieces: Iterable[pl.DataFrame]) -> None:
    """Write each piece by itself, and then one file of them: the format has no way to go on with a file."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".pieces-") as folder:
        names = []
        for number, piece in enumerate(pieces):
            names.append(Path(folder) / f"{number}.parquet")
            piece.write_parquet(names[-1])
        pl.scan_parquet(names, glob=False).sink_parquet(file)
