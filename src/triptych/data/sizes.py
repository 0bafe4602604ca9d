"""How large tables and folders are once they are unpacked, told before they are read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import polars as pl

from triptych.data.dialect import table_suffix
from triptych.data.json_records import is_json_array
from triptych.data.lines import DAMAGED, unpacking
from triptych.memory import free_bytes, require_memory

_GROWTH, _LINE = 3, 50
"""How much larger texts are than a file whose packing cannot be looked into, and the length of a line."""
_HEAD = 1 << 22
"""Bytes at the beginning of a text by which the rest is judged."""

_RUNTIME, _PER_ROW = 16 << 20, 55
"""What loading takes for itself, and for each row of tables; see test_memory_limits.py."""

_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, *DAMAGED)


def table_size(path: Path) -> tuple[int, int]:
    """Estimate bytes and rows of a table once it is unpacked; what cannot be read is the reader's to say."""
    packed = path.stat().st_size
    with suppress(*_UNREADABLE):
        if table_suffix(path) == ".parquet":
            return _GROWTH * packed, int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
        with path.open("rb") as raw, unpacking(raw, path.suffix) as text:
            head = text.read(_HEAD)
            n_bytes = packed * len(head) // max(1, raw.tell())
        is_list = is_json_array(path)  # which is read whole
        n_rows = n_bytes * head.count(b"}," if is_list else b"\n") // max(1, len(head))
        return n_bytes * (_GROWTH if is_list else 1), n_rows
    return packed, packed // _LINE


def memory_to_load(folder: Path) -> int:
    """Estimate how many bytes it takes to load the tables and arrays that lie in a folder and below it.

    Arrays are read through the pages of their file, so that the largest file counts twice.
    """
    arrays = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    tables = [table_size(path) for path in folder.rglob("*.parquet")]
    n_bytes, n_rows = (sum(column) for column in zip(*tables, strict=True)) if tables else (0, 0)
    return _RUNTIME + sum(arrays) + max(arrays, default=0) + n_bytes + _PER_ROW * n_rows


def require_memory_to_load(folder: Path) -> None:
    """Refuse a folder that memory does not hold; see `require_memory`."""
    fix = "Load it where there is more memory"
    require_memory(memory_to_load(folder), free_bytes(), f"loading {folder}", fix=fix)
