"""Tensors and JSON on disk that are whole, checked, and belong together.

A checkpoint is two files: tensors under a name of their own generation, and `NAME.json`, which
names them with their size and hash. Replacing the JSON file is the one moment at which a new
checkpoint takes the place of the old one; a crash before it leaves the old pair as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.errors import StorageError
from triptych.files import read_arrays, read_json, sha256, sweep, write_arrays, write_json

Tensors = dict[str, Tensor]

SCHEMA_VERSION = 1


def save_checkpoint(folder: Path, name: str, tensors: Tensors, facts: dict[str, Any]) -> None:
    """Write tensors and JSON values as checkpoint `name` of a folder, replacing the one before.

    Args:
        folder: made if it is missing.
        name: of the checkpoint.
        tensors: on any device.
        facts: JSON values; the keys "tensors" and "schema_version" are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    old = set(folder.glob(f"{name}-*.safetensors"))
    generation = 1 + max((int(path.stem.rpartition("-")[2]) for path in old), default=0)
    file = folder / f"{name}-{generation}.safetensors"
    write_arrays(file, {key: _to_numpy(tensor) for key, tensor in tensors.items()})
    stored = {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
    marker = {**facts, "schema_version": SCHEMA_VERSION, "tensors": stored}
    write_json(folder / f"{name}.json", marker)
    for path in old:
        path.unlink()


def load_checkpoint(folder: Path, name: str) -> tuple[Tensors, dict[str, Any]]:
    """Read a checkpoint whole.

    Raises:
        StorageError: it is missing, truncated, or its tensors are not those the JSON file names.
    """
    facts = read_json(folder / f"{name}.json")
    version = facts.pop("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise StorageError(
            f"{folder} holds schema version {version} of a checkpoint",
            wanted=f"schema version {SCHEMA_VERSION}",
            fix="Go on with the version of Triptych that began, or train again without --resume",
        )
    stored = facts.pop("tensors", None)
    file = folder / Path(str((stored or {}).get("file"))).name
    if not isinstance(stored, dict) or not file.is_file():
        raise _damaged(folder / f"{name}.json", "the tensors it names are missing")
    if file.stat().st_size != stored.get("bytes") or sha256(file) != stored.get("sha256"):
        raise _damaged(file, "its size or checksum is not the one that was written")
    return {key: torch.from_numpy(array) for key, array in read_arrays(file).items()}, facts


def flatten(value: object, prefix: str = "") -> tuple[Tensors, Any]:
    """Part nested dicts and lists into their tensors, by path, and the nest with paths in their place."""
    if isinstance(value, Tensor):
        return {prefix: value}, {"tensor": prefix}
    tensors: Tensors = {}
    if isinstance(value, dict):
        nest: Any = {}
        for key, inner in value.items():
            found, nest[str(key)] = flatten(inner, f"{prefix}/{key}")
            tensors |= found
        return tensors, {"dict": nest}
    if isinstance(value, list | tuple):
        nest = []
        for place, inner in enumerate(value):
            found, rest = flatten(inner, f"{prefix}/{place}")
            nest.append(rest)
            tensors |= found
        return tensors, {"list": nest}
    return {}, {"value": value}


def unflatten(nest: Any, tensors: Tensors) -> Any:
    """Put `flatten`'s two halves together again; keys that were integers are integers again."""
    (kind, inner), *_ = nest.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {int(key) if key.isdigit() else key: unflatten(value, tensors) for key, value in inner.items()}
    if kind == "list":
        return [unflatten(value, tensors) for value in inner]
    return inner


def _to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().cpu().contiguous().numpy()
    return array


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} is damaged: {why}",
        wanted="a checkpoint as it was written",
        fix="Train again without --resume, or restore the folder from a copy",
    )
