"""Content changed on purpose, to see what a model makes of it: a modality emptied, mixed up, or worn thin.

Interactions and their split stay as they are, so that changed and unchanged are asked the same questions of
the same users. Only what items look, read and sound like is another, and with it the hash of the data: a
run on changed content is never taken for one on the data as they are.

Letters: I items, F feature width, n items that have a modality.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from triptych.data.arrays import FloatArray, IntArray
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.split import Split

Knockout = Literal["absent", "zeros", "constant", "noise", "shuffled"]
Wear = Literal["missing", "noisy"]
"""What is done by degrees."""

_COLUMNS = 128
"""Columns changed at once: features of many items fill the memory more than once otherwise."""


class Change(BaseModel):
    """What is done to some modalities of all items, each for itself.

    - "absent": the model is told to do without them; a setting, not another feature.
    - "zeros": rows of zeros, of items that count as having the modality.
    - "constant": the mean row in place of each.
    - "noise": each column drawn anew from the normal distribution of its mean and variance.
    - "shuffled": each item that has the modality gets the content of another one that has it.
    - "missing": `amount` per cent of the n items that have the modality lack it, in rounded numbers. Those of
      10 % are among those of 20 %.
    - "noisy": to each column is added normal noise of `amount` of the column's standard deviations, the
      same noise for all amounts but for its strength.

    A given item graph can be shuffled, which renames its items, and lose items with their edges. The rest
    does not apply to one: see `refused`.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    kind: Knockout | Wear
    modalities: tuple[str, ...]
    """In the order of the data set."""
    amount: float | None = None
    """Of what is done by degrees: per cent of items, or standard deviations."""

    @property
    def target(self) -> str:
        """Name the modalities: "image+text"."""
        return "+".join(self.modalities)

    @property
    def name(self) -> str:
        """Name the change: "image shuffled", "image+text missing 20 %", "text noisy 0.5 sd"."""
        degree = (
            {"missing": f" {self.amount:.15g} %", "noisy": f" {self.amount:.15g} sd"} if self.amount else {}
        )
        return f"{self.target} {self.kind}{degree.get(self.kind, '')}"

    def refused(self, features: ItemFeatures) -> str | None:
        """Say why it cannot be done to a modality; None if it can."""
        if features.graph is not None and self.kind in ("zeros", "constant", "noise", "noisy"):
            return f"of a given item graph there is no '{self.kind}'"
        if self.kind == "shuffled" and np.count_nonzero(features.present) < 2:
            return "fewer than two items have content to exchange"
        return None


def change_content(split: Split, change: Change, seed: int) -> Split:
    """Change the features of a split's data set, and nothing else; the same arguments give the same bytes.

    Args:
        split: on which something is to be trained.
        change: what is done; "absent" changes settings, and nothing here.
        seed: of all that is drawn; each modality and each kind of change draws its own.

    Returns: the same interactions in the same parts; the protocol names change and seed.
    """
    if change.kind == "absent":
        return split
    features = dict(split.data.features)
    for modality in change.modalities:
        rng = np.random.default_rng([seed, *f"{change.kind} {modality}".encode()])
        features[modality] = _change(features[modality], change, rng)
    told = {"content": {**change.model_dump(mode="json"), "seed": seed}}
    return Split(replace(split.data, features=features), split.part, {**split.protocol, **told})


def _change(features: ItemFeatures, change: Change, rng: np.random.Generator) -> ItemFeatures:
    items = np.flatnonzero(features.present)  # (n,)
    if change.kind == "shuffled":
        return replace(
            features.take(_others(items, features.n_items, rng)), source=f"{features.source}; shuffled"
        )
    if change.kind == "missing":
        return _without(features, rng.permutation(items)[: round((change.amount or 0) / 100 * len(items))])
    assert features.values is not None  # all else is refused where there are no dense rows
    changed = features.values.copy()
    for start in range(0, changed.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        changed[items, columns] = _replaced(changed[items, columns].astype(np.float64), change, rng)
    return replace(features, values=changed, source=f"{features.source}; {change.kind}")


def _replaced(rows: FloatArray, change: Change, rng: np.random.Generator) -> FloatArray:
    """Give other values for some columns of all items that have them: (n, f) -> (n, f)."""
    if change.kind == "zeros":
        return np.zeros_like(rows)
    mean: FloatArray = np.broadcast_to(rows.mean(axis=0), rows.shape)
    if change.kind == "constant":
        return mean
    drawn: FloatArray = rng.standard_normal(rows.shape) * rows.std(axis=0)
    return mean + drawn if change.kind == "noise" else rows + (change.amount or 0) * drawn


def _others(items: IntArray, n_items: int, rng: np.random.Generator) -> IntArray:
    """Give each of some items another of them, all in one circle: (I,); the rest keep themselves."""
    place, circle = np.arange(n_items), rng.permutation(items)
    place[circle] = np.roll(circle, 1)
    return place


def _without(features: ItemFeatures, gone: IntArray) -> ItemFeatures:
    """Take the modality from some items, and their edges from its graph."""
    present, values, graph = features.present.copy(), features.values, features.graph
    present[gone] = False
    if values is not None:
        values = values.copy()
        values[gone] = 0.0
    if graph is not None:
        lost = np.isin(graph.row, gone) | np.isin(graph.col, gone)
        graph = ItemGraph(graph.row[~lost], graph.col[~lost], graph.weight[~lost])
    return ItemFeatures(present, values, graph, f"{features.source}; {len(gone):,} taken away")
