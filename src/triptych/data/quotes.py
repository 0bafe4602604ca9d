"""Quotes that are none in text tables: between two of them, readers take whole rows for one field."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

_PART_BYTES = 1 << 20
_NO_QUOTES = bytes(set(range(256)) - set(b'"\n'))


def check_quotes(source: Path | bytes, separator: str, n_columns: int) -> None:
    """Refuse a quote in the midst of a field: polars takes the rows between two of these for one field.

    Rows are read strictly where that can be: from a line with an odd number of quotes to the next one, and
    lines with a quote after a backslash, as some databases write them. Between tabs, where quotes are mostly
    letters like others, whole rows between two of them are none of a field's either.

    Raises:
        csv.Error: there is one.
    """
    row: list[str] = []
    within = False
    for part in _parts(source):
        if not (within or _may_hold_stray(part)):
            continue
        for line in io.BytesIO(part):
            odd = line.count(b'"') % 2 == 1
            if not (odd or within or b'\\"' in line):
                continue
            within ^= odd
            row.append(line.decode("latin-1"))  # what is no ASCII does not matter here
            if not within:
                if separator == "\t" and holds_rows(row, n_columns):
                    raise csv.Error("rows between two quotes")
                if len(list(csv.reader(row, delimiter=separator, strict=True))) > 1:
                    raise csv.Error("a quote within a field")
                row = []
    if row:
        raise csv.Error("a quote without its partner")


def holds_rows(lines: Sequence[str], n_columns: int) -> bool:
    """Say whether whole rows between tabs stand within what two quotes enclose, first and last line aside."""
    return n_columns > 1 and any(line.count("\t") == n_columns - 1 for line in lines[1:-1])


def _may_hold_stray(text: bytes) -> bool:
    """Say whether a line has an odd number of quotes, or one after a backslash; quickly, all at once."""
    pairs_gone = text.translate(None, _NO_QUOTES).replace(b'""', b"") if b'"' in text else b""
    return b'"' in pairs_gone or b'\\"' in text


def _parts(source: Path | bytes) -> Iterator[bytes]:
    """Give a text in pieces of whole lines."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        while part := file.read(_PART_BYTES) + file.readline():
            yield part
