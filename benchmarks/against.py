"""Whether a ratio has become worse than one that was kept.

Only ratios are compared, as absolute seconds belong to one machine on one day. A ratio is worse if its median
lies on the wrong side of the kept rounds, the worst of them included, by more than the tolerance. Ratios
between two forms that are not Triptych's own are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT
from benchmarks.report import as_ratio, select
from benchmarks.timing import Ratio
from triptych.files import read_json

RESULTS = ROOT / "benchmarks" / "results"
TOLERANCE = 0.15
"""How much worse than the worst kept round a ratio may be, as a share of it."""

Key = tuple[str, str, int, str, str]
"""Benchmark, size, threads, and the two forms."""


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison.

    Args:
        worse: in words, one for each ratio that is.
        compared: how many ratios both reports have.
        missing: kept ratios of cases that ran and did not have them, such as against what is not installed.
    """

    worse: list[str]
    compared: int
    missing: list[str]

    @property
    def passed(self) -> bool:
        """Whether something was compared, and nothing is worse."""
        return bool(self.compared) and not self.worse

    def __str__(self) -> str:
        lines = [f"WORSE: {line}" for line in self.worse] + [f"not compared: {line}" for line in self.missing]
        return "\n".join([*lines, f"{self.compared} ratios compared, {len(self.worse)} worse"])


def compare(
    now: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]], tolerance: float = TOLERANCE
) -> Verdict:
    """Hold the ratios of cases against kept ones.

    Args:
        now: cases of a report, as JSON values.
        kept: likewise, of an older one.
        tolerance: share of the worst kept round.
    """
    new, old = dict(_ratios(now)), dict(_ratios(kept))
    ran = {(case["benchmark"], case["size"], case["threads"]) for case in now}
    both = [key for key in old if key in new]
    return Verdict(
        worse=[_told(key, new[key], old[key]) for key in both if _worse(new[key], old[key], tolerance)],
        compared=len(both),
        missing=[_name(key) for key in old if key not in new and key[:3] in ran],
    )


def newest(benchmarks: Sequence[str], folder: Path = RESULTS) -> list[Mapping[str, Any]]:
    """Take the cases of each benchmark from the newest kept report that has ratios of it."""
    reports = sorted(
        (report for path in folder.glob("*.json") if (report := _report(path))),
        key=lambda report: str(report["machine"]["time"]),
    )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        for name in benchmarks:
            own = select(_cases(report), name)
            if any(case["ratios"] for case in own):
                found[name] = own
    return [case for cases in found.values() for case in cases]


def kept_cases(path: Path) -> list[Mapping[str, Any]]:
    """Read the cases of one report."""
    return _cases(read_json(path))


def _report(path: Path) -> dict[str, Any] | None:
    """Read a report; None if the file is one of another kind, such as of accuracies."""
    report = json.loads(path.read_text(encoding="utf-8"))
    return report if isinstance(report, dict) and {"machine", "cases"} <= report.keys() else None


def _cases(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    threads = report["machine"]["threads"]  # older reports say it once
    return [{"threads": threads, **case} for case in report["cases"]]


def _ratios(cases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Key, Ratio]]:
    for case in cases:
        for found in case["ratios"]:
            ratio = as_ratio(found)
            if ratio.better is not None:
                yield (case["benchmark"], case["size"], case["threads"], ratio.of, ratio.to), ratio


def _worse(now: Ratio, kept: Ratio, tolerance: float) -> bool:
    if kept.better == "higher":
        return now.cpu < kept.lowest / (1 + tolerance)
    return now.cpu > kept.highest * (1 + tolerance)


def _told(key: Key, now: Ratio, kept: Ratio) -> str:
    return (
        f"{_name(key)}: {now.cpu:.2f} ({now.lowest:.2f} to {now.highest:.2f}), "
        f"kept {kept.cpu:.2f} ({kept.lowest:.2f} to {kept.highest:.2f}), better is {kept.better}"
    )


def _name(key: Key) -> str:
    benchmark, size, threads, of, to = key
    return f"{benchmark}, {size}, {threads} thread{'s' * (threads > 1)}: {of} / {to}"
