"""The runs that a service answers by: loaded aside, swapped whole, and looked at again when they change."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from triptych.data.dataset import Dataset
from triptych.errors import ConfigError, TriptychError, UnknownIdError
from triptych.runs import RUN, load
from triptych.serving.contents import NewContents
from triptych.serving.loaded import LoadedRun

RETRY_SECONDS = 10.0
"""Until a folder that was found unfit is looked at again."""

Stamp = tuple[int, int, int]
"""Time of change, number and size of a file: when none of them changes, the file did not."""


@dataclass(frozen=True)
class Refresh:
    """What looking at a run's folder again came to.

    Args:
        name: the run's.
        version: that answers now.
        swapped: whether it is a new one.
        error: why a changed folder could not be loaded; the version before goes on answering.
    """

    name: str
    version: str
    swapped: bool = False
    error: TriptychError | None = None


@dataclass
class _Watched:
    folder: Path
    stamp: Stamp | None = None
    retry_at: float = 0.0


class Catalogue:
    """Loaded runs by name; a question takes one of them and is answered by that alone.

    Args:
        folders: of the runs; their names must differ.
        data: folder of the data set that they were trained on, for features and pictures.
        on_load: is told the name of each run before it is loaded at the start.

    Raises:
        ConfigError: two runs have one name, or a run is of other data.
        StorageError: a folder is no run, or damaged.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        data: Path | None = None,
        on_load: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._watched: dict[str, _Watched] = {}
        for folder in folders:
            # a link's own name, since it may come to lead elsewhere
            name = Path(os.path.abspath(folder)).name  # noqa: PTH100
            if name in self._watched:
                raise ConfigError(
                    f"two runs are called '{name}': {self._watched[name].folder} and {folder}",
                    wanted="run folders with names of their own",
                    fix="Rename one of the folders",
                )
            self._watched[name] = _Watched(folder)
        if not self._watched:
            raise ConfigError("no run to serve", wanted="at least one run folder", fix="Name one")
        self._lock = Lock()
        self._data = None if data is None else Dataset.load(data)
        self._contents = None if self._data is None else NewContents(self._data)
        loaded = {}
        for name, watched in self._watched.items():
            on_load(name)
            watched.stamp = _stamp(watched.folder)
            loaded[name] = self._load(name, watched.folder)
        self._runs: Mapping[str, LoadedRun] = loaded

    @property
    def runs(self) -> Mapping[str, LoadedRun]:
        """The versions that answer now, in the order given; never changed, only replaced as a whole."""
        return self._runs

    def run(self, name: str | None) -> LoadedRun:
        """Take a run by its name, the first if there is none.

        Raises:
            UnknownIdError: no run is called so.
        """
        runs = self._runs
        if name is None:
            return next(iter(runs.values()))
        if name not in runs:
            raise UnknownIdError(
                f"the run {name!r} is not served",
                wanted=" or ".join(runs),
                fix="Name one of these, or none for the first",
            )
        return runs[name]

    def refresh(self, *, always: bool = False) -> list[Refresh]:
        """Look at the folders again, and load those that have changed; this takes as long as loading does.

        Args:
            always: read `run.json` even where the file seems untouched, or the folder was unfit a moment ago.

        Returns: an entry for each folder that was looked at.
        """
        with self._lock:
            return [
                self._refresh(name, watched, always)
                for name, watched in self._watched.items()
                if always or time.monotonic() >= watched.retry_at
            ]

    def _refresh(self, name: str, watched: _Watched, always: bool) -> Refresh:
        current = self._runs[name]
        fit = False
        try:
            stamp = _stamp(watched.folder)
            changed = (always or stamp != watched.stamp) and _version(watched.folder) != current.version
            fresh = self._load(name, watched.folder) if changed else current
            fit = True
        except (TriptychError, OSError) as error:  # half replaced, or really damaged: the next look will tell
            known = error if isinstance(error, TriptychError) else _unreadable(watched.folder, error)
            return Refresh(name, current.version, error=known)
        finally:
            watched.retry_at = 0.0 if fit else time.monotonic() + RETRY_SECONDS
        watched.stamp = stamp
        self._runs = {**self._runs, name: fresh}
        return Refresh(name, fresh.version, swapped=changed)

    def _load(self, name: str, folder: Path) -> LoadedRun:
        before = _version(folder)
        run = load(folder)
        if _version(folder) != before:
            raise _unreadable(folder, "it was replaced while it was read")
        return LoadedRun(name, before, run, self._data, self._contents)


def _stamp(folder: Path) -> Stamp | None:
    try:
        facts = (folder / RUN).stat()
    except OSError:  # `load` says what is wrong
        return None
    return facts.st_mtime_ns, facts.st_ino, facts.st_size


def _version(folder: Path) -> str:
    """Name the content of a run's files: the hash of run.json, which holds the checksums of all others."""
    try:
        return hashlib.sha256((folder / RUN).read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return ""  # `load` says what is wrong


def _unreadable(folder: Path, why: object) -> TriptychError:
    return TriptychError(
        f"{folder} cannot be read: {why}", wanted="a whole run folder", fix="Nothing, if it is being replaced"
    )
