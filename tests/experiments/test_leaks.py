"""Canaries: whatever the test part holds, nothing that is learned, chosen or searched changes by a byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.data.dataset import Dataset
from triptych.data.interactions import TEST, TRAIN, VALID, Interactions
from triptych.data.split import Pairs, Split
from triptych.experiments.jobs import Job, Workshop, run_jobs
from triptych.experiments.search import SearchResult, search
from triptych.experiments.study import SearchPlan
from triptych.models.base import ModelInputs
from triptych.runs import Run, fuse, load, open_test, train
from triptych.testing import toy_dataset
from triptych.testing.contract import same_bytes
from triptych.training.config import TrainConfig
from triptych.training.recipe import Recipe
from triptych.training.sampler import TripletSampler
from triptych.training.space import SearchSpace

MODELS = {
    "popularity": {},
    "item-knn": {"n_neighbors": 2},
    "ease": {},
    "lightgcn": {"embedding_dim": 4},
    "vbpr": {"embedding_dim": 4},
    "freedom": {"embedding_dim": 4, "n_neighbors": 2},
}
QUICK = TrainConfig(epochs=4, batch_size=16, metric="recall@2", patience=1)


@pytest.fixture(scope="module")
def split() -> Split:
    """Give a split with times, in which each user has something to find."""
    return Split.by_ratio(toy_dataset(), rng=0)


def with_test(split: Split, user: np.ndarray, item: np.ndarray, time: np.ndarray | None = None) -> Split:
    """Put other pairs in the place of a split's test part; all else, users and items too, stays as it is."""
    sealed = split.without_test()
    known = sealed.data.interactions
    time = np.zeros(len(user)) if time is None else time
    columns = [
        np.concatenate(ends) for ends in ((known.user, user), (known.item, item), (known.timestamp, time))
    ]
    part = np.concatenate([sealed.part, np.full(len(user), TEST, dtype=np.int8)])
    order = np.lexsort((columns[1], columns[0]))
    pairs = replace(known, user=columns[0][order], item=columns[1][order], timestamp=columns[2][order])
    return Split(replace(split.data, interactions=pairs), part[order], split.protocol)


def other_test(split: Split, seed: int) -> Split:
    """Let each user want other items than those of the test part, drawn from what the user does not have."""
    rng = np.random.default_rng(seed)
    known = set(
        zip(split.data.interactions.user.tolist(), split.data.interactions.item.tolist(), strict=True)
    )
    user, item = [], []
    for who in np.unique(split.test.user).tolist():
        free = [thing for thing in range(split.n_items) if (who, thing) not in known]
        for thing in rng.permutation(free)[: int((split.test.user == who).sum())].tolist():
            user.append(who)
            item.append(thing)
    assert user
    return with_test(split, np.array(user), np.array(item))


def trained(model: str, split: Split) -> Run:
    return train(model, split, seed=3, settings=MODELS[model], config=QUICK, device="cpu", k=(1, 2))


def chosen(run: Run) -> dict[str, Any]:
    """Name all of a record but what the test part is allowed to enter, and what a clock measured."""
    record = run.record.model_dump(mode="json")
    for name in ("data_hash", "split_hash", "split", "test", "test_opened", "protocol", "peak_memory_bytes"):
        record.pop(name)
    for name in ("seconds_per_epoch", "seconds_per_evaluation"):
        record.pop(name)
    for epoch in record["history"]:
        epoch["train_seconds"] = epoch["eval_seconds"] = 0
    return record


@pytest.mark.parametrize("model", MODELS)
def test_other_test_labels_change_the_final_figure_and_nothing_else(split: Split, model: str):
    whole = trained(model, split)
    differing = 0
    for seed in range(3):
        other = other_test(split, seed)
        assert other.content_hash != split.content_hash
        again = trained(model, other)
        assert same_bytes(whole, again)
        assert chosen(whole) == chosen(again)
        differing += whole.record.test != again.record.test
    assert differing  # else the canary would not have sung


def test_the_canary_sings_when_validation_changes(split: Split):
    """The same comparison sees a leak where there is one."""
    swapped = np.select([split.part == VALID, split.part == TEST], [TEST, VALID], split.part).astype(np.int8)
    assert chosen(trained("lightgcn", split)) != chosen(trained("lightgcn", replace(split, part=swapped)))


@pytest.mark.parametrize("model", MODELS)
def test_an_item_planted_in_test_alone_is_unknown_to_the_model(split: Split, model: str):
    planted = int(split.test.item[0])
    interactions = split.data.interactions
    part = np.where(interactions.item == planted, TEST, split.part).astype(np.int8)
    alone = Split(split.data, part, split.protocol)
    everybody = np.arange(split.n_users)
    loud = with_test(alone, everybody, np.full(split.n_users, planted))  # all users want it
    runs = [trained(model, alone), trained(model, loud)]
    assert same_bytes(*runs)
    inputs = ModelInputs.from_split(loud.without_test())
    assert planted not in inputs.item.tolist()
    assert (inputs.graphs.bipartite("mean").to_dense()[inputs.n_users + planted] == 0).all()
    sampler = TripletSampler(inputs.user, inputs.item, inputs.n_users, inputs.n_items, batch_size=8)
    assert not any(planted in (*batch.pos.tolist(), *batch.neg.tolist()) for batch in sampler.epoch())
    if model == "popularity":
        assert (runs[1].scorer.score(torch.from_numpy(everybody))[:, planted] == 0).all()


