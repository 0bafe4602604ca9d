"""How much memory reading takes, from the sizes of files and their first lines, before any is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from triptych.data.layouts import Layout
from triptych.data.lines import CHUNK_BYTES
from triptych.data.sizes import table_size

# Measured on tables of 200,000 to a million rows, with ids that are numbers or texts, narrow and wide, as
# CSV, JSON lines and Parquet, packed and not; see test_memory_limits.py.
_RUNTIME = 32 << 20
"""What libraries take for themselves once they read."""
_PER_ROW = 140
"""Of interactions: four fields in a frame, sorted ids, indices, and their order."""
_PER_BYTE = 1.6
"""Of the text of a table that is read whole: its values, and in part the pages of the file."""
_PER_ITEM_BYTE = 2.4
"""Of the text of an item table, whose rows are put into another order."""
_PER_PIECE_BYTE = 3
"""Of a table that is read in pieces, of which what is not wanted is dropped."""
_COPIES_OF_FEATURES = 5
"""Of a file of float32: as read, converted, brought to the items of the table, filtered, and hashed."""

_IN_PIECES = {"amazon-2014", "amazon-2018", "amazon-2023", "movielens"}
"""Layouts whose files are read so."""


def memory_to_read(layout: Layout, features: Iterable[str | Path] = ()) -> int:
    """Estimate how many bytes it takes at most to read what a layout found, and given files of features.

    Rows of Parquet are known. Those of text come from the mean length of the first lines, and the size of
    packed text from how well these are packed. Not counted are item tables and features of layouts that keep
    only the items wanted of them, since nobody knows before how many these are; nor what is encoded later.
    Damaged text tables, which are read row by row, take several times as much.

    Args:
        layout: the files found.
        features: those a user names.
    """
    roles = {role: path for role, path in layout.files.items() if path.is_file()}
    whole = layout.name not in _IN_PIECES
    found = [roles.pop(modality) for modality in layout.modalities if modality in roles]
    items = roles.pop("items", None)
    tables = [table_size(path) for path in roles.values()]
    n_bytes, n_rows = (sum(column) for column in zip(*tables, strict=True)) if tables else (0, 0)
    text = _PER_BYTE * n_bytes if whole else _PER_PIECE_BYTE * min(n_bytes, CHUNK_BYTES)
    stages = [_PER_ROW * n_rows + text]
    if whole and items is not None:
        item_bytes, item_rows = table_size(items)
        stages.append(_PER_ROW * item_rows + _PER_ITEM_BYTE * item_bytes)
    sizes = [path.stat().st_size for path in map(Path, features) if path.is_file()]
    sizes += [path.stat().st_size for path in found] if whole else []
    if sizes:
        stages.append(sum(sizes) + (_COPIES_OF_FEATURES - 1) * max(sizes))
    return _RUNTIME + int(max(stages))
