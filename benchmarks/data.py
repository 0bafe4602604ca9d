"""The data that are measured on: real where they are at hand, else generated ones of the same size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import ROOT
from triptych.data.arrays import IntArray
from triptych.data.columns import Columns
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions
from triptych.data.split import Split
from triptych.preparation import prepare

SEED = 7
SIZES = ("baby", "sports", "electronics")
WIDTHS = {"image": 4_096, "text": 384}
"""Columns of generated features, those of the published ones."""

_COUNTS = {  # users, items, interactions
    "baby": (19_445, 7_050, 160_792),
    "sports": (35_598, 18_357, 296_337),
    "clothing": (39_387, 23_033, 278_677),
    "electronics": (192_403, 63_001, 1_689_118),
    "tiny": (300, 120, 3_000),
}
NAMES = tuple(_COUNTS)
"""The sizes, and "tiny", at which nothing is measured but that a benchmark runs."""
_LABELS = {"0": TRAIN, "1": TEST, "2": VALID}
"""What `x_label` means in the files of Amazon: 1 and 2 are the other way round than MMRec's."""
_LEAST = 5
"""Every generated user and item has at least this many interactions (but for a few merged ones of items)."""
_NEIGHBORS = 10


@dataclass(frozen=True)
class Sized:
    """A split of one of the sizes.

    Args:
        size: its name.
        split: every user has training and test items.
        origin: "real" or "generated".
    """

    size: str
    split: Split
    origin: str

    def facts(self) -> dict[str, Any]:
        """Describe it in plain JSON values."""
        return {
            "data": f"{self.origin} {self.size}",
            "users": self.split.n_users,
            "items": self.split.n_items,
            "training pairs": len(self.split.train),
            "data hash": self.split.data.content_hash,
            "split hash": self.split.content_hash,
            "seed": SEED,
        }


def sized_splits() -> Iterator[Sized]:
    """Give all sizes, small ones first."""
    for size in SIZES:
        yield sized_split(size)


@cache
def sized_split(size: str) -> Sized:
    """Read or generate the data of one size, and split it.

    Real data come split. Generated electronics give a fifth of each user's interactions, at least
    one, to test and the rest, about 80 %, to training; other stand-ins are split 8:1:1.

    Args:
        size: one of `NAMES`.
    """
    folder = Path(os.environ.get("TRIPTYCH_DATA", ROOT.parent / "shared" / "data")) / f"amazon-{size}"
    if size != "electronics" and (folder / "interactions.parquet").is_file():
        graphs = ((name, folder / f"{name}_knn10.npz") for name in ("image", "text"))
        data = prepare(
            folder / "interactions.parquet",
            name=size,
            columns=Columns(user="userID", item="itemID", label="x_label"),
            label_meaning=_LABELS,
            features=[(name, file) for name, file in graphs if file.is_file()],
        )
        return Sized(size, Split.by_label(data), "real")
    n_users, n_items, n_interactions = _COUNTS[size]
    rng = np.random.default_rng(SEED)
    interactions = generate_interactions(n_users, n_items, n_interactions, rng)
    features = {name: _generate_graph(n_items, rng) for name in ("image", "text")} if size == "baby" else {}
    plain = Dataset.from_interactions(size, interactions)
    data = Dataset(size, interactions, plain.item_table, features)
    split = _fifth_for_test(data, rng) if size == "electronics" else Split.by_ratio(data, rng)
    return Sized(size, split, "generated")


def with_features(split: Split, widths: Mapping[str, int] = WIDTHS) -> Split:
    """Give each item random features of so many columns, float32, in the place of those there are."""
    rng = np.random.default_rng(SEED)
    features = {
        name: ItemFeatures.dense(
            rng.standard_normal((split.n_items, width), dtype=np.float32), source="generated"
        )
        for name, width in widths.items()
    }
    return replace(split, data=replace(split.data, features=features))


def generate_interactions(
    n_users: int, n_items: int, n_interactions: int, rng: np.random.Generator, least: int = _LEAST
) -> Interactions:
    """Draw interactions of exactly the given counts, with few busy users and zipf-like popular items.

    Each user has the least number of interactions and a share of the rest that is drawn from a log-normal;
    each item is given to as many users, and the rest follow a power of the item's rank.

    Args:
        n_users: U.
        n_items: I.
        n_interactions: E, at least `least` times U and I.
        rng: is moved on.
        least: interactions that every user and item has.
    """
    appetite = rng.lognormal(sigma=1.2, size=n_users)
    extra = rng.choice(n_users, n_interactions - least * n_users, p=appetite / appetite.sum())
    user = rng.permutation(np.concatenate([np.repeat(np.arange(n_users), least), extra]))
    popularity = rng.permutation((np.arange(n_items) + 10.0) ** -0.9)
    reach = popularity.cumsum() / popularity.sum()
    item = np.searchsorted(reach, rng.random(n_interactions)).clip(max=n_items - 1)
    item[: least * n_items] = np.tile(np.arange(n_items), least)
    while len(again := _repeated(user * n_items + item)):
        item[again] = np.searchsorted(reach, rng.random(len(again))).clip(max=n_items - 1)
    return Interactions.from_ids(user, item)


def only_test_of(sized: Sized, users: IntArray) -> Split:
    """Leave out the test pairs of all but the given users; training pairs stay as they are."""
    split = sized.split
    others = ~np.isin(split.data.interactions.user, users)
    part = np.where(others & (split.part != TRAIN), LEFT_OUT, split.part).astype(np.int8)
    return Split(split.data, part, split.protocol)


def _repeated(keys: IntArray) -> IntArray:
    """Say where a key stands that stood before."""
    order = np.argsort(keys, kind="stable")
    repeated: IntArray = order[1:][keys[order][1:] == keys[order][:-1]]
    return repeated


def _fifth_for_test(data: Dataset, rng: np.random.Generator) -> Split:
    user = data.interactions.user
    order = rng.permutation(len(user))
    by_user = order[np.argsort(user[order], kind="stable")]
    degree = np.bincount(user)
    place = np.empty(len(user), dtype=np.int64)
    place[by_user] = np.arange(len(user)) - np.repeat(degree.cumsum() - degree, degree)
    held = np.maximum(1, np.rint(0.2 * degree)).astype(np.int64)
    part = np.where(place < held[user], TEST, TRAIN).astype(np.int8)
    return Split(data, part, {"kind": "a fifth of each user's interactions for test"})


def _generate_graph(n_items: int, rng: np.random.Generator) -> ItemFeatures:
    """Link each item to itself and to items near it on a ring, as alike items are alike in turn."""
    place = rng.permutation(n_items)
    steps = np.arange(_NEIGHBORS) - _NEIGHBORS // 2
    row = np.repeat(np.arange(n_items), _NEIGHBORS)
    col = place[(np.argsort(place)[row] + np.tile(steps, n_items)) % n_items]
    weight = np.full(len(row), 1 / _NEIGHBORS, dtype=np.float32)
    graph = ItemGraph.from_edges(row, col, weight, n_items)
    return ItemFeatures(present=np.ones(n_items, dtype=bool), graph=graph, source="generated")
