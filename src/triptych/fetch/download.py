"""Large files from the network: resumed after a break, checked, and never half-written under their name.

While `NAME` is being fetched, what has come so far is in `NAME.part`, and `NAME.part.json` says what it is
a part of. A later call goes on from there if the server still has the same file. Whoever fetches it holds
the lock `NAME.part.lock`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.errors import StorageError
from triptych.fetch.web import NetworkError, Trouble, check_url, content_length, open_url, pause, reading
from triptych.files import check_room, locked, move_into_place, read_json, sha256, write_json

Observer = Callable[[int, int | None], object]
"""Is told bytes done and bytes in all (None: the server does not say), again and again."""

_CHUNK = 1 << 18

_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18})")

# Suffix -> what such a file begins with.
_BEGINNINGS = {
    ".gz": (b"\x1f\x8b",),
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ\x00",),
    ".zst": (b"\x28\xb5\x2f\xfd",),
    ".npy": (b"\x93NUMPY",),
    ".parquet": (b"PAR1",),
}


@dataclass(frozen=True)
class Downloaded:
    """A file that is there, whole.

    Args:
        path: where.
        n_bytes: its size.
        sha256: its checksum, in hexadecimal.
        resumed_from: how many of the bytes came before the last request.
        attempts: how many tries it took; 0 if it was there.
    """

    path: Path
    n_bytes: int
    sha256: str
    resumed_from: int
    attempts: int


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    n_bytes: int | None = None,
    retries: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
    page: str | None = None,
    observer: Observer | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Downloaded:
    """Fetch a file, going on where an earlier call was broken off. A right file that is there is left alone.

    Args:
        url: http or https; so is whatever it redirects to.
        target: where the file goes; its folder is made.
        sha256: its checksum, in hexadecimal; None if unknown.
        md5: another checksum, for files whose makers publish only that; None if unknown.
        n_bytes: its size; None if unknown. Without checksum and size, a file at `target` is taken as right.
        retries: how often to try again after a passing failure; the count starts anew whenever bytes came.
        wait: the pause after the first failure, in seconds; it doubles with each.
        timeout: how long the server may be silent, in seconds.
        page: where people find the file, for messages.
        observer: is told how far it is.
        sleep: what pauses.

    Raises:
        ConfigError: an address that is neither http nor https, also after a redirect.
        NetworkError: no network, no such file, or a server that goes on failing.
        StorageError: what came is not the file asked for, twice; another process is fetching it; or the
            disk refuses.
    """
    check_url(url)
    expected = _Expected(target.suffix.lower(), sha256, md5, n_bytes)
    transfer = _Transfer(url, target, expected, retries, wait, timeout, observer, sleep)
    try:
        found = _right(target, expected)
        if found is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with locked(target.with_name(target.name + ".part.lock"), f"fetching {target}"):
                found = transfer.run()
        return Downloaded(target, target.stat().st_size, found, transfer.resumed_from, transfer.attempts)
    except Trouble as trouble:
        raise network_error(trouble, url, target, page) from trouble
    except OSError as error:  # those of the network are `Trouble` by now
        raise StorageError(
            f"{target} cannot be written: {error}",
            wanted="a folder with room, where files may be made",
            fix="Make room, or choose another folder",
        ) from error


def network_error(trouble: Trouble, url: str, target: Path, page: str | None) -> NetworkError:
    """Word for people why a file could not be had, and how they can get it themselves."""
    by_hand = f"download {url} on another machine" if trouble.offline else f"get the file from {page or url}"
    again = "Try again later" if trouble.passing else "This will not mend itself"
    return NetworkError(
        f"{url}: {trouble.reason}",
        wanted=f"the file {target.name}",
        fix=f"{again}, or {by_hand} and put it at {target}",
    )


@dataclass(frozen=True)
class _Expected:
    """What is known of a file beforehand."""

    suffix: str
    sha256: str | None
    md5: str | None
    n_bytes: int | None

    def check(self, path: Path) -> str:
        """Give the SHA-256 of a file that agrees with all this.

        Raises:
            _WrongError: it does not; the message says what it is, and instead of what.
        """
        size, found = path.stat().st_size, sha256(path)
        if self.n_bytes is not None and size != self.n_bytes:
            raise _WrongError(f"{size:,} bytes instead of {self.n_bytes:,}")
        if (strange := _strange(path, self.suffix)) is not None:
            raise _WrongError(strange)
        if self.sha256 is not None and found != self.sha256.lower():
            raise _WrongError(f"SHA-256 {found} instead of {self.sha256.lower()}")
        if self.md5 is not None and (md5 := _md5(path)) != self.md5.lower():
            raise _WrongError(f"MD5 {md5} instead of {self.md5.lower()}")
        return found


class _WrongError(Exception):
    """What came is not the file that was asked for."""


@dataclass
class _Transfer:
    """One file on its way."""

    url: str
    target: Path
    expected: _Expected
    retries: int
    wait: float
    timeout: float
    observer: Observer | None
    sleep: Callable[[float], object]
    attempts: int = 0
    resumed_from: int = 0

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        return self.target.with_name(self.target.name + ".part.json")

    def run(self) -> str:
        """Fetch, check and put in place; a wrong file gets a second chance from the beginning."""
        try:
            found = self._fetch_right()
        except _WrongError:
            try:
                found = self._fetch_right()
            except _WrongError as wrong:
                raise StorageError(
                    f"{self.url} gives {wrong}",
                    wanted=f"the file {self.target.name} as it was published",
                    fix="Try another network, or look whether its makers have changed it",
                ) from wrong
        move_into_place(self.part, self.target)
        self.note.unlink(missing_ok=True)
        return found

    def _fetch_right(self) -> str:
        """Fetch and check; nothing is left of a wrong file."""
        try:
            self._fetch()
            return self.expected.check(self.part)
        except _WrongError:
            self._drop()
            raise

    def _fetch(self) -> None:
        """Ask until the part is whole."""
        failures, most = 0, self._done()
        while True:
            self.attempts += 1
            try:
                return self._request()
            except Trouble as trouble:
                failures = failures + 1 if self._done() <= most else 1
                most = max(most, self._done())
                # nothing is lost yet when the very first request reaches nobody: say so at once
                fruitless = trouble.offline and self.attempts == 1
                if not trouble.passing or fruitless or failures > self.retries:
                    raise
                self.sleep(pause(failures, self.wait, trouble))

    def _request(self) -> None:
        """Ask for what is missing and append it."""
        known, self.resumed_from = self._resumable()
        if self.resumed_from and self.resumed_from == known["total"]:
            return
        headers, accept = {}, []
        if self.resumed_from:
            headers, accept = _rest_of(self.resumed_from, known["validator"]), [416]
        with open_url(self.url, timeout=self.timeout, headers=headers, accept=accept) as response:
            if response.status not in {206, 416}:
                self._begin(response)
                return
            total = _continues(response, self.resumed_from, known)
            if total is None:  # another file, or a server that miscounts: from the beginning
                self._drop()
                raise Trouble("the server gives another part than the one asked for", passing=True)
            if response.status == 206:  # else there is nothing after these bytes: they are all
                self._save(response, total, "ab")

    def _begin(self, response: Any) -> None:
        """Note what comes, and save it from its first byte on."""
        self._drop()
        self.resumed_from, total = 0, content_length(response)
        write_json(self.note, {"url": self.url, "validator": _validator(response), "total": total})
        self._save(response, total, "wb")

    def _save(self, response: Any, total: int | None, mode: str) -> None:
        limit = self.expected.n_bytes if self.expected.n_bytes is not None else total
        if total is not None:
            if total != limit:
                raise _WrongError(f"{total:,} bytes instead of {limit:,}")
            check_room(self.part.parent, total - self.resumed_from)
        done = self.resumed_from
        with self.part.open(mode) as file:
            for chunk in self._chunks(response):
                file.write(chunk)
                done += len(chunk)
                if limit is not None and done > limit:
                    raise _WrongError(f"more than {limit:,} bytes")
                if self.observer is not None:
                    self.observer(done, limit)
        if total is not None and done < total:
            raise Trouble("the connection broke off", passing=True)

    def _chunks(self, response: Any) -> Iterator[bytes]:
        host = check_url(response.url)  # where redirects have led
        while True:
            with reading(host):
                # whatever has come by now: `read` would wait for the whole of it and lose it in a break
                chunk: bytes = response.read1(_CHUNK)
            if not chunk:
                return
            yield chunk

    def _resumable(self) -> tuple[dict[str, Any], int]:
        """Give what is noted of the part, and its size; 0 if the server could not tell a changed file."""
        try:
            known = read_json(self.note)
        except StorageError:
            return {}, 0
        resumable = known.get("url") == self.url and known.get("validator") and "total" in known
        return known, self._done() if resumable else 0

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _rest_of(start: int, validator: str) -> dict[str, str]:
    """Ask for the bytes from `start` on, or for the whole file if it has changed."""
    return {"Range": f"bytes={start}-", "If-Range": validator}


def _validator(response: Any) -> str:
    """Give what tells a changed file from the same: its tag or, failing that, its date."""
    tag: str = response.headers.get("ETag", "")
    # a weak tag promises the same meaning, not the same bytes (RFC 9110, section 13.1.5)
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _continues(response: Any, start: int, known: dict[str, Any]) -> int | None:
    """Give the whole size if the answer goes on from byte `start`, or says that there is none after it.

    Servers that heed `Range` but not `If-Range` may go on with another file than the known one.
    """
    ranges = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if not start or ranges is None:
        return None
    total, validator = int(ranges[2]), known["validator"]
    kind = "ETag" if validator.startswith('"') else "Last-Modified"
    same = known["total"] in (None, total) and response.headers.get(kind, validator) == validator
    goes_on = int(ranges[1]) == start if ranges[1] else total == start
    return total if same and goes_on else None


def _right(path: Path, expected: _Expected) -> str | None:
    """Give the SHA-256 of a file if it is there and right."""
    try:
        return expected.check(path) if path.is_file() else None
    except _WrongError:
        return None


def _strange(path: Path, suffix: str) -> str | None:
    """Name what came if it cannot be the file, such as a page of text saying why not."""
    with path.open("rb") as file:
        beginning = file.read(512)
    if re.match(rb"\s*<(!doctype html|html|head|body)\b", beginning, re.IGNORECASE) and ".htm" not in suffix:
        return "a web page"
    if not beginning.startswith(_BEGINNINGS.get(suffix, (b"",))):
        return f"something that is no {suffix} file"
    return None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
