"""Files -> `ItemFeatures`, each row brought to the item it belongs to. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray, IntArray, RawId
from triptych.data.columns import item_column
from triptych.data.features import ItemFeatures, ItemGraph, check_modality, combine
from triptych.data.ids import IdMap
from triptych.data.readers import distinct_ids
from triptych.data.tables import existing_file, naming, read_table
from triptych.errors import DataError, ShapeError
from triptych.files import Arrays, read_arrays

_GRAPH = ("row", "col", "weight")
_GROWTH, _GROWN = 200, 1 << 30


def read_features(
    path: str | Path,
    modality: str,
    items: IdMap,
    row_order: Sequence[RawId] | None = None,
    *,
    like: str | None = None,
) -> ItemFeatures:
    """Read dense rows, or a given item graph, of one modality.

    - `.npy`: a matrix.
    - `.safetensors`, `.npz`: a matrix `values` (or the only matrix there is), with a mask `present`
      if rows are missing; or a graph `row`, `col`, `weight`, with its number of rows `n`; or both.
    - `.parquet`: a column of item ids, and one column of lists or any number of numeric columns.
      Items that are not listed are missing.

    A file without ids has one row per entry of `row_order` if that is given; else, where item ids are
    integers from 0 on, row k belongs to item id k; else there is one row per item, by sorted id.

    Args:
        path: the file.
        modality: what it describes, for messages.
        items: the items of the data set before any is filtered out.
        row_order: raw item ids, such as those of an item table.
        like: what the interactions call their item column; tried before well-known names.

    Returns: one row per item of `items`, float32.

    Raises:
        ShapeError: the file has another number of rows than expected.
        DataError: it cannot be read, holds Python objects, or a number in it is not finite.
        StorageError: a `.safetensors` file is damaged.
    """
    check_modality(modality)
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix not in {*_READERS, ".parquet"}:
        raise DataError(
            f"{path} has the suffix '{path.suffix}'",
            wanted="features: " + ", ".join(sorted([*_READERS, ".parquet"])),
            fix="Save them with numpy.save, for example",
        )
    if suffix == ".parquet":
        frame = read_table(path)
        with naming(f"{modality} features {path.name}"):
            features = _from_table(frame, items, like)
    else:
        with naming(f"{modality} features {path.name}"):
            features = _from_arrays(_READERS[suffix](path), items, row_order)
    return replace(features, source=path.name + features.source)


def _read_numpy(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:  # opened here, since numpy leaves a damaged archive open
            _refuse_bomb(path, file)
            loaded = np.load(file, allow_pickle=False)
            named = {"values": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
            return {name: array for name, array in named.items() if isinstance(array, np.ndarray)}
    except Exception as error:  # numpy parses the header as Python text, which can fail in any way
        raise DataError(
            f"cannot be read: {error}",
            wanted="a whole file of plain numbers (Python objects are pickles, and pickles can run code)",
            fix="Write it again with numpy from a numeric array",
        ) from error


def _refuse_bomb(path: Path, file: IO[bytes]) -> None:
    """Refuse an archive that grows far more than arrays of features do; leave the file at its beginning.

    Raises:
        ValueError: it does.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            n_bytes, packed = sum(info.file_size for info in archive.infolist()), path.stat().st_size
        if n_bytes > max(_GROWN, _GROWTH * packed):
            raise ValueError(f"its {packed:,} bytes would become {n_bytes:,}; numpy.savez does not pack them")
    file.seek(0)


_READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".safetensors": read_arrays,
}


def _from_arrays(arrays: Arrays, items: IdMap, row_order: Sequence[RawId] | None) -> ItemFeatures:
    has_graph = {*_GRAPH} <= arrays.keys()
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    values = arrays.get("values")
    if values is None and not has_graph and len(arrays.keys() - {"present"}) == 1 == len(matrices):
        values = arrays[matrices[0]]
    if values is None and not has_graph:
        raise DataError(
            f"holds the arrays {', '.join(sorted(arrays)) or 'none'}",
            wanted="a matrix 'values', or a graph 'row', 'col', 'weight'",
            fix="Name the arrays so",
        )
    n_rows, why = _expected_rows(items, row_order)
    counts = {"rows": len(values)} if values is not None and values.ndim else {}
    if "n" in arrays and arrays["n"].size == 1 and arrays["n"].dtype.kind in "iu":
        counts["graph rows"] = int(arrays["n"].item())
    if values is not None and "present" in arrays:
        counts["marks of presence"] = arrays["present"].size
    for what, count in counts.items():
        if count != n_rows:
            raise ShapeError(
                f"has {count:,} {what}",
                wanted=f"{n_rows:,}, {why}",
                fix="Make it from the same list of items, or name its order with --items (a table of items)",
            )
    parts = []
    if values is not None:
        present = arrays.get("present", np.ones(n_rows)).astype(bool).reshape(-1)
        at = _items_at(np.arange(n_rows), items, row_order)
        parts.append(_place(values, present, at, items, "items without interactions"))
    if has_graph:
        parts.append(_graph(arrays, n_rows, items, row_order))
    return parts[0] if len(parts) == 1 else replace(combine("this", *parts), source=parts[0].source)


def _expected_rows(items: IdMap, row_order: Sequence[RawId] | None) -> tuple[int, str]:
    """Say how many rows a file without ids must have, and why."""
    if row_order is not None:
        return len(row_order), "one for each row of the item table"
    if items.ids.dtype.kind == "i" and items.ids[0] >= 0:
        return int(items.ids[-1]) + 1, f"row k for item id k up to the largest id {items.ids[-1]}"
    return len(items), "one for each item id in sorted order"


