"""Small data sets whose right answer is known."""

from __future__ import annotations

import numpy as np
import polars as pl

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.interactions import TEST, TRAIN, VALID, Interactions
from triptych.data.split import Split


def checkerboard(n: int = 40) -> Split:
    """Build a board of `n` users and `n` items on which like meets like.

    User u chose every item i with u + i even. One such item of each user is held out for valid and
    one for test, so that, once training and validation items are masked, the right top item is known.
    Image and text tell the two colours apart.

    Args:
        n: even, at least 8.
    """
    user, item = (grid.ravel() for grid in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    chosen = (user + item) % 2 == 0
    user, item = user[chosen], item[chosen]
    label = np.full(len(user), TRAIN, dtype=np.int8)
    label[item == (user + 2) % n] = VALID
    label[item == (user + 4) % n] = TEST
    interactions = Interactions.from_ids(user, item, label=label)
    colour = (np.arange(n) % 2).astype(np.float32)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, n, 6)).astype(np.float32)
    features = {
        name: ItemFeatures.dense(noise[m] + np.outer(1 - 2 * colour, np.ones(6)), source="checkerboard")
        for m, name in enumerate(("image", "text"))
    }
    item_table = pl.DataFrame({"item_id": np.arange(n)})
    return Split.by_label(Dataset("checkerboard", interactions, item_table, features))


def toy_dataset(n_users: int = 12, n_items: int = 10, *, seed: int = 0, missing: bool = True) -> Dataset:
    """Build a tiny data set with string ids, titles, times, and two modalities.

    Args:
        n_users: at least 2.
        n_items: at least 8.
        seed: of everything drawn.
        missing: leave item 0 without an image and item 1 without a text.
    """
    rng = np.random.default_rng(seed)
    rows = [(u, i) for u in range(n_users) for i in rng.choice(n_items, size=6, replace=False)]
    rows += [(int(rng.integers(n_users)), i) for i in range(n_items)]  # every item occurs
    user_ids = np.array([f"u{u:03d}" for u, _ in rows])
    item_ids = np.array([f"i{i:03d}" for _, i in rows])
    time = rng.permutation(len(rows)).astype(np.float64)
    interactions = Interactions.from_ids(user_ids, item_ids, timestamp=time)
    features = {}
    for absent, (name, width) in enumerate((("image", 5), ("text", 4))):
        present = np.arange(n_items) != absent if missing else np.ones(n_items, dtype=bool)
        values = rng.normal(size=(n_items, width))
        features[name] = ItemFeatures.dense(values, present, source="toy")
    titles = [f"Thing {i}" for i in range(n_items)]
    item_table = pl.DataFrame({"item_id": interactions.items.ids, "title": titles})
    return Dataset("toy", interactions, item_table, features)
