"""The layouts Triptych reads, one file each, and how it finds out which one some files are in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from triptych.data.dataset import MANIFEST
from triptych.data.layouts.amazon import Amazon2014, Amazon2018, Amazon2023
from triptych.data.layouts.base import MEDIA_ROLES, Hints, Layout
from triptych.data.layouts.microlens import MicroLens
from triptych.data.layouts.mmrec import MMRec
from triptych.data.layouts.movielens import MovieLens
from triptych.data.layouts.plain import Tables
from triptych.data.layouts.recbole import RecBole
from triptych.data.tables import way_to_tables
from triptych.errors import ConfigError, DataError, nearest

__all__ = ["LAYOUTS", "MEDIA_ROLES", "Hints", "Layout", "find_layout"]

LAYOUTS: tuple[type[Layout], ...] = (
    MMRec, RecBole, Amazon2014, Amazon2018, Amazon2023, MovieLens, MicroLens, Tables,
)  # fmt: skip
"""`Tables` takes what is in none of the others."""


def find_layout(path: Path, name: str | None = None, hints: Hints = Hints()) -> Layout:
    """Find out in which layout some files are.

    Args:
        path: a file of interactions, or a folder.
        name: the layout's name, if it is known.
        hints: what the user says of the tables in it.

    Raises:
        DataError: there is nothing at `path`, or it is in none of the layouts, or not in the one named.
        ConfigError: there is no layout of this name.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", wanted="a file or a folder", fix="Check the path")
    if (path / MANIFEST).is_file():
        raise DataError(
            f"{path} is a data set already",
            wanted="raw files",
            fix="Use triptych encode, filter or split, or give the folder it was prepared from",
        )
    known = {layout.name: layout for layout in LAYOUTS}
    if name is not None and name not in known:
        raise ConfigError(f"--layout {name}", wanted="the name of a layout", fix=nearest(name, known))
    tried = LAYOUTS if name is None else (known[name],)
    found = [files for layout in tried if layout is not Tables and (files := layout.find(path)) is not None]
    if len(found) > 1:
        raise DataError(
            f"{path} holds files of more than one layout: " + ", ".join(files.name for files in found),
            wanted="one of them",
            fix=f"Say which, for example --layout {found[0].name}",
        )
    if not found and Tables in tried and (tables := Tables.find(path, hints)) is not None:
        found = [tables]
    if found:
        return replace(found[0], hints=hints)
    what = "any layout that Triptych knows" if name is None else known[name].title
    raise DataError(
        f"{path} does not look like {what}",
        wanted="one of: " + "; ".join(layout.title for layout in LAYOUTS),
        fix=way_to_tables(path) or "Give the file of interactions itself, and its items with --items",
    )
