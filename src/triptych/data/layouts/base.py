"""What a layout is: a way in which public data sets, other toolboxes and shops keep their files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap

MEDIA_ROLES: Mapping[str, str] = {"image": "pictures", "audio": "sounds"}
"""Modality -> the role of the folder that holds a file of it for each item."""
MEDIA_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "pictures": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
    "sounds": (".wav", ".flac", ".ogg", ".mp3", ".m4a"),
}
"""Role -> how the names of its files end."""


@dataclass(frozen=True)
class Hints:
    """What a user says of tables whose columns are not fixed.

    Args:
        columns: what the columns of the interactions mean, as far as it is said.
        item_column: the item table's column of ids; None to find it.
        title_column: its column of titles; None to find it.
        encoding: of text tables.
        given: roles whose files the user names; nothing is looked for in their place.
    """

    columns: Columns = Columns()
    item_column: str | None = None
    title_column: str | None = None
    encoding: str = "utf-8"
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Layout(ABC):
    """Files recognised as one layout, and how to read them.

    Reading is in two steps, so that much larger item files need not be kept: first the interactions, then
    what is known of those items that are still there after filtering.

    Args:
        files: role -> file or folder, such as "interactions", "items", or the name of a modality.
        hints: what the user says of them; of use only where the layout itself does not fix it.
        unused: names of files and folders that lie there, and that nothing could be made of.
    """

    name: ClassVar[str]
    """What `--layout` calls it."""
    title: ClassVar[str]
    """What it is, for people."""
    items_in_order: ClassVar[bool] = False
    """Whether features without ids follow the rows that `read_items` gives."""

    files: Mapping[str, Path]
    hints: Hints = Hints()
    unused: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def find(cls, path: Path) -> Layout | None:
        """Recognise the layout in a file or a folder by names and first bytes; None if it is another.

        Raises:
            DataError: it is this layout, but which files are meant is not clear.
        """

    @abstractmethod
    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read one row per interaction with raw, unchecked values, and say which column means what."""

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read what is known of some items, in any order; rows of other items are counted and dropped later.

        Columns: `item_id`, then of `title`, `brand`, `categories`, `description` and `image_url` those there
        are, then what else there is. They hold numbers, nulls, or text: lists are joined, markup taken out.
        """
        return None

    @property
    def source_name(self) -> str:
        """What messages call the file of interactions; empty where the layout names none."""
        return self.files["interactions"].name if "interactions" in self.files else ""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of which the files hold ready features."""
        return ()

    def read_features(self, modality: str, items: IdMap, listed: IdMap) -> ItemFeatures:
        """Read ready features of one of `modalities`.

        Args:
            modality: which.
            items: the items wanted.
            listed: all items of the interactions file, before any filter; `items` are some of these.

        Returns: one row per item of `items`.
        """
        raise NotImplementedError(f"{type(self).__name__} names {modality} but cannot read it")

    @property
    def media(self) -> Mapping[str, Path]:
        """Modality -> folder of pictures or sounds named by item id, where there is one."""
        return {}
