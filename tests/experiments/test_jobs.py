"""Trainings of an experiment: done once, kept, resumed, in one process or in several."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from triptych.data.interactions import TEST
from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError, TrainingError
from triptych.experiments import jobs as jobs_module
from triptych.experiments.jobs import Job, Workshop, run_jobs
from triptych.runs import load
from triptych.testing import toy_dataset
from triptych.testing.contract import StopAfter
from triptych.training.recipe import Recipe

QUICK = {"epochs": 4, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def job(model: str = "lightgcn", seed: int = 1, **settings: object) -> Job:
    return Job(Recipe(model, {**QUICK, **settings}), seed)


def shop(folder: Path, workers: int = 1) -> Workshop:
    return Workshop(folder, device="cpu", workers=workers, threads=1, checkpoint_every=1, k=(2,))


def test_each_job_is_done_once_and_found_again(split: Split, tmp_path: Path):
    jobs = [job(), job(seed=2), job()]
    first = list(run_jobs(jobs, split, shop(tmp_path)))
    assert [(outcome.job.seed, outcome.done, outcome.error) for outcome in first] == [
        (1, "now", None),
        (2, "now", None),
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = list(run_jobs(jobs, split, shop(tmp_path)))
    assert [outcome.done for outcome in again] == ["before", "before"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [outcome.folder for outcome in again] == [outcome.folder for outcome in first]


def test_runs_hold_no_test_pair(split: Split, tmp_path: Path):
    (outcome,) = run_jobs([job()], split, shop(tmp_path))
    assert outcome.folder is not None
    run = load(outcome.folder)
    assert run.record.test == {}
    assert len(run.split.test) == 0
    assert len(run.split.data.interactions) == len(split.train) + len(split.valid)


def test_test_labels_do_not_enter_a_name(split: Split):
    sealed = split.without_test()
    gone = np.zeros(len(split.part), dtype=bool)
    gone[np.flatnonzero(split.part == TEST)[:3]] = True
    data = replace(split.data, interactions=split.data.interactions.drop(gone))
    fewer = Split(data, split.part[~gone])
    assert fewer.content_hash != split.content_hash
    assert job().name(fewer.without_test()) == job().name(sealed)
    names = {
        job().name(sealed),
        job(seed=2).name(sealed),
        job(n_layers=1).name(sealed),
        job("mf-bpr").name(sealed),
    }
    assert len(names) == 4
    assert job(n_layers=2).name(sealed) == job().name(sealed)  # the default, written out
    plugged = Job(Recipe("lightgcn", QUICK, plugins=()), 1)
    assert plugged.name(sealed) == job().name(sealed)


def test_a_stopped_job_goes_on_and_ends_as_if_never_stopped(split: Split, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs([job()], split, shop(tmp_path / "a"), observe=lambda _: StopAfter(2)))
    assert not list((tmp_path / "a" / "runs").glob("*"))
    (unfinished,) = (tmp_path / "a" / "unfinished").glob("*/checkpoint.json")
    assert json.loads(unfinished.read_text())["progress"]["epoch"] == 2
    (resumed,) = run_jobs([job()], split, shop(tmp_path / "a"))
    (whole,) = run_jobs([job()], split, shop(tmp_path / "b"))
    assert resumed.folder is not None
    assert whole.folder is not None
    first, second = load(resumed.folder), load(whole.folder)
    assert torch.equal(first.scorer.embeddings.items, second.scorer.embeddings.items)
    assert [epoch.valid for epoch in first.record.history] == [epoch.valid for epoch in second.record.history]
    assert not list((tmp_path / "a" / "unfinished").glob("*/checkpoint.json"))


def test_a_failed_job_is_noted_and_the_others_go_on(split: Split, tmp_path: Path):
    outcomes = list(run_jobs([job(learning_rate=1e30), job()], split, shop(tmp_path)))
    assert [outcome.folder is None for outcome in outcomes] == [True, False]
    assert "became" in str(outcomes[0].error)
    (note,) = (tmp_path / "failed").glob("*.json")
    facts = json.loads(note.read_text())
    assert facts["model"] == "lightgcn"
    assert facts["training"]["learning_rate"] == 1e30
    assert "TrainingError" in facts["error"]


def test_whatever_ends_a_job_the_others_go_on(split: Split, tmp_path: Path, monkeypatch):
    whole = jobs_module.train

    def odd(model, *arguments, seed, **options):
        if seed == 1:
            raise ZeroDivisionError("by nobody foreseen")
        return whole(model, *arguments, seed=seed, **options)

    monkeypatch.setattr(jobs_module, "train", odd)
    outcomes = list(run_jobs([job(seed=1), job(seed=2)], split, shop(tmp_path)))
    assert [outcome.folder is None for outcome in outcomes] == [True, False]
    (note,) = (tmp_path / "failed").glob("*.json")
    assert "ZeroDivisionError: by nobody foreseen" in note.read_text()


@pytest.mark.parametrize("why", ["settings", "disk"])
def test_a_failure_that_cannot_be_written_down_ends_nothing(split: Split, tmp_path: Path, monkeypatch, why):
    def settings(self: Job) -> dict[str, object]:
        return {"seed": self.seed, "amount": float("inf"), "of": tmp_path}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if why == "disk":
        monkeypatch.setattr(jobs_module, "write_json", full)
    else:
        named = [job(seed=1).name(split.without_test()), job(seed=2).name(split.without_test())]
        monkeypatch.setattr(Job, "name", lambda self, _: named[self.seed - 1])
        monkeypatch.setattr(Job, "settings", settings)
    monkeypatch.setattr(jobs_module, "train", lambda *_, seed, **__: {}[f"none of {seed}"])
    outcomes = list(run_jobs([job(seed=1), job(seed=2)], split, shop(tmp_path)))
    assert [outcome.error for outcome in outcomes] == ["'none of 1'", "'none of 2'"]
    notes = [json.loads(path.read_text()) for path in (tmp_path / "failed").glob("*.json")]
    assert [note["amount"] for note in notes] == ([] if why == "disk" else ["Infinity"] * 2)


def test_unknown_settings_are_refused_before_anything_is_trained(split: Split, tmp_path: Path):
    with pytest.raises(ConfigError, match="n_layerz"):
        list(run_jobs([job(), job(n_layerz=3)], split, shop(tmp_path)))
    assert not (tmp_path / "runs").exists()


def test_several_processes_give_what_one_gives(split: Split, tmp_path: Path):
    jobs = [job(seed=seed) for seed in (1, 2, 3)] + [job(seed=4, learning_rate=1e30)]
    together = {o.job.seed: o for o in run_jobs(jobs, split, shop(tmp_path / "many", workers=2))}
    alone = {o.job.seed: o for o in run_jobs(jobs, split, shop(tmp_path / "one"))}
    assert together[4].folder is None
    assert "became" in str(together[4].error)
    for seed in (1, 2, 3):
        many, one = together[seed].folder, alone[seed].folder
        assert many is not None
        assert one is not None
        assert torch.equal(load(many).scorer.embeddings.users, load(one).scorer.embeddings.users)


def working(folder: Path, jobs: str, workers: int = 2) -> subprocess.Popen[bytes]:
    """Do jobs in a process of its own, with workers, and wait until one of them has a checkpoint."""
    script = folder / "working.py"
    script.write_text(
        WORKING.format(here=str(Path(__file__).parent), folder=str(folder / "a"), jobs=jobs, workers=workers)
    )
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not list((folder / "a" / "unfinished").glob("*/checkpoint.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


def children_of(number: int) -> set[int]:
    """List the processes that a process began, and those that they did."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found: set[int] = set()
    while more := {pid for pid, parent in parents if parent in found | {number}} - found:
        found |= more
    return found


