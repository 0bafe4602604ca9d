"""Tables as shops export them: who did something with what, a table of items, features, pictures, sounds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from triptych.data.bad_rows import BadRows
from triptych.data.columns import (
    Columns,
    is_bare_id,
    is_of_people,
    item_column,
    plain_name,
    resolve_columns,
)
from triptych.data.feature_files import read_features
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap, whole_ids
from triptych.data.layouts.base import MEDIA_ROLES, MEDIA_SUFFIXES, Hints, Layout
from triptych.data.lines import unpacked_name
from triptych.data.readers import read_item_table
from triptych.data.tables import is_table, naming, printable, read_header, read_table, way_to_tables
from triptych.data.times import read_times
from triptych.errors import DataError, nearest

WELL_KNOWN: Mapping[str, Sequence[str]] = {
    "rating": ("rating", "stars", "score", "overall"),
    "timestamp": (
        "timestamp", "datetime", "date", "orderdate", "ordertime", "orderedat", "purchasedate",
        "purchasetime", "purchasedat", "saledate", "soldat", "transactiondate", "invoicedate", "eventtime",
        "eventtimestamp", "createdat", "createdon", "when", "time",
    ),
    "label": ("xlabel", "split"),
}  # fmt: skip
"""Names of columns that are read unasked, in lower case and without underscores; the first wins."""

_MOST_NAMED = 30

_MODALITIES = ("image", "text", "audio")
_FEATURE_SUFFIXES = (".npy", ".safetensors", ".npz", ".parquet")
_ANY_FEATURES = "_feat.npy"
_ROLES = ("interactions", "items", *MEDIA_SUFFIXES)
_PART = "interactions "
"""What roles of its parts but the first begin with."""


@dataclass(frozen=True)
class Tables(Layout):
    """A table of interactions, alone or in a folder with what is known of the items.

    In a folder, these are found: the one table with a user and an item column by well-known names, or its
    parts, such as a file for each month, whose names differ in numbers alone and which have the same columns;
    a table with the item column but no user, one row per item, or else one that calls its ids just "id" and
    is not of people; features (`image.npy`, `text.parquet`,
    `WORD_feat.npy`); a folder of pictures and one of sounds, which may lie in folders below it. Beside a
    single file nothing is looked for.

    Their roles are "interactions" (the next parts are "interactions 2" and so on), "items", "pictures",
    "sounds" and the names of modalities.
    """

    name: ClassVar[str] = "tables"
    title: ClassVar[str] = "tables of interactions and items"
    items_in_order: ClassVar[bool] = True

    @classmethod
    def find(cls, path: Path, hints: Hints = Hints()) -> Tables | None:
        """Recognise tables by their suffixes and the names of their columns.

        Args:
            path: a file or a folder.
            hints: what the user says of the tables.

        Raises:
            DataError: two files could be meant for the same thing, a table cannot be read, or none has the
                columns that the user names.
        """
        if path.is_file():
            return cls({"interactions": path}, hints) if is_table(path) else None
        if not path.is_dir():
            return None
        entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
        features = _find_features(entries)
        headers = {
            entry: pl.DataFrame(schema=dict.fromkeys(read_header(entry, hints.encoding)))
            for entry in entries
            if entry.is_file() and is_table(entry) and entry not in features.values()
        }
        of_user = {
            entry: str(columns.item)
            for entry, head in headers.items()
            if {(columns := usual_columns(head, hints.columns)).user, columns.item} <= set(head.columns)
        }
        fix = (
            "Give the one that is meant by itself. Parts of one table are read together where they have the"
            " same columns and names that differ in numbers alone, such as orders-1.csv and orders-2.csv"
        )
        parts = _parts_of_one({entry: headers[entry].columns for entry in of_user})
        interactions = parts[0] if parts else _only(list(of_user), "tables of interactions", fix)
        if interactions is None:
            _say_why_none(path, headers, hints.columns)
            return None
        others = [entry for entry in headers if entry not in of_user]
        items = _of_items({entry: headers[entry] for entry in others}, of_user[interactions], hints)
        found = {}
        if "items" not in hints.given:
            found["items"] = _only(items, "tables of items", "Name the one that is meant with --items")
        media = {role: _media_folders(entries, role) for role in MEDIA_SUFFIXES}
        for role, option in (("pictures", "--images"), ("sounds", "--sounds")):
            if role not in hints.given:
                fix = f"Name the one that is meant with {option}, or use {option} none"
                found[role] = _only(media[role], f"the {role}", fix)
        files = {
            "interactions": interactions,
            **{f"{_PART}{place}": part for place, part in enumerate(parts[1:], start=2)},
            **{role: entry for role, entry in found.items() if entry is not None},
            **features,
        }
        understood = {*files.values(), *media["pictures"], *media["sounds"]}
        return cls(files, hints, tuple(printable(entry.name) for entry in entries if entry not in understood))

    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read the interactions, with rating, time and label where there are such columns."""
        parts = [path for role, path in self.files.items() if role == "interactions" or _is_part(role)]
        read = partial(read_table, bad=bad, encoding=self.hints.encoding)
        frames = [read(part, may_be_empty=len(parts) > 1) for part in parts]
        filled = [frame for frame in frames if frame.height] or [read(parts[0])]  # which says what is wrong
        columns, said = usual_columns(filled[0], self.hints.columns), self.hints.columns.timestamp
        ids = {columns.user, columns.item}  # floats in those parts alone in which one is missing
        frame = _below_one_another(
            [part.with_columns(whole_ids(column) for column in part if column.name in ids) for part in filled]
        )
        columns = usual_columns(frame, self.hints.columns)
        if said is None and columns.timestamp and not _holds_times(frame[columns.timestamp]):
            columns = replace(columns, timestamp=None)  # it was only found; that it is not read is said
        return frame, columns

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read the table of items with all its columns."""
        if "items" not in self.files:
            return None
        return self._item_table(bad)

    @property
    def source_name(self) -> str:
        """The file of interactions, and how many more parts there are."""
        more = sum(map(_is_part, self.files))
        return super().source_name + (f" and {more} more" if more else "")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What there are files of features of."""
        return tuple(role for role in self.files if role not in _ROLES and not _is_part(role))

    def read_features(self, modality: str, items: IdMap, listed: IdMap) -> ItemFeatures:
        """Read features by their ids; those without follow the table of items, if there is one."""
        order = None
        if "items" in self.files:  # a row that cannot be read shifts those below, so that lengths differ
            order = self._item_table(BadRows(limit=1.0))["item_id"].to_list()
        features = read_features(self.files[modality], modality, listed, order, like=self._item_name())
        return features.take(listed.index(items.ids.tolist()))

    @property
    def media(self) -> Mapping[str, Path]:
        """The folders of pictures and of sounds."""
        return {modality: self.files[role] for modality, role in MEDIA_ROLES.items() if role in self.files}

    def _item_table(self, bad: BadRows) -> pl.DataFrame:
        return read_item_table(
            self.files["items"],
            item=self.hints.item_column,
            title=self.hints.title_column,
            like=self._item_name(),
            bad=bad,
            encoding=self.hints.encoding,
        )

    def _item_name(self) -> str | None:
        """Say what the interactions call their item column, if that is clear."""
        names = read_header(self.files["interactions"], self.hints.encoding)
        return usual_columns(pl.DataFrame(schema=dict.fromkeys(names)), self.hints.columns).item


