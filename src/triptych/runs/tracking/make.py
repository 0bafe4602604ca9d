"""Trackers by the words that a user gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triptych.errors import ConfigError, nearest
from triptych.runs.tracking.jsonl import JSONLines
from triptych.runs.tracking.mlflow import MLflow
from triptych.runs.tracking.tensorboard import TensorBoard
from triptych.runs.tracking.tracker import Tracker

TRACKERS: dict[str, type[Tracker]] = {kind.kind: kind for kind in (JSONLines, TensorBoard, MLflow)}


def make_trackers(wanted: Sequence[str], folder: Path, *, resume: bool = False) -> list[Tracker]:
    """Make the trackers of a run from words such as "tensorboard" or "mlflow=http://localhost:5000".

    Args:
        wanted: KIND or KIND=PLACE.
        folder: of the run; without a PLACE, curves go into `tracking/KIND` beside it, which all runs there
            share.
        resume: go on with what an earlier training of the run left.

    Raises:
        ConfigError: there is no such tracker, one is wanted twice, or what it needs is not installed.
    """
    trackers: dict[str, Tracker] = {}
    for word in wanted:
        kind, _, place = word.partition("=")
        if kind not in TRACKERS:
            raise ConfigError(
                f"--track {word}",
                wanted=f"{', '.join(TRACKERS)}, perhaps with =PLACE",
                fix=nearest(kind, TRACKERS),
            )
        if kind in trackers:
            raise ConfigError(f"--track {kind} twice", wanted="each tracker once", fix="Leave one out")
        where = place or str(folder.parent / "tracking" / kind)
        trackers[kind] = TRACKERS[kind](folder, where, resume=resume)
    return list(trackers.values())
