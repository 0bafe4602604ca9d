"""How far a training is, which epoch is the best, and when it has waited long enough for a better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord


@dataclass
class Progress:
    """How far training is: all of the loop's own state, so that a checkpoint can hold it."""

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = -1.0
    evaluations_without_gain: int = 0
    peak_memory_bytes: int = 0
    history: list[EpochRecord] = field(default_factory=list)

    def take(self, epoch: int, value: float, config: TrainConfig) -> bool:
        """Hear the watched metric of an evaluated epoch, and say whether it is the best so far."""
        if config.metric_decimals is not None:
            value = round(value, config.metric_decimals)
        best = value > self.best_value
        if best:
            self.best_epoch, self.best_value = epoch, value
        self.evaluations_without_gain = 0 if best else self.evaluations_without_gain + 1
        return best

    def out_of_patience(self, config: TrainConfig) -> bool:
        """Say whether training ends here, however many epochs it may still have."""
        return self.evaluations_without_gain > config.patience


def epoch_kept(history: Sequence[EpochRecord], config: TrainConfig) -> int | None:
    """Say which epoch a finished training would have kept if it had compared and waited as `config` does.

    Comparing and waiting do not change what is learned, so that a training under `config`, equal in all else,
    has the same epochs up to where it ends.

    Args:
        history: of the finished training, whose metric was measured.
        config: how to compare and how long to wait.

    Returns:
        The epoch; None where that training would go on beyond the history, so that it cannot be said.
    """
    would_be = Progress()
    for record in history:
        if record.valid is not None:
            would_be.take(record.epoch, record.valid[config.metric], config)
        if would_be.out_of_patience(config):
            return would_be.best_epoch
    return would_be.best_epoch if len(history) == config.epochs else None