def usual_columns(frame: pl.DataFrame, said: Columns) -> Columns:
    """Say what the columns of a table of interactions mean: what is said, and the rest by their names.

    Users and items stay open where they are not clear, which is told when interactions are made of the table.
    """
    spelled: dict[str, str] = {}
    for name in frame.columns:
        spelled.setdefault(plain_name(name), name)
    optional = {
        role: getattr(said, role) or next((spelled[name] for name in names if name in spelled), None)
        for role, names in WELL_KNOWN.items()
    }
    ids = Columns(user=said.user, item=said.item)
    with suppress(DataError):
        ids = resolve_columns(frame, ids)
    return replace(ids, **optional)


def _holds_times(column: pl.Series) -> bool:
    """Say whether any value of a column is a time."""
    with suppress(DataError):
        return bool(np.isfinite(read_times(column)).any())
    return False


def _say_why_none(path: Path, headers: Mapping[Path, pl.DataFrame], said: Columns) -> None:
    """Raise a `DataError` where it is clear why none of the tables in `path` holds interactions."""
    there = sorted({name for head in headers.values() for name in head.columns})
    named = {name: option for option, name in (("--user", said.user), ("--item", said.item)) if name}
    for name, option in named.items():
        if there and name not in there:
            shown = "one of " + ", ".join(there) if len(there) <= _MOST_NAMED else "a column that is there"
            raise DataError(
                f"no table in {path} has a column '{name}' ({option})",
                wanted=shown,
                fix=nearest(name, there),
            )
    meant = [entry for entry, head in headers.items() if head.width and named.keys() <= set(head.columns)]
    others = way_to_tables(path)
    if len(meant) == 1 and not others:
        with naming(meant[0].name):
            resolve_columns(headers[meant[0]], Columns(user=said.user, item=said.item))
    listed = [f"{entry.name} ({_shortly(head.columns)})" for entry, head in headers.items() if head.width]
    if listed:
        which = " and ".join(f"{option} {name}" for name, option in named.items()) or "well-known names"
        raise DataError(
            f"{path} does not look like any layout that Triptych knows, and none of its tables has a user "
            f"and an item column by {which}: {_shortly(listed, '; ')}",
            wanted="a table with both",
            fix="Name them with --user COLUMN --item COLUMN; if users and items are in different tables, "
            "join these first" + (f". {others}" if others else ""),
        )


