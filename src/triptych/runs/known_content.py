"""The content of a run's known items, and new items beside it.

Letters: I known items, n new ones, F feature width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.arrays import BoolArray, FloatArray
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, Matrix
from triptych.data.split import Split
from triptych.errors import ConfigError, DataError, ShapeError, nearest
from triptych.nn.item_mixture import mixture_weights

Content = dict[str, ItemFeatures]
"""Modality -> dense rows of new items; zero and absent where an item lacks it."""

_BLOCK = 256
"""New items compared at once."""


class KnownContent:
    """Dense features of known items, scaled to length 1 once, so that new items find those nearest to them.

    Args:
        data: the data set as it was prepared.
        split: of it, whose features are filled as those were that the run was trained on.

    Raises:
        ConfigError: the data set has no dense features.
    """

    def __init__(self, data: Dataset, split: Split) -> None:
        self._raw, self._filling = data.features, split.protocol.get("missing", "leave")
        dense = {name: one for name, one in split.data.features.items() if one.values is not None}
        if not dense:
            raise ConfigError(
                f"'{data.name}' has no dense item features",
                wanted="features of the known items, with which those of new ones are compared",
                fix="Prepare the data set with a features file, or with an encoder",
            )
        self.features = split.data.features
        self.weights = mixture_weights(None, list(dense))
        self._unit = {name: F.normalize(_rows(one), dim=1) for name, one in dense.items()}
        self._points = {name: rows.any(dim=1) for name, rows in self._unit.items()}  # (I,) each

    def read(self, features: Mapping[str, FloatArray]) -> Content:
        """Check the features of new items, and fill what they lack as the known items' was filled.

        Args:
            features: modality -> (n, F) rows; a modality that is left out, or a row of NaN, is missing.

        Raises:
            ConfigError: there is no such modality, it has no dense features, or an item has no content.
            ShapeError: rows are as wide or as many as they should not be.
            DataError: a row holds infinity, or NaN in places.
        """
        lengths = {name: len(self._checked(name, rows)) for name, rows in features.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ShapeError(
                "new items with "
                + (", ".join(f"{n} rows of {name}" for name, n in lengths.items()) or "no rows"),
                wanted="a row of each modality for each new item, at least one",
                fix="Give as many rows of each; a row of NaN is a missing one",
            )
        n_new = next(iter(lengths.values()))
        content = {name: self._one(name, features.get(name), n_new) for name in self._unit}
        given = {name: ~np.isnan(np.asarray(rows)).all(axis=1) for name, rows in features.items()}
        bare = np.flatnonzero(~np.any(list(given.values()), axis=0))
        if len(bare):
            raise ConfigError(
                f"new item {bare[0]} has no content",
                wanted="at least one modality of each new item",
                fix="Leave it out: nothing is known of it",
            )
        return content

    def nearest(self, modality: str, content: Content, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the K known items nearest to new ones in one modality, for those m that have it.

        Returns: new items (m,) int64, known items (m, K) int64, and cosines (m, K).
        """
        rows = _rows(content[modality])
        new = rows.any(dim=1).nonzero().squeeze(1)  # a row of zeros points nowhere
        unit = F.normalize(rows[new], dim=1)
        return new, *nearest_rows(unit, self._unit[modality], self._points[modality], k)

    def similarities(self, content: Content, items: slice = slice(None)) -> Tensor:
        """Compare new with known items: the mean cosine over the modalities that a new item has, (n, I)."""
        total, weight = torch.zeros(()), torch.zeros(())
        for modality, share in self.weights.items():
            rows = F.normalize(_rows(content[modality])[items], dim=1)
            total = total + share * (rows @ self._unit[modality].T)
            weight = weight + share * torch.from_numpy(content[modality].present[items])
        return total / weight.clamp(min=1e-12)[:, None]

    def stand_ins(self, content: Content, k: int) -> tuple[Tensor, Tensor]:
        """Find the K known items nearest to each new one over all modalities, and share out 1 by nearness.

        Returns: items (n, K) int64 and shares (n, K).
        """
        n_new, n_known = (len(next(iter(some.values())).present) for some in (content, self.features))
        found = [
            self.similarities(content, slice(start, start + _BLOCK)).topk(min(k, n_known), dim=1)
            for start in range(0, n_new, _BLOCK)
        ]
        cosines, items = (torch.cat(part) for part in zip(*found, strict=True))
        return items, F.normalize(cosines.clamp(min=1e-6), p=1, dim=1)

    def _checked(self, name: str, rows: FloatArray) -> FloatArray:
        if name not in self._raw:
            raise ConfigError(
                f"modality '{name}' is not in the data set",
                wanted="one of: " + ", ".join(self._unit),
                fix=nearest(name, self._unit),
            )
        if name not in self._unit:
            raise ConfigError(
                f"modality '{name}' is given as an item graph only",
                wanted="a modality with dense features: " + ", ".join(self._unit),
                fix="Leave it out",
            )
        width = self._unit[name].shape[1]
        if np.ndim(rows) != 2 or np.shape(rows)[1] != width:
            raise ShapeError(
                f"{name} features of shape {np.shape(rows)}",
                wanted=f"rows of {width:,} numbers, as those of the known items",
                fix="Encode new items by the encoder that made the features of the data set",
            )
        bad = ~np.isfinite(rows).all(axis=1) & ~np.isnan(rows).all(axis=1)
        if bad.any():
            raise DataError(
                f"{name} features of new item {np.flatnonzero(bad)[0]} hold NaN or infinity",
                wanted="finite numbers, or a row of NaN where an item lacks the modality",
                fix="Repair the row",
            )
        return rows

    def _one(self, name: str, given: FloatArray | None, n_new: int) -> ItemFeatures:
        raw = self._raw[name]
        assert raw.values is not None  # others are not in `_unit`
        rows: Matrix = np.zeros((n_new, raw.values.shape[1]), dtype=np.float32)
        present: BoolArray = np.zeros(n_new, dtype=bool)
        if given is not None:
            present |= ~np.isnan(given).all(axis=1)
            rows[present] = given[present]
        if self._filling in ("mean", "neighbors") and raw.present.any():  # no neighbour has chosen a new item
            rows[~present] = raw.values[raw.present].mean(axis=0, dtype=np.float64)
        if self._filling != "leave":
            present = np.ones(n_new, dtype=bool)
        return ItemFeatures(present, rows, source="new items")


def nearest_rows(rows: Tensor, known: Tensor, present: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find for each row the K known rows with the largest product.

    Args:
        rows: (m, F).
        known: (I, F).
        present: (I,) bool, the known rows that may be found.
        k: K; fewer where fewer are present.

    Returns: places (m, K) int64 and products (m, K), largest first.
    """
    k = min(k, int(present.sum()))
    found = [
        (block @ known.T).masked_fill_(~present, -torch.inf).topk(k, dim=1) for block in rows.split(_BLOCK)
    ]
    products, places = (torch.cat(part) for part in zip(*found, strict=True))
    return places, products


def _rows(features: ItemFeatures) -> Tensor:
    assert features.values is not None
    return torch.from_numpy(features.values)
