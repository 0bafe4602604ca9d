"""Trackers hold the numbers of the run record, once each, also of a training that was killed and resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.runs import RunRecord, train
from triptych.runs.tracking import (
    Tracker,
    Tracking,
    epoch_figures,
    make_trackers,
    settings_of,
)
from triptych.testing import toy_dataset
from triptych.training.observer import EpochRecord, Observer, Observers
from triptych.training.recipe import find_recipe

KILLED_AFTER = 5  # epochs, with a checkpoint at every second
RECIPE = find_recipe("lightgcn").with_settings(
    {"epochs": 7, "batch_size": 32, "metric": "recall@2", "eval_every": 2, "embedding_dim": 4}
)


class Killer(Observer):
    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == KILLED_AFTER:
            raise KeyboardInterrupt


def track(folder: Path, kinds: list[str], *, killed: bool = False, resume: bool = False) -> RunRecord | None:
    """Train as the command does; None if it was killed."""
    configs = RECIPE.configs()
    settings = settings_of(configs, model=RECIPE.name, seed=3)
    trackers = make_trackers(kinds, folder / "run", resume=resume)
    with Tracking(trackers, settings, warn=pytest.fail) as tracking:
        watching = Observers(tracking, *([Killer()] if killed else []))
        try:
            run = train(
                configs.model, Split.by_ratio(toy_dataset(), rng=0), seed=3, config=configs.training, device="cpu",
                k=(2,), checkpoint_dir=folder / "checkpoint", checkpoint_every=2, resume=resume, observer=watching,
            )  # fmt: skip
        except KeyboardInterrupt:
            return None
        tracking.end(run.record)
        assert [tracker.kind for tracker in tracking.kept] == [kind.partition("=")[0] for kind in kinds]
    return run.record


def expected(record: RunRecord) -> dict[str, list[tuple[int, float]]]:
    """The curves of a record, but for seconds, which a training that is repeated takes anew."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for epoch in record.history:
        for name, value in epoch.losses.items():
            curves.setdefault(f"loss/{name}", []).append((epoch.epoch, value))
        for name, value in (epoch.valid or {}).items():
            curves.setdefault(f"valid/{name}", []).append((epoch.epoch, value))
    return curves | {f"test/{name}": [(record.best_epoch, value)] for name, value in record.test.items()}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> tuple[Path, RunRecord]:
    """JSON lines and TensorBoard of a training that was killed and resumed."""
    folder = tmp_path_factory.mktemp("tracked")
    assert track(folder, ["jsonl", "tensorboard"], killed=True) is None
    record = track(folder, ["jsonl", "tensorboard"], resume=True)
    assert record is not None
    return folder, record


def test_json_lines_are_the_record(tracked):
    folder, record = tracked
    path = folder / "tracking" / "jsonl" / "run.jsonl"
    first, *epochs, last = (json.loads(line) for line in path.read_text().splitlines())
    assert first["settings"]["embedding_dim"] == 4
    assert first["settings"]["metric"] == "recall@2"
    assert (first["settings"]["model"], first["settings"]["seed"]) == ("lightgcn", 3)
    assert epochs == record.model_dump(mode="json")["history"]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5, 6, 7]
    assert last == {"run": record.summary()}


def test_json_lines_are_whole_at_any_time(tmp_path: Path):
    track(tmp_path, ["jsonl"], killed=True)
    lines = (tmp_path / "tracking" / "jsonl" / "run.jsonl").read_text().splitlines()
    assert [json.loads(line).get("epoch") for line in lines] == [None, 1, 2, 3, 4, 5]


def test_tensorboard_holds_the_record(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, record = tracked
    events = EventAccumulator(str(folder / "tracking" / "tensorboard" / "run"))
    events.Reload()
    curves = expected(record)
    assert set(events.Tags()["scalars"]) == {*curves, "seconds/epoch", "seconds/evaluation"}
    for name, points in curves.items():
        found = [(point.step, point.value) for point in events.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in points], name
    assert [point.step for point in events.Scalars("seconds/epoch")] == [1, 2, 3, 4, 5, 6, 7]
    assert [point.step for point in events.Scalars("seconds/evaluation")] == [2, 4, 6, 7]
    (text,) = events.Tensors("settings/text_summary")
    assert b"| embedding_dim | 4 |" in text.tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_the_record_in_one_run(tmp_path: Path):
    pytest.importorskip("sqlalchemy")
    assert track(tmp_path, ["mlflow"], killed=True) is None
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/tracking/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("triptych").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.info.run_name) == ("KILLED", "run")
    record = track(tmp_path, ["mlflow"], resume=True)
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["embedding_dim"] == "4"
    assert run.data.params["metric"] == "recall@2"
    assert run.data.tags["triptych.best_epoch"] == str(record.best_epoch)
    assert run.data.tags["triptych.data_hash"] == record.data_hash
    for name, points in expected(record).items():
        told = client.get_metric_history(run.info.run_id, name.replace("@", "_at_"))
        assert sorted((point.step, point.value) for point in told) == points, name
    seconds = client.get_metric_history(run.info.run_id, "seconds/epoch")
    assert sorted(point.step for point in seconds) == [1, 2, 3, 4, 5, 6, 7]
    track(tmp_path, ["mlflow"])  # anew: another run beside it
    assert len(client.search_runs([experiment])) == 2


