"""JSON files -> data frames: an object a line, or an array of objects; other values are counted."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from triptych.data.bad_rows import SHOWN, BadRows
from triptych.data.lines import (
    CHUNK_BYTES,
    DAMAGED,
    FIRST_BYTES,
    Chunk,
    first_lines,
    open_bytes,
    read_chunks,
    read_unpacked,
)

DEEPEST = 64
"""How often values of a record may lie within each other: finding types far deeper takes minutes."""

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}\n"))


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
    return _read_objects(_as_lines(_elements(path)), path.name, "element", None, bad)


def is_json_array(path: Path) -> bool:
    """Say whether a file begins as an array of JSON objects."""
    with suppress(*DAMAGED), open_bytes(path) as file:
        return re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", file.read(FIRST_BYTES)) is not None
    return False


def holds_json_objects(path: Path) -> bool:
    """Say whether a file begins with a JSON object in a line of its own, or as an array of them."""
    with suppress(ValueError, RecursionError):
        return is_json_array(path) or any(isinstance(json.loads(line), dict) for line in first_lines(path))
    return False


def array_keys(path: Path, n: int) -> list[str]:
    """Name the keys of the first n elements of an array, each once."""
    return json_keys(islice(_elements(path), n))


def json_keys(lines: Iterable[str]) -> list[str]:
    """Name the keys of JSON objects, one a line, each once; of lines that are none but the first, nothing."""
    found: dict[str, None] = {}
    for place, line in enumerate(lines):
        try:
            row = json.loads(line)
            "".join(row if isinstance(row, dict) else ()).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError):
            if place:
                continue
            raise
        found |= dict.fromkeys(row if isinstance(row, dict) else ())
    return list(found)


def _elements(path: Path) -> Iterator[str]:
    """Give the elements of an array as they are written."""
    text = read_unpacked(path).decode("utf-8-sig")
    decode, gap = json.JSONDecoder().raw_decode, re.compile(r"\s*,?\s*")
    place = text.index("[") + 1
    while True:
        place = gap.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing as well
        if text[place : place + 1] == "]":
            break
        start, (_, place) = place, decode(text, place)
        yield text[start:place]
    if text[place + 1 :].strip():
        raise ValueError("it goes on after the end of its array")


def _as_lines(elements: Iterable[str]) -> Iterator[Chunk]:
    number, lines, n_bytes = 1, list[bytes](), 0
    for element in elements:
        lines.append(element.replace("\n", " ").encode())  # texts hold no line breaks as they are
        n_bytes += len(lines[-1])
        if n_bytes > CHUNK_BYTES:
            yield Chunk(number, b"\n".join(lines))
            number, lines, n_bytes = number + len(lines), [], 0
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
