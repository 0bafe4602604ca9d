"""Rows once encoded, kept on the disk: nothing is encoded twice, and a killed run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from triptych.data.features import Matrix
from triptych.encode.encoder import EncoderSpec
from triptych.errors import StorageError
from triptych.files import Arrays, hash_arrays, read_arrays, write_arrays, write_json

SHARD_ROWS = 1024
SHARD_SECONDS = 20.0
DIGEST_BYTES = 16


class Row(NamedTuple):
    """What an encoder made of one content.

    Args:
        values: (F,) float32.
        cut: whether the content was longer than the encoder could see.
    """

    values: Matrix
    cut: bool


class Cache:
    """A folder per encoder spec, in it `spec.json` and shards of rows; used as a context.

    A shard is named by the hash of what is in it. So processes that share a folder never write into each
    other's files, and a damaged shard is known by its name; its rows are then made again. Where the system
    refuses to write, that is noted, and nothing more is remembered; what is there is still read.

    Args:
        folder: holds the folders of all specs; None to remember nothing.
        spec: whose rows.
    """

    def __init__(self, folder: Path | None, spec: EncoderSpec) -> None:
        self.folder = None if folder is None else folder / spec.key
        self.notes: list[str] = []
        self._spec = spec
        self._fresh: dict[bytes, Row] = {}
        self._refused = False
        self._last_write = time.monotonic()

    def find(self, wanted: Collection[bytes]) -> dict[bytes, Row]:
        """Look up rows by the digests of their contents; those not known are left out."""
        found: dict[bytes, Row] = {}
        if self.folder is None:
            return found
        try:
            paths = sorted(self.folder.glob("[0-9a-f]*.safetensors"))
        except OSError as error:
            self.notes.append(f"nothing is taken from the cache: {error}")
            return found
        for path in paths:
            for digest, row in self._read(path).items():
                if digest in wanted:
                    found[digest] = Row(row.values.copy(), row.cut)  # lest one row keep the whole shard
        return found

    def add(self, rows: Mapping[bytes, Row]) -> None:
        """Remember rows by the digests of their contents; they reach the disk within `SHARD_SECONDS`."""
        if self.folder is None or self._refused:
            return
        self._fresh |= rows
        late = time.monotonic() - self._last_write >= SHARD_SECONDS
        if late or len(self._fresh) >= SHARD_ROWS:
            self._write(self.folder)

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder is not None and self._fresh:  # also when interrupted: what is done is done
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        """Write what is fresh, unless the system refuses; a cache can be done without."""
        try:
            self._write_shard(folder)
        except OSError as error:
            self._refused = True
            self.notes.append(f"what is encoded is not kept from here on: {error}")
        self._fresh.clear()
        self._last_write = time.monotonic()

    def _write_shard(self, folder: Path) -> None:
        shard: Arrays = {
            "digests": np.frombuffer(b"".join(self._fresh), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
            "rows": np.stack([row.values for row in self._fresh.values()]),
            "cut": np.array([row.cut for row in self._fresh.values()], dtype=bool),
        }
        if not (folder / "spec.json").is_file():
            write_json(folder / "spec.json", self._spec.to_json())
        write_arrays(folder / f"{self._name(shard)}.safetensors", shard)

    def _read(self, path: Path) -> dict[bytes, Row]:
        try:
            shard = read_arrays(path)
            whole = shard.keys() == {"digests", "rows", "cut"} and self._name(shard) == path.stem
        except StorageError:
            whole = False
        if not whole:
            self.notes.append(
                f"{path.parent.name}/{path.name} was damaged; its rows were made again if needed"
            )
            with suppress(OSError):
                path.unlink()
            return {}
        digests = shard["digests"].tobytes()
        starts = range(0, len(digests), DIGEST_BYTES)
        return {
            digests[start : start + DIGEST_BYTES]: Row(values, bool(cut))
            for start, values, cut in zip(starts, shard["rows"], shard["cut"], strict=True)
        }

    def _name(self, shard: Arrays) -> str:
        return hash_arrays(self._spec.key, shard["digests"], shard["rows"], shard["cut"])
