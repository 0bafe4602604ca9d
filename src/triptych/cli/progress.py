"""How long work is shown while it goes on, on standard error."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from triptych.cli.output import err
from triptych.encode.encoder import EncoderSpec
from triptych.encode.run import Encoded
from triptych.experiments.jobs import Job, Outcome
from triptych.experiments.search import SearchTrial
from triptych.preparation import ContentObserver
from triptych.training.observer import EpochRecord, Observer

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Draw a curve in one line of text, the newest `width` points of it."""
    shown = values[-width:]
    low, high = min(shown), max(shown)
    steps = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * steps) if high > low else 0] for value in shown)


class EncodingProgress(ContentObserver):
    """Shows on standard error how contents are being encoded: a bar on a terminal, a line each at the end."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.1f} items/s"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task("", rate=0.0, visible=False)

    def __enter__(self) -> EncodingProgress:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def on_modality(self, modality: str, encoder: EncoderSpec) -> None:
        """Begin a new bar."""
        self._progress.reset(self._task, description=f"{modality} by {encoder.name}", rate=0.0, visible=True)

    def on_items(self, done: int, total: int, items_per_s: float) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total, rate=items_per_s)

    def on_encoded(self, modality: str, encoded: Encoded) -> None:
        """Say in one line what came of it."""
        effort = encoded.effort
        rate = (
            f", {effort.encoded / effort.seconds:,.1f} items/s" if effort.encoded and effort.seconds else ""
        )
        line = f"{modality}: {encoded.features.source}; {effort.encoded:,} encoded{rate}, "
        line += f"{effort.cached:,} from the cache"
        for text in (line, *effort.notes):
            err.print(text, markup=False, highlight=False, soft_wrap=True)


class DownloadProgress:
    """Shows on standard error how far downloads are, one bar a file; nothing where that is no terminal."""

    def __init__(self) -> None:
        columns = TextColumn("[bold]{task.description}"), BarColumn(bar_width=20), TaskProgressColumn()
        self._progress = Progress(*columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> DownloadProgress:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def on_bytes(self, name: str, done: int, total: int | None) -> None:
        """Move the bar of a file."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name)
        self._progress.update(self._tasks[name], completed=done, total=total)

    def on_files(self, done: int, total: int) -> None:
        """Move the one bar of many files."""
        self.on_bytes("pictures", done, total)


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

    def on_resume(self, history: Sequence[EpochRecord]) -> None:
        """Remember the curve so far."""
        for record in history:
            self._remember(record)

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Move the bar."""
        self._progress.update(
            self._task, description=f"{self._name} epoch {epoch}", completed=done, total=n_batches
        )

    def on_epoch(self, record: EpochRecord) -> None:
        """Show losses and the validation curve."""
        self._remember(record)
        losses = "  ".join(f"{name} {value:.4f}" for name, value in record.losses.items())
        status = f"{losses}  best {self._metric} {self._best[1]:.4f} (epoch {self._best[0]})"
        self._progress.update(self._task, status=f"{sparkline(self._curve) if self._curve else ''} {status}")
        if not err.is_terminal and time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            line = f"{self._name} epoch {record.epoch}/{self._epochs}  {status}"
            err.print(line, markup=False, highlight=False, soft_wrap=True)

    def _remember(self, record: EpochRecord) -> None:
        if record.valid is not None:
            self._curve.append(record.valid[self._metric])
        if record.best:
            self._best = (record.epoch, self._curve[-1])

    def on_stopping(self, epoch: int) -> None:
        """Say that the first Ctrl-C was heard, and what a second one does."""
        line = f"stopping once epoch {epoch} is saved; again to stop at once"
        err.print(line, markup=False, highlight=False, soft_wrap=True)


_ENDINGS = {
    "now": "trained",
    "before": "was trained before",
    "spared": "is the training that does not round",
}
"""What is said of each way in which a training is done."""


class ExperimentProgress:
    """Shows the trainings of an experiment: a line for each that ends, and the one that is going on here.

    Args:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._training: TrainingProgress | None = None

    def __enter__(self) -> ExperimentProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def observe(self, job: Job) -> Observer:
        """Begin to show a training."""
        self._close()
        training = job.recipe.configs().training
        self._training = TrainingProgress(job.title, training.epochs, training.metric)
        return self._training.__enter__()

    def on_outcome(self, outcome: Outcome) -> None:
        """Say in a line what became of a training."""
        self._close()
        self._done += 1
        ending = outcome.error or _ENDINGS[outcome.done]
        line = f"{self._done}/{self._total}  {outcome.job.title}: {ending}"
        err.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_trial(self, trial: SearchTrial) -> None:
        """Say in a line what became of a trial."""
        self._close()
        self._done += 1
        value = "" if trial.value is None else f" {trial.value:.4f}"
        settings = "  ".join(f"{name}={chosen}" for name, chosen in trial.settings.items()) or "defaults"
        line = f"{self._done}/{self._total}  {settings}: {trial.error or trial.state}{value}"
        err.print(line, markup=False, highlight=False, soft_wrap=True)

    def _close(self) -> None:
        if self._training is not None:
            self._training.__exit__()
            self._training = None
