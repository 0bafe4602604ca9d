"""Learning curves where people look for them: JSON lines, TensorBoard, MLflow.

A tracker is told what a training is set to, of each epoch, and at the end of the run. Names are those of the
run record: `loss/bpr`, `valid/recall@20`, `seconds/epoch`, `seconds/evaluation`, `test/recall@20`.
A resumed training goes on with the same curve: epochs that were told before and are trained again stand
there once.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from triptych.encode.encoder import require
from triptych.errors import ConfigError, nearest
from triptych.files import write_text
from triptych.runs.record import RunRecord
from triptych.training.recipe import Configs
from triptych.training.trainer import EpochRecord, Observer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch.utils.tensorboard import SummaryWriter

Warn = Callable[[str], object]
"""Says to people what went wrong."""

_EXPERIMENT = "triptych"
_RUN_TAG = "triptych.run"
"""By it a resumed training finds its MLflow run again."""
_FOLDER = "folder"
"""By it a file of JSON lines says whose it is."""
_PARAMS_AT_ONCE = 100
"""As many as an MLflow server takes in one call."""


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


class JSONLines(Tracker):
    """One file: a line of settings and of the run's folder, a line for each epoch, a line of what came out.

    The file is whole at any time; each line is one JSON object with the key "settings", "epoch" or "run".
    """

    kind = "jsonl"

    def __init__(self, run: Path, place: str, *, resume: bool = False) -> None:
        super().__init__(run, place, resume=resume)
        self._path = Path(place) / f"{run.name}.jsonl"
        self._lines: list[dict[str, Any]] = []
        if (other := self._of_another()) is not None:
            raise ConfigError(
                f"{self._path} holds the curve of {other}",
                wanted="a file for each run",
                fix="Name another folder with --track jsonl=FOLDER, or give the run another name",
            )

    @property
    def where(self) -> str:
        """The file."""
        return str(self._path)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, and keep what a training to be resumed has written."""
        if self.resume and self._path.exists():
            self._lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        told = {"settings": dict(settings), _FOLDER: self._here()}
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

    def _of_another(self) -> str | None:
        """Name the run folder that the file is of, if that is another."""
        with suppress(OSError, ValueError), self._path.open(encoding="utf-8") as file:
            told = json.loads(file.readline())
            if isinstance(told, dict) and told.get(_FOLDER, self._here()) != self._here():
                return str(told[_FOLDER])
        return None

    def _here(self) -> str:
        """Name the run's folder as seen from the file, so that both may move together."""
        return os.path.relpath(self.run.resolve(), self._path.parent.resolve())

    def _write(self) -> None:
        write_text(self._path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in self._lines))


class TensorBoard(Tracker):
    """One folder of event files, which TensorBoard shows as one run."""

    kind = "tensorboard"

    def __init__(self, run: Path, place: str, *, resume: bool = False) -> None:
        super().__init__(run, place, resume=resume)
        require("track", "tensorboard")
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

            folder = Path(self.place) / self.run.name
            continued = self.resume and folder.exists()
            self._writer = SummaryWriter(folder, purge_step=first if continued else 0)
            if not continued:
                self._writer.add_text("settings", _markdown(self._settings), 0)
        return self._writer


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
                params = [Param(key, _text(value)) for key, value in settings.items()]
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
                self._client.set_tag(self._id, f"triptych.{name}", _text(getattr(record, name)))
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


TRACKERS: dict[str, type[Tracker]] = {kind.kind: kind for kind in (JSONLines, TensorBoard, MLflow)}


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


def _is_server(place: str) -> bool:
    return place.startswith(("http://", "https://", "databricks"))


def _is_folder(place: str) -> bool:
    return not _is_server(place) and "://" not in place


def _address(place: str) -> str:
    """Give the address by which MLflow knows a place."""
    return f"sqlite:///{Path(place) / 'mlflow.db'}" if _is_folder(place) else place


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _markdown(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_text(value).replace('|', '/')} |" for name, value in facts.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about MLflow's own use of its libraries from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
