"""Text files of one record a line, or arrays of records, compressed or not; damage is found and named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import polars as pl

from triptych.data.bad_rows import SHOWN, BadRows
from triptych.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 1 << 25
LONGEST_LINE = 1 << 28
"""Bytes; a longer line is no record, but what a bomb unpacks to."""
DEEPEST = 64
"""How often values of a record may lie within each other: finding types far deeper takes minutes."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of files that are decompressed on the way."""
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""What reading a damaged compressed file can end in."""

_GROWTH, _GROWN = 200, 1 << 30
_FIRST_BYTES = 1 << 18  # of a line, where only the beginning of a file is looked at
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}\n"))


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
        while len(lines) < n_lines and (line := file.readline(_FIRST_BYTES)):
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


def read_json_lines(
    path: Path,
    fields: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
    bad: BadRows | None = None,
) -> pl.DataFrame:
    """Read one JSON object a line. Lines that hold none are left out up to the limit of `bad`.

    Args:
        path: the file, compressed or not.
        fields: the fields to read and their types: a field that a line lacks, or that has a value of
            another type, is null. None to read all, with types found out.
        bad: where left-out lines are counted, and the limit; None to allow none.

    Raises:
        DataError: the file is damaged, or too many lines are bad.
    """
    return _read_objects(read_chunks(path), path.name, "line", fields, bad)


def read_json_array(path: Path, bad: BadRows | None = None) -> pl.DataFrame:
    """Read an array of JSON objects, all their fields, as `read_json_lines` reads lines.

    Raises:
        ValueError: it is no whole array.
        DataError: too many of its elements are no objects.
    """
    return _read_objects(_array_chunks(path), path.name, "element", None, bad)


def is_json_array(path: Path) -> bool:
    """Say whether a file begins as an array of JSON objects."""
    with suppress(*DAMAGED), open_bytes(path) as file:
        return re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", file.read(_FIRST_BYTES)) is not None
    return False


def holds_json_objects(path: Path) -> bool:
    """Say whether a file begins with a JSON object in a line of its own, or as an array of them."""
    with suppress(ValueError, RecursionError):
        return is_json_array(path) or any(isinstance(json.loads(line), dict) for line in first_lines(path))
    return False


def _array_chunks(path: Path) -> Iterator[Chunk]:
    """Give the elements of an array as lines."""
    text = read_unpacked(path).decode("utf-8-sig")
    decode, gap = json.JSONDecoder().raw_decode, re.compile(r"\s*,?\s*")
    place, number, lines, n_bytes = text.index("[") + 1, 1, list[bytes](), 0
    while True:
        place = gap.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing as well
        if text[place : place + 1] == "]":
            break
        value, place = decode(text, place)
        lines.append(json.dumps(value).encode())
        n_bytes += len(lines[-1])
        if n_bytes > CHUNK_BYTES:
            yield Chunk(number, b"\n".join(lines))
            number, lines, n_bytes = number + len(lines), [], 0
    if text[place + 1 :].strip():
        raise ValueError("it goes on after the end of its array")
    yield Chunk(number, b"\n".join(lines))


def _read_objects(
    chunks: Iterable[Chunk],
    file: str,
    unit: str,
    fields: Mapping[str, pl.DataType | type[pl.DataType]] | None,
    bad: BadRows | None,
) -> pl.DataFrame:
    bad = BadRows(limit=0.0) if bad is None else bad
    frames: list[pl.DataFrame] = []
    n_rows = 0
    for chunk in chunks:
        frame, damaged = _parse(chunk, fields)
        bad.add(
            file, "no JSON object", len(damaged), [f"{unit} {at:,}: {why}" for at, why in damaged[:SHOWN]]
        )
        frames.append(frame)
        n_rows += frame.height + len(damaged)
    bad.check(file, n_rows, f"Repair these {unit}s")
    whole = [frame for frame in frames if frame.height]
    if not whole:
        return pl.DataFrame(schema=fields)
    return pl.concat(whole, how="vertical" if fields else "diagonal_relaxed")


def _parse(
    chunk: Chunk, fields: Mapping[str, Any] | None
) -> tuple[pl.DataFrame, list[tuple[int, Exception]]]:
    """Parse all lines at once if they are all right, else one by one; tell which ones hold no object."""
    if not _is_deep(chunk.data):
        with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
            # bytes, since polars takes text for a path
            return pl.read_ndjson(io.BytesIO(chunk.data), schema=fields, infer_schema_length=None), []
    good: list[bytes] = []
    objects: list[dict[str, Any]] = []
    damaged: list[tuple[int, Exception]] = []
    for number, line in enumerate(chunk.data.split(b"\n"), start=chunk.first_line):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"{type(value).__name__} instead of an object")
            if _is_deep(line):
                raise ValueError(f"values within values, more than {DEEPEST} deep")
            if b"\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
            good.append(line)
            objects.append(value)
        except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError as well
            damaged.append((number, error))
    if fields is None:
        text = io.BytesIO(b"\n".join(good))
        return pl.read_ndjson(text, infer_schema_length=None) if good else pl.DataFrame(), damaged
    columns = {name: [_typed(value.get(name), kind) for value in objects] for name, kind in fields.items()}
    return pl.DataFrame(columns, schema=fields, strict=False), damaged


def _is_deep(data: bytes) -> bool:
    """Say whether values lie more than `DEEPEST` deep within each other; brackets in texts count as well."""
    brackets = data.translate(None, _NO_BRACKETS)
    for _ in range(DEEPEST):
        outer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(outer) == len(brackets):
            return False
        brackets = outer
    return brackets.strip(b"\n") != b""


def _typed(value: Any, kind: Any) -> Any:
    """Bring a JSON value to a polars type, None where it is of another; to text as polars does, as JSON."""
    if isinstance(kind, pl.List):
        return [_typed(part, kind.inner) for part in value] if isinstance(value, list) else None
    if value is None or (kind == pl.String and isinstance(value, str)):
        return value
    if kind == pl.String:
        return json.dumps(value, ensure_ascii=False)
    try:
        return float(value) if kind == pl.Float64 else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
