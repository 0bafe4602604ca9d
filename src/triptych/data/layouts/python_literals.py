"""Records written as Python dictionaries, as in Amazon's item files of 2014: read as data, never run."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

MAX_LITERAL_BYTES = 1 << 20
"""Longer literals are refused: their syntax tree would take a hundred times the memory."""


def parse_record(line: bytes) -> dict[Any, Any]:
    """Read one record, a JSON object or the literal of a Python dictionary. No part of it is ever executed.

    Args:
        line: UTF-8. A literal holds strings, bytes, numbers, tuples, lists, sets, dictionaries, True, False
            and None, and no longer than `MAX_LITERAL_BYTES`.

    Raises:
        ValueError: it is neither.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = _literal(line)
    if not isinstance(record, dict):
        raise ValueError(f"{type(record).__name__} instead of a record")
    return record


def _literal(line: bytes) -> Any:
    if len(line) > MAX_LITERAL_BYTES:
        raise ValueError(f"no JSON, and with {len(line):,} bytes too long for a Python literal")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\/" is no escape in Python, which says so and keeps both
            return ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        # not Python's own words: they hold addresses in memory
        raise ValueError(f"neither JSON nor a Python literal: {line[:40]!r}") from error
