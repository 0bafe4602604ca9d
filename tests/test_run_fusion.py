"""Fusion: weights are found on validation, by nothing else, and the result is a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.data.dataset import Dataset
from triptych.data.interactions import LEFT_OUT, TEST, Interactions
from triptych.data.split import Split
from triptych.errors import ConfigError, TrainingError
from triptych.evaluation.ranking import evaluate_ranking
from triptych.runs import Run, evaluate, fuse, fusion, load, open_test, train
from triptych.runs.fusion import make_shortlists, search_weights
from triptych.scorer import Embeddings, EmbeddingScorer, FusedScorer, normalise
from triptych.testing import checkerboard, toy_dataset
from triptych.training.config import TrainConfig

QUICK = TrainConfig(epochs=2, batch_size=16, metric="recall@2")


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(40, 12), rng=0)


@pytest.fixture(scope="module")
def runs(split: Split) -> list[Run]:
    return [
        train(name, split, seed=seed, config=QUICK, k=(2,), device="cpu", settings=settings)
        for name, seed, settings in (
            ("ease", 5, {"reg_weight": 2.0}),
            ("mf-bpr", 6, {"embedding_dim": 4}),
            ("item-knn", 7, {"n_neighbors": 4}),
        )
    ]


def table(scores: np.ndarray) -> EmbeddingScorer:
    """Score as a table says."""
    return EmbeddingScorer(Embeddings(torch.from_numpy(scores), torch.eye(scores.shape[1])))


def noise(run: Run, seed: int = 0) -> Run:
    shape = (run.split.n_users, run.split.n_items)
    return replace(run, scorer=table(np.random.default_rng(seed).normal(size=shape)))


@pytest.mark.parametrize("normalisation", ["zscore", "minmax", "rank"])
def test_noise_is_left_out(normalisation: str):
    good = train("ease", checkerboard(), config=QUICK, k=(2,), device="cpu")
    for runs in ([good, noise(good)], [noise(good), good]):
        fused = fuse(runs, metric="recall@2", normalisation=normalisation, k=(2,))
        weights = [part["weight"] for part in fused.record.model_settings["parts"]]
        assert weights == [float(run is good) for run in runs]
        assert fused.record.valid["recall@2"] == good.record.valid["recall@2"] == 1.0


def planted(shares: np.ndarray) -> Split:
    """The one validation item of each of 300 users is the best of 40 by a mix of three tables."""
    everybody, n_items = np.arange(300), 40
    mixed = sum(share * normalise(part, "zscore") for share, part in zip(shares, TABLES, strict=True))
    best = mixed[:, 1:].argmax(dim=1).numpy() + 1  # item 0 is for training
    user, item = np.concatenate([everybody, everybody]), np.concatenate([0 * best, best])
    users, items = (
        (kind + np.char.zfill(np.arange(n).astype(str), 3)) for kind, n in (("u", 300), ("i", n_items))
    )
    rest = np.arange(n_items)  # each item occurs, left out
    pairs = Interactions.from_ids(
        np.concatenate([users[user], users[rest]]), np.concatenate([items[item], items[rest]])
    )
    data = Dataset.from_interactions("planted", pairs)
    part = np.full(len(pairs), LEFT_OUT, dtype=np.int8)
    part[pairs.item == 0] = 0
    part[pairs.item == best[pairs.user]] = 1
    return Split(data, part)


TABLES = [torch.from_numpy(np.random.default_rng(m).normal(size=(300, 40))).float() for m in range(3)]


@pytest.mark.parametrize("shares", [[0.25, 0.75, 0.0], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]])
def test_planted_weights_are_found(shares: list[float]):
    split = planted(np.array(shares))
    scorer = FusedScorer([table(part.numpy()) for part in TABLES], torch.ones(3), "zscore")
    found = search_weights(scorer, split, "recall@1")
    np.testing.assert_allclose(found, shares, atol=0.06)
    assert found.sum().item() == pytest.approx(1, abs=1e-6)
    assert make_shortlists(scorer, split, 10).measure(found[None], "recall@1").item() > 0.9
    assert torch.equal(search_weights(scorer, split, "recall@1"), found)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 24])
@pytest.mark.parametrize("metric", ["recall@2", "ndcg@3", "mrr@12"])
def test_candidates_are_measured_as_the_evaluator_does(
    runs: list[Run], metric: str, at_once: int, monkeypatch
):
    monkeypatch.setattr(fusion, "_BLOCK_SCORES", at_once)
    sealed = runs[0].split.without_test()
    scorers = [run.scorer for run in runs]
    # Weights that make no sums of ranks equal: rounding, which is the processor's, would settle these.
    weights = torch.tensor([[1.0, 0, 0], [0.2137, 0.5219, 0.2644], [0, 0, 1]])
    length = int(metric.partition("@")[2])
    lists = make_shortlists(FusedScorer(scorers, torch.ones(3), "rank"), sealed, 12)
    for value, row in zip(lists.measure(weights, metric), weights, strict=True):
        ranking = evaluate_ranking(FusedScorer(scorers, row, "rank"), sealed, "valid", (length,))
        assert value.item() == pytest.approx(ranking.mean()[metric])


def test_shortlists_hold_each_parts_best_unseen_items_once(runs: list[Run]):
    split = runs[0].split.without_test()
    scorer = FusedScorer([runs[0].scorer, runs[2].scorer], torch.ones(2), "minmax")
    lists = make_shortlists(scorer, split, 3)
    users = np.unique(split.valid.user)
    assert lists.scores.shape == (len(users), 2, 6)
    for row, user in enumerate(users.tolist()):
        seen = split.train.item[split.train.user == user].tolist()
        wanted = split.valid.item[split.valid.user == user].tolist()
        parts = scorer.part_scores(torch.tensor([user]))[:, 0]
        best = {
            item
            for part in parts
            for item in sorted(set(range(12)) - set(seen), key=lambda i: -part[i].item())[:3]
        }
        expected = sorted((*parts[:, item].tolist(), item in wanted) for item in best)
        real = lists.scores[row, 0] > -1e8
        found = [
            (*lists.scores[row, :, s].tolist(), bool(lists.relevant[row, s])) for s in real.nonzero()[:, 0]
        ]
        assert sorted(found) == expected
        assert not lists.relevant[row, ~real].any()
        assert lists.n_relevant[row] == len(wanted)


def test_a_fusion_is_as_good_on_validation_as_its_best_part(runs: list[Run]):
    fused = fuse(runs, metric="ndcg@2", k=(2,))
    assert fused.record.valid["ndcg@2"] >= max(run.record.valid["ndcg@2"] for run in runs) - 1e-12


def test_the_record_says_of_what_it_is_made(runs: list[Run], split: Split):
    fused = fuse(runs, metric="recall@2", normalisation="minmax", k=(2, 3))
    record = fused.record
    assert (record.name, record.seed, record.data, record.train_settings) == ("fusion", 5, "toy", {})
    parts = record.model_settings.pop("parts")
    assert record.model_settings == {"normalisation": "minmax", "metric": "recall@2"}
    assert [part["model"] for part in parts] == ["ease", "mf-bpr", "item-knn"]
    assert [part["seed"] for part in parts] == [5, 6, 7]
    assert [part["valid"] for part in parts] == [run.record.valid for run in runs]
    assert [part["weight"] for part in parts] == fused.scorer.weights.tolist()
    assert (record.data_hash, record.split_hash) == (runs[0].record.data_hash, split.content_hash)
    assert record.valid == evaluate(fused, "valid", (2, 3)).mean()
    assert record.test == evaluate(fused, "test", (2, 3)).mean()
    assert record.test_opened is not None


def test_it_is_saved_read_and_asked_like_any_run(runs: list[Run], tmp_path: Path):
    fused = fuse(runs, metric="recall@2", k=(2,))
    fused.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.record == fused.record
    users = fused.split.data.users.ids.tolist()
    assert again.recommend(users, k=3) == fused.recommend(users, k=3)
    assert again.similar("i002", k=3) == fused.similar("i002", k=3)
    for place, run in enumerate(runs):
        run.save(tmp_path / str(place))
    from_disk = fuse([load(tmp_path / str(place)) for place in range(3)], metric="recall@2", k=(2,))
    assert torch.equal(from_disk.scorer.weights, fused.scorer.weights)
    assert from_disk.record.test == fused.record.test
    assert from_disk.record.split_hash == fused.record.split_hash


def test_fusions_can_be_fused(runs: list[Run], tmp_path: Path):
    inner = fuse(runs[:2], metric="recall@2", k=(2,))
    outer = fuse([inner, runs[2]], metric="recall@2", k=(2,))
    outer.save(tmp_path / "run")
    everybody = torch.arange(outer.split.n_users)
    assert torch.equal(load(tmp_path / "run").scorer.score(everybody), outer.scorer.score(everybody))


def test_sealed_runs_make_a_sealed_fusion_that_is_opened_later(split: Split, runs: list[Run], tmp_path: Path):
    sealed = [
        train(run.record.model, split.without_test(), seed=run.record.seed, config=QUICK, k=(2,), device="cpu",
              settings=run.record.model_settings)
        for run in runs
    ]  # fmt: skip
    fused = fuse(sealed, metric="recall@2", k=(2,))
    assert (fused.record.test, fused.record.test_opened) == ({}, None)
    fused.save(tmp_path / "sealed")
    opened = open_test(load(tmp_path / "sealed"), split, (2,))
    assert opened.record.test == fuse(runs, metric="recall@2", k=(2,)).record.test
    with pytest.raises(ConfigError, match="was opened for this run"):
        open_test(opened, split)


def test_test_labels_choose_nothing(runs: list[Run], split: Split):
    is_test = np.flatnonzero(split.part == TEST)
    fewer = split.part.copy()
    fewer[is_test[::2]] = LEFT_OUT
    usual = fuse(runs, metric="recall@2", k=(2,))
    others = fuse([replace(run, split=replace(split, part=fewer)) for run in runs], metric="recall@2", k=(2,))
    assert torch.equal(others.scorer.weights, usual.scorer.weights)
    assert others.record.valid == usual.record.valid
    assert others.record.test != usual.record.test


def test_the_search_sees_no_test_pair(runs: list[Run], monkeypatch):
    seen = []

    def spy(scorer, split, metric):
        seen.append(split)
        return search_weights(scorer, split, metric)

    monkeypatch.setattr(fusion, "search_weights", spy)
    fuse(runs, metric="recall@2", k=(2,))
    (split,) = seen
    pairs = set(
        zip(split.data.interactions.user.tolist(), split.data.interactions.item.tolist(), strict=True)
    )
    assert pairs.isdisjoint(zip(*(part.tolist() for part in runs[0].split.test), strict=True))
    assert len(split.test) == 0


def test_runs_of_other_splits_are_refused_with_what_differs(runs: list[Run], split: Split):
    def on(other: Split) -> Run:
        return train("popularity", other, config=QUICK, k=(2,), device="cpu")

    reshuffled = on(Split.by_ratio(split.data, rng=1))
    with pytest.raises(ConfigError, match="run 2, popularity on toy, has other training pairs and validation pairs "
                                          "than run 1, ease on toy"):  # fmt: skip
        fuse([runs[0], reshuffled], k=(2,), metric="recall@2")
    board = on(checkerboard(12))
    with pytest.raises(ConfigError, match="run 3, popularity on checkerboard, has other users and items and"):
        fuse([*runs[:2], board], k=(2,), metric="recall@2")
    for too_few in ([], runs[:1]):
        with pytest.raises(ConfigError, match="at least two"):
            fuse(too_few, k=(2,), metric="recall@2")


def test_features_may_differ(runs: list[Run], split: Split):
    bare = replace(split, data=replace(split.data, features={}))
    other = train("ease", bare, config=QUICK, k=(2,), device="cpu")
    assert fuse([runs[1], other], metric="recall@2", k=(2,)).record.valid["recall@2"] > 0


def test_what_cannot_be_measured_is_refused(runs: list[Run]):
    with pytest.raises(ConfigError, match="the metric recall@20 on 12 items"):
        fuse(runs, metric="recall@20", k=(2,))
    with pytest.raises(ConfigError, match="list lengths"):
        fuse(runs, metric="recall@2", k=(20,))
    with pytest.raises(ConfigError, match="the metric"):
        fuse(runs, metric="recal@2", k=(2,))
    broken = replace(runs[0], scorer=table(np.full((40, 12), np.nan)))
    with pytest.raises(TrainingError, match="NaN"):
        fuse([runs[1], broken], metric="recall@2", k=(2,))
