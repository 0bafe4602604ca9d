"""What items look, read and sound like: one `ItemFeatures` per modality, dense rows or a given item graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from triptych.data.arrays import BoolArray, IntArray
from triptych.data.interactions import row_offsets
from triptych.errors import ConfigError, DataError, ShapeError
from triptych.files import Arrays, hash_arrays

Matrix = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, eq=False)
class ItemGraph:
    """A given item–item graph: which items are alike, and how much.

    Args:
        row: (n,) int64 item index, ascending.
        col: (n,) int64 index of an item like it.
        weight: (n,) float32 similarity.
    """

    row: IntArray
    col: IntArray
    weight: Matrix

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def from_edges(cls, row: IntArray, col: IntArray, weight: Matrix, n_items: int) -> ItemGraph:
        """Sort edges by row and by falling weight, and check them.

        Raises:
            ShapeError: the three columns differ in length, or an item index is not below `n_items`.
            DataError: a weight is NaN or infinite, or an edge is listed twice.
        """
        if not len(row) == len(col) == len(weight):
            raise ShapeError(
                f"an item graph has {len(row):,} rows, {len(col):,} columns and {len(weight):,} weights",
                wanted="three columns of one length",
                fix="Write the graph again",
            )
        row, col = row.astype(np.int64), col.astype(np.int64)
        with np.errstate(over="ignore"):
            weight = weight.astype(np.float32)
        ends = np.concatenate([row, col])
        if len(ends) and (ends.min() < 0 or ends.max() >= n_items):
            raise ShapeError(
                f"an item graph links items {ends.min()} to {ends.max()}",
                wanted=f"indices from 0 to {n_items - 1}",
                fix="Check that the graph belongs to these items",
            )
        if not np.isfinite(weight).all():
            at = int(np.flatnonzero(~np.isfinite(weight))[0])
            raise DataError(
                f"the item graph's edge {row[at]} -> {col[at]} has weight {weight[at]}",
                wanted="finite weights",
                fix="Repair or drop such edges",
            )
        if len(np.unique(row * n_items + col)) < len(row):
            raise DataError(
                "an item graph lists the same edge twice", wanted="each edge once", fix="Merge such edges"
            )
        order = np.lexsort((col, -weight, row))
        return cls(row[order], col[order], weight[order])

    def take(self, keep: IntArray, n_items: int) -> ItemGraph:
        """Keep the edges among the items at indices `keep`, which are numbered anew in that order."""
        new_index = np.full(n_items, -1, dtype=np.int64)
        new_index[keep] = np.arange(len(keep))
        row, col = new_index[self.row], new_index[self.col]
        inside = (row >= 0) & (col >= 0)
        return ItemGraph.from_edges(row[inside], col[inside], self.weight[inside], len(keep))

    def strongest(self, n_neighbors: int, n_items: int) -> ItemGraph:
        """Keep each row's `n_neighbors` heaviest edges."""
        place = np.arange(len(self)) - row_offsets(self.row, n_items)[self.row]
        keep = place < n_neighbors
        return ItemGraph(self.row[keep], self.col[keep], self.weight[keep])


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """One modality of all items: dense rows, a given item graph, or both.

    Args:
        present: (I,) bool, which items have this modality. Rows of the others are zero.
        values: (I, F) float32, finite, if dense features are known.
        graph: a given item graph, used wherever dense features would only serve to build one.
        source: where it came from, in words.
    """

    present: BoolArray
    values: Matrix | None = None
    graph: ItemGraph | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.values is None and self.graph is None:
            raise DataError(
                "a modality holds neither dense rows nor a graph",
                wanted="at least one of them",
                fix="Give a features file or a graph file",
            )
        if self.values is not None:
            _check_values(self.values, self.present)

    @classmethod
    def dense(
        cls, values: np.ndarray[Any, Any], present: BoolArray | None = None, source: str = ""
    ) -> ItemFeatures:
        """Take a dense matrix; rows of absent items are set to zero, whatever they held.

        Raises:
            ShapeError: `values` has not two dimensions, or `present` another length.
            DataError: a present row holds NaN or infinity (also after the conversion to float32).
        """
        if values.ndim != 2 or values.shape[1] == 0:
            raise ShapeError(
                f"features of shape {values.shape}",
                wanted="a matrix with one row per item and at least one column",
                fix="Reshape the features to (items, columns)",
            )
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        present = np.ones(len(values), dtype=bool) if present is None else np.asarray(present, dtype=bool)
        if len(present) == len(values):
            values[~present] = 0.0
        return cls(present=present, values=values, source=source)

    @property
    def n_items(self) -> int:
        """Number of items, with or without this modality."""
        return len(self.present)

    @property
    def dim(self) -> int | None:
        """Columns of the dense rows; None where only a graph is given."""
        return None if self.values is None else self.values.shape[1]

    @property
    def coverage(self) -> float:
        """Share of items that have this modality, in [0, 1]."""
        return float(self.present.mean())

    @cached_property
    def content_hash(self) -> str:
        """Name of the content; what is built from features is remembered by it."""
        arrays = self.to_arrays()
        return hash_arrays(*(part for name in sorted(arrays) for part in (name, arrays[name])))

    def take(self, keep: IntArray) -> ItemFeatures:
        """Keep the items at the given indices, in that order."""
        return ItemFeatures(
            present=self.present[keep],
            values=None if self.values is None else self.values[keep],
            graph=None if self.graph is None else self.graph.take(keep, self.n_items),
            source=self.source,
        )

    def to_arrays(self) -> Arrays:
        """Name the arrays that hold all of it, as they are stored."""
        arrays: Arrays = {"present": self.present}
        if self.values is not None:
            arrays["values"] = self.values
        if self.graph is not None:
            arrays |= {"row": self.graph.row, "col": self.graph.col, "weight": self.graph.weight}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays, source: str) -> ItemFeatures:
        """Read back what `to_arrays` gave, checking it again.

        Raises:
            DataError: an array is missing or wrong.
        """
        if "present" not in arrays:
            raise DataError(
                f"features with the arrays {sorted(arrays)}",
                wanted="an array 'present'",
                fix="Prepare them again",
            )
        present = arrays["present"].astype(bool)
        graph = None
        if {"row", "col", "weight"} <= arrays.keys():
            graph = ItemGraph.from_edges(arrays["row"], arrays["col"], arrays["weight"], len(present))
        return cls(present=present, values=arrays.get("values"), graph=graph, source=source)


