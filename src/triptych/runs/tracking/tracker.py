"""What a tracker is told, and who tells several of them."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from triptych.errors import ConfigError
from triptych.runs.record import RunRecord
from triptych.training.observer import EpochRecord, Observer
from triptych.training.recipe import Configs

Warn = Callable[[str], object]
"""Says to people what went wrong."""


class Tracker(Observer):
    """Keeps the curve of one training; the base class keeps nothing.

    Args:
        run: the folder that the run gets; its name is that of the curve.
        place: the folder or the address where curves are kept.
        resume: go on with what an earlier training for this folder left there.
    """

    kind: ClassVar[str]
    """How commands call it."""

    def __init__(self, run: Path, place: str, *, resume: bool = False) -> None:
        self.run, self.place, self.resume = run, place, resume

    @property
    def where(self) -> str:
        """How to look at it."""
        raise NotImplementedError(f"{type(self).__name__} must say where its curves are")

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Hear, before the first epoch, what the training is set to; JSON values."""

    def end(self, record: RunRecord) -> None:
        """Hear what came out; it is the last call."""

    def stop(self) -> None:
        """Hear that the training was stopped, or failed; it is the last call."""

    def seen_from(self, folder: Path) -> str:
        """Name the run's folder as seen from another, so that both may move together."""
        return os.path.relpath(self.run.resolve(), folder.resolve())

    def refuse_another(self, path: Path, owner: object) -> None:
        """Refuse a curve that is of another run.

        Args:
            path: where the curve is kept.
            owner: the run's folder as seen from where `path` lies, as far as that is known.

        Raises:
            ConfigError: it is not this run's.
        """
        if owner not in (None, self.seen_from(path.parent)):
            raise ConfigError(
                f"{path} holds the curve of {owner}",
                wanted="a place for the curve of each run",
                fix=f"Name another folder with --track {self.kind}=FOLDER, or give the run another name",
            )


class Tracking(Observer):
    """Tells several trackers. One that fails is told nothing more: training goes on, with one warning.

    They begin with the first epoch, so that a training that is refused leaves nothing. Used with `with`, they
    also hear of one that does not come to its end.

    Args:
        trackers: in which order they are told.
        settings: of the training, as `settings_of` names them.
        warn: says what failed; by default a Python warning.
    """

    def __init__(
        self, trackers: Sequence[Tracker], settings: Mapping[str, Any], warn: Warn = warnings.warn
    ) -> None:
        self._alive, self._settings, self._warn = list(trackers), settings, warn
        self._begun = False
        self.kept: list[Tracker] = []
        """Those that have the whole curve, once it has ended."""

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *error: object) -> None:
        if self._begun:
            self._tell(lambda tracker: tracker.stop())

    def on_epoch(self, record: EpochRecord) -> None:
        """Pass it on."""
        self._begin()
        self._tell(lambda tracker: tracker.on_epoch(record))

    def end(self, record: RunRecord) -> None:
        """Pass on what came out, and let the trackers go."""
        self._begin()
        self._tell(lambda tracker: tracker.end(record))
        self.kept, self._alive = self._alive, []

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._tell(lambda tracker: tracker.begin(self._settings))

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for tracker in list(self._alive):
            try:
                tell(tracker)
            except Exception as error:  # whatever a server or a full disk comes up with
                self._alive.remove(tracker)
                self._warn(f"{tracker.kind} tracks no further: {' '.join(str(error).split())[:300]}")


def settings_of(configs: Configs, **facts: Any) -> dict[str, Any]:
    """Name all settings of a training, defaults included, after other facts such as data and seed."""
    plugins = {
        f"{plugin}.{name}": value
        for plugin, config in configs.plugins.items()
        for name, value in config.model_dump(mode="json").items()
    }
    return facts | configs.model.model_dump(mode="json") | configs.training.model_dump(mode="json") | plugins


def epoch_figures(record: EpochRecord) -> dict[str, float]:
    """Name the numbers of an epoch; those of an evaluation only where there was one."""
    figures = {f"loss/{name}": value for name, value in record.losses.items()}
    figures["seconds/epoch"] = record.train_seconds
    if record.valid is not None:
        figures |= {f"valid/{name}": value for name, value in record.valid.items()}
        figures["seconds/evaluation"] = record.eval_seconds
    return figures


def as_text(value: object) -> str:
    """Word a setting: a string as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
