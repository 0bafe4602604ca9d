"""Two at one folder, and stopping: who comes second is told who is first, and what is stopped can go on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from triptych import load, train
from triptych.cli.app import run as command
from triptych.cli.progress import TrainingProgress
from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.errors import StorageError
from triptych.experiments import search
from triptych.files import only_process, read_json
from triptych.models.ials import IALS
from triptych.scorer import EmbeddingScorer
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord, Observer, Observers
from triptych.training.signals import DeferredSignals

HOLD = """
import sys
from pathlib import Path
from triptych.files import only_process
with only_process(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_is_first(tmp_path: Path):
    folder = tmp_path / "run.checkpoint"
    with holding(folder) as other:
        with pytest.raises(StorageError) as refused, only_process(folder, "training"):
            pass
        assert re.search(
            rf"process {other.pid} on {re.escape(socket.gethostname())}, since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d",
            refused.value.found,
        )
        other.communicate("\n")
    assert list(tmp_path.iterdir()) == [], "nothing is left where nothing was made"
    with only_process(folder, "training"):
        assert f"process {os.getpid()} on" in (folder / ".lock").read_text()


def test_a_dead_one_blocks_nobody(tmp_path: Path):
    with holding(tmp_path / "c") as other:
        other.kill()
    assert (tmp_path / "c" / ".lock").exists()
    with only_process(tmp_path / "c", "training"):
        pass
    assert not (tmp_path / "c").exists()


def test_the_command_says_so(tmp_path: Path, capsys):
    Split.by_ratio(checkerboard(8).data, rng=0).labelled().save(tmp_path / "data")
    arguments = ["train", "mf-bpr", str(tmp_path / "data"), "--epochs", "2", "-k", "2", "--set", "metric=recall@2",
                 "--device", "cpu", "--out", str(tmp_path / "run")]  # fmt: skip
    with holding(tmp_path / "run.checkpoint") as other:
        for option in ([], ["--resume"], ["--overwrite"]):
            assert command([*arguments, *option]) == 2
            assert f"process {other.pid} on" in " ".join(capsys.readouterr().err.split())
        other.kill()
    assert command([*arguments, "--resume"]) == 0, "what was killed before its first checkpoint begins anew"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]


# Stopping

STOPPED = """
import os, signal, sys
from triptych.cli.progress import TrainingProgress
from triptych.cli.app import run
number, when = getattr(signal, sys.argv[1]), sys.argv[2]
tell = TrainingProgress.on_batch
def on_batch(self, epoch, done, n_batches):
    tell(self, epoch, done, n_batches)
    if (when, epoch, done) in {("late", 2, 1), ("saved", 2, 1), ("first", 1, 1)}:
        os.kill(os.getpid(), number)
TrainingProgress.on_batch = on_batch
sys.exit(run(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("name", "when", "epoch"),
    [
        ("SIGTERM", "late", 2),
        pytest.param("SIGINT", "saved", 1, marks=pytest.mark.long),
        pytest.param("SIGINT", "first", None, marks=pytest.mark.long),
    ],
)
def test_a_stopped_training_goes_on_as_if_never_stopped(tmp_path: Path, capsys, name: str, when: str, epoch):
    """Late: nothing is saved yet, so that the second epoch ends first. Saved: the first epoch is what is kept."""
    Split.by_ratio(checkerboard(8).data, rng=0).labelled().save(tmp_path / "data")
    arguments = ["train", "lightgcn", str(tmp_path / "data"), "--epochs", "4", "-k", "2", "--device", "cpu",
                 "--set", "metric=recall@2", "--set", "batch_size=4", "--set", "embedding_dim=4",
                 "--checkpoint-every", "1" if when == "saved" else "10"]  # fmt: skip
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, name, when, *arguments, "--out", str(tmp_path / "stopped")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert stopped.returncode == 128 + getattr(signal, name), stopped.stderr
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    told = f"stopping once epoch {epoch} is saved; again to stop at once" in stopped.stderr
    assert told == (when == "late"), "only who has to wait is told to"
    checkpoint = tmp_path / "stopped.checkpoint"
    if epoch is None:
        assert not checkpoint.exists()
    else:
        assert read_json(checkpoint / "checkpoint.json")["progress"]["epoch"] == epoch
        assert sorted(path.suffix for path in checkpoint.iterdir()) == [".json", ".safetensors"]
    resume = [] if epoch is None else ["--resume"]
    assert command([*arguments, "--out", str(tmp_path / "stopped"), *resume]) == 0
    assert command([*arguments, "--out", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    one, two = (load(tmp_path / place) for place in ("stopped", "whole"))
    assert all(torch.equal(one.weights[key], two.weights[key]) for key in two.weights)
    assert [record.losses for record in one.record.history] == [
        record.losses for record in two.record.history
    ]


def test_a_command_that_is_told_to_end_clears_up(tmp_path: Path, monkeypatch, capsys):
    Dataset.from_interactions("x", checkerboard(8).data.interactions).save(tmp_path / "data")

    def told_to_end(self: Dataset, folder: Path) -> None:
        (folder / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Dataset, "write_into", told_to_end)
    before = signal.getsignal(signal.SIGTERM)
    arguments = ["split", str(tmp_path / "data"), "--split", "ratio", "--out", str(tmp_path / "out")]
    assert command(arguments) == 143
    assert "stopped" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert signal.getsignal(signal.SIGTERM) is before


class Heard(Observer):
    def __init__(self, stop_in: int) -> None:
        self.stop_in, self.stopping, self.epochs = stop_in, [], []

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        if epoch == self.stop_in and done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def on_epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record.epoch)

    def on_stopping(self, epoch: int) -> None:
        self.stopping.append(epoch)


def learn(observer: Observer, checkpoint_dir: Path | None):
    config = TrainConfig(epochs=5, batch_size=8, metric="recall@2")
    return train("mf-bpr", checkerboard(8), config=config, device="cpu", k=(2,), checkpoint_dir=checkpoint_dir,
                 observer=observer)  # fmt: skip


@pytest.fixture
def sigint():
    """Ctrl-C as a terminal's process has it; what runs in the background may have been begun without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_the_observer_hears_of_a_stop_that_waits(tmp_path: Path):
    heard = Heard(stop_in=3)
    with pytest.raises(KeyboardInterrupt):
        learn(heard, tmp_path / "c")
    assert (heard.stopping, heard.epochs) == ([3], [1, 2, 3])
    assert read_json(tmp_path / "c" / "checkpoint.json")["progress"]["epoch"] == 3


