"""Popularity keeps the contract, and counts."""

from __future__ import annotations

import numpy as np
import torch

from triptych.data.split import Split
from triptych.models.popularity import PopularityConfig
from triptych.runs import train
from triptych.testing import ScoringContract, toy_dataset
from triptych.training.config import TrainConfig


class TestPopularity(ScoringContract):
    config = PopularityConfig()
    reached = 0.0  # on a board where all are equally popular there is nothing to learn


def test_everybody_is_offered_the_training_counts():
    split = Split.by_ratio(toy_dataset(), rng=0)
    run = train("popularity", split, config=TrainConfig(metric="recall@2"), k=(2,), device="cpu")
    counts = np.bincount(split.train.item, minlength=split.n_items)
    scores = run.scorer.score(torch.arange(split.n_users))
    assert np.array_equal(scores.numpy(), np.tile(counts, (split.n_users, 1)))
    assert len(run.record.history) == 1
    assert run.record.history[0].losses == {}
