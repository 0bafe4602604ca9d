"""A trained model that ranks by other settings: with the same weights, and only where these rank otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError
from triptych.runs import Run, evaluate, load, rank_otherwise, train
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig

ONCE = TrainConfig(epochs=1, batch_size=16, metric="recall@1")


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def msi(split: Split, **settings: Any) -> Run:
    given = {"embedding_dim": 4, "cl_weight": 2.0, **settings}
    return train("msi", split, settings=given, config=ONCE, seed=3, k=(1,), device="cpu")


@pytest.mark.parametrize("score_with", ["text", "image", "all"])
def test_a_run_ranks_as_one_that_was_trained_to_rank_so(split: Split, tmp_path: Path, score_with: str):
    msi(split).save(tmp_path / "run")
    other = rank_otherwise(load(tmp_path / "run"), split.data, {"score_with": score_with})
    wanted = msi(split, score_with=score_with)
    assert torch.allclose(other.scorer.embeddings.items, wanted.scorer.embeddings.items, atol=1e-6)
    assert evaluate(other, "test", 2).mean() == pytest.approx(evaluate(wanted, "test", 2).mean())
    assert other.record.model_settings["score_with"] == "ids"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"score_with": "ids"}, "msi ranks by score_with = ids as it does without"),
        ({"reg_weight": 0.5}, "msi ranks by reg_weight = 0.5 as it does without"),
        ({"embedding_dim": 6}, "msi has other weights with embedding_dim = 6"),
        ({"score_with": "sound"}, "score_with is 'sound'"),
        ({"scores_with": "text"}, "scores_with"),
    ],
)
def test_settings_by_which_the_same_weights_do_not_rank_otherwise_are_refused(
    split: Split, settings: dict[str, Any], why: str
):
    with pytest.raises(ConfigError, match=why):
        rank_otherwise(msi(split), split.data, settings)


def test_other_data_are_refused(split: Split):
    with pytest.raises(StorageError, match="the data set that the run was trained on"):
        rank_otherwise(msi(split), toy_dataset(seed=1), {"score_with": "text"})