@pytest.mark.usefixtures("sigint")
def test_where_nothing_is_between_batches_the_stop_waits_and_says_so(tmp_path: Path, monkeypatch):
    """Epoch 1 is saved, but sweeps know no batch at which to stop; and an evaluation is not lost either."""
    heard, config = Heard(stop_in=0), TrainConfig(epochs=5, metric="recall@2")

    def stopped_in_the_second_epoch(target: type, name: str) -> None:
        real = getattr(target, name)

        def stopping(*arguments: object) -> object:
            if heard.epochs == [1] and not heard.stopping:
                os.kill(os.getpid(), signal.SIGINT)
            return real(*arguments)

        monkeypatch.setattr(target, name, stopping)

    for place, (model, target, name) in enumerate(
        [("ials", IALS, "_solve"), ("mf-bpr", EmbeddingScorer, "score")]
    ):
        stopped_in_the_second_epoch(target, name)
        heard.epochs, heard.stopping = [], []
        with pytest.raises(KeyboardInterrupt):
            train(model, checkerboard(8), config=config, device="cpu", k=(2,), checkpoint_dir=tmp_path / str(place),
                  checkpoint_every=1, observer=heard)  # fmt: skip
        assert (heard.stopping, heard.epochs) == ([2], [1, 2])
        assert read_json(tmp_path / str(place) / "checkpoint.json")["progress"]["epoch"] == 2


def test_all_who_pass_on_what_they_hear_pass_on_a_stop(tmp_path: Path, capsys):
    one, two = Heard(0), Heard(0)
    Observers(one, search._Watcher(MagicMock(), "recall@2", two)).on_stopping(4)
    assert (one.stopping, two.stopping) == ([4], [4])
    TrainingProgress("x", 5, "recall@2").on_stopping(4)
    assert capsys.readouterr().err == "stopping once epoch 4 is saved; again to stop at once\n"


@pytest.mark.usefixtures("sigint")
def test_without_checkpoints_and_at_the_second_time_nothing_waits(tmp_path: Path):
    heard = Heard(stop_in=3)
    with pytest.raises(KeyboardInterrupt):
        learn(heard, None)
    assert (heard.stopping, heard.epochs) == ([], [1, 2])

    class Twice(Heard):
        def on_stopping(self, epoch: int) -> None:
            super().on_stopping(epoch)
            os.kill(os.getpid(), signal.SIGINT)

    twice = Twice(stop_in=3)
    with pytest.raises(KeyboardInterrupt):
        learn(twice, tmp_path / "c")
    assert (twice.stopping, twice.epochs) == ([3], [1, 2])


@pytest.mark.usefixtures("sigint")
def test_who_stops_while_an_epoch_is_told_hears_that_epoch(tmp_path: Path):
    class Late(Heard):
        def on_epoch(self, record: EpochRecord) -> None:
            super().on_epoch(record)
            if record.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)

    late = Late(stop_in=99)
    with pytest.raises(KeyboardInterrupt):
        learn(late, tmp_path / "c")
    assert (late.stopping, late.epochs) == ([2], [1, 2])


def test_signals_go_back_to_who_had_them(tmp_path: Path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    learn(Observer(), tmp_path / "c")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    ignoring = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with DeferredSignals(lambda: None) as deferred:
            os.kill(os.getpid(), signal.SIGINT)
        assert not deferred.waiting
    finally:
        signal.signal(signal.SIGINT, ignoring)

    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            learn(Observer(), tmp_path / "thread")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []
