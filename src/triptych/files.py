"""Files that are whole or absent: atomic writes, checksums, and JSON and tensors without pickle.

A writer fills a temporary neighbour, flushes it to the disk, and renames it into place, so that a
crash leaves the old file or the new one and never half of either.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from triptych.errors import StorageError, TriptychError

Arrays = dict[str, np.ndarray[Any, Any]]

_TEMPORARY = ".partial-"


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
    """Let `write` fill a temporary file, then put it in the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner may read; so do some writers
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Args:
        path: the folder to make; an empty one may already be there.
        marker: the file every folder of this kind holds; only a folder that holds it is ever replaced.
        overwrite: replace such a folder.

    Raises:
        StorageError: something is at `path` that may not be replaced.
    """
    check_new_folder(path, marker=marker, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
            path.replace(old / path.name)
            try:
                temporary.replace(path)
            except OSError:
                (old / path.name).replace(path)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            temporary.replace(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(path: Path, *, marker: str, overwrite: bool = False) -> None:
    """Refuse a place where `new_folder` could not put its folder, before any work is done for it.

    Raises:
        StorageError: `path` is a file, or a folder that is not empty and may not be replaced.
    """
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


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`."""
    for left in folder.glob(_TEMPORARY + "*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON with a stable order of keys; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote.

    Raises:
        StorageError: the file is missing, is no JSON, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} does not exist", wanted="a file that Triptych wrote", fix="Check the path"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, "it holds no JSON object")
    return value


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors."""
    # Not `ascontiguousarray`, which gives a scalar an axis.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomic(path, lambda file: safetensors.numpy.save_file(contiguous, file))


def read_arrays(path: Path) -> Arrays:
    """Read a safetensors file whole.

    Raises:
        StorageError: the file is missing, truncated, or no safetensors file.
    """
    if not path.is_file():
        raise StorageError(f"{path} does not exist", wanted="a .safetensors file", fix="Check the path")
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error


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
