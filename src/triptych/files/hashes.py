"""Short names for content: hashes of files and of arrays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


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
