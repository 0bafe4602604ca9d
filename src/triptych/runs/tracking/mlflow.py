"""Learning curves in MLflow."""

from __future__ import annotations

import logging
import os
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.encode.encoder import require
from triptych.errors import ConfigError
from triptych.runs.record import RunRecord
from triptych.runs.tracking.tracker import Tracker, as_text, epoch_figures
from triptych.training.observer import EpochRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXPERIMENT = "triptych"
_RUN_TAG = "triptych.run"
"""By it a resumed training finds its MLflow run again."""
_PARAMS_AT_ONCE = 100
"""As many as an MLflow server takes in one call."""


class MLflow(Tracker):
    """One run of the experiment "triptych" in an MLflow database or on a server.

    MLflow's names hold no "@": recall@20 is recall_at_20 there. It forgets no metric either, so that epochs
    which a resumed training trains again keep the numbers they had; on a CPU they are the same.

    Args:
        run: the folder that the run gets; a tag of the MLflow run names it.
        place: a folder, which holds or gets the database mlflow.db, or the address of a server or database.
        resume: go on with the newest run of this folder that is not finished.

    Raises:
        ConfigError: MLflow is missing, or `place` is a file store, which MLflow no longer opens.
    """

    kind = "mlflow"

    def __init__(self, run: Path, place: str, *, resume: bool = False) -> None:
        super().__init__(run, place, resume=resume)
        if place.startswith("file:"):
            raise ConfigError(
                f"MLflow's file store {place}",
                wanted="a folder for a database, or the address of a server or a database",
                fix="Write for example --track mlflow=FOLDER",
            )
        # A training is nobody else's business, and does not wait for minutes for a server that is away.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        with _quiet():
            require("track", "mlflow", *(() if _is_server(place) else ("sqlalchemy", "alembic")))
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._id = ""
        self._last = 0

    @property
    def where(self) -> str:
        """The command that shows it, or the server."""
        if _is_server(self.place):
            return self.place
        return f"mlflow ui --backend-store-uri {shlex.quote(_address(self.place))}"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin a run, or find the one to go on with."""
        with _quiet():
            from mlflow.entities import Param

            experiment = self._experiment()
            found = self._find(experiment) if self.resume else None
            if found is None:
                tags = {_RUN_TAG: str(self.run.resolve())}
                self._id = self._client.create_run(experiment, run_name=self.run.name, tags=tags).info.run_id
                params = [Param(key, as_text(value)) for key, value in settings.items()]
                for start in range(0, len(params), _PARAMS_AT_ONCE):
                    self._client.log_batch(self._id, params=params[start : start + _PARAMS_AT_ONCE])
            else:
                self._id = found
                told = self._client.get_metric_history(found, "seconds/epoch")
                self._last = max((point.step for point in told), default=0)
                self._client.update_run(found, status="RUNNING")

    def on_epoch(self, record: EpochRecord) -> None:
        """Log the epoch's numbers, all of them or none, unless they are there."""
        if record.epoch > self._last:
            self._log(epoch_figures(record), record.epoch)

    def end(self, record: RunRecord) -> None:
        """Log the test figures at the epoch whose weights were kept, what names the run, and its end."""
        self._log({f"test/{name}": value for name, value in record.test.items()}, record.best_epoch)
        with _quiet():
            for name in ("data_hash", "split_hash", "best_epoch", "peak_memory_bytes", "device"):
                self._client.set_tag(self._id, f"triptych.{name}", as_text(getattr(record, name)))
            self._client.set_terminated(self._id)

    def stop(self) -> None:
        """Mark the run as stopped; a resumed training goes on with it."""
        with _quiet():
            self._client.set_terminated(self._id, "KILLED")

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(_address(self.place))

    def _experiment(self) -> str:
        """Find the experiment, or make it."""
        artifacts = None
        if _is_folder(self.place):
            folder = Path(self.place).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            artifacts = (folder / "artifacts").as_uri()
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        made: str = (
            self._client.create_experiment(_EXPERIMENT, artifacts) if known is None else known.experiment_id
        )
        return made

    def _find(self, experiment: str) -> str | None:
        """Find the newest run of this folder that is not finished."""
        unfinished = self._client.search_runs(  # a folder's name may hold what a filter cannot
            [experiment], "attributes.status != 'FINISHED'", order_by=["attributes.start_time DESC"]
        )
        here = str(self.run.resolve())
        return next((run.info.run_id for run in unfinished if run.data.tags.get(_RUN_TAG) == here), None)

    def _log(self, figures: Mapping[str, float], epoch: int) -> None:
        with _quiet():
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            metrics = [
                Metric(name.replace("@", "_at_"), value, now, epoch) for name, value in figures.items()
            ]
            self._client.log_batch(self._id, metrics=metrics)


def _is_server(place: str) -> bool:
    return place.startswith(("http://", "https://", "databricks"))


def _is_folder(place: str) -> bool:
    return not _is_server(place) and "://" not in place


def _address(place: str) -> str:
    """Give the address by which MLflow knows a place."""
    return f"sqlite:///{Path(place) / 'mlflow.db'}" if _is_folder(place) else place


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about MLflow's own use of its libraries from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
