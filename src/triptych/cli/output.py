"""What commands print: tables for people, one JSON object for machines, progress beside both."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from triptych.errors import TriptychError
from triptych.training.trainer import EpochRecord, Observer

out = Console()
err = Console(stderr=True)

_BARS = "▁▂▃▄▅▆▇█"


def print_json(value: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def print_error(error: TriptychError, *, as_json: bool) -> None:
    """Print what was found, wanted, and to be done; as JSON on standard output, or for people beside it."""
    if as_json:
        facts = {"type": type(error).__name__, "found": error.found, "wanted": error.wanted, "fix": error.fix}
        print_json({"error": facts})
        return
    err.print("[bold red]error:[/] ", end="")
    for text in (error.found, f"  wanted: {error.wanted}", f"  to do:  {error.fix}"):
        err.print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: str = ""
) -> None:
    """Print rows for people; numbers stand to the right, fractions with four places. Ids go in as text."""
    if title:
        out.print(title, style="bold", highlight=False, markup=False)
    table = Table(header_style="bold", box=None, pad_edge=False)
    listed = [list(row) for row in rows]
    for place, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[place], int | float) for row in listed)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)
    if notes:
        out.print(notes, style="dim", highlight=False, markup=False)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values for people, one a line, and what a value consists of below it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _lines(facts):
        table.add_row(name, value)
    out.print(table)


def _lines(facts: Mapping[str, object], indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        label = indent + (name.replace("_", " ") if name.islower() else name)
        if isinstance(value, Mapping):
            yield label, "" if value else "–"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
            yield label, ""
            for part in value:
                yield from _lines(part, indent + "  ")
        elif isinstance(value, list | tuple):
            yield label, ", ".join(map(_cell, value)) or "–"
        else:
            yield label, _cell(value)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Draw a curve in one line of text, the newest `width` points of it."""
    shown = values[-width:]
    low, high = min(shown), max(shown)
    steps = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * steps) if high > low else 0] for value in shown)


class TrainingProgress(Observer):
    """Shows a training on standard error: a live bar on a terminal, a line now and then elsewhere.

    Args:
        name: of what is trained.
        epochs: at most so many.
        metric: the validation metric to show.
    """

    def __init__(self, name: str, epochs: int, metric: str) -> None:
        self._name, self._epochs, self._metric = name, epochs, metric
        self._curve: list[float] = []
        self._best = (0, 0.0)
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task(name, status="")

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Move the bar."""
        self._progress.update(
            self._task, description=f"{self._name} epoch {epoch}", completed=done, total=n_batches
        )

    def on_epoch(self, record: EpochRecord) -> None:
        """Show losses and the validation curve."""
        if record.valid is not None:
            self._curve.append(record.valid[self._metric])
        if record.best:
            self._best = (record.epoch, self._curve[-1])
        losses = "  ".join(f"{name} {value:.4f}" for name, value in record.losses.items())
        status = f"{losses}  best {self._metric} {self._best[1]:.4f} (epoch {self._best[0]})"
        self._progress.update(self._task, status=f"{sparkline(self._curve) if self._curve else ''} {status}")
        if not err.is_terminal and time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            line = f"{self._name} epoch {record.epoch}/{self._epochs}  {status}"
            err.print(line, markup=False, highlight=False, soft_wrap=True)
