"""What may be asked of every benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.process import UNLIMITED, Most


@dataclass(frozen=True)
class Options:
    """What was asked for; each benchmark takes what concerns it.

    Args:
        rounds: measured rounds.
        threads: of torch, polars and tokenizers.
        device: "cpu", or a CUDA device for the benchmarks that know one.
        models: names; empty for those the benchmark measures by default.
        data: size of the data.
        batches: batches of an epoch that are measured after its first one.
        most: what one process may take.
        interactions: counts of the growth, in ascending order.
        items: counts of the growth, likewise.
    """

    rounds: int = 1
    threads: int = 1
    device: str = "cpu"
    models: tuple[str, ...] = ()
    data: str = "baby"
    batches: int = 6
    most: Most = UNLIMITED
    interactions: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    items: tuple[int, ...] = (10_000, 100_000, 316_228)