def _shortly(names: Sequence[str], between: str = ", ") -> str:
    more = [f"and {len(names) - _MOST_NAMED:,} more"] if len(names) > _MOST_NAMED else []
    return between.join([*names[:_MOST_NAMED], *more])


def _of_items(headers: Mapping[Path, pl.DataFrame], like: str, hints: Hints) -> list[Path]:
    """Give the tables of items: those whose ids are called an item's, or else those that just call them "id".

    A table of people is none of the latter: what it calls names would become titles, for all to see.
    """
    named: list[Path] = []
    bare: list[Path] = []
    for entry, head in headers.items():
        with suppress(DataError):
            if not is_bare_id(item_column(head, hints.item_column, like)):
                named.append(entry)
            elif not is_of_people(unpacked_name(entry), head.columns):
                bare.append(entry)
    return named or bare


def _only(found: Sequence[Path], what: str, fix: str) -> Path | None:
    if len(found) > 1:
        raise DataError(
            f"{found[0].parent} holds more than one of what could be {what}: "
            + ", ".join(entry.name for entry in found),
            wanted="one",
            fix=fix,
        )
    return found[0] if found else None


def _is_part(role: str) -> bool:
    return role.startswith(_PART)


def _parts_of_one(columns: Mapping[Path, Sequence[str]]) -> list[Path]:
    """Give tables in the order of the numbers in their names, if they differ in these alone; else none."""
    alike = {re.sub(r"[0-9]+", "0", entry.name) for entry in columns}
    if len(columns) < 2 or len(alike) > 1 or len({frozenset(names) for names in columns.values()}) > 1:
        return []
    return sorted(columns, key=lambda entry: [int(number) for number in re.findall("[0-9]+", entry.name)])


def _below_one_another(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Put tables of the same columns into one; a column that one part has as text is text in all."""
    texts = {name for part in parts for name in part.columns if part[name].dtype == pl.String}
    alike = [
        part.with_columns(pl.col(name).cast(pl.String) for name in part.columns if name in texts)
        for part in parts
    ]
    try:
        return pl.concat(alike, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the parts of one table hold values of kinds that do not go together: {error}",
            wanted="the same kinds of values in all parts",
            fix="Put the parts below one another in one file",
        ) from error


def _find_features(entries: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, list[Path]] = {}
    for entry in entries:
        modality = entry.name.removesuffix(_ANY_FEATURES)
        if modality == entry.name:
            modality = entry.stem if entry.suffix in _FEATURE_SUFFIXES and entry.stem in _MODALITIES else ""
        if modality.isidentifier() and modality not in _ROLES and entry.is_file():
            found.setdefault(modality, []).append(entry)
    return {
        modality: file
        for modality, files in found.items()
        if (file := _only(files, f"{modality} features", "Keep one of them in the folder"))
    }


def _media_folders(entries: Sequence[Path], role: str) -> list[Path]:
    """Give the folders that hold files of a kind themselves; if none does, those with some below them."""
    near: list[Path] = []
    far: list[Path] = []
    for entry in entries:
        for folder, _, names in os.walk(entry):
            if any(name.lower().endswith(MEDIA_SUFFIXES[role]) and name[0] != "." for name in names):
                (near if Path(folder) == entry else far).append(entry)
                break
    return near or far
