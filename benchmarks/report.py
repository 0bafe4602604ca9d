"""What was measured, for people on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.timing import Ratio, Timing


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


class Report:
    """Prints cases as they come and keeps them.

    Args:
        machine: facts about machine and code.
        rounds: measured rounds asked for.
    """

    def __init__(self, machine: dict[str, Any], rounds: int) -> None:
        self._machine, self._rounds = machine, rounds
        self._cases: list[Case] = []

    def print_facts(self) -> None:
        """Print what is measured on, and how."""
        for name, value in self._machine.items():
            print(f"{name}: {_text(value)}")
        print(f"rounds: {self._rounds}, interleaved; medians; ratios to quote are those of process CPU time")

    def add(self, case: Case) -> None:
        """Print a case and keep it."""
        self._cases.append(case)
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

    def finish(self) -> None:
        """Print all ratios once more, side by side."""
        lines = [(case, ratio) for case in self._cases for ratio in case.ratios]
        if lines:
            print("\n== all ratios")
        for case, ratio in lines:
            print(f"{case.benchmark:12} {case.size:12} {ratio}")

    def as_dict(self) -> dict[str, Any]:
        """Give all of it in plain JSON values."""
        return {
            "machine": self._machine,
            "rounds": self._rounds,
            "cases": [
                {
                    **asdict(case),
                    "timings": {
                        name: asdict(timing)
                        | {"cpu_median": timing.cpu_median, "wall_median": timing.wall_median}
                        for name, timing in case.timings.items()
                    },
                    "ratios": [asdict(ratio) | {"met": ratio.met} for ratio in case.ratios],
                }
                for case in self._cases
            ],
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
