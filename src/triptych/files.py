"""Files that are whole or absent: atomic writes, checksums, locks, and JSON and tensors without pickle.

A writer fills a temporary neighbour, flushes it to the disk, and renames it into place, so that a
crash leaves the old file or the new one and never half of either. Who writes a path does so in a
folder beside it that is named after it and locked: a writer that was killed leaves that folder to
the next one, which clears it. JSON and tensors carry their own checksum.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from triptych.errors import StorageError, TriptychError

Arrays = dict[str, np.ndarray[Any, Any]]

_TEMPORARY = ".partial-"
_LOCK = ".lock"
_CHECKSUM, _SHA256 = "checksum", "sha256:"

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS}
"""How a system says no to a writer."""


def sha256(path: Path) -> str:
    """Hash a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_arrays(*parts: object) -> str:
    """Hash arrays (dtype, shape and bytes), strings and numbers to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind == "U":
            # not the bytes: their number depends on the longest string the array once held
            digest.update(repr(part.tolist()).encode())
        elif isinstance(part, np.ndarray):
            assert part.dtype != object, "Python objects have no stable bytes"
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


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


def move_into_place(made: Path, path: Path) -> None:
    """Put a whole file in the place of `path` in one step; interrupted before that, it stays where it is.

    Args:
        made: the file, on the same disk.
        path: where it belongs.

    Raises:
        OSError: the system refuses.
    """
    path = _behind_links(path)
    made.chmod(0o644)  # some writers make files that only their owner may read
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


def home_in(path: str | Path) -> Path:
    """Read a leading "~" as the home folder, as shells do; "~old" is a name like any other."""
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def _behind_links(path: Path) -> Path:
    """Say what a symbolic link leads to, there or not: it stays, and what is written is written behind it."""
    path = home_in(path)
    return path.resolve() if path.is_symlink() else path


_OLD = ".old"


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
            fix="Choose another folder with --out, or pass --overwrite to replace it",
        )


def _is_around(folder: Path) -> bool:
    with suppress(FileNotFoundError):  # the folder one was in is gone
        return Path.cwd().is_relative_to(folder.resolve())
    return False


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


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON with a stable order of keys; NaN and infinity are refused.

    An object that names its schema version, as the markers of folders do, gets a first entry "checksum":
    SHA-256 of the text without that line. Such a file vouches for others, and nothing else would for it.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    if isinstance(value, dict) and "schema_version" in value:
        assert _CHECKSUM not in value, "that entry is taken"
        seal = f'  "{_CHECKSUM}": "{_SHA256}{hashlib.sha256(text.encode()).hexdigest()}",\n'
        text = "{\n" + seal + text[2:]
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote, and compare it with its checksum if it has one.

    Raises:
        StorageError: the file is missing, is no JSON, holds something other than an object, or was changed.
    """
    try:
        content = path.read_bytes()
        value = json.loads(content)
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} does not exist", wanted="a file that Triptych wrote", fix="Check the path"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, "it holds no JSON object")
    if _check_seal(path, content):
        del value[_CHECKSUM]
    return value


def _check_seal(path: Path, content: bytes) -> bool:
    """Compare the text of a JSON object with the checksum in its second line, and say whether there is one.

    Raises:
        StorageError: they differ. Half of that line is enough to know that there was one.
    """
    brace, _, rest = content.partition(b"\n")
    line, _, rest = rest.partition(b"\n")
    if f'"{_CHECKSUM}"'.encode() not in line and f'"{_SHA256}'.encode() not in line:
        return False
    body = brace + b"\n" + rest
    if line != f'  "{_CHECKSUM}": "{_SHA256}{hashlib.sha256(body).hexdigest()}",'.encode():
        raise _damaged(path, "its content is not what its checksum says")
    return True


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors, with a checksum of them in the header."""
    # Not `ascontiguousarray`, which gives a scalar an axis.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    seal = {_CHECKSUM: _digest(contiguous)}
    write_atomic(path, lambda file: safetensors.numpy.save_file(contiguous, file, metadata=seal))


def read_arrays(path: Path) -> Arrays:
    """Read a safetensors file whole; one without a checksum, of an older version or not ours, is believed.

    Raises:
        StorageError: the file is missing, truncated, changed, or no safetensors file.
    """
    if not path.is_file():
        raise StorageError(f"{path} does not exist", wanted="a .safetensors file", fix="Check the path")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    sealed = _CHECKSUM in facts or any(fact.startswith(_SHA256) for fact in facts.values())
    if sealed and facts != {_CHECKSUM: _digest(arrays)}:
        raise _damaged(path, "its arrays are not what its checksum says")
    return arrays


def _digest(arrays: Arrays) -> str:
    return _SHA256 + hash_arrays(*(part for name in sorted(arrays) for part in (name, arrays[name])))


def checksums(folder: Path) -> dict[str, dict[str, object]]:
    """List every file below `folder` with its size in bytes and its SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in files
    }


@contextmanager
def open_folder(
    folder: Path, *, marker: str, kind: str, version: int, maker: str
) -> Iterator[dict[str, Any]]:
    """Check a folder against its marker file, and give the marker's content to a block that reads the rest.

    Args:
        folder: what to open.
        marker: its JSON file, which names kind, schema version, and all other files with their checksums.
        kind: what it should be, such as "data set".
        version: the schema version that can be read.
        maker: the command that makes such folders.

    Raises:
        StorageError: it is something else, of another version, or damaged; also for whatever the block
            stumbles over, since then the marker does not describe what is there.
    """
    real = _behind_links(folder)
    if not real.exists() and (_place_of(real) / _OLD).is_dir():
        with _workplace(real):
            pass  # which puts it back
    if not (folder / marker).is_file():
        raise StorageError(
            f"{folder} is not a {kind}: it holds no {marker}",
            wanted=f"a folder that '{maker}' made",
            fix=f"Check the path, or run '{maker}' first",
        )
    facts = read_json(folder / marker)
    if facts.get("kind") != kind or facts.get("schema_version") != version:
        raise StorageError(
            f"{folder} holds schema version {facts.get('schema_version')} of a {facts.get('kind')}",
            wanted=f"schema version {version} of a {kind}",
            fix=f"Run '{maker}' again with this version of Triptych",
        )
    try:
        verify(folder, facts["files"])
        yield facts
    except (TriptychError, PermissionError):
        raise
    except Exception as error:
        raise _damaged(folder / marker, f"it does not describe a whole {kind} ({error!r})") from error


def verify(folder: Path, expected: dict[str, dict[str, object]]) -> None:
    """Compare the files of `folder` with the sizes and hashes a manifest gives.

    Raises:
        StorageError: a file is missing or differs.
    """
    for name, facts in expected.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _damaged(folder, f"its manifest names {name}, outside the folder")
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if path.stat().st_size != facts.get("bytes") or sha256(path) != facts.get("sha256"):
            raise _damaged(path, "its size or checksum is not the one in the manifest")


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} is damaged: {why}",
        wanted="a whole file as Triptych wrote it",
        fix="Restore it from a copy, or make it again",
    )


def _flush(path: Path) -> None:
    """Ask the system to bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
