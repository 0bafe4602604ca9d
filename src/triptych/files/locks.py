"""Locks that a process lets go of however it dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from triptych.errors import StorageError
from triptych.files.atomic import sweep

_LOCK = ".lock"


@contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Have a folder for this process alone inside a `with` block; it is made, and gone if it stays empty.

    A process that dies frees the folder, however it dies; the temporary files it left there are removed.

    Args:
        folder: what to have alone.
        doing: what is done there, for the message to others, such as "training".

    Raises:
        StorageError: another process has it; the message names process, host and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / _LOCK, f"{doing} in {folder}"):
            sweep(folder)
            yield
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock inside a `with` block; a process that dies lets go of it, however it dies.

    Args:
        path: the file that is the lock, gone afterwards.
        doing: what one process at a time may do, for the message to others, such as "fetching data.zip".

    Raises:
        StorageError: another process holds it; the message names process, host and since when.
        OSError: the system refuses.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        told = ""
        with suppress(FileNotFoundError):  # who held it has left
            told = path.read_text(encoding="utf-8")
        raise StorageError(
            f"another process is {doing}: {told or 'one just begun'}",
            wanted="one process at a time",
            fix="Wait for it, stop it, or choose another folder with --out",
        ) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}", encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
