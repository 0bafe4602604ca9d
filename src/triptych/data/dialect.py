"""How a text table is written: what parts its fields, and on which line its header stands."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from triptych.data.lines import COMPRESSIONS, open_bytes
from triptych.errors import ConfigError

TYPED = {".inter", ".item"}
"""RecBole's and MMRec's tables: tabs, no quoting, types in the header."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LONGEST_HEADER = 1 << 22
"""Letters."""
_MOST_TITLES = 50
"""Above a header."""
_LEAST_FIELDS = 3
"""Of a header below titles: two may be a sentence with a comma."""


class Dialect(NamedTuple):
    """How a text table is written.

    Args:
        separator: what parts the fields.
        header: its line.
        n_before: lines before that: Excel's `sep=;`, or titles and blank lines.
        titles: what these say, such as "Orders of 2025".
    """

    separator: str
    header: str
    n_before: int = 0
    titles: tuple[str, ...] = ()


def find_dialect(path: Path, encoding: str) -> Dialect:
    """Say how a text table is written, by its first lines.

    The header is the first line, but for two cases. Excel may say before it what parts the fields. And titles
    may stand above a table, lines of one field: then the header is the first line of three fields or more
    whose next line has as many.
    """
    suffix = table_suffix(path)
    filled = ((at, line) for at, line in enumerate(decoded_lines(path, encoding)) if line.strip())
    looked_at = list(islice(filled, _MOST_TITLES + 2)) or [(0, "")]
    places, lines = zip(*looked_at, strict=True)
    if suffix in TYPED:
        return Dialect(_separator(lines[0], suffix), lines[0])
    if said := re.fullmatch(r"sep=([,;\t|])", lines[0], re.IGNORECASE):
        return Dialect(said[1], "".join(lines[1:2]), 1)
    for n_above, (line, following) in enumerate(pairwise(lines)):
        separator, titles = _separator(line, suffix), lines[:n_above]
        n_fields = _n_fields(line, separator)
        if line.count('"') % 2:
            break  # a field goes on in the next line, and what looks like a table may be its text
        if n_fields >= _LEAST_FIELDS and _n_fields(following, separator) == n_fields:
            if titles and all(_n_fields(title, separator) == 1 for title in titles):
                return Dialect(separator, line, places[n_above], titles)
            break
    return Dialect(_separator(lines[0], suffix), lines[0])


def decoded_lines(path: Path, encoding: str) -> Iterator[str]:
    """Read a text line by line, compressed or not, with U+FFFD for what is not of its encoding."""
    with open_bytes(path) as file:
        codec = "utf-8-sig" if is_utf8(encoding) else encoding
        text = io.TextIOWrapper(file, encoding=codec, errors="replace")
        while line := text.readline(_LONGEST_HEADER):
            yield line.rstrip("\r\n")


def check_encoding(name: str) -> None:
    """Refuse what is no encoding of text.

    Raises:
        ConfigError: it is unknown.
    """
    try:
        "".encode(name)  # rot13 and the like are known, but no encodings of text
    except LookupError:
        raise ConfigError(
            f"the encoding {name!r}", wanted="a known one", fix="Try utf-8, latin-1 or cp1252"
        ) from None


def encoding_of(path: Path, otherwise: str) -> str:
    """Say what a text is written in: what its byte order mark tells, and otherwise what was named."""
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), otherwise)


def is_utf8(encoding: str) -> bool:
    """Say whether this is one of the names of UTF-8."""
    return codecs.lookup(encoding).name == "utf-8"


def table_suffix(path: Path) -> str:
    """Give the suffix that names a table's format, without that of its compression, in lower case."""
    compressed = path.suffix.lower() in COMPRESSIONS
    return (Path(path.stem).suffix if compressed else path.suffix).lower()


def _n_fields(line: str, separator: str) -> int:
    return _without_quoted(line).count(separator) + 1


def _separator(line: str, suffix: str) -> str:
    """Say what parts the fields: what a line has most of outside quotes, of equals the suffix's own."""
    usual = "," if suffix == ".csv" else "\t"
    if suffix in TYPED:
        return usual
    return max((usual, ";", "\t", "|", ","), key=_without_quoted(line).count)  # the first of equals


def _without_quoted(line: str) -> str:
    return re.sub('"[^"]*"', "", line)
