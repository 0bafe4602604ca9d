"""What is written down of a run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from triptych.errors import StorageError
from triptych.files import home_in, read_marker
from triptych.training.observer import EpochRecord

RUN = "run.json"
"""The marker file of a run folder."""
KIND = "run"
MAKER = "triptych train"
SCHEMA_VERSION = 1


class RunRecord(BaseModel):
    """What is written down of a run; JSON values only. Figures are unrounded means over users."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["run"] = "run"
    schema_version: int = SCHEMA_VERSION
    model: str
    """Registry name; "fusion" of runs whose scores are added up."""
    model_settings: dict[str, Any]
    """The model's config; of a fusion its parts, their weights, and how these were found."""
    plugins: dict[str, dict[str, Any]] = {}
    """What was attached to the model: name -> the plug-in's config."""
    train_settings: dict[str, Any]
    """The training loop's config; empty for a fusion."""
    seed: int
    device: str
    versions: dict[str, str]
    """Of Triptych, torch, numpy and Python."""
    data: str
    """The data set's name."""
    data_hash: str
    split_hash: str
    split: dict[str, Any]
    """How the data was split, and into how many pairs."""
    best_epoch: int
    """The epoch whose weights were kept, counted from 1."""
    history: list[EpochRecord]
    valid: dict[str, float]
    """Validation figures of the best epoch."""
    test: dict[str, float]
    """Test figures of the same weights; empty as long as the test part has not been opened."""
    test_opened: str | None = None
    """When it was: UTC, ISO 8601."""
    protocol: dict[str, Any]
    """How the test figures were measured."""
    seconds_per_epoch: float
    """Median wall time of an epoch without evaluation."""
    seconds_per_evaluation: float
    """Median wall time of one evaluation of the validation part."""
    peak_memory_bytes: int
    """Of the process; on CUDA, of the device's allocator."""
    n_parameters: int | None = None
    """Numbers learned by gradient, of a fusion in all its parts; 0 of a model that is solved. None in older
    runs."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> RunRecord:
        """Take the record from what the marker file says, which names files too."""
        return cls.model_validate({name: facts[name] for name in facts if name != "files"})

    @property
    def name(self) -> str:
        """The model's name, and its plug-ins': "freedom+sand"."""
        return "+".join([self.model, *self.plugins])

    def summary(self) -> dict[str, Any]:
        """Give the figures that the command line prints."""
        figures = {
            "model",
            "plugins",
            "data",
            "data_hash",
            "split",
            "seed",
            "device",
            "best_epoch",
            "valid",
            "test",
            "protocol",
            "seconds_per_epoch",
            "seconds_per_evaluation",
            "peak_memory_bytes",
            "n_parameters",
        }
        return {**self.model_dump(mode="json", include=figures), "epochs": len(self.history)}


def read_record(path: str | Path) -> RunRecord:
    """Read what is written down of a run, and nothing of its weights and data.

    Raises:
        StorageError: it is no run, of another schema version, or damaged.
    """
    folder = home_in(path)
    facts = read_marker(folder, marker=RUN, kind=KIND, version=SCHEMA_VERSION, maker=MAKER)
    try:
        return RunRecord.of(facts)
    except ValidationError as error:
        raise StorageError(
            f"{folder / RUN} does not describe a run: {error.errors()[0]['msg']}",
            wanted=f"what '{MAKER}' wrote",
            fix="Restore it from a copy, or train again",
        ) from error


def current_versions() -> dict[str, str]:
    """Name the versions of Triptych, torch, numpy and Python."""
    return {
        "triptych": version("triptych"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
