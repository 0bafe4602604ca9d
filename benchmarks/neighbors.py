"""The 10 nearest neighbours of each of 63,001 items by 384 features: seconds, and memory above the features.

Each run has a process of its own, so that its memory peak is its own. A matrix of all pairs would
take 15.9 GB.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from benchmarks.data import SEED
from benchmarks.machine import resident_bytes
from benchmarks.options import Options
from benchmarks.process import in_process, required
from benchmarks.report import Case
from benchmarks.timing import Timing
from triptych.graph.neighbors import nearest_neighbors

N_ITEMS, DIM, K = 63_001, 384, 10
N_CLUSTERS = 2_000
TARGET_BYTES = 2_000_000_000
MOST_ROUNDS = 3


def run(options: Options) -> Iterator[Case]:
    """Measure in processes of their own, one after the other, at most three times."""
    rounds = min(options.rounds, MOST_ROUNDS)
    runs = [required(in_process("benchmarks.neighbors", threads=options.threads)) for _ in range(rounds)]
    timing = Timing(1, [one["cpu"] for one in runs], [one["wall"] for one in runs])
    peak = median(one["peak_bytes"] for one in runs)
    facts = {
        "data": f"generated: {N_ITEMS:,} rows of {DIM} float32 in {N_CLUSTERS:,} clusters",
        "seed": SEED,
        "data hash": runs[0]["hash"],
        "rounds": len(runs),
        "neighbours": K,
        "peak memory above the features, MB": peak / 1e6,
        "target": f"below {TARGET_BYTES / 1e6:,.0f} MB: {'met' if peak < TARGET_BYTES else 'MISSED'}",
        "all pairs would take, MB": 4 * N_ITEMS**2 / 1e6,
    }
    yield Case("neighbors", f"{N_ITEMS:,} x {DIM}", facts, {"triptych": timing})


def _measure_here() -> dict[str, Any]:
    from triptych.files import hash_arrays

    features = _generate_features()
    torch.mm(features[:64], features[:64].T).topk(K)  # load the libraries' code before the memory is measured
    data_hash = hash_arrays(features.numpy())
    before = resident_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    nearest_neighbors(features, K)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "peak_bytes": resident_bytes("VmHWM") - before,
        "hash": data_hash,
    }


def _generate_features() -> torch.Tensor:
    """Scatter items around centres, (I, F) float32, with little memory beyond that of the result."""
    generator = torch.Generator().manual_seed(SEED)
    centres = torch.randn(N_CLUSTERS, DIM, generator=generator)
    features = torch.randn(N_ITEMS, DIM, generator=generator)
    for block in features.split(1_024):
        block.add_(centres[torch.randint(N_CLUSTERS, (len(block),), generator=generator)])
    return features


if __name__ == "__main__":
    print(json.dumps(_measure_here()))