def combine(modality: str, first: ItemFeatures, second: ItemFeatures) -> ItemFeatures:
    """Join the dense rows and the item graph of one modality; an item present in either is present.

    Raises:
        ConfigError: both hold dense rows, or both a graph.
    """
    for what in ("values", "graph"):
        if getattr(first, what) is not None and getattr(second, what) is not None:
            raise ConfigError(
                f"two {'dense files' if what == 'values' else 'graphs'} for {modality}: "
                f"{first.source} and {second.source}",
                wanted="at most one dense file and one graph for a modality",
                fix="Leave one out, or give them two names",
            )
    return ItemFeatures(
        present=first.present | second.present,
        values=first.values if second.values is None else second.values,
        graph=first.graph if second.graph is None else second.graph,
        source=f"{first.source} + {second.source}",
    )


def check_modality(name: str) -> None:
    """Refuse a name of a modality that cannot be a file's or a module's name.

    Raises:
        ConfigError: it is no plain word.
    """
    if not name.isidentifier():
        raise ConfigError(
            f"the modality name {name!r}",
            wanted="a word of letters, digits and underscores",
            fix="Use image, text or audio, for example",
        )


def _check_values(values: Matrix, present: BoolArray) -> None:
    if len(values) != len(present):
        raise ShapeError(
            f"features have {len(values):,} rows, but {len(present):,} items are marked present or absent",
            wanted="one row per item",
            fix="Make the features again from the same list of items",
        )
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise DataError(
            f"features hold NaN, infinity or numbers beyond float32 in {len(bad):,} rows, first row {bad[0]}",
            wanted="finite numbers",
            fix="Repair these rows, or leave these items out of the file so that they count as missing",
        )
