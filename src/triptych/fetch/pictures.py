"""Pictures of items, fetched politely: few at a time, with a pause for each host, and never twice.

A picture is called `ITEM.jpg` (or .png, .gif, .webp, by its content), ITEM being the item's raw id with every
sign but letters, digits, "-", "_" and "~" percent-encoded in UTF-8; `item_of_file_name` turns it back.
What a server says does not exist is noted in `failed.json` and not asked for again.
"""

from __future__ import annotations

import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from triptych.errors import ConfigError, StorageError
from triptych.fetch.web import MAX_WAIT, Trouble, check_url, pause, read_whole
from triptych.files import read_json, sweep, write_atomic, write_json

FAILED = "failed.json"
SUFFIXES = (".jpg", ".png", ".gif", ".webp")

MAX_PICTURE_BYTES = 20 << 20
MAX_FAILURES_IN_A_ROW = 20
"""A host that fails so often without a success between is left alone for the rest of the call."""

_SHOWN = 5
_LONGEST_NAME = 200

Observer = Callable[[int, int], object]
"""Is told items done and items in all, after each item, by one thread at a time."""


@dataclass(frozen=True)
class PictureReport:
    """What became of the items; the numbers sum to how many there were.

    Args:
        fetched: pictures fetched now.
        already_there: pictures of earlier calls.
        failed: reason -> items without a picture.
        first_failed: the first few of them, with address and reason.
    """

    fetched: int
    already_there: int
    failed: dict[str, int]
    first_failed: list[str]


