"""Parses arguments, sets up threads before torch is loaded, runs benchmarks one after the other."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

NAMES = ("propagation", "sampling", "ranking", "neighbors", "epoch", "reading", "encoding", "memory")
SLOW = ("memory",)
"""Run if named only: half an hour or more."""


def main() -> None:
    """Run the benchmarks that are named, or all."""
    options = _parse()
    # As the `triptych` command does; they have an effect only before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Likewise before polars, the tokenizers and transformers are.
    os.environ.setdefault("POLARS_MAX_THREADS", str(options.threads))
    os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import torch

    from benchmarks import encoding, epoch, memory, neighbors, propagation, ranking, reading, sampling
    from benchmarks.machine import machine_facts
    from benchmarks.report import Report

    torch.set_num_threads(options.threads)
    modules = {
        "propagation": propagation,
        "sampling": sampling,
        "ranking": ranking,
        "neighbors": neighbors,
        "epoch": epoch,
        "reading": reading,
        "encoding": encoding,
        "memory": memory,
    }
    report = Report(machine_facts(), rounds=options.rounds)
    report.print_facts()
    for name in options.names:
        print(f"\n== {name}: {(modules[name].__doc__ or '').splitlines()[0]}")
        for case in modules[name].run(options.rounds):
            report.add(case)
    report.finish()
    if options.json:
        options.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; default all but memory"
    )
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, interleaved (default 7)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch, polars and tokenizers (default 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to FILE")
    options = parser.parse_args()
    options.names = options.names or [name for name in NAMES if name not in SLOW]
    for name in options.names:
        if name not in NAMES:
            parser.error(f"no benchmark '{name}'; there are {', '.join(NAMES)}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    return options


if __name__ == "__main__":
    main()
