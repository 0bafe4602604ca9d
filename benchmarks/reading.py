"""From a ratings file to a split data set, against reading the file alone; memory for 20,000,000 rows.

Triptych reads the file, keeps every id as it is written, numbers users and items, merges repeated
pairs, takes the 5-core and splits. The others read the file into a table and stop there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from benchmarks.data import SEED
from benchmarks.machine import resident_bytes
from benchmarks.options import Options
from benchmarks.process import in_process, required
from benchmarks.report import Case
from benchmarks.timing import Timing, interleave, ratio
from triptych.data.columns import Columns
from triptych.data.dataset import Dataset
from triptych.data.interactions import TEST, TRAIN, VALID, k_core
from triptych.data.readers import read_interactions
from triptych.data.split import Split

N_ROWS, N_ROWS_LARGE = 1_700_000, 20_000_000
ROWS_PER_USER, ROWS_PER_ITEM = 9, 27
USER_LETTERS, ITEM_LETTERS = 14, 10
YEAR_2000, YEAR_2015 = 946_684_800, 1_420_070_400
PART_ROWS = 1_000_000
COLUMNS = Columns(rating="rating", timestamp="timestamp")
CORE = 5
TARGET = 3.0
TARGET_BYTES = 6_000_000_000

OURS, PANDAS, POLARS = "triptych", "pandas.read_csv", "polars.read_csv"


def run(options: Options) -> Iterator[Case]:
    """Measure seconds on the smaller file, then memory on the larger one."""
    with TemporaryDirectory() as folder:
        yield measure(write_ratings(Path(folder) / "ratings.csv", N_ROWS), options.rounds)
    with TemporaryDirectory() as folder:
        yield _measure_memory(write_ratings(Path(folder) / "ratings.csv", N_ROWS_LARGE), options.threads)


def measure(path: Path, rounds: int) -> Case:
    """Time the whole way to a split, and the bare readers; pandas only if it is there."""
    facts = {**_file_facts(path, N_ROWS), **prepare(path)}
    forms: dict[str, Callable[[], object]] = {
        OURS: lambda: prepare(path),
        POLARS: lambda: pl.read_csv(path),
    }
    if find_spec("pandas"):
        import pandas as pd

        facts["pandas"] = pd.__version__
        forms[PANDAS] = lambda: pd.read_csv(path)
    else:
        facts["pandas"] = "not installed, so there is no comparison with it"
    timings = interleave(forms, rounds)
    others = [name for name in (PANDAS, POLARS) if name in forms]
    return Case(
        "reading",
        f"{N_ROWS:,} rows",
        facts,
        timings,
        [ratio(timings, OURS, other, at_most=TARGET) for other in others],
    )


def _measure_memory(path: Path, threads: int) -> Case:
    """Go the same way once in a process of its own, and look at its peak."""
    measured = required(in_process("benchmarks.reading", str(path), threads=threads))
    peak = measured["peak_bytes"]
    facts = {
        **_file_facts(path, N_ROWS_LARGE),
        **measured["facts"],
        "rounds": 1,
        "peak memory of the process, MB": peak / 1e6,
        "of it before the file was opened, MB": measured["bytes_before"] / 1e6,
        "target": f"below {TARGET_BYTES / 1e6:,.0f} MB: {'met' if peak < TARGET_BYTES else 'MISSED'}",
    }
    timing = Timing(1, [measured["cpu"]], [measured["wall"]])
    return Case("reading", f"{N_ROWS_LARGE:,} rows", facts, {OURS: timing})


def prepare(path: Path) -> dict[str, Any]:
    """Read, merge, number, core and split; describe what came out in plain JSON values."""
    interactions, steps, _ = read_interactions(path, COLUMNS)
    interactions = k_core(interactions, CORE)
    split = Split.by_ratio(Dataset.from_interactions("ratings", interactions), SEED)
    return {
        "repeated pairs merged": steps[-1]["interactions_removed"],
        f"{CORE}-core": {
            "users": split.n_users,
            "items": split.n_items,
            "interactions": len(interactions),
        },
        "split": {
            name: int((split.part == part).sum())
            for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))
        },
    }


def write_ratings(path: Path, n_rows: int) -> Path:
    """Write ratings with few busy users and few popular items, in no order, about 41 bytes a row.

    Shares of users are log-normal, those of items follow a power of the rank. Pairs may repeat, and
    most users and items are too rare for a 5-core.

    Args:
        path: the file to write.
        n_rows: E.

    Returns: `path`.
    """
    rng = np.random.default_rng(SEED)
    n_users, n_items = n_rows // ROWS_PER_USER, n_rows // ROWS_PER_ITEM
    user = _draw(rng.lognormal(sigma=1.2, size=n_users), n_rows, rng)
    item = _draw((np.arange(n_items) + 10.0) ** -0.9, n_rows, rng)
    users, items = _ids(n_users, USER_LETTERS, rng), _ids(n_items, ITEM_LETTERS, rng)
    with path.open("wb") as file:
        for start in range(0, n_rows, PART_ROWS):
            part = slice(start, min(start + PART_ROWS, n_rows))
            size = part.stop - part.start
            frame = pl.DataFrame(
                {
                    "user_id": users.gather(user[part]),
                    "item_id": items.gather(item[part]),
                    "rating": rng.integers(1, 6, size).astype(np.float64),
                    "timestamp": rng.integers(YEAR_2000, YEAR_2015, size),
                }
            )
            frame.write_csv(file, include_header=start == 0)
    return path


def _draw(weights: np.ndarray, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Give each row an index by the weights of the indices, (E,) int32."""
    counts = rng.multinomial(n_rows, weights / weights.sum())
    return rng.permutation(np.repeat(np.arange(len(weights), dtype=np.int32), counts))


def _ids(n_ids: int, length: int, rng: np.random.Generator) -> pl.Series:
    letters = rng.integers(ord("A"), ord("Z") + 1, (n_ids, length), dtype=np.uint8)
    return pl.Series(letters.view(f"S{length}").ravel().astype(np.str_))


def _file_facts(path: Path, n_rows: int) -> dict[str, Any]:
    return {
        "data": f"generated: {n_rows:,} ratings of {n_rows // ROWS_PER_USER:,} users "
        f"and {n_rows // ROWS_PER_ITEM:,} items at most",
        "seed": SEED,
        "file, MB": path.stat().st_size / 1e6,
        "threads of polars": pl.thread_pool_size(),
    }


def _measure_here(path: Path) -> dict[str, Any]:
    before = resident_bytes("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    facts = prepare(path)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "bytes_before": before,
        "peak_bytes": resident_bytes("VmHWM"),
        "facts": facts,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    print(json.dumps(_measure_here(parser.parse_args().path)))
