"""Files and folders that are whole or absent.

A writer fills a temporary neighbour, flushes it to the disk, and renames it into place, so that a
crash leaves the old file or the new one and never half of either. Who writes a path does so in a
folder beside it that is named after it and locked: a writer that was killed leaves that folder to
the next one, which clears it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from triptych.errors import StorageError
from triptych.files.hashes import hash_arrays

_UMASK = os.umask(0)
os.umask(_UMASK)  # there is no other way to ask, and none that is safe while other threads make files

_TEMPORARY, _OLD, _LOCK = ".partial-", ".old", ".lock"

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS}
"""How a system says no to a writer."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path` in one step.

    Raises:
        OSError: the system refuses; the error names `path`.
    """
    path = _behind_links(path)
    with _workplace(path) as place:
        temporary = place / path.name
        write(temporary)
        move_into_place(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def move_into_place(made: Path, path: Path) -> None:
    """Put a whole file in the place of `path` in one step; interrupted before that, it stays where it is.

    Args:
        made: the file, on the same disk.
        path: where it belongs.

    Raises:
        OSError: the system refuses.
    """
    path = _behind_links(path)
    # Some writers make files that only their owner may read, whatever he wishes.
    made.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_UMASK)
    _flush(made)
    made.replace(path)
    _flush(path.parent)


@contextmanager
def new_folder(path: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Args:
        path: the folder to make; an empty one may already be there.
        marker: the file every folder of this kind holds; only a folder that holds it is ever replaced.
        overwrite: replace such a folder.

    Raises:
        StorageError: something is at `path` that may not be replaced.
        OSError: the system refuses; the error names `path`, or the file below it.
    """
    path = _behind_links(path)
    check_new_folder(path, marker=marker, overwrite=overwrite)
    with _workplace(path) as place:
        check_new_folder(path, marker=marker, overwrite=overwrite)  # who wrote it before has made it
        new = place / path.name
        new.mkdir()
        yield new
        for file in (*new.rglob("*"), new):
            _flush(file)
        _put(new, path, place / _OLD)
        _flush(path.parent)


def check_new_folder(path: Path, *, marker: str, overwrite: bool = False) -> None:
    """Refuse a place where `new_folder` could not put its folder, before any work is done for it.

    Raises:
        StorageError: `path` is a file, or a folder that is not empty and may not be replaced; or the folder
            that this process works in, which whoever stands in it would lose.
    """
    path = home_in(path)
    if path.is_dir() and _is_around(path):
        raise StorageError(
            f"{path} is the folder you are in, or around it",
            wanted="another one, as it is put there whole",
            fix="Name a new folder with --out, or call the command from elsewhere",
        )
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path.is_dir() and (path / marker).is_file()):
        raise StorageError(
            f"{path} exists and was not made by this command",
            wanted="a new or an empty folder",
            fix="Choose another folder with --out",
        )
    if not overwrite:
        raise StorageError(
            f"{path} already exists",
            wanted="a folder that is still to be made",
            fix="Choose another folder with --out, or replace it: --overwrite, in Python overwrite=True",
        )


def _is_around(folder: Path) -> bool:
    with suppress(FileNotFoundError):  # the folder one was in is gone
        return Path.cwd().is_relative_to(folder.resolve())
    return False


def put_back(path: Path) -> None:
    """Put back a folder whose writer was killed while it replaced it, if nothing has taken its place."""
    path = _behind_links(path)
    if not path.exists() and (_place_of(path) / _OLD).is_dir():
        with _workplace(path):
            pass  # which does it


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`; those of living ones stay."""
    from filelock import FileLock, Timeout

    for left in folder.glob(_TEMPORARY + "*"):
        if left.is_dir():
            try:
                with FileLock(left / _LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
            except (Timeout, FileNotFoundError):
                continue
        else:
            left.unlink(missing_ok=True)


def check_room(folder: Path, n_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        StorageError: there is less free space at `folder`, made or not, than `n_bytes`.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        raise StorageError(
            f"{folder} has {free:,} bytes of free space",
            wanted=f"{n_bytes:,}",
            fix="Make room, or choose a folder on another disk",
        )


def home_in(path: str | Path) -> Path:
    """Read a leading "~" as the home folder, as shells do; "~old" is a name like any other."""
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def _behind_links(path: Path) -> Path:
    """Say what a symbolic link leads to, there or not: it stays, and what is written is written behind it."""
    path = home_in(path)
    return path.resolve() if path.is_symlink() else path


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` in which to make it; other writers of `path` wait.

    Raises:
        OSError: as what is done in it, but naming `path` instead of anything temporary.
    """
    from filelock import FileLock

    place = _place_of(path)
    lock = FileLock(place / _LOCK, poll_interval=0.01)
    try:
        while not lock.is_locked:
            place.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except FileNotFoundError:
                continue  # who held it has removed the folder
        _clear(place, path)
        yield place
    except Exception as error:
        _name_path(error, place, path)
        raise
    finally:
        if lock.is_locked:
            _clear(place, path)
            shutil.rmtree(place, ignore_errors=True)
            lock.release()


def _place_of(path: Path) -> Path:
    return path.parent / f"{_TEMPORARY}{hash_arrays(path.name)[:8]}"  # a name that is never too long


def _clear(place: Path, path: Path) -> None:
    """Empty a workplace; a folder that was to be replaced goes back if nothing has taken its place."""
    if (place / _OLD).is_dir() and not path.exists():
        (place / _OLD).replace(path)
    for left in place.iterdir():
        if left.name != _LOCK:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _name_path(error: Exception, place: Path, path: Path) -> None:
    """Let an error of the system name what was to be written.

    Raises:
        OSError: in the place of an error that is none, of writers that have exceptions of their own.
    """
    said = re.search(r"\(os error (\d+)\)", str(error))
    number = int(said[1]) if said else getattr(error, "errno", None)
    named = str(getattr(error, "filename", None) or "")
    if named.startswith(str(place)):
        within = Path(named).relative_to(place).parts[1:]
        raise OSError(number, os.strerror(number or errno.EIO), str(path.joinpath(*within))) from error
    if number in _REFUSALS and not named:
        raise OSError(number, os.strerror(number), str(path)) from error
    if isinstance(error, OSError) and number is None:
        raise OSError(errno.EIO, str(error), str(path)) from error


def _put(new: Path, path: Path, old: Path) -> None:
    """Put a folder in the place of another, in one step where the file system can."""
    if not path.exists() or not any(path.iterdir()):
        new.replace(path)
        return
    try:
        _exchange(new, path)
    except OSError:
        path.replace(old)  # killed after this, `_clear` puts it back
        try:
            new.replace(path)
        except OSError:
            old.replace(path)
            raise


def _exchange(one: Path, other: Path) -> None:
    """Let two paths trade places in one step (Linux: renameat2 with RENAME_EXCHANGE).

    Raises:
        OSError: the system or the file system knows no such step.
    """
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _flush(path: Path) -> None:
    """Ask the system to bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
