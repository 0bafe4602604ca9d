"""Times of several forms of one job, taken in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any, Literal, NamedTuple

OWN = ("triptych", "epoch")
"""Names of forms that are Triptych's; the others are what these are held against."""

_SAMPLE_SECONDS = 0.2
"""A form quicker than this is called several times in each round."""
_MOST_CALLS = 50


@dataclass
class Timing:
    """Seconds per call of one form, one entry per round.

    Args:
        calls: calls in each round, of which an entry is the mean.
        cpu: CPU seconds of all threads of the process.
        wall: wall seconds.
    """

    calls: int
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def cpu_median(self) -> float:
        """Median CPU seconds per call."""
        return median(self.cpu)

    @property
    def wall_median(self) -> float:
        """Median wall seconds per call."""
        return median(self.wall)


class Lap(NamedTuple):
    """Seconds of one piece of work."""

    cpu: float
    wall: float

    def __add__(self, other: object) -> Lap:
        """Put one piece after another."""
        assert isinstance(other, Lap)
        return Lap(self.cpu + other.cpu, self.wall + other.wall)

    def __mul__(self, factor: object) -> Lap:
        """Do it so many times."""
        assert isinstance(factor, int | float)
        return Lap(self.cpu * factor, self.wall * factor)


class Stopwatch:
    """Seconds of this process between calls.

    On CUDA it waits until the device has done what it was told, and both figures are wall seconds: those of
    the processor, which only hands out the work, would say nothing.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._last = self._now()

    def lap(self) -> Lap:
        """Say how long it was since the last call, or since this was made."""
        before, self._last = self._last, self._now()
        return Lap(self._last.cpu - before.cpu, self._last.wall - before.wall)

    def _now(self) -> Lap:
        if self._device == "cpu":
            return Lap(time.process_time(), time.perf_counter())
        import torch

        torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        return Lap(now, now)


class Timed:
    """Passes on the first batches of an epoch, and notes how long each takes from one to the next.

    Args:
        batches: to be used one after the other.
        n: how many to pass on.
        device: "cpu" or "cuda".
    """

    def __init__(self, batches: Iterable[Any], n: int, device: str = "cpu") -> None:
        self._batches, self._n, self._device = batches, n, device
        self.laps = list[Lap]()

    def __iter__(self) -> Iterator[Any]:
        watch = Stopwatch(self._device)
        for batch in islice(self._batches, self._n):
            yield batch
            self.laps.append(watch.lap())


def typical(laps: Sequence[Lap]) -> Lap:
    """Take the median, of CPU and of wall seconds apart."""
    return Lap(median(lap.cpu for lap in laps), median(lap.wall for lap in laps))


def epoch_of(start: Lap, batches: Sequence[Lap], n_batches: int) -> Lap:
    """Put together an epoch from what it begins with, its first batch, and the median of some later ones."""
    if not batches:
        return start
    return start + batches[0] + typical(batches[1:] or batches) * (n_batches - 1)


def interleave(forms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Call each form once to warm up, then all forms in turn, round after round (A B A B ...).

    Args:
        forms: name -> job; what a job returns is thrown away.
        rounds: how often each is measured.
    """
    timings = {}
    for name, form in forms.items():
        started = time.perf_counter()
        form()
        calls = math.ceil(_SAMPLE_SECONDS / max(time.perf_counter() - started, 1e-9))
        timings[name] = Timing(min(max(calls, 1), _MOST_CALLS))
    for _ in range(rounds):
        for name, form in forms.items():
            timing = timings[name]
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(timing.calls):
                form()
            timing.cpu.append((time.process_time() - cpu) / timing.calls)
            timing.wall.append((time.perf_counter() - wall) / timing.calls)
    return timings


@dataclass(frozen=True)
class Ratio:
    """Median seconds of one form over those of another.

    Args:
        of: the form above the line.
        to: the form below it.
        cpu: ratio of the median CPU seconds, which is the ratio to quote.
        wall: ratio of the median wall seconds.
        lowest: smallest ratio of CPU seconds within one round.
        highest: largest such ratio.
        at_least: the target, if it is a lower bound.
        at_most: the target, if it is an upper bound.
    """

    of: str
    to: str
    cpu: float
    wall: float
    lowest: float
    highest: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def better(self) -> Literal["higher", "lower"] | None:
        """Which way is progress: that of the target, or of Triptych's own form; None between two others."""
        if self.at_least is not None or (self.at_most is None and self.to in OWN):
            return "higher"
        return "lower" if self.at_most is not None or self.of in OWN else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.at_least is not None:
            return self.cpu >= self.at_least
        return None if self.at_most is None else self.cpu <= self.at_most

    def __str__(self) -> str:
        target = ""
        if self.met is not None:
            bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
            target = f"   target {bound}: {'met' if self.met else 'MISSED'}"
        return (
            f"{self.of} / {self.to}: {self.cpu:.2f} x CPU (rounds {self.lowest:.2f} to {self.highest:.2f}), "
            f"{self.wall:.2f} x wall{target}"
        )


def ratio(
    timings: Mapping[str, Timing],
    of: str,
    to: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Ratio:
    """Compare two forms that `interleave` has timed."""
    above, below = timings[of], timings[to]
    within = [a / b for a, b in zip(above.cpu, below.cpu, strict=True)]
    return Ratio(
        of,
        to,
        above.cpu_median / below.cpu_median,
        above.wall_median / below.wall_median,
        min(within),
        max(within),
        at_least,
        at_most,
    )
