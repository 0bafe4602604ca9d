"""How large a table is once it is unpacked, told by its beginning, before it is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import polars as pl

from triptych.data.tables import table_suffix

_GROWTH, _LINE = 3, 50
"""How much larger texts are than a file whose packing cannot be looked into, and a line of them."""
_HEAD = 1 << 22
"""Bytes at the beginning of a text by which the rest is judged."""

_UNREADABLE = (
    pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error, lzma.LZMAError,
)  # fmt: skip


def table_size(path: Path) -> tuple[int, int]:
    """Estimate bytes and rows of a table once it is unpacked; what cannot be read is the reader's to say."""
    packed = path.stat().st_size
    if path.suffix.lower() == ".zst":  # polars alone reads these
        return _GROWTH * packed, _GROWTH * packed // _LINE
    with suppress(*_UNREADABLE):
        if table_suffix(path) == ".parquet":
            return _GROWTH * packed, int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
        with path.open("rb") as raw, _unpacked(raw, path.suffix.lower()) as text:
            head = text.read(_HEAD)
            n_bytes = packed * len(head) // max(1, raw.tell())
        return n_bytes, n_bytes * head.count(b"\n") // max(1, len(head))
    return packed, packed // _LINE


def _unpacked(raw: IO[bytes], packing: str) -> IO[bytes]:
    """Read through a compression, with a look at how far the file itself has been read."""
    match packing:
        case ".gz":
            return cast(IO[bytes], gzip.open(raw))
        case ".bz2":
            return cast(IO[bytes], bz2.open(raw))
        case ".xz":
            return cast(IO[bytes], lzma.open(raw))
    return raw
