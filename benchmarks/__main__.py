"""Parses arguments, sets up threads before torch is loaded, runs benchmarks one after the other."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

QUICK = ("propagation", "contrast", "sampling", "ranking", "neighbors", "epoch", "reading", "encoding")
ON_DEVICES = ("models", "growth", "sand", "memory")
"""Those that train models, in processes of their own and for hours: run if named only."""
NAMES = QUICK + ON_DEVICES
ROUNDS, BATCHES = 7, 6
NEWEST = "newest"


def main() -> None:
    """Run the benchmarks that are named, or the quick ones."""
    options = _parse()
    if len(options.threads) > 1:
        report = _once_for_each(options.threads)
    else:
        report = _run(options, options.threads[0])
    from benchmarks.report import crashed, side_by_side  # only now, as torch comes with it

    cases = report["cases"]
    if len(options.threads) > 1:
        print(f"\n{side_by_side(cases)}")
        _write(options.json, report)
    broken = crashed(cases)
    for name in broken:
        print(f"CRASHED: {name}", file=sys.stderr)
    if options.against and not options.inner:
        from benchmarks.against import compare, kept_cases, newest

        kept = newest(options.names) if options.against == NEWEST else kept_cases(Path(options.against))
        verdict = compare(cases, kept, options.tolerance)
        print(f"\n== against {options.against}\n{verdict}")
        if not verdict.passed:
            sys.exit(1)
    if broken:
        sys.exit(1)


def _run(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Run all that is named with one number of threads."""
    # As the `triptych` command does; they have an effect only before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Likewise before polars, the tokenizers and transformers are.
    os.environ.setdefault("POLARS_MAX_THREADS", str(threads))
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import torch

    from benchmarks.machine import machine_facts
    from benchmarks.options import Options
    from benchmarks.process import Most
    from benchmarks.report import Report
    from triptych.device import resolve_device
    from triptych.errors import TriptychError
    from triptych.memory import parse_size

    torch.set_num_threads(threads)
    try:
        device = str(resolve_device(options.device))
        memory = None if options.memory is None else parse_size(options.memory)
    except TriptychError as error:
        sys.exit(f"error: {error}")
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in options.names}
    asked = Options(
        threads=threads, device=device, models=options.models, data=options.data,
        most=Most(options.seconds, memory),
        **{name: value for name in ("interactions", "items") if (value := getattr(options, name))},
    )  # fmt: skip
    report = Report(machine_facts() | {"device": device}, options.json)
    report.print_facts()
    for name, module in modules.items():
        print(f"\n== {name}: {(module.__doc__ or '').splitlines()[0]}")
        rounds = options.rounds or getattr(module, "ROUNDS", ROUNDS)
        batches = options.batches or getattr(module, "BATCHES", BATCHES)
        try:
            for case in module.run(replace(asked, rounds=rounds, batches=batches)):
                report.add(case)
        except TriptychError as error:
            sys.exit(f"error: {error}")
    report.finish({name: module.table for name, module in modules.items() if hasattr(module, "table")})
    return report.as_dict()


def _once_for_each(threads: tuple[int, ...]) -> dict[str, Any]:
    """Run all of it once for each number of threads; some libraries take theirs only at the start."""
    import subprocess

    with TemporaryDirectory() as folder:
        reports = []
        for n in threads:
            path = Path(folder) / f"{n}.json"
            command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--threads", str(n)]
            done = subprocess.run([*command, "--json", str(path), "--inner"], check=False)
            if not path.is_file():
                sys.exit(done.returncode or 1)
            reports.append(json.loads(path.read_text(encoding="utf-8")))
    machine = reports[0]["machine"] | {"threads": list(threads)}
    return {"machine": machine, "cases": [case for report in reports for case in report["cases"]]}


def _write(path: Path | None, report: dict[str, Any]) -> None:
    from triptych.files import write_text

    if path:
        write_text(path, json.dumps(report, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; default the first eight"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"measured rounds, interleaved (default {ROUNDS}, fewer for long ones)"
    )
    parser.add_argument(
        "--threads",
        type=_numbers,
        default=(1,),
        metavar="N[,N]",
        help="threads of torch, polars and tokenizers (default 1); several, such as 1,2, side by side",
    )
    parser.add_argument("--device", default="cpu", help=f"cpu or cuda, for {', '.join(ON_DEVICES)}")
    parser.add_argument(
        "--data", default="baby", help="data of models and sand: baby, sports, clothing, electronics or tiny"
    )
    parser.add_argument(
        "--models", type=_names, default=(), metavar="A[,B]", help="for models, growth, sand, memory"
    )
    parser.add_argument("--batches", type=int, help="batches of an epoch that are measured after its first")
    parser.add_argument(
        "--interactions", type=_numbers, metavar="N[,N]", help="for growth: 100000,1000000,10000000"
    )
    parser.add_argument("--items", type=_numbers, metavar="N[,N]", help="for growth: 10000,100000,316228")
    parser.add_argument(
        "--seconds", type=float, help="end a process of models, growth or sand after this time"
    )
    parser.add_argument("--memory", metavar="SIZE", help="or at this memory, such as 16GB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to FILE")
    parser.add_argument(
        "--against",
        nargs="?",
        const=NEWEST,
        metavar="FILE",
        help="exit with 1 if a ratio is worse than in FILE (default the newest in benchmarks/results)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.15, help="by more than this share (default 0.15)"
    )
    parser.add_argument(
        "--tables", type=Path, metavar="FILE", help="print the tables of a kept report, and end"
    )
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()  # fmt: skip
    if options.tables:
        _print_tables(options.tables)
        sys.exit()
    options.names = options.names or list(QUICK)
    for name in options.names:
        if name not in NAMES:
            parser.error(f"no benchmark '{name}'; there are {', '.join(NAMES)}")
        if options.device != "cpu" and name not in ON_DEVICES:
            parser.error(f"'{name}' measures the CPU; --device is for {', '.join(ON_DEVICES)}")
    if any(n is not None and n < 1 for n in (*options.threads, options.rounds, options.batches)):
        parser.error("--rounds, --threads and --batches are at least 1")
    return options


def _print_tables(path: Path) -> None:
    from benchmarks.report import select

    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    for name in dict.fromkeys(case["benchmark"] for case in cases):
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "table"):
            print(f"{module.table(select(cases, name))}\n")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(float(word)) for word in text.split(",")}))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
