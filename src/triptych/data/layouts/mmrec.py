"""MMRec's folders: `NAME.inter` with 0-based indices, `*_feat.npy` in their order, and the raw ids beside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns
from triptych.data.feature_files import read_features
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap
from triptych.data.layouts.base import Layout
from triptych.data.layouts.plain import usual_columns
from triptych.data.lines import existing, files_ending, first_lines
from triptych.data.tables import read_table
from triptych.errors import DataError

FEATURES = "_feat.npy"
"""How the names of feature files end."""
LABEL = "x_label"
MAPPING = "i_id_mapping.csv"
ITEM, MODALITY = "itemID", "modality"
RAW = "asin"
"""The column of the mapping that holds raw ids, in MMRec's own data those of Amazon."""

_TYPES = ("token", "token_seq", "float", "float_seq")
_ROLES = ("interactions", "mapping", "missing")


@dataclass(frozen=True)
class MMRec(Layout):
    """A folder of MMRec's: row k of a feature file belongs to item k.

    Besides MMRec's files, `NAME_missing.csv` is read if there: which items lack a modality (columns
    `itemID`, `modality`). MMRec itself knows no missing features, and has zeros for them.
    """

    name: ClassVar[str] = "mmrec"
    title: ClassVar[str] = "MMRec"

    @classmethod
    def find(cls, path: Path) -> MMRec | None:
        """Recognise a `.inter` file beside feature files, or with `x_label` but without RecBole's types."""
        if not path.is_dir():
            return None
        features = {file.name.removesuffix(FEATURES): file for file in sorted(path.glob(f"*{FEATURES}"))}
        features = {
            name: file for name, file in features.items() if name.isidentifier() and name not in _ROLES
        }
        inter = {
            name: file
            for name, file in files_ending(path, ".inter").items()
            if features or _has_label(header(file))
        }
        if not inter:
            return None
        name = choose(path, inter)
        beside = {"mapping": existing(path, MAPPING), "missing": existing(path, f"{name}_missing.csv")}
        there = {role: file for role, file in beside.items() if file}
        return cls({"interactions": inter[name], **there, **features})

    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read the `.inter` file, with rating, time and label where it has them."""
        frame = read_table(self.files["interactions"], bad)
        return frame, usual_columns(frame, self.hints.columns)

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read the raw ids of items, as `asin`."""
        if "mapping" not in self.files:
            return None
        return self._read_mapping()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The first parts of the names of the feature files."""
        return tuple(role for role in self.files if role not in _ROLES)

    def read_features(self, modality: str, items: IdMap, listed: IdMap) -> ItemFeatures:
        """Read rows by item index; there must be one for each item of the mapping, or up to the last listed.

        Raises:
            DataError: items are not numbered, or the file cannot be read.
            ShapeError: there are more or fewer rows.
        """
        path = self.files[modality]
        if listed.ids.dtype.kind != "i" or listed.ids[0] < 0:
            raise DataError(
                f"{self.files['interactions'].name} calls an item {listed.ids[0].item()!r}",
                wanted=f"item indices from 0 on, row k of {path.name} being that of item k",
                fix="Number the items, or give the features with their ids",
            )
        order = range(self._read_mapping().height) if "mapping" in self.files else None
        features = read_features(path, modality, listed, order).take(listed.index(items.ids.tolist()))
        if "missing" not in self.files:
            return features
        assert features.values is not None, "a .npy file holds no graph"
        present = features.present & ~np.isin(items.ids, self._read_missing(modality))
        return ItemFeatures.dense(features.values, present, features.source)

    def _read_missing(self, modality: str) -> list[int]:
        path = self.files["missing"]
        missing = read_table(path)
        if not {ITEM, MODALITY} <= set(missing.columns):
            raise DataError(
                f"{path} has the columns {', '.join(missing.columns)}",
                wanted=f"{ITEM} and {MODALITY}",
                fix="Restore it, or leave it out of the folder",
            )
        return missing.filter(pl.col(MODALITY) == modality)[ITEM].to_list()

    def _read_mapping(self) -> pl.DataFrame:
        """Read `i_id_mapping.csv`, whose fields are apart by tabs or commas, as `item_id` and `asin`."""
        path = self.files["mapping"]
        frame = read_table(path)
        try:
            number = ITEM if ITEM in frame.columns else frame.columns[-1]
            (raw,) = (name for name in frame.columns if name != number)
            return frame.select(
                pl.col(number).cast(pl.Int64).alias("item_id"), pl.col(raw).cast(pl.String).alias(RAW)
            )
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read: {error}",
                wanted=f"two columns, raw ids and {ITEM}",
                fix="Restore it, or leave it out of the folder",
            ) from error


def _has_label(names: list[str]) -> bool:
    return LABEL in names and not is_typed(names)


def header(path: Path) -> list[str]:
    """Name the columns of a tab-separated file as its first line does, types included."""
    return b"".join(first_lines(path)).decode(errors="replace").split("\t")


def is_typed(names: Iterable[str]) -> bool:
    """Tell a header with types, such as `user_id:token`, from one without."""
    return any(name.rpartition(":")[2] in _TYPES and ":" in name for name in names)


def choose(folder: Path, names: Iterable[str]) -> str:
    """Choose among data sets in one folder: the only one, or the one the folder is called after.

    Raises:
        DataError: it is none of several.
    """
    names = list(names)
    if len(names) == 1:
        return names[0]
    if folder.resolve().name in names:
        return folder.resolve().name
    raise DataError(
        f"{folder} holds the interactions of more than one data set: {', '.join(names)}",
        wanted="one, or one that is called like the folder",
        fix="Give one of the .inter files itself, or keep each data set in a folder of its own",
    )
