"""Splits at the edge of what data are, and beyond it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.interactions import TRAIN, VALID, Interactions
from triptych.data.split import Split
from triptych.testing.data import toy_dataset


def hard_splits() -> dict[str, Split]:
    """Build small splits at the edge of what data are: every model has to cope with these.

    - "full user": a user has chosen all there is, and all of it is for training.
    - "cold items": two items occur in no training pair, and one is in no modality.
    - "hub": all users have one item in common, and no other.
    """
    toy = Split.by_ratio(toy_dataset(), rng=0)
    user, item = (grid.ravel() for grid in np.meshgrid(np.arange(6), np.arange(10), indexing="ij"))
    part = np.where(((item + user) % 10 == 0) & (user > 0), VALID, TRAIN)
    full = np.where(user == 0, item < 10, (item < 2) | ((item + user) % 10 < 2))
    cold = np.where(np.isin(toy.data.interactions.item, [3, 4]) & (toy.part == TRAIN), VALID, toy.part)
    hub = (item == 0) | (item == user + 1) | (item == (user + 2) % 9 + 1)
    hub_part = np.where(item == user + 1, VALID, np.where(item == 0, TRAIN, part))
    absent = {
        name: ItemFeatures.dense(np.array(features.values), features.present & (np.arange(10) != 4))
        for name, features in toy.data.features.items()
    }
    return {
        "full user": _labelled(user[full], item[full], part[full]),
        "cold items": replace(toy, part=cold.astype(np.int8), data=replace(toy.data, features=absent)),
        "hub": _labelled(user[hub], item[hub], hub_part[hub]),
    }


def hopeless_splits() -> dict[str, Split]:
    """Build splits that nothing can be learned from: a model may refuse them, but by saying so.

    - "two items": all there are.
    - "one picture": an image of a single item, and no text that differs.
    - "huge" and "tiny features": at the ends of float32, whose squares are infinite or zero.
    """
    toy = Split.by_ratio(toy_dataset(missing=False), rng=0)
    two = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]), np.array([TRAIN, VALID, VALID, TRAIN, TRAIN])
    one, values = np.arange(10) == 2, {name: np.array(f.values) for name, f in toy.data.features.items()}
    same = ItemFeatures.dense(np.ones((10, 2)))
    contents = {
        "one picture": {"image": ItemFeatures.dense(values["image"], one), "text": same},
        "huge features": {name: ItemFeatures.dense(rows * 1e37) for name, rows in values.items()},
        "tiny features": {name: ItemFeatures.dense(rows * 1e-37) for name, rows in values.items()},
    }
    return {
        "two items": _labelled(*two),
        **{
            name: replace(toy, data=replace(toy.data, features=features))
            for name, features in contents.items()
        },
    }


def _labelled(
    user: np.ndarray[tuple[int], np.dtype[np.generic]],
    item: np.ndarray[tuple[int], np.dtype[np.generic]],
    part: np.ndarray[tuple[int], np.dtype[np.generic]],
) -> Split:
    """Split pairs as told, with two modalities of random features."""
    interactions = Interactions.from_ids(user, item, label=part.astype(np.int8))
    rng = np.random.default_rng(0)
    features = {
        name: ItemFeatures.dense(rng.normal(size=(interactions.n_items, 4))) for name in ("image", "text")
    }
    data = Dataset.from_interactions("hard", interactions)
    return Split.by_label(replace(data, features=features))
