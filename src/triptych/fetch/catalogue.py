"""Public data sets by name: where their files are, on what terms, and how to get them whole.

`get` keeps beside the files a `downloads.json` with the address, size and SHA-256 of each. Where nobody
publishes a checksum, that of the first download counts from then on.
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from triptych.errors import ConfigError, StorageError, TriptychError, nearest
from triptych.fetch.download import Downloaded, download
from triptych.fetch.unpack import unpack_zip
from triptych.fetch.web import NetworkError, check_url
from triptych.files import check_room, locked, read_json, write_json

MIRROR = "TRIPTYCH_MIRROR"
"""The environment variable with the address of a local mirror: it takes the place of scheme and host."""

RECORD = "downloads.json"

Observer = Callable[[str, int, int | None], object]
"""Is told a file's name, bytes done and bytes in all (None: the server does not say), again and again."""


@dataclass(frozen=True)
class CatalogueFile:
    """A file of a public data set.

    Args:
        role: what it is for: "interactions", "items", a modality, or "all".
        urls: the same file at several hosts, tried in order.
        optional: fetched only if its role is asked for.
        unpack: whether it is a zip archive to unpack beside itself.
        n_bytes: its size, where known.
        sha256: its checksum, where known.
        md5: another checksum, where known.
        md5_url: where the publisher keeps the MD5 of a file that changes now and then.
    """

    role: str
    urls: tuple[str, ...]
    optional: bool = False
    unpack: bool = False
    n_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    md5_url: str | None = None

    @property
    def name(self) -> str:
        """What the file is called."""
        return urlsplit(self.urls[0]).path.rsplit("/", 1)[-1]

    @property
    def checked_by(self) -> str:
        """What tells a right file from a wrong one."""
        if self.sha256 or self.md5 or self.md5_url:
            return "published checksum"
        return "checksum of the first download"


@dataclass(frozen=True)
class Entry:
    """A public data set.

    Args:
        name: what `get` calls it.
        title: what it is, for people.
        page: where people find the files and their terms.
        terms: what is known of its licence, in one line.
        files: what it consists of.
    """

    name: str
    title: str
    page: str
    terms: str
    files: tuple[CatalogueFile, ...]

    def chosen(self, roles: Collection[str] | None = None) -> tuple[CatalogueFile, ...]:
        """Give the files of some roles; None for all that are not optional.

        Raises:
            ConfigError: a role it does not have.
        """
        known = {file.role for file in self.files}
        for role in roles or ():
            if role not in known:
                raise ConfigError(
                    f"{self.name} has no files of the role '{role}'",
                    wanted="roles of this data set",
                    fix=nearest(role, known),
                )
        return tuple(
            file for file in self.files if (not file.optional if roles is None else file.role in roles)
        )


def list_catalogue() -> tuple[Entry, ...]:
    """Give all data sets known by name, sorted."""
    return tuple(sorted(_catalogue().values(), key=lambda entry: entry.name))


def find_entry(name: str) -> Entry:
    """Give a data set by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    entries = _catalogue()
    if name not in entries:
        raise ConfigError(
            f"no public data set is known as '{name}'",
            wanted="a name from the catalogue",
            fix=nearest(name, entries),
        )
    return entries[name]


def get(
    name: str,
    folder: Path,
    *,
    roles: Collection[str] | None = None,
    observer: Observer | None = None,
    retries: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Fetch a public data set to `folder/name`. What is there and right is not fetched again.

    Args:
        name: from the catalogue.
        folder: where data sets are kept.
        roles: which files; None for all that are not optional.
        observer: is told how far each file is.
        retries: as for `download`; so are `wait`, `timeout` and `sleep`.
        wait: the pause after the first failure, in seconds.
        timeout: how long a server may be silent, in seconds.
        sleep: what pauses.

    Returns: `name`, `folder`, `page` and `terms`; `files`: file name -> `role`, `url`, `bytes`, `sha256` and
        `checked_by`; `fetched`: names of the files that were not there; `unpacked`: folders with the
        content of archives.

    Raises:
        ConfigError: no such data set or role.
        NetworkError: a file cannot be had from any of its hosts.
        StorageError: a file is not the one expected, an archive cannot be trusted, another process is
            fetching to the same folder, or the disk is full.
    """
    entry = find_entry(name)
    chosen = entry.chosen(roles)
    home = Path(folder) / name
    check_room(home, sum(file.n_bytes or 0 for file in chosen if not (home / file.name).is_file()))
    fetched, unpacked = [], []
    with ExitStack() as alone:
        if not all((home / file.name).is_file() for file in chosen):  # else many may look at once
            with suppress(OSError):  # where no lock can be made, no file can: whoever makes one says so
                home.mkdir(parents=True, exist_ok=True)
                alone.enter_context(locked(home / ".lock", f"fetching in {home}"))
        record = _Record(home, entry)
        for file in chosen:
            fetch = partial(
                download, retries=retries, wait=wait, timeout=timeout, page=entry.page, sleep=sleep,
                observer=None if observer is None else partial(observer, file.name),
            )  # fmt: skip
            url, found = _fetch(file, home / file.name, record.sha256(file), entry.page, fetch)
            record.enter(file, url, found)
            if found.attempts:
                fetched.append(file.name)
            if file.unpack:
                content = home / Path(file.name).stem
                unpack_zip(home / file.name, content)
                unpacked.append(str(content))
    facts = record.facts({file.name for file in chosen})
    return {**facts, "folder": str(home), "fetched": fetched, "unpacked": unpacked}


