"""The demo from end to end, and the truth planted in its shop."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from triptych.cli.app import run as command
from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.errors import StorageError
from triptych.evaluation.ranking import evaluate_ranking
from triptych.report.demo import SPARSE_AT_MOST, TRAINING, run_demo, sparse_test
from triptych.runs import load, train
from triptych.training.observer import Observer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    result = run_demo(
        out,
        seed=7,
        noise=0.1,
        progress=lambda *_: nullcontext(Observer()),
        config=TRAINING.model_copy(update={"epochs": 4}),
    )
    assert [row["model"] for row in result.comparison] == ["lightgcn", "vbpr", "freedom"]
    assert len(result.recommendations["freedom"]) == 10
    assert result.history
    return out


def test_writes_data_runs_and_a_page(folder: Path):
    data = Dataset.load(folder / "data")
    assert set(data.features) == {"image", "text"}
    run = load(folder / "runs" / "freedom")
    assert run.record.data_hash == data.content_hash
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "data:image/" in page
    assert "freedom" in page


def test_does_not_replace_what_it_did_not_write(folder: Path, tmp_path: Path):
    with pytest.raises(StorageError, match="already exists"):
        run_demo(folder, seed=7, noise=0.1, progress=lambda *_: nullcontext(Observer()))
    assert command(["demo", "--out", str(folder)]) == 2


def test_sparse_test_keeps_only_rare_items():
    split = shop(0.0, 7)
    rare = sparse_test(split)
    degree = np.bincount(split.train.item, minlength=split.n_items)
    assert 0 < len(rare.test) < len(split.test)
    assert (degree[rare.test.item] <= SPARSE_AT_MOST).all()
    assert len(rare.train) == len(split.train)
    assert (degree[split.test.item] <= SPARSE_AT_MOST).sum() == len(rare.test)


@cache
def shop(noise: float, seed: int) -> Split:
    return Split.by_ratio(Dataset.demo(seed=seed, noise=noise), rng=seed)


def recall_on_sparse_items(model: str, noise: float, seed: int) -> float:
    split = shop(noise, seed)
    run = train(model, split, seed=seed, config=TRAINING, device="cpu")
    return evaluate_ranking(run.scorer, sparse_test(split), "test", (20,)).mean()["recall@20"]


@pytest.mark.parametrize(
    "seed", [7, pytest.param(8, marks=pytest.mark.long), pytest.param(9, marks=pytest.mark.long)]
)
def test_content_helps_where_interactions_are_few_and_only_if_it_is_true(seed: int):
    """The shop's planted truth: pictures and texts tell tastes, unless all of them are another item's."""
    blind = recall_on_sparse_items("lightgcn", 0.0, seed)
    for model in ("vbpr", "freedom"):
        seeing, fooled = (recall_on_sparse_items(model, noise, seed) for noise in (0.0, 1.0))
        assert seeing > 1.3 * blind
        assert seeing > 1.3 * fooled