def alive(number: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not list its processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_is_stopped_stops_its_workers(tmp_path: Path, number: signal.Signals):
    """They save an epoch first, and none of the jobs that wait is begun."""
    process = working(tmp_path, "[job(seed=seed, epochs=100_000, patience=100_000) for seed in range(6)]")
    workers = children_of(process.pid)
    assert len(workers) >= 2
    try:
        process.send_signal(number)
        process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while any(alive(worker) for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for left in (process.pid, *filter(alive, workers)):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
    begun = [path for path in (tmp_path / "a" / "unfinished").iterdir() if path.is_dir()]
    assert 1 <= len(begun) <= 2


def test_a_worker_that_dies_ends_it_all_and_nothing_done_is_lost(split: Split, tmp_path: Path):
    jobs = [job(), *(job(seed=seed, epochs=100_000, patience=100_000) for seed in (2, 3, 4))]
    outcomes = run_jobs(jobs, split, shop(tmp_path, workers=2))
    done = next(outcomes)
    assert done.folder is not None
    worker = next(iter(multiprocessing.active_children()))
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"a process that worked in .* died"):
        list(outcomes)
    assert not multiprocessing.active_children()
    assert next(run_jobs(jobs[:1], split, shop(tmp_path))).done == "before"


def test_a_second_process_on_one_folder_is_refused(split: Split, tmp_path: Path):
    with FileLock(tmp_path / ".lock"), pytest.raises(StorageError, match="another process is working in"):
        list(run_jobs([job()], split, shop(tmp_path)))


def test_workers_must_be_some(tmp_path: Path):
    with pytest.raises(ConfigError, match="workers 0"):
        Workshop(tmp_path, workers=0)


WORKING = """
import signal
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_jobs import Split, job, run_jobs, shop, toy_dataset
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # some who begin processes have them ignore it
    split = Split.by_ratio(toy_dataset(), rng=0)
    list(run_jobs({jobs}, split, shop(Path({folder!r}), workers={workers})))
"""


def test_killed_in_the_middle_nothing_is_lost(split: Split, tmp_path: Path):
    process = working(tmp_path, "[job(seed=seed, epochs=80, patience=80) for seed in (1, 2)]", workers=1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    jobs = [job(seed=seed, epochs=80, patience=80) for seed in (1, 2)]
    resumed = list(run_jobs(jobs, split, shop(tmp_path / "a")))
    whole = list(run_jobs(jobs, split, shop(tmp_path / "b")))
    for first, second in zip(resumed, whole, strict=True):
        assert first.folder is not None
        assert second.folder is not None
        one, other = load(first.folder), load(second.folder)
        assert torch.equal(one.scorer.embeddings.items, other.scorer.embeddings.items)
        assert len(one.record.history) == len(other.record.history) == 80


UNGUARDED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_jobs import Split, job, run_jobs, shop, toy_dataset
split = Split.by_ratio(toy_dataset(3000), rng=0)  # more than a pipe takes before it is read
list(run_jobs([job(), job(seed=2)], split, shop(Path({folder!r}), workers=2)))
"""


def test_a_script_whose_workers_begin_its_work_anew_ends_and_says_why(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(here=str(Path(__file__).parent), folder=str(tmp_path / "a")))
    ended = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 1
    assert 'below `if __name__ == "__main__":`' in ended.stderr
    assert "a process that worked in" in ended.stderr.splitlines()[-1]
    assert not list((tmp_path / "a" / "runs").glob("*"))
