"""What was measured, for people on the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.timing import Ratio, Timing
from triptych.files import write_text


@dataclass(frozen=True)
class Case:
    """One benchmark at one size.

    Args:
        benchmark: its name.
        size: name of the data, or the size in words.
        facts: sizes, seeds, data hash, and whatever else was found out; plain JSON values.
        timings: form -> seconds.
        ratios: the comparisons.
    """

    benchmark: str
    size: str
    facts: Mapping[str, Any]
    timings: Mapping[str, Timing] = field(default_factory=dict)
    ratios: Sequence[Ratio] = ()


@dataclass(frozen=True)
class Table:
    """Cases side by side.

    Args:
        header: of the columns.
        rows: a cell for each column.
        note: what the figures are.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def __str__(self) -> str:
        """Write it in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{self.note}"


Tabulate = Callable[[Sequence[Mapping[str, Any]]], Table]


class Report:
    """Prints cases as they come and keeps them.

    Args:
        machine: facts about machine and code.
        path: of a JSON file that always holds all cases so far; None for none.
    """

    def __init__(self, machine: dict[str, Any], path: Path | None = None) -> None:
        self._machine, self._path = machine, path
        self.cases: list[dict[str, Any]] = []

    def print_facts(self) -> None:
        """Print what is measured on, and how."""
        for name, value in self._machine.items():
            print(f"{name}: {_text(value)}")
        print("rounds interleaved; medians; ratios to quote are those of process CPU time")

    def add(self, case: Case) -> None:
        """Print a case and keep it."""
        self.cases.append(_as_dict(case, self._machine["threads"]))
        print(f"\n{case.benchmark}, {case.size}", flush=True)
        for name, value in case.facts.items():
            print(f"  {name}: {_text(value)}")
        if case.timings:
            width = max(map(len, case.timings))
            print(f"  {'':{width}}  {'CPU ms':>12} {'wall ms':>12} {'calls/round':>12}")
            for name, timing in case.timings.items():
                cpu, wall = 1e3 * timing.cpu_median, 1e3 * timing.wall_median
                print(f"  {name:{width}}  {cpu:12,.2f} {wall:12,.2f} {timing.calls:12}")
        for ratio in case.ratios:
            print(f"  {ratio}", flush=True)
        if self._path:
            write_text(self._path, json.dumps(self.as_dict(), indent=1) + "\n")

    def finish(self, tables: Mapping[str, Tabulate]) -> None:
        """Print all ratios once more, side by side, and the tables of the benchmarks that have one."""
        lines = [(case, ratio) for case in self.cases for ratio in case["ratios"]]
        if lines:
            print("\n== all ratios")
        for case, ratio in lines:
            print(f"{case['benchmark']:12} {case['size']:12} {ratio_text(ratio)}")
        for name in dict.fromkeys(case["benchmark"] for case in self.cases):
            if name in tables:
                print(f"\n{tables[name](select(self.cases, name))}")

    def as_dict(self) -> dict[str, Any]:
        """Give all of it in plain JSON values."""
        return {"machine": self._machine, "cases": self.cases}


def crashed(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the cases in which a measurement broke."""
    return [f"{case['benchmark']}, {case['size']}" for case in cases if case["facts"].get("crashed")]


def select(cases: Sequence[Mapping[str, Any]], benchmark: str) -> list[Mapping[str, Any]]:
    """Choose the cases of one benchmark."""
    return [case for case in cases if case["benchmark"] == benchmark]


def as_ratio(found: Mapping[str, Any]) -> Ratio:
    """Make a ratio of what a report keeps of it."""
    return Ratio(**{name: value for name, value in found.items() if name != "met"})


def ratio_text(found: Mapping[str, Any]) -> str:
    """Write a ratio of a kept case in words."""
    return str(as_ratio(found))


def ratio_of(case: Mapping[str, Any], of: str, to: str) -> str:
    """Write the figure of one ratio of a kept case."""
    for found in case["ratios"]:
        if (found["of"], found["to"]) == (of, to):
            return f"{found['cpu']:.2f}"
    return "–"


def side_by_side(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Put the forms of the same cases with different numbers of threads side by side, in wall time."""
    threads = sorted({case["threads"] for case in cases})
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for case in cases:
        for form, timing in case["timings"].items():
            key = (case["benchmark"], case["size"], form)
            found.setdefault(key, {})[case["threads"]] = timing["wall_median"]
    first, last = threads[0], threads[-1]
    rows = [
        [
            *key,
            *(f"{1e3 * seconds[n]:,.1f}" if n in seconds else "–" for n in threads),
            f"{seconds[first] / seconds[last]:.2f}" if seconds.get(last) and first in seconds else "–",
        ]
        for key, seconds in found.items()
    ]
    header = (
        "benchmark",
        "size",
        "form",
        *(f"wall ms, {n} thread{'s' * (n > 1)}" for n in threads),
        "quicker by",
    )
    return Table(header, rows, "Medians of wall time; each number of threads has a process of its own.")


def _as_dict(case: Case, threads: int) -> dict[str, Any]:
    return {
        **asdict(case),
        "threads": threads,
        "timings": {
            name: asdict(timing) | {"cpu_median": timing.cpu_median, "wall_median": timing.wall_median}
            for name, timing in case.timings.items()
        },
        "ratios": [asdict(ratio) | {"met": ratio.met} for ratio in case.ratios],
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