def _items_at(rows: IntArray, items: IdMap, row_order: Sequence[RawId] | None) -> IntArray:
    """Give the item index each row of a file belongs to, -1 for none."""
    if row_order is not None:
        return items.find(row_order)[rows]
    return items.find(rows.tolist()) if items.ids.dtype.kind == "i" and items.ids[0] >= 0 else rows


def _place(
    values: np.ndarray[Any, Any], present: BoolArray, at: IntArray, items: IdMap, others: str
) -> ItemFeatures:
    """Put row r of `values` at item `at[r]`, if it is present and there is such an item."""
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiub":
        raise ShapeError(
            f"holds {values.dtype} values of shape {values.shape}",
            wanted="a matrix of numbers with one row per item",
            fix="Reshape it to (items, columns)",
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1) & present)
    if len(bad):
        raise DataError(
            f"holds NaN, infinity or numbers beyond float32 in {len(bad):,} rows, first in row {bad[0]}",
            wanted="finite numbers",
            fix="Repair these rows, or leave these items out of a .parquet with ids",
        )
    used = present & (at >= 0)
    if not used.any():
        raise DataError("describes none of the items", wanted="features of these items", fix="Check its ids")
    placed = np.zeros((len(items), values.shape[1]), dtype=np.float32)
    placed[at[used]] = values[used]
    known = np.zeros(len(items), dtype=bool)
    known[at[used]] = True
    n_others = int((at < 0).sum())
    return ItemFeatures.dense(placed, known, f" ({n_others:,} rows of {others} ignored)" if n_others else "")


def _graph(arrays: Arrays, n_rows: int, items: IdMap, row_order: Sequence[RawId] | None) -> ItemFeatures:
    row, col, weight = (arrays[name] for name in _GRAPH)
    if not (row.dtype.kind in "iu" and col.dtype.kind in "iu" and weight.dtype.kind in "fiu"):
        raise DataError(
            f"holds a graph of {row.dtype} rows, {col.dtype} columns and {weight.dtype} weights",
            wanted="integer row and col, numeric weight",
            fix="Convert them",
        )
    if not row.shape == col.shape == weight.shape == (row.size,):
        raise ShapeError(
            f"holds a graph of shapes row {row.shape}, col {col.shape}, weight {weight.shape}",
            wanted="three vectors of one length",
            fix="Write the graph again",
        )
    ends = np.concatenate([row, col])
    if len(ends) and (ends.min() < 0 or ends.max() >= n_rows):
        raise ShapeError(
            f"links rows {ends.min()} to {ends.max()}",
            wanted=f"rows from 0 to {n_rows - 1}",
            fix="Check that the graph belongs to these items",
        )
    row, col = (_items_at(end.astype(np.int64), items, row_order) for end in (row, col))
    inside = (row >= 0) & (col >= 0)
    graph = ItemGraph.from_edges(row[inside], col[inside], weight[inside], len(items))
    present = np.zeros(len(items), dtype=bool)
    present[graph.row] = present[graph.col] = True
    n_others = int((~inside).sum())
    source = f" ({n_others:,} links of items without interactions ignored)" if n_others else ""
    return ItemFeatures(present=present, graph=graph, source=source)


def _from_table(frame: pl.DataFrame, items: IdMap, like: str | None) -> ItemFeatures:
    name = item_column(frame, like=like, flag=None)
    ids = distinct_ids(frame[name])
    columns = [column for column in frame if column.name != name]
    nested = [column for column in columns if _holds_lists(column)]
    present = np.ones(frame.height, dtype=bool)
    if len(nested) == 1:
        present = nested[0].is_not_null().to_numpy()
        values = _lists(nested[0])
    elif columns and not nested and all(column.dtype.is_numeric() for column in columns):
        values = pl.DataFrame([column.cast(pl.Float64) for column in columns]).to_numpy()
    else:
        shown = ", ".join(f"{column.name} ({column.dtype})" for column in columns[:8])
        raise DataError(
            f"holds besides '{name}' the columns {shown or 'none'}",
            wanted="one column of lists, or numeric columns only",
            fix="Drop the others",
        )
    return _place(values, present, items.find(ids.tolist()), items, "unknown items")


def _holds_lists(column: pl.Series) -> bool:
    return isinstance(column.dtype, pl.List | pl.Array) and column.dtype.inner.is_numeric()


def _lists(column: pl.Series) -> np.ndarray[Any, Any]:
    """Turn a column of equally long lists of numbers into a float64 matrix, NaN in rows that are null."""
    lists = column.arr.to_list() if column.dtype == pl.Array else column
    lengths = lists.list.len().to_numpy()  # NaN where null
    width = int(np.nanmax(lengths, initial=0))
    known = ~np.isnan(lengths)
    uneven = np.flatnonzero((lengths != width) & known)
    if len(uneven):
        raise ShapeError(
            f"column '{column.name}' holds {lengths[uneven[0]]:.0f} numbers in data row {uneven[0] + 1}",
            wanted=f"{width}, the length of the longest list",
            fix="Make all lists equally long",
        )
    matrix = np.full((len(column), width), np.nan)
    if width:
        matrix[known] = lists.drop_nulls().explode().cast(pl.Float64).to_numpy().reshape(-1, width)
    return matrix
