"""A data set of tables and matrices that a notebook holds already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.interactions import Interactions
from triptych.errors import DataError, ShapeError, kind_of, nearest

_KNOWN = ("user_id", "item_id", "rating", "timestamp", "label")


def from_tables(
    name: str, interactions: Any, items: Any = None, features: Mapping[str, Any] | None = None
) -> Dataset:
    """Make a data set; see `Dataset.from_tables`."""
    columns = _columns(interactions, "interactions", needed=("user_id", "item_id"))
    if unknown := [column for column in columns if column not in _KNOWN]:
        raise DataError(
            f"the interactions have a column '{unknown[0]}'",
            wanted="columns " + ", ".join(_KNOWN),
            fix=nearest(unknown[0], _KNOWN) + ", or leave it out",
        )
    pairs = Interactions.from_ids(
        columns["user_id"],
        columns["item_id"],
        rating=columns.get("rating"),
        timestamp=columns.get("timestamp"),
        label=columns.get("label"),
    )
    table = (
        _columns(items, "items", needed=("item_id",)) if items is not None else {"item_id": pairs.items.ids}
    )
    row_of = _rows(pairs, table["item_id"])
    item_table = pl.DataFrame({key: pl.Series(values.tolist()) for key, values in table.items()})[row_of]
    item_table = item_table.with_columns(pl.Series("item_id", pairs.items.ids))
    dense = {
        modality: _features(modality, matrix, len(table["item_id"]), row_of)
        for modality, matrix in (features or {}).items()
    }
    return Dataset(name, pairs, item_table, dense)


def _columns(table: Any, what: str, *, needed: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """Take the columns of a frame or a dict apart."""
    if not hasattr(table, "columns") and not isinstance(table, Mapping):
        raise DataError(
            f"the {what} are {kind_of(table)}",
            wanted="a frame of polars or pandas, or a dict of columns",
            fix="Read a file first, or use prepare, which does",
        )
    names = [str(column) for column in getattr(table, "columns", table)]  # a frame's, or a dict's
    if missing := [name for name in needed if name not in names]:
        raise DataError(
            f"the {what} have no column '{missing[0]}'",
            wanted="columns " + " and ".join(needed),
            fix=nearest(missing[0], names) + ", and rename it",
        )
    return {name: np.asarray(table[name]) for name in names}


def _rows(pairs: Interactions, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Say in which row of the item table each item is."""
    found = pairs.items.find(ids.tolist())
    if len(np.unique(found[found >= 0])) < np.count_nonzero(found >= 0):
        twice = next(raw for raw, count in zip(*np.unique(ids, return_counts=True), strict=True) if count > 1)
        raise DataError(
            f"the items list {twice.item()!r} twice",
            wanted="one row for each item",
            fix="Leave one of them out",
        )
    row_of = np.full(len(pairs.items), -1)
    row_of[found[found >= 0]] = np.flatnonzero(found >= 0)
    if (row_of < 0).any():
        lacking = pairs.items.ids[row_of < 0]
        raise DataError(
            f"{len(lacking):,} items of the interactions are not among the items, the first being "
            f"{lacking[0].item()!r}",
            wanted="a row for each",
            fix="Add them, or leave their interactions out",
        )
    return row_of


def _features(modality: str, matrix: Any, n_rows: int, row_of: np.ndarray[Any, Any]) -> ItemFeatures:
    values = np.asarray(matrix)
    if values.ndim != 2 or len(values) != n_rows:
        raise ShapeError(
            f"{modality} features of shape {values.shape}",
            wanted=f"({n_rows:,}, columns): a row for each row of the items",
            fix="Give them in the order of the items",
        )
    try:
        with np.errstate(over="ignore"):
            values = values[row_of].astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{modality} features hold what is no number ({error})",
            wanted="a matrix of numbers",
            fix="Encode pictures, texts and sounds first, as `triptych encode` does",
        ) from error
    return ItemFeatures.dense(values, ~np.isnan(values).all(axis=1))
