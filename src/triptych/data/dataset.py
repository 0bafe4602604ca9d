"""A data set: interactions, the item table, and item features, as one folder of Parquet and safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triptych.data.features import ItemFeatures, check_modality
from triptych.data.ids import IdMap, id_array
from triptych.data.interactions import Interactions, k_core
from triptych.data.pictures import Thumbnails
from triptych.data.sizes import require_memory_to_load
from triptych.errors import DataError, ShapeError
from triptych.files import (
    checksums,
    hash_arrays,
    home_in,
    new_folder,
    open_folder,
    read_arrays,
    write_arrays,
    write_json,
)

KIND = "data set"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
THUMBNAILS = "thumbnails.safetensors"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Interactions with everything known about their items.

    Args:
        name: how reports call it.
        interactions: the pairs, by index.
        item_table: one row per item in index order: `item_id`, and whatever else is known, such as `title`.
        features: modality name -> features, any number of them; each has one row per item.
        provenance: where it came from and what was left out on the way, in plain JSON values.
        thumbnails: small pictures of the items for people to look at, if there are any.
    """

    name: str
    interactions: Interactions
    item_table: pl.DataFrame
    features: Mapping[str, ItemFeatures] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Thumbnails | None = None

    def __post_init__(self) -> None:
        n_items = self.interactions.n_items
        if self.item_table.height != n_items:
            raise ShapeError(
                f"the item table of '{self.name}' has {self.item_table.height:,} rows",
                wanted=f"one for each of its {n_items:,} items",
                fix="Prepare the data set again",
            )
        if "item_id" not in self.item_table.columns or not np.array_equal(
            self.item_table["item_id"].to_numpy(), self.interactions.items.ids
        ):
            raise DataError(
                f"the item table of '{self.name}' does not list its items by 'item_id' in their order",
                wanted="one row for each item, in the order of its index",
                fix="Sort it by interactions.items.ids",
            )
        if self.thumbnails is not None and len(self.thumbnails) != n_items:
            raise ShapeError(
                f"there are {len(self.thumbnails):,} thumbnails",
                wanted=f"one place for each of the {n_items:,} items of '{self.name}'",
                fix="Prepare the data set again",
            )
        # In one order, whoever made it: models number modalities by it, and a saved data set has no other.
        object.__setattr__(self, "features", dict(sorted(self.features.items())))
        for modality, features in self.features.items():
            check_modality(modality)
            if features.n_items != n_items:
                raise ShapeError(
                    f"{modality} features have {features.n_items:,} rows",
                    wanted=f"one for each of the {n_items:,} items of '{self.name}'",
                    fix="Run 'triptych prepare' again with features of these items",
                )

    @classmethod
    def from_interactions(cls, name: str, interactions: Interactions) -> Dataset:
        """Make a data set of interactions alone."""
        return cls(name, interactions, pl.DataFrame({"item_id": interactions.items.ids}))

    @classmethod
    def from_tables(
        cls, name: str, interactions: Any, items: Any = None, features: Mapping[str, Any] | None = None
    ) -> Dataset:
        """Make a data set of what is in memory: frames of polars or pandas, or dicts of columns.

        Args:
            name: how reports call it.
            interactions: columns `user_id` and `item_id`, and perhaps `rating`, `timestamp` (numbers or
                datetime64) and `label` (0 train, 1 valid, 2 test). Of a pair that repeats the first is kept.
            items: a column `item_id`, and whatever else is known, such as `title`; items that nobody chose
                are left out.
            features: modality -> matrix with a row for each of `items`, in their order, or without these for
                each of the sorted item ids. A row that is NaN throughout is a missing one.

        Raises:
            DataError: a column is missing or unknown, an item is listed twice or not at all, a value is no
                finite number.
            ShapeError: columns, or features and items, differ in length.
        """
        from triptych.data.in_memory import from_tables

        return from_tables(name, interactions, items, features)

    @classmethod
    def demo(cls, *, seed: int = 7, noise: float | Mapping[str, float] = 0.1) -> Dataset:
        """Generate the built-in shop; see `triptych.data.demo`."""
        from triptych.data.demo import build_shop

        return build_shop(seed=seed, noise=noise).dataset()

    def __repr__(self) -> str:
        """Say in a line what it is."""
        known = "".join(f", {name}" for name in self.features)
        sizes = f"{self.n_users:,} users, {self.n_items:,} items, {len(self.interactions):,} interactions"
        return f"<data set {self.name}: {sizes}{known}>"

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.interactions.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.interactions.n_items

    @property
    def users(self) -> IdMap:
        """Raw user ids by index."""
        return self.interactions.users

    @property
    def items(self) -> IdMap:
        """Raw item ids by index."""
        return self.interactions.items

    @cached_property
    def titles(self) -> list[str] | None:
        """Titles by item index, empty where unknown; None if the item table has no title column."""
        if "title" not in self.item_table.columns:
            return None
        return [str(title) for title in self.item_table["title"].fill_null("").to_list()]

    @cached_property
    def content_hash(self) -> str:
        """Name of interactions and features together; two data sets of one hash train alike."""
        features = [(name, part.content_hash) for name, part in self.features.items()]
        return hash_arrays(self.interactions.content_hash, features)

    def core(self, k: int) -> Dataset:
        """Keep the `k`-core: every user and item left has at least `k` interactions with the others left."""
        return self.with_interactions(k_core(self.interactions, k))

    def with_interactions(self, interactions: Interactions) -> Dataset:
        """Replace the interactions by a subset of them; item table and features follow.

        Raises:
            UnknownIdError: an item is new.
        """
        keep = self.items.index(interactions.items.ids.tolist())
        return replace(
            self,
            interactions=interactions,
            item_table=self.item_table[keep],
            features={name: features.take(keep) for name, features in self.features.items()},
            thumbnails=None if self.thumbnails is None else self.thumbnails.take(keep),
        )

    def with_steps(self, steps: Sequence[Mapping[str, Any]]) -> Dataset:
        """Add steps to those the provenance names: what was done to the rows, in plain JSON values."""
        known = self.provenance.get("steps", [])
        return replace(self, provenance={**self.provenance, "steps": [*known, *map(dict, steps)]})

    def describe(self) -> dict[str, Any]:
        """Tell all about it, in plain JSON values; see `triptych.data.statistics.describe`."""
        from triptych.data.statistics import describe

        return describe(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the folder `path`, whole or not at all.

        Raises:
            StorageError: something is there already, and `overwrite` is false or it is no data set.
        """
        with new_folder(Path(path), marker=MANIFEST, overwrite=overwrite) as folder:
            self.write_into(folder)

    def write_into(self, folder: Path) -> None:
        """Write the files of a data set into an existing folder, the manifest last."""
        data = self.interactions
        columns = {
            "user": data.user,
            "item": data.item,
            "rating": data.rating,
            "timestamp": data.timestamp,
            "label": data.label,
        }
        known = {name: column for name, column in columns.items() if column is not None}
        pl.DataFrame(known).write_parquet(folder / "interactions.parquet")
        pl.DataFrame({"user_id": data.users.ids}).write_parquet(folder / "users.parquet")
        self.item_table.write_parquet(folder / "items.parquet")
        for name, features in self.features.items():
            write_arrays(folder / "features" / f"{name}.safetensors", features.to_arrays())
        if self.thumbnails is not None:
            write_arrays(folder / THUMBNAILS, self.thumbnails.to_arrays())
        manifest = {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "content_hash": self.content_hash,
            "counts": {"users": data.n_users, "items": data.n_items, "interactions": len(data)},
            "features": {name: features.source for name, features in self.features.items()},
            "provenance": dict(self.provenance),
            "files": checksums(folder),
        }
        write_json(folder / MANIFEST, manifest)

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Read a data set folder, checking every file against the manifest's checksums.

        Raises:
            StorageError: it is no data set, of another schema version, or damaged.
            ConfigError: it does not fit into memory.
        """
        folder = home_in(path)
        with open_folder(
            folder, marker=MANIFEST, kind=KIND, version=SCHEMA_VERSION, maker="triptych prepare"
        ) as manifest:
            require_memory_to_load(folder)
            return cls._read(folder, manifest)

    @classmethod
    def _read(cls, folder: Path, manifest: dict[str, Any]) -> Dataset:
        needed = {"items.parquet", "users.parquet", "interactions.parquet"}
        needed |= {f"features/{name}.safetensors" for name in manifest["features"]}
        if unchecked := sorted(needed - manifest["files"].keys()):
            raise ValueError(f"{unchecked[0]} does not exist among its files")  # so nothing vouches for it
        item_table = _read_table(folder / "items.parquet")
        users = _read_table(folder / "users.parquet")["user_id"]
        table = _read_table(folder / "interactions.parquet")
        optional = {
            name: table[name].to_numpy() if name in table.columns else None
            for name in ("rating", "timestamp", "label")
        }
        interactions = Interactions(
            users=IdMap(id_array(users), "user"),
            items=IdMap(id_array(item_table["item_id"]), "item"),
            user=table["user"].to_numpy(),
            item=table["item"].to_numpy(),
            **optional,
        )
        _check_pairs(interactions)
        features = {
            name: ItemFeatures.from_arrays(read_arrays(folder / "features" / f"{name}.safetensors"), source)
            for name, source in manifest["features"].items()
        }
        thumbnails = None
        if (folder / THUMBNAILS).is_file():
            thumbnails = Thumbnails.from_arrays(read_arrays(folder / THUMBNAILS))
        return cls(manifest["name"], interactions, item_table, features, manifest["provenance"], thumbnails)


def _read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file that has the checksum it should have.

    Raises:
        ValueError: it is damaged all the same.
    """
    try:
        return pl.read_parquet(path, glob=False)  # a folder may be called "data[1]"
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # the latter is no Exception
        raise ValueError(f"{path.name}: {error}") from error


def _check_pairs(interactions: Interactions) -> None:
    """Refuse pairs of unknown users or items, and pairs out of order.

    Raises:
        ValueError: there is one.
    """
    for index, ids in ((interactions.user, interactions.users), (interactions.item, interactions.items)):
        if len(index) and not (index.min() >= 0 and index.max() < len(ids)):
            raise ValueError(f"a {ids.kind} index from {index.min()} to {index.max()}, of {len(ids)}")
    keys = interactions.user * interactions.n_items + interactions.item
    if (keys[1:] <= keys[:-1]).any():
        raise ValueError("pairs that repeat, or are not sorted")
