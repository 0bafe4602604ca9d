"""Amazon's binary image features (McAuley et al., SIGIR 2015): an item id, then 4,096 numbers, and so on."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap
from triptych.data.lines import open_bytes
from triptych.errors import DataError

DIM = 4096
RECORD = np.dtype([("asin", "S10"), ("values", "<f4", (DIM,))])  # 16,394 bytes
BLOCK_RECORDS = 512
LARGEST = 1e6  # activations of a network's layer are far below, floats read in the wrong byte order are not

Records = np.ndarray[Any, Any]


def read_image_features(path: Path, items: IdMap) -> ItemFeatures:
    """Read the features of some items, a block at a time: the file of all of Amazon has more than 20 GB.

    The first record of an item counts. How many others repeat one of `items`, and how many belong to other
    items, is said in `source`.

    Args:
        path: a `.b` file, compressed or not.
        items: the items wanted.

    Returns: one row of `DIM` float32 per item of `items`; those that the file does not list are missing.

    Raises:
        DataError: it ends within a record, a record does not begin with an item id, a wanted row holds
            numbers that cannot be features, or no item is wanted.
    """
    values = np.zeros((len(items), DIM), dtype=np.float32)
    present = np.zeros(len(items), dtype=bool)
    n_repeated = n_others = 0
    for first, block in _read_blocks(path):
        _check_ids(path, first, block["asin"])
        at = items.find(block["asin"].astype(str).tolist())
        places, rows = np.unique(at, return_index=True)  # the first record of each item
        new = (places >= 0) & ~present[places]
        places, rows = places[new], rows[new]
        _check_values(path, block[rows])
        values[places] = block["values"][rows]
        present[places] = True
        n_others += int((at < 0).sum())
        n_repeated += int((at >= 0).sum()) - len(places)
    if not present.any():
        raise DataError(
            f"{path} describes none of the {len(items):,} items",
            wanted="image features of these items",
            fix="Check that it is of the same category and year as the reviews",
        )
    return ItemFeatures.dense(values, present, path.name + _ignored(n_repeated, n_others))


def _read_blocks(path: Path) -> Iterator[tuple[int, Records]]:
    """Read whole records, each block with the number of its first, counted from 1."""
    first = 1
    with open_bytes(path) as file:
        while data := _read(file, path, first):
            n_records, rest = divmod(len(data), RECORD.itemsize)
            if rest:
                n_whole = first - 1 + n_records
                raise DataError(
                    f"{path} ends early: {rest:,} bytes follow {n_whole:,} whole records",
                    wanted=f"records of {RECORD.itemsize:,} bytes",
                    fix="Download it again",
                )
            yield first, np.frombuffer(data, dtype=RECORD)
            first += n_records


def _read(file: IO[bytes], path: Path, first: int) -> bytes:
    try:
        return file.read(BLOCK_RECORDS * RECORD.itemsize)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path} ends early or is damaged in or after record {first:,}: {error}",
            wanted="a whole compressed file",
            fix="Download it again",
        ) from error


def _check_ids(path: Path, first: int, ids: Records) -> None:
    bad = np.flatnonzero(~np.char.isalnum(ids) | (np.char.str_len(ids) < ids.itemsize))
    if len(bad):
        raise DataError(
            f"{path}: record {first + bad[0]:,} begins with {ids[bad[0]].item()!r}",
            wanted=f"an item id of {ids.itemsize} letters and digits, then {DIM:,} numbers",
            fix="Download it again, or check that it is such a file",
        )


def _check_values(path: Path, records: Records) -> None:
    sound = (np.abs(records["values"]) < LARGEST).all(axis=1)  # false for NaN
    if not sound.all():
        raise DataError(
            f"{path}: item {records['asin'][~sound][0].decode()!r} has NaN, or numbers beyond {LARGEST:,.0f}",
            wanted="little-endian float32 features",
            fix="Download it again, or check in which byte order it was written",
        )


def _ignored(n_repeated: int, n_others: int) -> str:
    counts = {"repeated records": n_repeated, "records of other items": n_others}
    told = [f"{count:,} {what}" for what, count in counts.items() if count]
    return f" ({' and '.join(told)} ignored)" if told else ""
