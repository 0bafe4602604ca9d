"""RecBole's atomic files: `NAME.inter`, `NAME.item`, and embeddings of items such as `NAME.imageemb`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap
from triptych.data.layouts.base import Layout
from triptych.data.layouts.mmrec import FEATURES, choose, header, is_typed
from triptych.data.layouts.plain import usual_columns
from triptych.data.lines import DAMAGED, existing, files_ending, unpacked
from triptych.data.readers import distinct_ids, read_item_table
from triptych.data.split import PARTS
from triptych.data.tables import existing_file, naming, read_header, read_table
from triptych.errors import DataError, ShapeError

_EMBEDDINGS = "emb"
_NO_MODALITY = ("", "user", "item")  # `.useremb`, `.itememb`: these do not say what of an item they embed


@dataclass(frozen=True)
class RecBole(Layout):
    """A folder of atomic files, whose headers give each column a type.

    The interactions are in `NAME.inter` or, split already, in `NAME.train.inter`, `NAME.valid.inter` and
    `NAME.test.inter`. `NAME.user`, `NAME.itememb` and the files of knowledge graphs are not read.
    """

    name: ClassVar[str] = "recbole"
    title: ClassVar[str] = "RecBole's atomic files"

    @classmethod
    def find(cls, path: Path) -> RecBole | None:
        """Recognise `.inter` files by the types in their headers."""
        if not path.is_dir() or any(path.glob(f"*{FEATURES}")):
            return None  # beside such features, they are MMRec's
        sets: dict[str, dict[str, Path]] = {}
        for stem, file in files_ending(path, ".inter").items():
            if is_typed(header(file)):
                name, _, part = stem.rpartition(".")
                name, role = (name, part) if name and part in PARTS else (stem, "interactions")
                sets.setdefault(name, {})[role] = file
        if not sets:
            return None
        name = choose(path, sets)
        if "interactions" in sets[name] and len(sets[name]) > 1:
            raise DataError(
                f"{path} holds interactions whole and split: "
                + ", ".join(file.name for file in sets[name].values()),
                wanted="either of them",
                fix="Give the file of the whole itself, or keep the parts in a folder of their own",
            )
        return cls({**sets[name], **_beside(path, name)})

    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read the interactions; those that are split already get a label, `part`."""
        frames = {
            role: read_table(path, bad, encoding=self.hints.encoding)
            for role, path in self._interactions.items()
        }
        if "interactions" in frames:
            frame = frames["interactions"]
            return frame, usual_columns(frame, self.hints.columns)
        labelled = [frame.with_columns(part=pl.lit(part)) for part, frame in frames.items()]
        frame = pl.concat(labelled, how="diagonal_relaxed")
        return frame, replace(usual_columns(frame, self.hints.columns), label="part")

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read `NAME.item`, its texts as they are. A column such as `movie_title` is the title."""
        path = self.files.get("items")
        if path is None:
            return None
        interactions = next(iter(self._interactions.values()))
        head = pl.DataFrame(schema=read_header(interactions))
        return read_item_table(
            path,
            item=self.hints.item_column,
            title=self.hints.title_column or _title(read_header(path)),
            like=usual_columns(head, self.hints.columns).item,
            bad=bad,
            encoding=self.hints.encoding,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What there are embeddings of."""
        return tuple(role for role in self.files if role not in (*self._interactions, "items"))

    def read_features(self, modality: str, items: IdMap, listed: IdMap) -> ItemFeatures:
        """Read a file of ids and embeddings. Items it does not list have none.

        Raises:
            DataError: an id is listed twice, or a number is none.
            ShapeError: embeddings differ in length.
        """
        path = self.files[modality]
        with naming(f"{modality} features {path.name}"):
            ids, matrix = _read_embeddings(path)
            at = items.find(ids.tolist())
            used = at >= 0
            values, present = np.zeros((len(items), matrix.shape[1])), np.zeros(len(items), dtype=bool)
            values[at[used]], present[at[used]] = matrix[used], True
            return ItemFeatures.dense(values, present, path.name)

    @property
    def _interactions(self) -> dict[str, Path]:
        return {role: path for role, path in self.files.items() if role in ("interactions", *PARTS)}


def _beside(folder: Path, name: str) -> dict[str, Path]:
    """Find what belongs to the data set `name` besides its interactions."""
    items = existing(folder, f"{name}.item")
    files = {"items": items} if items else {}
    for start, file in files_ending(folder, _EMBEDDINGS).items():
        stem, _, modality = start.rpartition(".")
        if stem == name and modality.isidentifier() and modality not in _NO_MODALITY:
            files[modality] = file
    return files


def _title(names: list[str]) -> str | None:
    """Name the column of titles, if it is neither `title` nor `name`, which are found anyhow."""
    if {"title", "name"} & {name.lower() for name in names}:
        return None
    return next((name for name in names if name.lower().endswith("_title")), None)


def _read_embeddings(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read (n,) ids and an (n, F) matrix, NaN where a number cannot be read."""
    try:
        frame = pl.read_csv(
            unpacked(existing_file(path)), separator="\t", quote_char=None, infer_schema=False, glob=False
        )
    except (pl.exceptions.PolarsError, ValueError, *DAMAGED) as error:
        raise DataError(
            f"cannot be read: {error}", wanted="ids, a tab, numbers", fix="Write it again"
        ) from error
    if frame.width != 2 or not frame.height:
        raise ShapeError(
            f"has {frame.width} columns and {frame.height:,} rows",
            wanted="a column of ids and one of embeddings",
            fix="Write it again",
        )
    vectors = frame.to_series(1).str.split(" ").cast(pl.List(pl.Float64), strict=False)
    lengths = vectors.list.len().unique()
    if len(lengths) != 1:
        raise ShapeError(
            f"holds embeddings of {len(lengths)} lengths", wanted="one length", fix="Write the file again"
        )
    return distinct_ids(frame.to_series(0)), vectors.explode().to_numpy().reshape(frame.height, -1)
