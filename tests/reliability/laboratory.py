"""Does work that may be killed or refused by the disk at any one of its steps; see conftest.py.

A process that has loaded everything and computed nothing forks a child for each order that it reads from
standard input. The child counts its steps: every call that changes the disk below its folder, every batch,
every block of users in evaluation. At the step asked for it kills itself or meets an error of the system.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import safetensors.numpy
import torch
import torch._dynamo  # as all below, loaded before the first fork: optimisers ask for it when they begin
from filelock import FileLock  # noqa: F401
from optuna.storages.journal import JournalFileBackend

from triptych.cli.app import run as command
from triptych.data.demo import build_shop
from triptych.data.split import Split
from triptych.experiments.jobs import Workshop
from triptych.experiments.search import search
from triptych.experiments.study import SearchPlan
from triptych.files import atomic
from triptych.models.registry import models
from triptych.runs import train
from triptych.scorer import SCORERS
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig
from triptych.training.observer import Observer
from triptych.training.space import SearchSpace
from triptych.training.trainer import CHECKPOINT

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"}
REFUSABLE = {"open", "os.rename", "os.mkdir", "fsync", "write", "exchange"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts steps, and fails at one of them.

    Args:
        folder: only what changes the disk below it counts.
        fault: "kill", the name of an errno, or None to count only.
        at: which step fails, counted from 1.
        only: the one kind of step that counts; None for all.
    """

    def __init__(self, folder: Path, fault: str | None, at: int, only: str | None = None) -> None:
        self.folder, self.fault, self.at, self.only = str(folder), fault, at, only
        self.kinds: Counter[str] = Counter()
        self.failed_at: str | None = None

    def step(self, kind: str, what: object = None) -> None:
        """Count a step, and fail if it is the one."""
        if self.fault not in (None, "kill") and kind not in REFUSABLE:
            return
        if self.only not in (None, kind):
            return
        self.kinds[kind] += 1
        if self.fault is None or self.kinds.total() != self.at:
            return
        self.failed_at = kind
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.fault)
        if kind == "write":  # as the writers in Rust say it
            raise RuntimeError(f"Error while serializing: {os.strerror(number)} (os error {number})")
        # fsync and write know a handle, not a name
        raise OSError(number, os.strerror(number), *([] if what is None else [os.fspath(what)]))

    def audit(self, event: str, details: tuple[object, ...]) -> None:
        """Hear of everything that Python asks of the system."""
        if event in CHANGES and isinstance(details[0], str | os.PathLike):
            changes = event != "open" or (isinstance(details[2], int) and details[2] & WRITING)
            if changes and str(details[0]).startswith(self.folder):
                self.step(event, details[0])

    def watch(self) -> None:
        """Begin to count."""
        sys.addaudithook(self.audit)
        self._around(os, "fsync", "fsync")
        self._around(atomic, "_exchange", "exchange", after=True)
        self._around(JournalFileBackend, "append_logs", "journal", after=True)
        for scorer in SCORERS.values():
            self._around(scorer, "score", "evaluation")
        for owner, name in ((safetensors.numpy, "save_file"), (np, "save"),
                            (pl.DataFrame, "write_parquet"), (pl.DataFrame, "write_csv")):  # fmt: skip
            self._around(owner, name, "write", after=True)

    def _around(self, owner: object, name: str, kind: str, *, after: bool = False) -> None:
        real = getattr(owner, name)

        def counted(*arguments: object, **options: object) -> object:
            self.step(kind)
            result = real(*arguments, **options)
            if after:
                self.step(kind)
            return result

        setattr(owner, name, counted)


class Batches(Observer):
    """Counts batches as steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        self.steps.step("batch")


SMALL = {"embedding_dim": 4}


def training(folder: Path, steps: Steps, model: str, every: int = 1) -> int:
    """Train a model on the board, go on where a checkpoint is, and save the run."""
    settings = {} if model in ("ease", "item-knn") else SMALL
    config = TrainConfig(epochs=3, batch_size=32, learning_rate=0.01, metric="recall@2", patience=50)
    checkpoints = folder / "checkpoints"
    resume = (checkpoints / f"{CHECKPOINT}.json").is_file()
    run = train(model, checkerboard(16), seed=5, settings=settings, config=config, device="cpu", k=(1, 2),
                checkpoint_dir=checkpoints, checkpoint_every=every, resume=resume, observer=Batches(steps))  # fmt: skip
    run.save(folder / "run", overwrite=True)
    return 0


def saving(folder: Path, steps: Steps, name: str) -> int:
    """Write a data set over another one."""
    data = checkerboard(int(name)).data
    data.save(folder / "data", overwrite=True)
    return 0


def searching(folder: Path, steps: Steps, n_trials: str) -> int:
    """Search on the board, all points of a grid after the defaults."""
    space = SearchSpace("mf-bpr", {"learning_rate": (0.1, 0.01), "embedding_dim": (2, 3)}, "the laboratory")
    fixed = {"epochs": 2, "batch_size": 64, "metric": "recall@2"}
    workshop = Workshop(folder, device="cpu", threads=1, checkpoint_every=1, k=(2,))
    result = search(SearchPlan(space, int(n_trials), "grid", fixed=fixed), checkerboard(8), workshop)
    (folder / "result.json").write_text(result.model_dump_json())
    return 0


def commands(folder: Path, steps: Steps, *words: str) -> int:
    """Carry out a command line, in which {} is the folder."""
    return command([word.replace("{}", str(folder)) for word in words])


def material(folder: Path, steps: Steps) -> int:
    """Write what commands begin with: a prepared data set that is split, and a shop's export."""
    Split.by_ratio(checkerboard(16).data, rng=0).labelled().save(folder / "board")
    shop = build_shop(seed=1)
    shop.export(folder / "export")
    return 0


WORK: dict[str, Callable[..., int]] = {
    "training": training,
    "saving": saving,
    "commands": commands,
    "searching": searching,
    "material": material,
}


def child(order: dict, answer: int) -> None:
    """Do the work of an order, write what came of it to a pipe, and end."""
    folder = Path(order["folder"])
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    steps = Steps(folder, order["fault"], order["at"], order["only"])
    torch.set_num_threads(1)
    error = None
    steps.watch()
    try:
        status = WORK[order["work"]](folder, steps, *order["arguments"])
    except BaseException as raised:
        traceback.print_exc()
        status, error = 1, f"{type(raised).__name__}: {raised}"
    sys.stdout.flush()
    sys.stderr.flush()
    facts = {"status": status, "error": error, "steps": dict(steps.kinds), "failed_at": steps.failed_at}
    os.write(answer, json.dumps(facts).encode())
    os._exit(0)


def main() -> None:
    """Answer orders, a line of JSON each; every model is loaded before."""
    os.umask(0o022)
    models()
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(order, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status)
        facts = json.loads(said) if said and not killed else {"status": None, "steps": {}, "error": None}
        facts["killed"] = killed
        print(json.dumps(facts), flush=True)
    os._exit(0)  # tidying up after so many modules takes seconds


if __name__ == "__main__":
    main()