def mirrored(url: str) -> str:
    """Put the local mirror in the place of scheme and host, if the environment names one.

    Raises:
        ConfigError: what it names is no http or https address.
    """
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return url
    check_url(mirror)
    parts = urlsplit(url)
    return mirror.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


def _fetch(
    file: CatalogueFile, target: Path, recorded: str | None, page: str, fetch: Callable[..., Downloaded]
) -> tuple[str, Downloaded]:
    """Try the hosts of a file in order; give the address that served it."""
    failures: list[TriptychError] = []
    for url in dict.fromkeys(mirrored(url) for url in file.urls):
        try:
            md5 = file.md5
            if file.md5_url and recorded is None:
                md5 = _published_md5(mirrored(file.md5_url), target, fetch)
            return url, fetch(url, target, sha256=file.sha256 or recorded, md5=md5, n_bytes=file.n_bytes)
        except (ConfigError, NetworkError, StorageError) as error:  # the first: it redirects to no address
            failures.append(error)
    fix = failures[0].fix
    if len(failures) > 1:
        fix = f"Try again later, or get the file from {page} and put it at {target}"
    if recorded is not None:
        fix += f"; to take a newer version of the data set, move {target.parent} away first"
    wrong = any(isinstance(error, StorageError) for error in failures)
    found = "; ".join(dict.fromkeys(error.found for error in failures))
    raise (StorageError if wrong else NetworkError)(found, wanted=failures[0].wanted, fix=fix)


def _published_md5(url: str, target: Path, fetch: Callable[..., Downloaded]) -> str:
    """Read the checksum that the publisher keeps beside a file, or that somebody put there by hand."""
    by_hand = beside = target.with_name(target.name + ".md5")
    if by_hand.is_file():
        beside = by_hand.with_name(by_hand.name + ".new")
        beside.unlink(missing_ok=True)  # one that is left over may be old
    source: str | Path = url
    try:
        text = fetch(url, beside, observer=None).path.read_bytes()
        beside.unlink()
    except NetworkError:
        if beside == by_hand:
            raise
        source, text = by_hand, by_hand.read_bytes()
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text.decode("ascii", "replace"))
    if found is None:
        raise StorageError(
            f"{source} holds no MD5 checksum",
            wanted=f"that of {target.name}",
            fix="Try again later",
        )
    return found[0]


class _Record:
    """What `downloads.json` says of the files beside it."""

    def __init__(self, home: Path, entry: Entry) -> None:
        self._path, self._entry = home / RECORD, entry
        known = read_json(self._path).get("files", {}) if self._path.exists() else {}
        self._files: dict[str, Any] = known

    def sha256(self, file: CatalogueFile) -> str | None:
        """Give the checksum of a file's first download, None if there was none."""
        known = self._files.get(file.name)
        return known.get("sha256") if isinstance(known, dict) else None

    def enter(self, file: CatalogueFile, url: str, found: Downloaded) -> None:
        """Note a file at once, so that it is known even if the next one fails."""
        if file.name in self._files and not found.attempts:
            return
        self._files[file.name] = {
            "role": file.role,
            "url": url,
            "bytes": found.n_bytes,
            "sha256": found.sha256,
            "checked_by": file.checked_by,
        }
        write_json(self._path, self.facts(set(self._files)))

    def facts(self, names: set[str]) -> dict[str, Any]:
        """Give what is known of some files and of the data set."""
        entry = self._entry
        chosen = {name: facts for name, facts in self._files.items() if name in names}
        return {"name": entry.name, "page": entry.page, "terms": entry.terms, "files": chosen}


@cache
def _catalogue() -> dict[str, Entry]:
    text = (files("triptych.fetch") / "catalogue.toml").read_text(encoding="utf-8")
    return _entries(tomllib.loads(text)["set"])


def _entries(sets: list[dict[str, Any]]) -> dict[str, Entry]:
    """Make the entries of the catalogue, one for each category of a set that has some."""
    entries = {}
    for given in sets:
        for short, category in given.get("categories", {"": ""}).items():
            words = partial(_fill, short=short, category=category)
            parts = [
                CatalogueFile(**{**file, "urls": tuple(words(url) for url in file["urls"])})
                for file in given["file"]
            ]
            entry = Entry(
                words(given["name"]), words(given["title"]), given["page"], given["terms"], tuple(parts)
            )
            entries[entry.name] = entry
    return entries


def _fill(text: str, *, short: str, category: str) -> str:
    return text.replace("{short}", short).replace("{category}", category)
