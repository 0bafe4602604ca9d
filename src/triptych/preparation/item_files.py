"""Which file belongs to which item: by the item's id, or by what the item table calls the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from triptych.data.bad_rows import SHOWN
from triptych.data.dataset import Dataset
from triptych.data.layouts.base import MEDIA_ROLES, MEDIA_SUFFIXES
from triptych.errors import ConfigError
from triptych.fetch.pictures import item_of_file_name

_NEITHER = {".html", ".htm", ".json", ".txt", ".csv", ".md", ".xml", ".pdf"}
"""What lies beside pictures and sounds and is none."""

Place = tuple[str, ...]
"""The folders a file is in, outermost first, and its name."""


def find_item_files(data: Dataset, modality: str, folder: Path) -> tuple[list[Path | None], dict[str, Any]]:
    """Find the file of each item in a folder and those below it.

    Files are found by the item's id, as their name or as that of their folder. Where folders named by items
    share a name, such as 1.png, each holds the files of its item alone. A file whose folder is named by one
    item and itself by another is neither's, unless folders by number just sort files. If it still is not
    clear which file is meant, the item gets none.

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
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    others = _other_suffixes(modality)
    paths = sorted(paths, key=lambda path: (path.suffix.lower() in others, path))  # these are taken last
    column = f"{modality}_file"
    if column in data.item_table.columns:
        names = [None if name is None else str(name) for name in data.item_table[column]]
        files = _by_place({name for name in names if name}, folder, paths)
    else:
        ids = [str(raw) for raw in data.items.ids.tolist()]
        names, files = [*ids], _by_id(set(ids), folder, paths)
    found = [None if name is None else files.get(name) for name in names]
    used = {path for path in found if path is not None}
    facts: dict[str, Any] = {"files": len(paths), "files_of_no_item": len(paths) - len(used)}
    unclear = [name for name in names if name is not None and files.get(name, folder) is None]
    if unclear:
        facts |= {"ambiguous": len(unclear), "first_ambiguous": unclear[:SHOWN]}
    return found, facts


def _other_suffixes(modality: str) -> set[str]:
    """Give the suffixes of what is hardly a file of a modality; none of one that has no usual ones."""
    own = MEDIA_ROLES.get(modality)
    others = {suffix for role, some in MEDIA_SUFFIXES.items() if role != own for suffix in some}
    return others | _NEITHER if own else set()


def _by_id(names: Collection[str], folder: Path, paths: Iterable[Path]) -> dict[str, Path | None]:
    """Give the file of each name: the first of one folder; None where several folders could be meant."""
    by_name: dict[str, list[Path]] = {}
    within: dict[str, list[Path]] = {}
    for path in paths:
        if path.parent != folder and path.parent.name in names:
            within.setdefault(path.parent.name, []).append(path)
        for name in (path.name, *_other_spellings(path.name)):
            if name in names:
                by_name.setdefault(name, []).append(path)
    unclear: set[str] = set()
    apart = {path for files in within.values() for path in files}
    # Where items' folders share a name, names mean little there.
    if any(_n_folders(apart.intersection(files)) > 1 for files in by_name.values()):
        by_name = {name: [path for path in files if path not in apart] for name, files in by_name.items()}
        candidates = {name: within.get(name) or by_name.get(name, []) for name in names}
    else:
        theirs = {path for files in by_name.values() for path in files}
        doubtful = {path for path in apart & theirs if not _is_clear(path, by_name.get(path.parent.name, []))}
        unclear = {path.parent.name for path in doubtful}
        unclear |= {name for name, files in by_name.items() if doubtful.intersection(files)}
        by_name = {name: [path for path in files if path not in doubtful] for name, files in by_name.items()}
        others = {name: [path for path in files if path not in theirs] for name, files in within.items()}
        candidates = {name: by_name.get(name) or others.get(name, []) for name in names}
    found = {
        name: files[0] if _n_folders(files) == 1 else None for name, files in candidates.items() if files
    }
    return dict.fromkeys(unclear) | found


def _is_clear(path: Path, own: Collection[Path]) -> bool:
    """Say whether a file named by an item is that item's, though its folder is named by one too.

    Args:
        path: the file.
        own: the files named by the item that its folder is named by. Where folders by number just sort files,
            that item's own lies in another of them, beside this one.
    """
    return path in own or any(
        file.parent != path.parent
        and file.parent.parent == path.parent.parent
        and file.parent.name.isdecimal()
        and path.parent.name.isdecimal()
        for file in own
    )


def _n_folders(files: Iterable[Path]) -> int:
    return len({path.parent for path in files})


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
