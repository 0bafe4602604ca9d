"""Content that vouches for itself: JSON and arrays with a checksum, folders with a marker; without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from triptych.errors import StorageError, TriptychError
from triptych.files.atomic import put_back, write_atomic, write_text
from triptych.files.hashes import hash_arrays, sha256

Arrays = dict[str, np.ndarray[Any, Any]]

_CHECKSUM, _SHA256 = "checksum", "sha256:"


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


def read_marker(folder: Path, *, marker: str, kind: str, version: int, maker: str) -> dict[str, Any]:
    """Read the marker file of a folder, and nothing of what it vouches for.

    Args:
        folder: whose.
        marker: its JSON file, which names kind, schema version, and all other files with their checksums.
        kind: what the folder should be, such as "data set".
        version: the schema version that can be read.
        maker: the command that makes such folders.

    Raises:
        StorageError: the folder is something else or of another version, or the file is damaged.
    """
    put_back(folder)
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
    return facts


@contextmanager
def open_folder(
    folder: Path, *, marker: str, kind: str, version: int, maker: str
) -> Iterator[dict[str, Any]]:
    """Check a folder against its marker file, and give the marker's content to a block that reads the rest.

    Args are those of `read_marker`.

    Raises:
        StorageError: it is something else, of another version, or damaged; also for whatever the block
            stumbles over, since then the marker does not describe what is there.
    """
    facts = read_marker(folder, marker=marker, kind=kind, version=version, maker=maker)
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
