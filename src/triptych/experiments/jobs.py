"""Trainings of an experiment: each done once, kept, taken up again after a kill, several at a time if asked.

An experiment's folder holds `runs/NAME` for each finished training, `unfinished/NAME` with the checkpoints of
one that was stopped, and `failed/NAME.json` with what went wrong. NAME ends in a hash of the settings, the
seed, the split without its test part, and, of a model outside the library, the file that defines it: equal
trainings have equal names, whichever experiment they are of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch
from filelock import FileLock

from triptych.data.split import Split
from triptych.device import limited_threads, resolve_device
from triptych.errors import ConfigError
from triptych.experiments.content import Change, change_content
from triptych.experiments.workers import check_script_guarded, worker_processes
from triptych.files import hash_arrays, only_process, write_json
from triptych.models.extensions import outside_code
from triptych.runs import RUN, Run, train
from triptych.training.observer import Observer
from triptych.training.recipe import Recipe
from triptych.training.trainer import CHECKPOINT


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        recipe: what to train.
        seed: with which seed.
        change: what is done to the content that it learns from, drawn with the same seed.
        called: what the experiment calls its system; it names nothing that is kept.
    """

    recipe: Recipe
    seed: int
    change: Change | None = None
    called: str = field(default="", compare=False)

    def settings(self) -> dict[str, Any]:
        """Say all that names the training but the data, in JSON values, defaults included.

        Raises:
            ConfigError: the recipe names something unknown or unfit.
        """
        model, training, plugins = self.recipe.configs()
        change = {} if self.change is None else {"content": self.change.model_dump(mode="json")}
        code = outside_code(self.recipe.model, plugins)
        return {
            **change,
            **({} if code is None else {"code": code}),
            "model": self.recipe.model,
            "settings": model.model_dump(mode="json"),
            "plugins": {name: config.model_dump(mode="json") for name, config in plugins.items()},
            "training": training.model_dump(mode="json"),
            "seed": self.seed,
        }

    @property
    def title(self) -> str:
        """Name the training for people: "freedom: image shuffled, seed 1", "n_layers=2, seed 1"."""
        changed = "" if self.change is None else f": {self.change.name}"
        return f"{self.called or self.recipe.name + changed}, seed {self.seed}"

    def name(self, sealed: Split) -> str:
        """Name the training on a split without test pairs: "freedom+sand-seed1-9f0c2a6b"."""
        key = hash_arrays(json.dumps(self.settings(), sort_keys=True), sealed.content_hash)
        changed = "" if self.change is None else "-changed"
        return f"{self.recipe.name}{changed}-seed{self.seed}-{key[:8]}"

    def split(self, split: Split) -> Split:
        """Give what it learns from, or is measured on: the split, with changed content if it is to be."""
        return split if self.change is None else change_content(split, self.change, self.seed)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        job: the job.
        folder: of its run; None if it failed.
        error: what went wrong, if it did.
        done: "now"; "before", as it was found finished; or "spared", as another job's run is the same.
    """

    job: Job
    folder: Path | None
    error: str | None = None
    done: Literal["now", "before", "spared"] = "now"


@dataclass(frozen=True)
class Workshop:
    """Where and how jobs are done.

    Args:
        folder: of the experiment.
        device: "auto", "cpu", "cuda", "cuda:N".
        workers: trainings at the same time, each in a process of its own if more than one.
            A script that asks for several does so below `if __name__ == "__main__":`, as they read it too.
        threads: of each training; by default torch's own number, shared among the workers.
        checkpoint_every: epochs between checkpoints.
        graph_cache: folder that keeps item neighbours between trainings.
        memory_limit: bytes that a process may take in all; by default what the machine leaves.
        k: list lengths of the validation figures.

    Raises:
        ConfigError: the device is not there, workers or threads are below 1, or a worker reads a script
            that asks for several elsewhere.
    """

    folder: Path
    device: str = "auto"
    workers: int = 1
    threads: int | None = None
    checkpoint_every: int = 10
    graph_cache: Path | None = None
    memory_limit: int | None = None
    k: tuple[int, ...] = (10, 20)

    def __post_init__(self) -> None:
        if self.workers < 1 or (self.threads is not None and self.threads < 1):
            raise ConfigError(
                f"workers {self.workers}, threads {self.threads}",
                wanted="at least one of each",
                fix="Leave them at their defaults",
            )
        if self.workers > 1:
            check_script_guarded()
        resolve_device(self.device)

    @property
    def threads_each(self) -> int:
        """How many threads of torch each training has."""
        return self.threads or max(1, torch.get_num_threads() // self.workers)

    def run_folder(self, name: str) -> Path:
        """Say where the run of that name is, or will be."""
        return self.folder / "runs" / name


def run_jobs(
    jobs: Sequence[Job],
    split: Split,
    workshop: Workshop,
    *,
    observe: Callable[[Job], Observer] | None = None,
) -> Iterator[Outcome]:
    """Do jobs, and yield what became of each as soon as it is known; finished ones are not done again.

    Nothing here sees a test pair. A job that fails is noted and the others go on; it is tried again by the
    next call. What is killed goes on from its last checkpoint.

    Args:
        jobs: equal ones are done once.
        split: the test part, if it has one, is taken off first.
        workshop: where and how.
        observe: makes an observer for a job that is trained in this process, that is with one worker.

    Raises:
        ConfigError: a job names something unknown or unfit; found before any is begun.
        StorageError: another process works in the folder.
        TrainingError: a process that trained died.
    """
    sealed = split.without_test()
    named: dict[str, Job] = {}
    for job in jobs:
        named.setdefault(job.name(sealed), job)  # the first gives the name for people
    with only_process(workshop.folder, "working"):
        waiting = {}
        for name, job in named.items():
            if (workshop.run_folder(name) / RUN).is_file():
                rmtree(workshop.folder / "unfinished" / name, ignore_errors=True)  # killed before it was gone
                yield Outcome(job, workshop.run_folder(name), done="before")
            else:
                waiting[name] = job
        if workshop.workers == 1 or len(waiting) < 2:
            for name, job in waiting.items():
                yield _attempt(job, name, sealed, workshop, observe(job) if observe else None)
        else:
            yield from _in_processes(waiting, sealed, workshop)


def _in_processes(waiting: Mapping[str, Job], sealed: Split, workshop: Workshop) -> Iterator[Outcome]:
    count, threads = workshop.workers, workshop.threads_each
    with worker_processes(count, threads, workshop.folder, _begin_worker, sealed, workshop) as pool:
        left = {pool.submit(_attempt_in_worker, job, name) for name, job in waiting.items()}
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


_worker: dict[str, Any] = {}
"""What a worker process was begun with."""


def _begin_worker(sealed: Split, workshop: Workshop) -> None:
    _worker.update(sealed=sealed, workshop=workshop)


def _attempt_in_worker(job: Job, name: str) -> Outcome:
    return _attempt(job, name, _worker["sealed"], _worker["workshop"], None)


def _attempt(job: Job, name: str, sealed: Split, workshop: Workshop, observer: Observer | None) -> Outcome:
    """Train, and note a failure instead of raising it."""
    note = workshop.folder / "failed" / f"{name}.json"
    facts: dict[str, Any] = {"name": name}
    try:
        facts |= job.settings()
        folder = _train(job, name, sealed, workshop, observer)
    except Exception as error:  # whatever it is, the others go on
        _note_failure(note, {**facts, "error": f"{type(error).__name__}: {error}"})
        return Outcome(job, None, str(error))
    note.unlink(missing_ok=True)
    return Outcome(job, folder)


def _note_failure(path: Path, facts: Mapping[str, Any]) -> None:
    """Write down what failed and how, as far as that can be written: it must not end the other jobs."""
    with suppress(OSError):  # of a full disk; the outcome says what went wrong all the same
        write_json(path, json.loads(json.dumps(facts, default=str), parse_constant=str))  # "Infinity"


def _train(job: Job, name: str, sealed: Split, workshop: Workshop, observer: Observer | None) -> Path:
    folder = workshop.run_folder(name)
    with job_lock(name, workshop):
        if not (folder / RUN).is_file():
            with training_of(job, name, sealed, workshop, observer) as run:
                run.save(folder)
    return folder


def job_lock(name: str, workshop: Workshop) -> FileLock:
    """Give the lock that whoever trains a job holds.

    A worker may outlive a killed experiment for an epoch or so, and must not be met by its successor.
    """
    path = workshop.folder / "unfinished" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def training_of(
    job: Job, name: str, sealed: Split, workshop: Workshop, observer: Observer | None
) -> Iterator[Run]:
    """Train a job, from its last checkpoint if there is one; drop checkpoints once the block ends well."""
    checkpoints = _checkpoints(name, workshop)
    model, training, plugins = job.recipe.configs()
    with limited_threads(workshop.threads):
        run = train(
            model,
            job.split(sealed),
            seed=job.seed,
            plugins=plugins,
            config=training,
            device=workshop.device,
            k=workshop.k,
            graph_cache=workshop.graph_cache,
            memory_limit=workshop.memory_limit,
            checkpoint_dir=checkpoints,
            checkpoint_every=workshop.checkpoint_every,
            resume=(checkpoints / f"{CHECKPOINT}.json").is_file(),
            observer=observer,
        )
    yield run
    drop_checkpoints(name, workshop)  # only now is nothing lost with them


def drop_checkpoints(name: str, workshop: Workshop) -> None:
    """Remove what a job left behind that nobody will go on with."""
    rmtree(_checkpoints(name, workshop), ignore_errors=True)


def _checkpoints(name: str, workshop: Workshop) -> Path:
    return workshop.folder / "unfinished" / name
