"""R4: what is the same byte by byte when a training is repeated, and how far apart the rest may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from orders import Laboratory

from triptych import Split, train
from triptych.data.dataset import Dataset
from triptych.evaluation.ranking import evaluate_ranking
from triptych.experiments.jobs import Job, Workshop, run_jobs
from triptych.report.doctor import machine_facts
from triptych.runs import Run, load
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig
from triptych.training.recipe import Recipe

CONFIG = TrainConfig(epochs=3, batch_size=64, learning_rate=0.01, metric="recall@2")

OTHER_THREADS = {"rtol": 1e-3, "atol": 1e-5}
"""How far weights may be apart after three epochs with another number of threads."""


def learn(split: Split, model: str = "freedom", **options: Any) -> Run:
    return train(
        model, split, settings={"embedding_dim": 8}, seed=4, config=CONFIG, device="cpu", k=(2,), **options
    )


def same(one: Run, other: Run) -> bool:
    return all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())


@pytest.fixture(scope="module")
def board() -> Split:
    return checkerboard(16)


def test_two_processes_write_the_same_bytes(laboratory: Laboratory, tmp_path: Path):
    for place in ("one", "two"):
        assert laboratory.do("training", tmp_path / place, "freedom").status == 0
    one, two = (tmp_path / place / "run" for place in ("one", "two"))
    names = [path.relative_to(one) for path in sorted(one.rglob("*.safetensors"))]
    assert len(names) == 2
    for name in [*names, *(path.relative_to(one) for path in (one / "data").glob("*.parquet"))]:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_the_size_of_blocks_in_evaluation_changes_nothing(board: Split):
    run = learn(board)
    whole = evaluate_ranking(run.scorer, board, "test", (1, 2, 5))
    for size in (1, 3, 7, 1000):
        blocks = evaluate_ranking(run.scorer, board, "test", (1, 2, 5), block_size=size)
        assert blocks.values.keys() == whole.values.keys()
        assert all(np.array_equal(blocks.values[name], whole.values[name]) for name in whole.values)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "model", ["freedom", *(pytest.param(name, marks=LONG) for name in ("lightgcn", "ials", "ease"))]
)
def test_another_number_of_threads_stays_near(board: Split, shop: Dataset, model: str):
    settings = {} if model == "ease" else {"embedding_dim": 8}
    split = Split.by_ratio(shop, rng=0)  # large enough that torch parts the work
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            runs.append(train(model, split, settings=settings, seed=4, config=CONFIG, device="cpu", k=(2,)))
    finally:
        torch.set_num_threads(before)
    single, double, again = (run.scorer.score(torch.arange(split.n_users)) for run in runs)
    assert torch.equal(double, again), "with the same number the bytes are the same"
    assert torch.allclose(single, double, **OTHER_THREADS)
    assert runs[0].record.best_epoch == runs[1].record.best_epoch


@pytest.mark.long
def test_workers_change_nothing(board: Split, tmp_path: Path):
    jobs = [
        Job(Recipe("lightgcn", {"embedding_dim": 4, "epochs": 2, "metric": "recall@2"}), seed)
        for seed in (1, 2)
    ]
    done = {}
    for workers in (1, 2):
        workshop = Workshop(tmp_path / str(workers), device="cpu", workers=workers, threads=1, k=(2,))
        done[workers] = {outcome.job.seed: outcome.folder for outcome in run_jobs(jobs, board, workshop)}
    for seed in (1, 2):
        one, two = (load(done[workers][seed]) for workers in (1, 2))
        assert same(one, two)
        assert one.record.valid == two.record.valid
    assert not same(load(done[1][1]), load(done[1][2])), "seeds do"


def test_saving_on_the_way_changes_nothing(board: Split, tmp_path: Path):
    alone = learn(board)
    for every in (1, 2):
        assert same(alone, learn(board, checkpoint_dir=tmp_path / str(every), checkpoint_every=every))


def test_the_doctor_says_what_is_promised():
    promised = machine_facts()["same_bytes_again"]
    assert f"yes, with {torch.get_num_threads()} threads" in promised["cpu"]
    assert ("cuda" in promised) == torch.cuda.is_available()
