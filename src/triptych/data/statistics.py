"""All about a data set in plain JSON values: who interacts how much, what is missing, what is alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray, FloatArray, IntArray
from triptych.data.features import ItemFeatures, Matrix
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions, row_offsets

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset

TOP_PERCENT = (1, 5, 10, 20)
CURVE_POINTS = 50
SINGLE_VALUES = 40  # a histogram of more values than these puts several into a bar
GROWTH = 1.5  # how much wider each of its bars is than the one before
RATING_BARS = 10
POPULAR = 10  # neighbours are shown of items among the most popular 1/POPULAR

_PARTS = {"train": TRAIN, "valid": VALID, "test": TEST, "left_out": LEFT_OUT}
_LEVELS = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
_BLOCK_ENTRIES = 1 << 22
"""Feature values held at once in float64: 4 million, 32 MiB."""
# Unit -> how many of it make a second. Their ranges from 1973 to 2286 do not overlap.
_TIME_UNITS = {"seconds": 1, "milliseconds": 1000}


def describe(data: Dataset, *, n_examples: int = 4, n_neighbors: int = 5, seed: int = 0) -> dict[str, Any]:
    """Tell all about a data set.

    Args:
        data: the data set.
        n_examples: of how many items per modality the nearest neighbours are listed.
        n_neighbors: how many neighbours of each.
        seed: which of the popular items are the examples; all else does not depend on it.

    Returns: plain JSON values, shares in [0, 1]. Besides counts and names, the groups `degrees`,
        `popularity`, `rating_values`, `times`, `parts`, `missing`, `texts`, `features` and `neighbors`, each
        explained at the function that makes it. What the data set does not hold is None.

    Cost: one pass over each feature matrix and one sort of each column; a few seconds for 100,000 items.
    """
    pairs = data.interactions
    by_user, by_item = degrees(pairs.user, data.n_users), degrees(pairs.item, data.n_items)
    by_part = parts(pairs)
    return {
        "name": data.name,
        "hash": data.content_hash,
        "users": data.n_users,
        "items": data.n_items,
        "interactions": len(pairs),
        "density": pairs.density,
        "sparsity": 1 - pairs.density,
        "interactions_per_user": {level: by_user[level] for level in ("min", "median", "max")},
        "interactions_per_item": {level: by_item[level] for level in ("min", "median", "max")},
        "ratings": pairs.rating is not None,
        "timestamps": pairs.timestamp is not None,
        "labels": by_part and {part: counts["interactions"] for part, counts in by_part.items()},
        "item_columns": data.item_table.columns,
        "modalities": {name: _modality(features) for name, features in data.features.items()},
        "degrees": {"users": by_user, "items": by_item},
        "popularity": popularity(pairs),
        "rating_values": rating_values(pairs),
        "times": times(pairs),
        "parts": by_part,
        "missing": missing(data),
        "texts": texts(data.item_table),
        "features": {name: feature_values(features) for name, features in data.features.items()},
        "neighbors": neighbors(data, n_examples=n_examples, n_neighbors=n_neighbors, seed=seed),
    }


def degrees(index: IntArray, n: int) -> dict[str, Any]:
    """Say how many interactions users, or items, have.

    Args:
        index: (E,) the user, or the item, of each interaction.
        n: how many users, or items, there are.

    Returns: quantiles, `mean`, and a `histogram` of bars [first value, last value, count]: one bar a value if
        these are few, else bars that grow wider by `GROWTH`, about equally wide on a logarithmic scale.
    """
    degree = np.bincount(index, minlength=n)
    levels = _levels(degree)
    low, high = int(degree.min()), int(degree.max())
    levels |= {"min": low, "max": high}
    return levels | {"histogram": _whole_number_bars(degree, low, high)}


def popularity(pairs: Interactions) -> dict[str, Any]:
    """Say how unevenly interactions fall on items.

    Returns: `top`, percent -> the share of interactions on that many percent of items, the most popular
        ones, rounded up to whole items; `gini`, 0 if all items are equally popular, near 1 if one has it
        all; `curve`, the Lorenz curve from (0, 0) to (1, 1): the share of items, the least popular first, and
        the share of interactions on them, in at most `CURVE_POINTS` points.
    """
    n_items = pairs.n_items
    rising = np.sort(np.bincount(pairs.item, minlength=n_items))
    on_first = np.concatenate([[0], np.cumsum(rising)])  # (I + 1,) interactions on the k least popular items
    rank = np.arange(1, n_items + 1)
    return {
        "top": {
            str(percent): (len(pairs) - int(on_first[n_items * (100 - percent) // 100])) / len(pairs)
            for percent in TOP_PERCENT
        },
        "gini": int(((2 * rank - n_items - 1) * rising).sum()) / (n_items * len(pairs)),
        "curve": _even_points(np.arange(n_items + 1) / n_items, on_first / len(pairs)),
    }


def rating_values(pairs: Interactions) -> dict[str, Any] | None:
    """Give the quantiles of ratings, their `mean`, and a `histogram`; None without ratings.

    A bar is [first value, last value, count]: one for each value if these are few, else `RATING_BARS` bars of
    one width, each without its upper end but the last.
    """
    if pairs.rating is None:
        return None
    values, counts = np.unique(pairs.rating, return_counts=True)
    if len(values) <= SINGLE_VALUES:
        ends = [(value, value) for value in values.tolist()]
    else:
        counts, edges = np.histogram(pairs.rating, bins=RATING_BARS)
        ends = list(pairwise(edges.tolist()))
    bars = [[*first_and_last, int(n)] for first_and_last, n in zip(ends, counts, strict=True)]
    return _levels(pairs.rating) | {"histogram": bars}


def times(pairs: Interactions) -> dict[str, Any] | None:
    """Give the `first` and the `last` time; None without times.

    Times that all lie between 1973 and 2286 as seconds, or as milliseconds, since 1970 are given as dates
    (UTC); then `unit` says which of them they are. Others are given as they are, and `unit` is None.
    """
    if pairs.timestamp is None:
        return None
    first, last = float(pairs.timestamp.min()), float(pairs.timestamp.max())
    for unit, per_second in _TIME_UNITS.items():
        if first / per_second >= 1e8 and last / per_second < 1e10:
            dates = [datetime.fromtimestamp(time / per_second, UTC).date() for time in (first, last)]
            return {"first": dates[0].isoformat(), "last": dates[1].isoformat(), "unit": unit}
    return {"first": first, "last": last, "unit": None}


def parts(pairs: Interactions) -> dict[str, dict[str, int]] | None:
    """Count `interactions`, `users` and `items` of each part of a given split; None without labels."""
    if pairs.label is None:
        return None
    return {
        part: {
            "interactions": int(np.count_nonzero(pairs.label == code)),
            "users": len(np.unique(pairs.user[pairs.label == code])),
            "items": len(np.unique(pairs.item[pairs.label == code])),
        }
        for part, code in _PARTS.items()
    }


def missing(data: Dataset) -> dict[str, Any]:
    """Count what is missing.

    Returns: `modalities`, name -> the number of `items` without it, their share `of_items`, and the share
        `of_interactions` on them; `items_without_any`, the number of items that lack every modality.
    """
    degree = np.bincount(data.interactions.item, minlength=data.n_items)
    lacks_all = np.ones(data.n_items, dtype=bool)
    by_modality = {}
    for name, features in data.features.items():
        lacks = ~features.present
        lacks_all &= lacks
        by_modality[name] = {
            "items": int(lacks.sum()),
            "of_items": float(lacks.mean()),
            "of_interactions": float(degree[lacks].sum() / len(data.interactions)),
        }
    return {"modalities": by_modality, "items_without_any": int(lacks_all.sum())}


def texts(item_table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Measure each column of text but the ids.

    Returns: column -> the share `empty` of items with no text or only blanks, and the length of the others in
        `characters` and `words`, each as `median`, `p90` and `max`; None if there are no others.
    """
    columns = [
        column.cast(pl.String)
        for column in item_table.iter_columns()
        if column.dtype in (pl.String, pl.Categorical, pl.Enum) and column.name != "item_id"
    ]
    return {column.name: _text(column) for column in columns}


