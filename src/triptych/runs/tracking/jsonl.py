"""Learning curves as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from triptych.files import write_text
from triptych.runs.record import RunRecord
from triptych.runs.tracking.tracker import Tracker
from triptych.training.observer import EpochRecord

_FOLDER = "folder"
"""By it a file says whose it is."""


class JSONLines(Tracker):
    """One file: a line of settings and of the run's folder, a line for each epoch, a line of what came out.

    The file is whole at any time; each line is one JSON object with the key "settings", "epoch" or "run".
    """

    kind = "jsonl"

    def __init__(self, run: Path, place: str, *, resume: bool = False) -> None:
        super().__init__(run, place, resume=resume)
        self._path = Path(place) / f"{run.name}.jsonl"
        self._lines: list[dict[str, Any]] = []
        self.refuse_another(self._path, self._owner())

    @property
    def where(self) -> str:
        """The file."""
        return str(self._path)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, and keep what a training to be resumed has written."""
        if self.resume and self._path.exists():
            self._lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        told = {"settings": dict(settings), _FOLDER: self.seen_from(self._path.parent)}
        self._lines = [told, *(line for line in self._lines if "epoch" in line)]
        self._write()

    def on_epoch(self, record: EpochRecord) -> None:
        """Write the epoch in the place of what was there from it on."""
        while "epoch" in self._lines[-1] and self._lines[-1]["epoch"] >= record.epoch:
            self._lines.pop()
        self._lines.append(vars(record))
        self._write()

    def end(self, record: RunRecord) -> None:
        """Write the summary of the run."""
        self._lines.append({"run": record.summary()})
        self._write()

    def _owner(self) -> object:
        """Name the run folder that the file is of, if it says so."""
        with suppress(OSError, ValueError), self._path.open(encoding="utf-8") as file:
            told = json.loads(file.readline())
            return told.get(_FOLDER) if isinstance(told, dict) else None
        return None

    def _write(self) -> None:
        write_text(self._path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in self._lines))
