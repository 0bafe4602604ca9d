"""Text files of one record a line, compressed or not, read in pieces; damage is found and named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

from triptych.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 1 << 25
LONGEST_LINE = 1 << 28
"""Bytes; a longer line is no record, but what a bomb unpacks to."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of files that are decompressed on the way."""
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""What reading a damaged compressed file can end in."""

_GROWTH, _GROWN = 200, 1 << 30
FIRST_BYTES = 1 << 18
"""Of a file, or of a line, where only the beginning is looked at."""


class Chunk(NamedTuple):
    """Whole lines of a file.

    Args:
        first_line: the number of the first, counted from 1.
        data: their bytes.
    """

    first_line: int
    data: bytes


def read_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Read a file in pieces of whole lines, without the byte order mark of UTF-8.

    Args:
        path: a file, compressed or not; see `open_bytes`.
        chunk_bytes: about so many bytes a piece; a longer line makes a longer piece.

    Raises:
        DataError: compressed data ends early or is damaged, a line is endless, or the text is UTF-16.
    """
    line, rest = 1, b""
    with open_bytes(path) as file:
        while True:
            try:
                read = file.read(chunk_bytes)
            except DAMAGED as error:
                raise DataError(
                    f"{path} ends early or is damaged in or after line {line:,}: {error}",
                    wanted="a whole compressed file",
                    fix="Download or copy it again",
                ) from error
            if line == 1 and not rest:
                if read.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{path} is UTF-16", wanted="UTF-8", fix="Save it again as UTF-8")
                read = read.removeprefix(b"\xef\xbb\xbf")
                if not read:
                    return
            if not read:
                break
            whole, newline, tail = read.rpartition(b"\n")
            if newline:
                data = rest + whole + newline
                yield Chunk(line, data)
                line += data.count(b"\n")
                rest = tail
            else:
                rest += tail
            if len(rest) > LONGEST_LINE:
                raise DataError(
                    f"{path} holds more than {LONGEST_LINE:,} bytes in line {line:,}",
                    wanted="one record a line",
                    fix="Check how it was made",
                )
    if rest:
        yield Chunk(line, rest)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading; those of `COMPRESSIONS` are decompressed on the way."""
    return unpacking(path, path.suffix)


def unpacking(source: Path | IO[bytes], suffix: str) -> IO[bytes]:
    """Read a file, or one that is open, through the decompression that a suffix names, if it names any."""
    match suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(source, "rb"))
        case ".bz2":
            return cast(IO[bytes], bz2.open(source, "rb"))
        case ".xz":
            return cast(IO[bytes], lzma.open(source, "rb"))
        case ".zst":
            return cast(IO[bytes], zstd.open(source, "rb"))
    return source.open("rb") if isinstance(source, Path) else source


def existing(folder: Path, name: str) -> Path | None:
    """Find a file by its name, or else one of that name that is compressed."""
    files = (folder / (name + suffix) for suffix in ("", *COMPRESSIONS))
    return next((file for file in files if file.is_file()), None)


def files_ending(folder: Path, ending: str) -> dict[str, Path]:
    """Find files by how their names end: what comes before -> file, the compressed one last."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob(f"*{ending}*")):
        if (name := unpacked_name(file)).endswith(ending) and file.is_file():
            found.setdefault(name.removesuffix(ending), file)
    return found


def unpacked_name(path: Path) -> str:
    """Name a file without the suffix of its compression."""
    return path.stem if path.suffix.lower() in COMPRESSIONS else path.name


def unpacked(path: Path) -> Path | bytes:
    """Give a file itself, or its content where it is compressed; see `read_unpacked`."""
    return read_unpacked(path) if path.suffix.lower() in COMPRESSIONS else path


def first_lines(path: Path, n_lines: int = 1) -> list[bytes]:
    """Read the first lines of a file, as far as they can be read, blank ones left out."""
    lines: list[bytes] = []
    with suppress(*DAMAGED), open_bytes(path) as file:  # damage is named when the file is read
        while len(lines) < n_lines and (line := file.readline(FIRST_BYTES)):
            lines.append(line.strip() if lines else line.removeprefix(b"\xef\xbb\xbf").strip())
    return [line for line in lines if line]


def read_unpacked(path: Path) -> bytes:
    """Read a file whole, unpacked as by `open_bytes`.

    Raises:
        ValueError: it grows far more than honest text does.
    """
    parts, n_bytes, most = [], 0, max(_GROWN, _GROWTH * path.stat().st_size)
    with open_bytes(path) as file:
        while part := file.read(CHUNK_BYTES):
            n_bytes += len(part)
            if n_bytes > most:
                raise ValueError(f"its {path.stat().st_size:,} bytes unpack to more than {most:,}")
            parts.append(part)
    return b"".join(parts)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read a file line by line with line numbers, blank lines left out, as `read_chunks` does."""
    for chunk in read_chunks(path):
        for number, line in enumerate(chunk.data.split(b"\n"), start=chunk.first_line):
            if line := line.strip():
                yield number, line
