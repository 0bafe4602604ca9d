"""Who watches a training: what one epoch did, and whom it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Args:
        epoch: counted from 1.
        losses: mean of each named term over the epoch's steps.
        valid: validation metrics, if this epoch was evaluated.
        best: whether it is the best so far.
        train_seconds: wall time of the epoch without evaluation.
        eval_seconds: wall time of the evaluation.
    """

    epoch: int
    losses: dict[str, float]
    valid: dict[str, float] | None
    best: bool
    train_seconds: float
    eval_seconds: float


class Observer:
    """Is told how training goes; the base class does nothing with it."""

    def on_resume(self, history: Sequence[EpochRecord]) -> None:
        """Hear that a training goes on, and of the epochs that are behind it."""

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Hear that a batch is done."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Hear that an epoch is done."""

    def on_stopping(self, epoch: int) -> None:
        """Hear that a stop was asked for; it comes once this epoch is saved, or when asked again."""


class Observers(Observer):
    """Passes everything on to several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_resume(self, history: Sequence[EpochRecord]) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_resume(history)

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_batch(epoch, done, n_batches)

    def on_epoch(self, record: EpochRecord) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_epoch(record)

    def on_stopping(self, epoch: int) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_stopping(epoch)
