"""Learning curves for TensorBoard."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.encode.encoder import require
from triptych.files import write_text
from triptych.runs.record import RunRecord
from triptych.runs.tracking.tracker import Tracker, as_text, epoch_figures
from triptych.training.observer import EpochRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_OWNER = "run.txt"
"""Says beside the event files whose they are."""


class TensorBoard(Tracker):
    """One folder of event files, which TensorBoard shows as one run."""

    kind = "tensorboard"

    def __init__(self, run: Path, place: str, *, resume: bool = False) -> None:
        super().__init__(run, place, resume=resume)
        require("track", "tensorboard")
        self._folder = Path(place) / run.name
        if (self._folder / _OWNER).is_file():
            self.refuse_another(self._folder, (self._folder / _OWNER).read_text("utf-8", "replace"))
        self._settings: Mapping[str, Any] = {}
        self._writer: SummaryWriter | None = None

    @property
    def where(self) -> str:
        """The command that shows it."""
        return f"tensorboard --logdir {shlex.quote(self.place)}"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings for the first epoch, which tells from where on the curve is new."""
        self._settings = settings

    def on_epoch(self, record: EpochRecord) -> None:
        """Write the epoch's numbers."""
        writer = self._open(record.epoch)
        for name, value in epoch_figures(record).items():
            writer.add_scalar(name, value, record.epoch)
        writer.flush()

    def end(self, record: RunRecord) -> None:
        """Write the test figures, at the epoch whose weights were kept, and close the file."""
        writer = self._open(len(record.history) + 1)
        for name, value in record.test.items():
            writer.add_scalar(f"test/{name}", value, record.best_epoch)
        writer.add_text("run", _markdown(record.summary()), record.best_epoch)
        writer.close()

    def stop(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, first: int) -> SummaryWriter:
        """Open a new event file; readers drop what older files hold from epoch `first` on."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            continued = self.resume and self._folder.exists()
            write_text(self._folder / _OWNER, self.seen_from(self._folder.parent))
            self._writer = SummaryWriter(self._folder, purge_step=first if continued else 0)
            if not continued:
                self._writer.add_text("settings", _markdown(self._settings), 0)
        return self._writer


def _markdown(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {as_text(value).replace('|', '/')} |" for name, value in facts.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