def test_times_after_the_cut_change_nothing():
    data = toy_dataset()
    split = Split.by_time(data, train=0.6, valid=0.2)
    assert len(split.test)
    time = data.interactions.timestamp
    future = split.part == TEST
    assert time[future].min() >= split.protocol["test_from"] > time[split.part == VALID].max()
    later = np.where(future, time * 1000 + 5, time)
    again = Split.by_time(
        replace(data, interactions=replace(data.interactions, timestamp=later)), train=0.6, valid=0.2
    )
    assert again.part.tolist() == split.part.tolist()
    for model in ("lightgcn", "freedom"):
        assert same_bytes(trained(model, split), trained(model, again))
    assert split.without_test().content_hash == again.without_test().content_hash
    assert time[~future].max() == split.without_test().data.interactions.timestamp.max()


def shop(folder: Path, workers: int = 1) -> Workshop:
    return Workshop(folder, device="cpu", workers=workers, threads=1, k=(2,))


PLAN = SearchPlan(
    SearchSpace("lightgcn", {"n_layers": (1, 2, 3), "learning_rate": (0.1, 0.01)}, "these tests"),
    3,
    fixed={"epochs": 3, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4},
)


def untimed(result: SearchResult) -> str:
    facts = result.model_dump(mode="json")
    for trial in facts["trials"]:
        trial.pop("seconds")
    return json.dumps(facts, sort_keys=True)


def forbid_test_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test part unreadable: who asks for its pairs is stopped."""
    honest = Split.pairs

    def pairs(self: Split, part: str) -> Pairs:
        found = honest(self, part)
        if part == "test" and len(found):
            raise PermissionError("the test part is sealed")
        return found

    monkeypatch.setattr(Split, "pairs", pairs)


def test_a_search_finds_the_same_without_and_with_any_test_part(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = untimed(search(PLAN, split, shop(tmp_path / "whole")))
    assert untimed(search(PLAN, other_test(split, 1), shop(tmp_path / "other"))) == expected
    forbid_test_pairs(monkeypatch)
    assert untimed(search(PLAN, split, shop(tmp_path / "forbidden"))) == expected
    sealed = split.without_test().labelled()  # a data set whose test part is on no disk
    sealed.save(tmp_path / "data")
    from_disk = Split.by_label(Dataset.load(tmp_path / "data"))
    assert len(from_disk.test) == 0
    told = json.loads(untimed(search(PLAN, from_disk, shop(tmp_path / "sealed"))))
    for name in ("best", "best_value", "importance"):
        assert told[name] == json.loads(expected)[name]


def test_a_search_goes_on_where_one_with_another_test_part_began(split: Split, tmp_path: Path):
    """The split is known by what the search may see, so that this is the same search."""
    first = replace(PLAN, n_trials=2)
    ends = []
    for name, later in (("same", split), ("other", other_test(split, 2))):
        search(first, split, shop(tmp_path / name))
        ends.append(untimed(search(PLAN, later, shop(tmp_path / name))))
    assert ends[0] == ends[1]


def test_the_trainings_of_an_experiment_need_no_test_part(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {"epochs": 3, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}
    jobs = [Job(Recipe("lightgcn", settings), seed) for seed in (1, 2)]
    forbid_test_pairs(monkeypatch)
    for name, any_split in (("one", split), ("other", other_test(split, 1))):
        outcomes = list(run_jobs(jobs, any_split, shop(tmp_path / name)))
        assert [outcome.error for outcome in outcomes] == [None, None]
    folders = [
        sorted(path.name for path in (tmp_path / name / "runs").iterdir()) for name in ("one", "other")
    ]
    assert folders[0] == folders[1]
    for folder in folders[0]:
        one, other = (load(tmp_path / name / "runs" / folder) for name in ("one", "other"))
        assert same_bytes(one, other)
        assert chosen(one) == chosen(other)
    monkeypatch.undo()
    assert open_test(one, split, (2,)).record.test  # and the door opens once all is done


def test_the_weights_of_a_fusion_see_no_test_pair(split: Split, monkeypatch: pytest.MonkeyPatch):
    def fused(any_split: Split) -> Run:
        return fuse([trained(model, any_split) for model in ("ease", "lightgcn")], metric="recall@2", k=(2,))

    whole = fused(split)
    others = [fused(other_test(split, seed)) for seed in range(3)]
    assert all(torch.equal(other.scorer.weights, whole.scorer.weights) for other in others)
    assert all(other.record.valid == whole.record.valid for other in others)
    assert any(other.record.test != whole.record.test for other in others)
    forbid_test_pairs(monkeypatch)
    sealed = fused(split.without_test())
    assert torch.equal(sealed.scorer.weights, whole.scorer.weights)


def test_what_is_sealed_holds_no_trace_of_the_test_part(split: Split):
    """Not in its bytes either: two sealed splits are one, whatever was sealed."""
    one, other = split.without_test(), other_test(split, 4).without_test()
    for name in ("user", "item", "timestamp"):
        first, second = (getattr(sealed.data.interactions, name) for sealed in (one, other))
        assert first.tobytes() == second.tobytes()
        assert first.base is None or len(first.base) == len(first)  # no view of something longer
    assert one.part.tobytes() == other.part.tobytes()
    assert one.content_hash == other.content_hash
    assert set(np.unique(one.part)) <= {-1, TRAIN, VALID}
    assert isinstance(one.data.interactions, Interactions)
