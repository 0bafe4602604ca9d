"""How many lists per second the service gives, how long each takes, and whether its memory stays where it is.

    python -m benchmarks.serving [--seconds 10] [--rate 300] [--connections 8] [--out FILE]

The service runs in a process of its own, on a run of random vectors; the questions come from this process,
each for a random user, over connections that stay open. First every connection asks again as soon as it has
its answer: how much is possible. Then questions are sent at a fixed rate, whatever the answers do, and times
count from when a question was due: how long people wait. Client and service share the machine's processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.data import SEED, generate_interactions
from benchmarks.machine import machine_facts
from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.files import write_json
from triptych.runs import Run, RunRecord
from triptych.runs.record import current_versions
from triptych.scorer import Embeddings, EmbeddingScorer

N_USERS, N_ITEMS, N_INTERACTIONS, DIM, K = 10_000, 20_000, 200_000, 64, 10
TARGET_PER_SECOND, TARGET_P99_MS = 300, 50.0
_WARM_UP = 100


def make_run(folder: Path) -> None:
    """Save a run of random vectors."""
    rng = np.random.default_rng(SEED)
    interactions = generate_interactions(N_USERS, N_ITEMS, N_INTERACTIONS, rng)
    titles = [f"Item number {item}" for item in range(N_ITEMS)]
    table = pl.DataFrame({"item_id": interactions.items.ids, "title": titles})
    split = Split.by_ratio(Dataset("generated", interactions, table), rng)
    users, items = (torch.from_numpy(rng.standard_normal((n, DIM), np.float32)) for n in (N_USERS, N_ITEMS))
    record = RunRecord(
        model="random",
        model_settings={},
        train_settings={},
        seed=SEED,
        device="cpu",
        versions=current_versions(),
        data="generated",
        data_hash=split.data.content_hash,
        split_hash=split.content_hash,
        split=dict(split.protocol),
        best_epoch=0,
        history=[],
        valid={},
        test={},
        protocol={},
        seconds_per_epoch=0.0,
        seconds_per_evaluation=0.0,
        peak_memory_bytes=0,
    )
    Run(record, EmbeddingScorer(Embeddings(users, items)), split, {}).save(folder)


@contextmanager
def service(run: Path, log: Path) -> Iterator[tuple[int, int]]:
    """Run the service; give its process and port."""
    command = [sys.executable, "-m", "benchmarks.serving", "--serve", str(run)]
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=lines, text=True)
    try:
        assert process.stdout is not None
        address = next(line for line in process.stdout if '"address"' in line)
        yield process.pid, int(address.rpartition(":")[2].strip('",\n'))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


async def ask_at_once(port: int, connections: int, seconds: float) -> list[float]:
    """Let each connection ask without a pause; give the seconds of all answers."""
    until = time.perf_counter() + seconds
    times: list[float] = []

    async def ask(number: int) -> None:
        rng = np.random.default_rng(number)
        async with Asker(port) as asker:
            while (asked := time.perf_counter()) < until:
                await asker.ask(int(rng.integers(N_USERS)))
                times.append(time.perf_counter() - asked)

    await asyncio.gather(*(ask(number) for number in range(connections)))
    return times


async def ask_at_rate(port: int, connections: int, seconds: float, rate: float) -> list[float]:
    """Send questions when they are due; give the seconds from then to the answer."""
    rng = np.random.default_rng(SEED)
    due: asyncio.Queue[float] = asyncio.Queue()
    times: list[float] = []
    begin = time.perf_counter() + 0.05

    async def ask() -> None:
        async with Asker(port) as asker:
            while (moment := await due.get()) >= 0:
                await asker.ask(int(rng.integers(N_USERS)))
                times.append(time.perf_counter() - moment)

    tasks = [asyncio.create_task(ask()) for _ in range(connections)]
    for moment in begin + rng.exponential(1 / rate, int(rate * seconds)).cumsum():  # as strangers ask
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        due.put_nowait(moment)
    for _ in tasks:
        due.put_nowait(-1.0)
    await asyncio.gather(*tasks)
    return times


class Asker:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Asker:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, user: int) -> None:
        """Ask for a user's list, and read the answer whole."""
        self._writer.write(f"GET /recommend?user={user}&k={K} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(int(length.partition(b":")[2]))
        assert body.count(b'"item_id"') == K


def resident_mib(process: int) -> float:
    """Read the resident memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def cpu_seconds(process: int) -> float:
    """Read the processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(asking: Coroutine[Any, Any, list[float]]) -> dict[str, Any]:
    """Ask, and tell what came back."""
    began = time.perf_counter()
    times = asyncio.run(asking)
    seconds = time.perf_counter() - began
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1e3
    return {
        "requests": len(times),
        "requests per second": round(len(times) / seconds, 1),
        "p50 ms": round(float(p50), 2),
        "p99 ms": round(float(p99), 2),
        "longest ms": round(1e3 * max(times), 2),
    }


def measure(seconds: float, rate: float, connections: int) -> dict[str, Any]:
    """Carry out both parts."""
    with tempfile.TemporaryDirectory() as place:
        make_run(Path(place) / "random")
        with service(Path(place) / "random", Path(place) / "log") as (process, port):
            asyncio.run(ask_at_rate(port, connections, _WARM_UP / rate, rate))
            start, cpu = resident_mib(process), cpu_seconds(process)
            possible = timed(ask_at_once(port, connections, seconds))
            possible["service CPU ms per request"] = round(
                1e3 * (cpu_seconds(process) - cpu) / possible["requests"], 2
            )
            waited = timed(ask_at_rate(port, 8 * connections, seconds, rate))
            return {
                "as quick as possible": {"connections": connections, **possible},
                "at a fixed rate": {"rate": rate, **waited},
                "resident MiB": {"start": round(start, 1), "end": round(resident_mib(process), 1)},
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=float(TARGET_PER_SECOND))
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        from triptych.cli.app import run

        sys.exit(run(["serve", str(arguments.serve), "--port", "0", "--json"]))
    figures = measure(arguments.seconds, arguments.rate, arguments.connections)
    met = (
        figures["as quick as possible"]["requests per second"] >= TARGET_PER_SECOND
        and figures["at a fixed rate"]["p99 ms"] < TARGET_P99_MS
    )
    result = {
        "machine": machine_facts(),
        "size": {"users": N_USERS, "items": N_ITEMS, "width": DIM, "list length": K},
        **figures,
        "met": met,
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
