"""Metrics and the whole ranking against a slow, plain form: sets and loops instead of arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.dataset import Dataset
from triptych.data.interactions import TEST, TRAIN, VALID, Interactions
from triptych.data.split import Split
from triptych.evaluation.metrics import METRICS, per_user
from triptych.evaluation.ranking import evaluate_ranking
from triptych.scorer import Embeddings, EmbeddingScorer

EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.long)])
NEVER_SHRINKING = ("recall", "hit", "mrr")


def slow_metrics(listed: list[int], wanted: set[int], k: int) -> dict[str, float]:
    """Measure one list by the definitions."""
    top = listed[:k]
    places = [place for place, item in enumerate(top, start=1) if item in wanted]
    best = min(k, len(wanted))
    return {
        "recall": len(places) / len(wanted),
        "precision": len(places) / k,
        "hit": float(bool(places)),
        "mrr": 1 / places[0] if places else 0.0,
        "map": sum(found / place for found, place in enumerate(places, start=1)) / best,
        "ndcg": sum(1 / math.log2(place + 1) for place in places)
        / sum(1 / math.log2(place + 1) for place in range(1, best + 1)),
    }


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[list[int]], list[set[int]]]:
    """Draw complete lists of items for some users, and what each wants."""
    n_items = draw(st.integers(1, 15))
    items = list(range(n_items))
    users = draw(st.integers(1, 5))
    listed = [draw(st.permutations(items)) for _ in range(users)]
    return listed, [draw(st.sets(st.sampled_from(items), min_size=1)) for _ in range(users)]


@EXAMPLES
def test_every_metric_is_its_definition(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(rankings())
    def check(case: tuple[list[list[int]], list[set[int]]]) -> None:
        listed, wanted = case
        lengths = range(1, len(listed[0]) + 1)
        hits = np.array([[item in want for item in row] for row, want in zip(listed, wanted, strict=True)])
        found = per_user(hits, np.array([len(want) for want in wanted]), lengths)
        for k in lengths:
            for user, (row, want) in enumerate(zip(listed, wanted, strict=True)):
                for name, value in slow_metrics(row, want, k).items():
                    assert found[f"{name}@{k}"][user] == pytest.approx(value, abs=1e-12), (name, k)
                    assert 0 <= found[f"{name}@{k}"][user] <= 1 + 1e-12
        for name in NEVER_SHRINKING:
            curve = np.stack([found[f"{name}@{k}"] for k in lengths])
            assert (np.diff(curve, axis=0) >= 0).all()
        assert (found[f"recall@{lengths[-1]}"] == 1).all()

    check()


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Split, torch.Tensor]:
    """Draw a split and scores with many ties; scores are those of rows of a matrix times the identity."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    cells = st.lists(
        st.sampled_from([-1, TRAIN, VALID, TEST]), min_size=n_users * n_items, max_size=n_users * n_items
    )
    table = np.array(draw(cells)).reshape(n_users, n_items)
    table[:, 0] = TRAIN  # so that nobody is without training
    table[0, 1] = TEST
    user, item = np.nonzero(table >= 0)
    label = table[user, item].astype(np.int8)
    data = Dataset.from_interactions("drawn", Interactions.from_ids(user, item, label=label))
    values = st.lists(st.integers(-2, 2), min_size=n_users * data.n_items, max_size=n_users * data.n_items)
    return Split.by_label(data), torch.tensor(draw(values)).float().reshape(n_users, data.n_items)


@EXAMPLES
def test_the_whole_ranking_is_what_its_protocol_says(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(worlds(), st.sampled_from(["train", "train+valid"]), st.integers(1, 4))
    def check(world: tuple[Split, torch.Tensor], masked: str, block_size: int) -> None:
        split, scores = world
        scorer = EmbeddingScorer(Embeddings(scores, torch.eye(split.n_items)))
        lengths = range(1, split.n_items + 1)
        found = evaluate_ranking(scorer, split, "test", lengths, masked=masked, block_size=block_size)
        pairs = {
            part: list(zip(*(end.tolist() for end in split.pairs(part)), strict=True))
            for part in ("train", "valid", "test")
        }
        expected = {}
        for user in range(split.n_users):
            wanted = {item for who, item in pairs["test"] if who == user}
            hidden = {item for part in masked.split("+") for who, item in pairs[part] if who == user}
            order = sorted(set(range(split.n_items)) - hidden, key=lambda item: (-scores[user, item], item))
            if wanted:
                expected[user] = {k: slow_metrics(order, wanted, k) for k in lengths}
        assert found.users.tolist() == list(expected)
        for place, measured in enumerate(expected.values()):
            for k, values in measured.items():
                for name in METRICS:
                    assert found.values[f"{name}@{k}"][place] == pytest.approx(values[name], abs=1e-12)
        for name, mean in found.mean().items():
            assert 0 <= mean <= 1 + 1e-12, name

    check()