@pytest.mark.filterwarnings("ignore")
def test_mlflow_finds_a_run_whose_folder_no_filter_could_name(tmp_path: Path):
    pytest.importorskip("sqlalchemy")
    folder = tmp_path / 'it\'s "mine"'
    assert track(folder, ["mlflow"], killed=True) is None
    assert track(folder, ["mlflow"], resume=True) is not None
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/tracking/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("triptych").experiment_id])
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("kind", ["jsonl", "tensorboard"])
def test_a_curve_of_another_run_is_not_replaced(tmp_path: Path, kind: str):
    def kept() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in (tmp_path / "logs").rglob("*") if file.is_file()}

    place = f"{kind}={tmp_path / 'logs'}"
    assert track(tmp_path / "one", [place]) is not None
    told = kept()
    assert told
    with pytest.raises(ConfigError, match=r"holds the curve of .*one"):
        track(tmp_path / "two", [place])
    assert kept() == told


def test_a_training_anew_replaces_the_curve(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        record = track(tmp_path, ["tensorboard", "jsonl"])
    assert record is not None
    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / "run"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss/bpr")] == [1, 2, 3, 4, 5, 6, 7]
    lines = (tmp_path / "tracking" / "jsonl" / "run.jsonl").read_text().splitlines()
    assert len(lines) == 9


def test_figures_of_an_epoch_have_names():
    record = EpochRecord(3, {"bpr": 0.5}, None, False, 1.5, 0.0)
    assert epoch_figures(record) == {"loss/bpr": 0.5, "seconds/epoch": 1.5}
    record = EpochRecord(4, {"bpr": 0.4}, {"recall@2": 0.1}, True, 1.5, 0.2)
    assert epoch_figures(record) == {
        "loss/bpr": 0.4, "valid/recall@2": 0.1, "seconds/epoch": 1.5, "seconds/evaluation": 0.2,
    }  # fmt: skip


class Recorder(Tracker):
    kind = "recorder"

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__(Path("run"), "nowhere")
        self.told: list[object] = []
        self.fails_at = fails_at

    def begin(self, settings):
        self.told.append(settings)

    def on_epoch(self, record):
        if record.epoch == self.fails_at:
            raise OSError(28, "No space left on device")
        self.told.append(record.epoch)

    def end(self, record):
        self.told.append("end")

    def stop(self):
        self.told.append("stop")


def epoch(number: int) -> EpochRecord:
    return EpochRecord(number, {}, None, False, 0.0, 0.0)


def test_one_that_fails_warns_once_and_stops_nothing(tracked):
    good, bad, warnings = Recorder(), Recorder(fails_at=2), []
    with Tracking([bad, good], {"seed": 1}, warn=warnings.append) as tracking:
        for number in (1, 2, 3, 4):
            tracking.on_epoch(epoch(number))
        tracking.end(tracked[1])
    assert good.told == [{"seed": 1}, 1, 2, 3, 4, "end"]
    assert bad.told == [{"seed": 1}, 1]
    assert warnings == ["recorder tracks no further: [Errno 28] No space left on device"]
    assert tracking.kept == [good]


def test_a_full_disk_and_an_absent_server_stop_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").write_text("in the way")
    warnings: list[str] = []
    kinds = [f"jsonl={tmp_path}/file/below", "mlflow=http://127.0.0.1:9"]
    with Tracking(make_trackers(kinds, tmp_path / "run"), {}, warn=warnings.append) as tracking:
        tracking.on_epoch(epoch(1))
        tracking.on_epoch(epoch(2))
    assert [text.split()[0] for text in warnings] == ["jsonl", "mlflow"]


def test_a_training_that_is_refused_leaves_nothing(tmp_path: Path):
    with Tracking(make_trackers(["jsonl", "tensorboard"], tmp_path / "run"), {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_stopped_is_told():
    one = Recorder()

    def begin_and_be_killed() -> None:
        with Tracking([one], {}) as tracking:
            tracking.on_epoch(epoch(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin_and_be_killed()
    assert one.told == [{}, 1, "stop"]


def test_observers_hear_everything_in_their_order():
    heard = []

    class Listener(Observer):
        def __init__(self, name):
            self.name = name

        def on_batch(self, epoch, done, n_batches):
            heard.append((self.name, epoch, done, n_batches))

        def on_epoch(self, record):
            heard.append((self.name, record.epoch))

    both = Observers(Listener("a"), Listener("b"))
    both.on_batch(1, 2, 3)
    both.on_epoch(epoch(4))
    assert heard == [("a", 1, 2, 3), ("b", 1, 2, 3), ("a", 4), ("b", 4)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tensorbord"], "Did you mean 'tensorboard'"),
        (["jsonl", "jsonl=there"], "--track jsonl twice"),
        (["mlflow=file:///tmp/runs"], "MLflow's file store"),
    ],
)
def test_what_cannot_be_tracked_is_refused(tmp_path: Path, words, message):
    with pytest.raises(ConfigError, match=message):
        make_trackers(words, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "tensorboard"), ("mlflow", "sqlalchemy")])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"triptych\[track\]"):
        make_trackers([kind], tmp_path / "run")


def test_places_have_defaults_beside_the_run_or_are_given(tmp_path: Path):
    jsonl, tensorboard = make_trackers([f"jsonl={tmp_path}/logs", "tensorboard"], tmp_path / "runs" / "a")
    assert jsonl.where == f"{tmp_path}/logs/a.jsonl"
    assert tensorboard.where == f"tensorboard --logdir {tmp_path}/runs/tracking/tensorboard"
