"""Which file belongs to which item: by the item's id, or by what the item table calls the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from triptych.data.bad_rows import SHOWN
from triptych.data.dataset import Dataset
from triptych.errors import ConfigError
from triptych.fetch.pictures import item_of_file_name

Place = tuple[str, ...]
"""The folders a file is in, outermost first, and its name."""


def find_item_files(data: Dataset, modality: str, folder: Path) -> tuple[list[Path | None], dict[str, Any]]:
    """Find the file of each item in a folder and those below it.

    Where the item table has a column MODALITY_file, its names are compared with the files from the end:
    "shop/mug/front.png" is the file that shares the longest tail, be it "front.png" alone. Where that leaves
    several files, or where different names would share a file that is in none of their folders, nobody
    can say what was meant: these items get none.

    Returns: per item its file or None; and, in plain JSON values, how many `files` there are, the
        `files_of_no_item`, and, if there are any, the `ambiguous` items with the first of their names.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder", wanted=f"a folder of {modality} files", fix="Check the path"
        )
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    column = f"{modality}_file"
    if column in data.item_table.columns:
        names = [None if name is None else str(name) for name in data.item_table[column]]
        files = _by_place({name for name in names if name}, folder, paths)
    else:
        names = [str(raw) for raw in data.items.ids.tolist()]
        files = _by_id(paths)
    found = [None if name is None else files.get(name) for name in names]
    used = {path for path in found if path is not None}
    facts: dict[str, Any] = {"files": len(paths), "files_of_no_item": len(paths) - len(used)}
    unclear = [name for name in names if name is not None and files.get(name, folder) is None]
    if unclear:
        facts |= {"ambiguous": len(unclear), "first_ambiguous": unclear[:SHOWN]}
    return found, facts


def _by_id(paths: Iterable[Path]) -> dict[str, Path | None]:
    """Give the file of each name an item might have; of two that could be meant, the first by name."""
    found: dict[str, Path | None] = {}
    for path in paths:
        for name in (path.name, *_other_spellings(path.name)):
            found.setdefault(name, path)
    return found


def _other_spellings(name: str) -> set[str]:
    """Give what else a file may be called: its name without suffix, or the item id it stands for."""
    return {Path(name).stem, item_of_file_name(name) or name} - {name}


def _by_place(names: Iterable[str], folder: Path, paths: Sequence[Path]) -> dict[str, Path | None]:
    """Give the file of each name for which there is one; None where more than one could be meant."""
    places: dict[Path, Place] = {
        path: (folder.resolve().name, *path.relative_to(folder).parts) for path in paths
    }
    within = {place[1:]: path for path, place in places.items()}
    exact = _tails((place, path) for path, place in places.items())
    loose = _tails(
        ((*place[:-1], name), path)
        for path, place in places.items()
        for name in sorted(_other_spellings(path.name))
    )
    said = {name: PurePosixPath(name.replace("\\", "/")).parts for name in names}
    found: dict[str, Path | None] = {}
    claims: dict[Path, dict[Place, int]] = {}
    for name, place in said.items():
        files, shared = _longest_tail(place, exact)
        if not files:
            files, shared = _longest_tail(place, loose)
        file = files[0] if len(files) == 1 else within.get(place)
        if files:
            found[name] = file
        if file is not None:
            claims.setdefault(file, {})[place] = shared
    for name, file in found.items():
        if file is not None and not _is_meant(said[name], places[file], claims[file]):
            found[name] = None
    return found


def _tails(places: Iterable[tuple[Place, Path]]) -> dict[Place, list[Path]]:
    """Say which files' places end in a tail, for all tails."""
    found: dict[Place, list[Path]] = {}
    for place, path in places:
        for start in range(len(place)):
            found.setdefault(place[start:], []).append(path)
    return found


def _longest_tail(place: Place, tails: Mapping[Place, list[Path]]) -> tuple[list[Path], int]:
    """Give the files that share the longest tail with a place, and how long that is."""
    for start in range(len(place)):
        if files := tails.get(place[start:]):
            return files, len(place) - start
    return [], 0


def _is_meant(said: Place, place: Place, claims: Mapping[Place, int]) -> bool:
    """Say whether a name means a file: no folder of it differs, or no other name fits the file as well."""
    shared = claims[said]
    others = (other for name, other in claims.items() if name != said)
    return shared == min(len(said), len(place)) or all(other < shared for other in others)