def feature_values(features: ItemFeatures) -> dict[str, Any] | None:
    """Look for what is odd about the dense rows of the items that have a modality.

    Returns: quantiles and mean of the rows' Euclidean `norm`; the share `zero_rows` of rows that are all
        zero; the share `repeated_rows` of rows that are the same as one before them, rows of zeros aside;
        and the number of `constant_columns`. None without dense rows of any item.
    """
    if features.values is None or not features.present.any():
        return None
    norms: list[FloatArray] = []
    digests: set[bytes] = set()
    low = np.full(features.values.shape[1], np.inf)
    high = -low
    for block in _blocks(features.values, np.flatnonzero(features.present)):
        norms.append(np.linalg.norm(block, axis=1))
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        pointing = block[norms[-1] > 0] + 0.0  # -0.0 + 0.0 is 0.0, so that equal rows have equal bytes
        digests.update(hashlib.blake2b(row, digest_size=16).digest() for row in pointing)
    norm = np.concatenate(norms)
    n_zero = int((norm == 0).sum())
    return {
        "norm": _levels(norm),
        "zero_rows": n_zero / len(norm),
        "repeated_rows": (len(norm) - n_zero - len(digests)) / len(norm),
        "constant_columns": int((low == high).sum()),
    }


def neighbors(data: Dataset, *, n_examples: int, n_neighbors: int, seed: int) -> dict[str, dict[str, Any]]:
    """List what is nearest to some popular items, modality by modality.

    A given item graph counts before dense rows, as it does for models. Examples are drawn among the tenth of
    items with the most interactions that have neighbours; one order of preference serves all modalities, so
    that they mostly show the same items.

    Returns: modality -> `by`, "cosine" or "given graph", and `examples`, each with `item_id`, `title` (None
        without titles) and `neighbors`: lists of `item_id`, `title`, `similarity`, the most similar first.
    """
    degree = np.bincount(data.interactions.item, minlength=data.n_items)
    preference = np.random.default_rng(seed).permutation(data.n_items)
    listed = {}
    for name, features in data.features.items():
        able = np.flatnonzero(_can_have_neighbors(features))
        popular = able[np.lexsort((able, -degree[able]))][: max(n_examples, -(-len(able) // POPULAR))]
        chosen = popular[np.sort(np.argsort(preference[popular])[:n_examples])]  # the most popular first
        nearest = _heaviest if features.graph is not None else _most_alike
        listed[name] = {
            "by": "cosine" if features.graph is None else "given graph",
            "examples": [
                _named(data, item)
                | {"neighbors": [_named(data, other) | {"similarity": near} for other, near in found]}
                for item, found in zip(chosen.tolist(), nearest(features, chosen, n_neighbors), strict=True)
            ],
        }
    return listed


def _modality(features: ItemFeatures) -> dict[str, Any]:
    return {
        "dim": features.dim,
        "graph_edges": None if features.graph is None else len(features.graph),
        "coverage": features.coverage,
        "source": features.source,
    }


def _levels(values: np.ndarray[Any, Any]) -> dict[str, float]:
    quantiles = np.quantile(values, list(_LEVELS.values()))
    return dict(zip(_LEVELS, quantiles.tolist(), strict=True)) | {"mean": float(values.mean())}


def _whole_number_bars(numbers: IntArray, low: int, high: int) -> list[list[float]]:
    """Count whole numbers from `low` to `high` in bars."""
    starts = list(range(low, high + 2))
    if len(starts) > SINGLE_VALUES + 1:
        starts = [low]
        while starts[-1] <= high:
            starts.append(max(starts[-1] + 1, int(starts[-1] * GROWTH + 0.5)))
    n_below = np.searchsorted(np.sort(numbers), starts)
    return [
        [first, after - 1, int(n)]
        for (first, after), n in zip(pairwise(starts), np.diff(n_below), strict=True)
    ]


def _even_points(x: FloatArray, y: FloatArray) -> list[list[float]]:
    """Thin out a rising curve from (0, 0) to (1, 1): points that follow one another at about equal steps."""
    at = np.arange(len(x))
    if len(x) > CURVE_POINTS:
        at = np.unique(np.searchsorted(x + y, np.linspace(0, 2, CURVE_POINTS)))
    return [[float(x[k]), float(y[k])] for k in at]


def _text(column: pl.Series) -> dict[str, Any]:
    known = column.str.strip_chars().drop_nulls()
    known = known.filter(known != "")
    measures: dict[str, Any] = {
        "empty": (len(column) - len(known)) / len(column),
        "characters": None,
        "words": None,
    }
    if len(known):
        measures["characters"] = _length(known.str.len_chars())
        measures["words"] = _length(known.str.count_matches(r"\S+"))
    return measures


def _length(lengths: pl.Series) -> dict[str, float]:
    levels = _levels(lengths.to_numpy())
    return {level: levels[level] for level in ("median", "p90")} | {"max": int(levels["max"])}


def _blocks(values: Matrix, rows: IntArray) -> Iterator[FloatArray]:
    """Give some rows of a matrix in float64, a few at a time."""
    step = max(1, _BLOCK_ENTRIES // values.shape[1])
    for start in range(0, len(rows), step):
        yield values[rows[start : start + step]].astype(np.float64)


def _can_have_neighbors(features: ItemFeatures) -> BoolArray:
    """Mark items that a graph links to another, or else items whose row points somewhere."""
    if features.graph is not None:
        others = features.graph.row != features.graph.col
        return np.bincount(features.graph.row[others], minlength=features.n_items) > 0
    assert features.values is not None  # one of the two is there, ItemFeatures makes sure
    return features.present & features.values.any(axis=1)


def _heaviest(features: ItemFeatures, items: IntArray, n: int) -> list[list[tuple[int, float]]]:
    """Find the heaviest edges of each item to others."""
    graph = features.graph
    assert graph is not None
    offsets = row_offsets(graph.row, features.n_items)
    found = []
    for item in items.tolist():
        edges = slice(offsets[item], offsets[item + 1])  # by falling weight
        near = zip(graph.col[edges].tolist(), graph.weight[edges].tolist(), strict=True)
        found.append([(other, weight) for other, weight in near if other != item][:n])
    return found


def _most_alike(features: ItemFeatures, items: IntArray, n: int) -> list[list[tuple[int, float]]]:
    """Find the rows of the largest cosine with each item's; of equals, the first."""
    values = features.values
    assert values is not None
    able = np.flatnonzero(_can_have_neighbors(features))
    wanted = _unit(values[items].astype(np.float64))
    blocks = [_unit(block) @ wanted.T for block in _blocks(values, able)]  # each (b, F) @ (F, Q) -> (b, Q)
    cosine = np.concatenate([np.empty((0, len(items))), *blocks])
    found = []
    for item, near in zip(items.tolist(), cosine.T, strict=True):
        near[able == item] = -np.inf
        best = np.argsort(-near, kind="stable")[: min(n, len(able) - 1)]
        found.append([(int(able[at]), float(near[at].clip(-1, 1))) for at in best])
    return found


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _named(data: Dataset, item: int) -> dict[str, Any]:
    title = None if data.titles is None else data.titles[item]
    return {"item_id": data.items.ids[item].item(), "title": title}