def fetch_pictures(
    urls: Mapping[str | int, str],
    folder: Path,
    *,
    parallel: int = 4,
    per_host_wait: float = 0.1,
    retries: int = 2,
    wait: float = 1.0,
    timeout: float = 20.0,
    max_bytes: int = MAX_PICTURE_BYTES,
    retry_failed: bool = False,
    observer: Observer | None = None,
) -> PictureReport:
    """Fetch one picture per item into a folder; go on where an earlier call stopped.

    Ctrl-C lets the pictures under way end, and leaves only whole files.

    Args:
        urls: raw item id -> address of its picture.
        folder: where they go.
        parallel: how many at a time.
        per_host_wait: least time between two requests to one host, in seconds.
        retries: how often to try again after a passing failure.
        wait: the pause after the first failure, in seconds; it doubles with each.
        timeout: how long a server may be silent, in seconds.
        max_bytes: the largest picture taken.
        retry_failed: ask again for what a server said does not exist.
        observer: is told how far it is.

    Raises:
        ConfigError: two ids are spelt the same, or fewer than one at a time.
        StorageError: the folder cannot be written to.
    """
    named = {str(item): url for item, url in urls.items()}
    if len(named) < len(urls):
        raise ConfigError(
            "an item id is there as a number and as text",
            wanted="item ids that are spelt differently",
            fix="Make them all text",
        )
    if parallel < 1:
        raise ConfigError(
            f"{parallel} pictures at a time", wanted="at least one", fix="Choose 4, for example"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        run = _Run(folder, named, _Hosts(per_host_wait), retries, wait, timeout, max_bytes, observer)
        return run.all(parallel, retry_failed)
    except OSError as error:  # those of the network are `Trouble` by now
        raise StorageError(
            f"{folder} cannot be written to: {error}",
            wanted="a folder with room, where files may be made",
            fix="Make room, or choose another folder",
        ) from error


def addresses(cell: str) -> list[str]:
    """Take the addresses of a cell apart, as shops export galleries: parted by commas or by bars.

    A comma parts only what goes on with another address: it may be within one.
    """
    return [part.strip() for part in re.split(r",\s*(?=https?://)|\|", cell) if part.strip()]


def file_stem(item: str | int) -> str:
    """Give the name of an item's picture, without suffix."""
    return quote(str(item), safe="", errors="surrogateescape").replace(".", "%2E")


def item_of_file_name(name: str) -> str | None:
    """Give the item id a picture's file name stands for, None if it is no such name."""
    stem, dot, suffix = name.rpartition(".")
    item = unquote(stem)
    return item if dot + suffix in SUFFIXES and file_stem(item) == stem else None


class _Hosts:
    """Spaces out the requests to each host, and gives up hosts that do not answer any more."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}
        self._failures: Counter[str] = Counter()

    def delay(self, host: str) -> float:
        """Take the next turn at a host, and say how long it is until then, in seconds.

        Raises:
            Trouble: the host has been given up.
        """
        with self._lock:
            if self._failures[host] >= MAX_FAILURES_IN_A_ROW:
                raise Trouble(f"{host} was given up after {MAX_FAILURES_IN_A_ROW} failures in a row")
            now = time.monotonic()
            turn = max(now, self._free_at.get(host, now))
            self._free_at[host] = turn + self._wait
            return turn - now

    def answered(self, host: str) -> None:
        """Note that a host works."""
        with self._lock:
            self._failures[host] = 0

    def failed(self, host: str, pause: float) -> None:
        """Note that a host fails for now, and let nobody ask it for a while."""
        with self._lock:
            self._failures[host] += 1
            self._free_at[host] = max(self._free_at.get(host, 0.0), time.monotonic() + pause)


@dataclass
class _Run:
    """One call of `fetch_pictures`."""

    folder: Path
    urls: dict[str, str]
    hosts: _Hosts
    retries: int
    wait: float
    timeout: float
    max_bytes: int
    observer: Observer | None
    fetched: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    first_failed: list[str] = field(default_factory=list)
    lasting: dict[str, dict[str, str]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_done: int = 0

    def all(self, parallel: int, retry_failed: bool) -> PictureReport:
        """Fetch what is missing, and note what does not exist."""
        there = {item_of_file_name(path.name) for path in self.folder.iterdir()}
        missing = [item for item in self.urls if item not in there]
        before = read_json(self.folder / FAILED) if (self.folder / FAILED).exists() else {}
        before = before.get("items", before)  # earlier versions named the items at the top
        self.lasting = {item: known for item, known in before.items() if item not in there}
        self.n_done = n_there = len(self.urls) - len(missing)
        jobs = iter([item for item in missing if retry_failed or not self._known(item)])
        try:
            with ThreadPoolExecutor(parallel, thread_name_prefix="pictures") as pool:
                workers = [pool.submit(self._work, jobs) for _ in range(parallel)]
                try:
                    for worker in workers:
                        worker.result()
                finally:
                    self.stop.set()  # leaving the pool waits for the pictures under way
        finally:
            if self.lasting != before:
                write_json(self.folder / FAILED, {"items": self.lasting})
        return PictureReport(self.fetched, n_there, dict(self.failed), self.first_failed)

    def _known(self, item: str) -> bool:
        """See whether this very address failed for good in an earlier call, and count it if so."""
        known = self.lasting.get(item)
        if not isinstance(known, dict) or known.get("url") != self.urls[item]:
            return False
        self._count(item, f"{known.get('reason')} (in an earlier call)")
        return True

    def _work(self, jobs: Iterator[str]) -> None:
        """Take one item after the other until there are none."""
        try:
            while not self.stop.is_set():
                with self.lock:
                    item = next(jobs, None)
                if item is None:
                    return
                self._one(item)
        except BaseException:
            self.stop.set()  # whatever went wrong here, such as a full disk, is in the way of the others too
            raise

    def _one(self, item: str) -> None:
        """Fetch the picture of an item, and count what became of it."""
        url = self.urls[item]
        try:
            stem = file_stem(item)
            if len(stem) > _LONGEST_NAME:
                raise Trouble("the item id is too long for a file name")
            data = self._fetch(url)
            suffix = _suffix(data)
        except _StoppedError:
            return
        except ConfigError:
            self._failed(item, Trouble("no http or https address"))
            return
        except Trouble as trouble:
            self._failed(item, trouble)
            return
        write_atomic(self.folder / (stem + suffix), lambda file: file.write_bytes(data))
        with self.lock:
            self.lasting.pop(item, None)
            self.fetched += 1
            self._tell()

    def _failed(self, item: str, trouble: Trouble) -> None:
        with self.lock:
            if trouble.lasting:
                self.lasting[item] = {"url": self.urls[item], "reason": trouble.reason}
            self._count(item, trouble.reason)

    def _count(self, item: str, reason: str) -> None:
        self.failed[reason] += 1
        if len(self.first_failed) < _SHOWN:
            self.first_failed.append(f"{item}: {self.urls[item]}: {reason}")
        self._tell()

    def _tell(self) -> None:
        self.n_done += 1
        if self.observer is not None:
            self.observer(self.n_done, len(self.urls))

    def _fetch(self, url: str) -> bytes:
        """Ask for a picture, again after passing failures."""
        host = check_url(url)
        attempt = 0
        while True:
            attempt += 1
            if self.stop.wait(self.hosts.delay(host)):
                raise _StoppedError
            try:
                data = read_whole(url, timeout=self.timeout, max_bytes=self.max_bytes)
                self.hosts.answered(host)
                return data
            except Trouble as trouble:
                if not trouble.passing:
                    self.hosts.answered(host)
                    raise
                self.hosts.failed(host, min(trouble.wait, MAX_WAIT))
                if attempt > self.retries or trouble.offline:
                    raise
                if self.stop.wait(pause(attempt, self.wait, trouble)):
                    raise _StoppedError from trouble


class _StoppedError(Exception):
    """The call is being ended."""


def _suffix(data: bytes) -> str:
    """Tell what kind of picture this is.

    Raises:
        Trouble: it is none, or one of a single pixel, as servers send where there is no picture.
    """
    suffix, size = "", (0, 0)
    if data.startswith(b"\xff\xd8\xff"):
        suffix = ".jpg"
    elif data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        suffix, size = ".png", struct.unpack(">II", data[16:24])
    elif data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        suffix, size = ".gif", struct.unpack("<HH", data[6:10])
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        suffix = ".webp"
    if not suffix:
        raise Trouble("the answer is no jpg, png, gif or webp picture", lasting=True)
    if size == (1, 1):
        raise Trouble("a placeholder of 1×1 pixels", lasting=True)
    return suffix
