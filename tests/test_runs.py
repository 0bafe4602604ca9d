"""A run from training to disk and back, and what it answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import triptych as tt
from triptych.data.interactions import TRAIN, VALID, Interactions
from triptych.errors import ConfigError, DataError, ShapeError, StorageError, TrainingError, UnknownIdError
from triptych.evaluation.ranking import evaluate_ranking
from triptych.files import read_json, write_json
from triptych.models.lightgcn import LightGCNConfig
from triptych.runs import Run, RunRecord, evaluate, load, open_test, read_record, train
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.testing import checkerboard, toy_dataset
from triptych.training.config import TrainConfig

QUICK = tt.TrainConfig(epochs=3, batch_size=16, metric="recall@2")


@pytest.fixture(scope="module")
def run() -> Run:
    split = tt.Split.by_ratio(toy_dataset(), rng=0)
    return tt.train(
        "lightgcn", split, seed=1, settings={"embedding_dim": 4}, config=QUICK, device="cpu", k=(2, 5)
    )


def test_the_hello_world_of_the_readme(tmp_path: Path):
    data = toy_dataset()
    data.save(tmp_path / "toy")
    split = tt.Split.by_ratio(tt.Dataset.load(tmp_path / "toy"), rng=7)
    run = tt.train("freedom", split, seed=7, settings={"n_neighbors": 2}, config=QUICK, k=(2,))
    assert "recall@2" in str(tt.evaluate(run, on="test", k=(2, 4)))
    assert len(run.recommend(["u003"], k=3)) == 1
    run.save(tmp_path / "run")
    assert tt.load(tmp_path / "run").record == run.record
    assert tt.models.FREEDOMConfig(n_neighbors=3).n_neighbors == 3


def test_record_holds_what_names_the_experiment(run: Run):
    record = run.record
    assert (record.model, record.seed, record.data) == ("lightgcn", 1, "toy")
    assert record.model_settings == LightGCNConfig(embedding_dim=4).model_dump()
    assert record.train_settings["batch_size"] == 16
    assert record.data_hash == run.split.data.content_hash
    assert record.split_hash == run.split.content_hash
    assert record.split["train"] == len(run.split.train)
    assert record.versions["torch"] == torch.__version__
    assert len(record.history) == 3
    assert record.valid == record.history[record.best_epoch - 1].valid
    assert record.peak_memory_bytes > 1e7
    assert record.n_parameters == 4 * (run.split.n_users + run.split.n_items)
    assert json.loads(record.model_dump_json()) == record.model_dump(mode="json")


def test_a_record_from_before_parameters_were_noted_is_read(run: Run):
    facts = run.record.model_dump(mode="json")
    del facts["n_parameters"]
    assert RunRecord.model_validate(facts).n_parameters is None


def test_figures_are_those_of_the_evaluator(run: Run):
    assert run.record.test == tt.evaluate(run, on="test", k=(2, 5)).mean()
    assert run.record.protocol["masked"] == "train"


def test_a_settings_object_is_as_good_as_a_name(run: Run):
    again = train(LightGCNConfig(embedding_dim=4), run.split, seed=1, config=QUICK, device="cpu", k=(2, 5))
    assert torch.equal(again.scorer.embeddings.users, run.scorer.embeddings.users)


def test_recommendations_follow_the_scores_and_leave_known_items_out(run: Run):
    users = run.split.data.users.ids.tolist()
    data = run.split.data.interactions
    scores = run.scorer.embeddings.users @ run.scorer.embeddings.items.T
    for exclude in ("train", "train+valid", "all"):
        for u, answer in enumerate(run.recommend(users, k=4, exclude=exclude)):
            parts = {"train": [0], "train+valid": [0, 1], "all": [0, 1, 2]}[exclude]
            known = set(data.item[(data.user == u) & np.isin(run.split.part, parts)].tolist())
            order = [i for i in scores[u].argsort(descending=True, stable=True).tolist() if i not in known]
            assert answer.user_id == users[u]
            assert answer.basis == "model"
            assert [item.item_id for item in answer.items] == run.split.data.items.ids[order[:4]].tolist()
            assert [item.title for item in answer.items] == [f"Thing {i}" for i in order[:4]]


def test_similar_items_are_the_nearest_by_cosine(run: Run):
    items = torch.nn.functional.normalize(run.scorer.embeddings.items, dim=1)
    cosine = items @ items[2]
    order = [i for i in cosine.argsort(descending=True).tolist() if i != 2][:3]
    answer = run.similar("i002", k=3)
    assert [item.item_id for item in answer] == [f"i{i:03d}" for i in order]
    assert answer[0].score == pytest.approx(float(cosine[order[0]]), abs=1e-6)


def test_conditions_leave_items_out_before_the_cut(run: Run):
    odd = "title like 'Thing _' and not title in ('Thing 1', 'Thing 3')"
    marks = np.isin(np.arange(10), [1, 3], invert=True)
    every = [item.item_id for item in run.similar("i001", 9)]
    kept = [item for item in every if item != "i003"]
    for where in (odd, marks):
        assert [item.item_id for item in run.similar("i001", 4, where=where)] == kept[:4]
    assert [item.item_id for item in run.similar("i001", 9, where=odd)] == kept, "the item need not meet it"
    assert run.similar("i001", 3, where="title = 'nothing'") == []
    (one,) = run.recommend(["u003"], 10, exclude="none", where="title = 'Thing 4'")
    assert [item.item_id for item in one.items] == ["i004"]
    with pytest.raises(ConfigError, match="names the column 'status'"):
        run.similar("i001", 3, where="status = 'active'")
    with pytest.raises(ShapeError, match="marks of shape"):
        run.similar("i001", 3, where=marks[:9])


def test_what_nothing_ties_to_an_item_is_not_like_it():
    """By item-to-item weights: their zeros, in the order of the catalogue, would look like a list."""
    pairs = Interactions.from_ids(
        [0, 0, 1, 1, 2], [10, 11, 10, 11, 12], label=np.array([TRAIN, TRAIN, TRAIN, VALID, TRAIN])
    )
    split = tt.Split.by_label(tt.Dataset.from_interactions("x", pairs))
    ease = tt.train("ease", split, config=tt.TrainConfig(metric="recall@1"), device="cpu", k=(1,))
    assert [near.item_id for near in ease.similar(10, 2)] == [11]
    assert ease.similar(12, 2) == []


def test_unknown_ids_and_impossible_lengths_are_refused(run: Run):
    with pytest.raises(UnknownIdError, match="user id 'u03'"):
        run.recommend(["u03"])
    with pytest.raises(UnknownIdError, match="item id 'nothing'"):
        run.similar("nothing", k=2)
    with pytest.raises(ConfigError, match="list lengths"):
        run.recommend(["u003"], k=11)
    with pytest.raises(ConfigError, match="list lengths"):
        run.similar("i001", k=10)
    assert run.recommend([], k=3) == []


@pytest.mark.parametrize("one", ["12", 3, b"12"])
def test_one_user_in_the_place_of_several_is_refused(run: Run, one):
    with pytest.raises(DataError, match=r"one user id, .*Give \["):
        run.recommend(one)


@pytest.mark.parametrize("k", [2.5, "3", None])
def test_lengths_that_are_no_whole_numbers_are_refused(run: Run, k):
    with pytest.raises(ConfigError, match="wanted whole numbers"):
        run.recommend([run.split.data.users.ids[0]], k=k)


def test_two_hundred_users_at_once_answer_as_each_alone(run: Run):
    together = run.recommend(["u001"] * 200, k=3)
    (alone,) = run.recommend(["u001"], k=3)
    for answer in together:
        assert [item.item_id for item in answer.items] == [item.item_id for item in alone.items]


def test_a_part_without_pairs_is_refused_or_left_out(run: Run):
    nothing_to_choose_by = replace(
        run.split, part=np.where(run.split.part == 1, -1, run.split.part).astype(np.int8)
    )
    with pytest.raises(DataError, match="valid part of 'toy' is empty"):
        train("mf-bpr", nothing_to_choose_by, config=QUICK, k=(2,))
    no_test = replace(run.split, part=np.where(run.split.part == 2, -1, run.split.part).astype(np.int8))
    assert train("mf-bpr", no_test, config=QUICK, k=(2,)).record.test == {}


def test_test_labels_choose_nothing(run: Run):
    """The epoch and the weights are the same whatever the test part holds."""
    is_test = run.split.part == 2
    emptied = replace(run.split, part=np.where(is_test, -1, run.split.part).astype(np.int8))
    again = train(LightGCNConfig(embedding_dim=4), emptied, seed=1, config=QUICK, device="cpu", k=(2, 5))
    assert again.record.best_epoch == run.record.best_epoch
    assert torch.equal(again.scorer.embeddings.items, run.scorer.embeddings.items)


def test_without_its_test_part_a_run_is_the_same_and_is_measured_later(run: Run, tmp_path: Path):
    split = run.split
    sealed = tt.train(
        LightGCNConfig(embedding_dim=4), split.without_test(), seed=1, config=QUICK, device="cpu", k=(2, 5)
    )
    assert sealed.record.test == {}
    assert sealed.record.test_opened is None
    assert torch.equal(sealed.scorer.embeddings.items, run.scorer.embeddings.items)
    sealed.save(tmp_path / "sealed")
    opened = open_test(load(tmp_path / "sealed"), split, (2, 5))
    assert opened.record.test == run.record.test
    assert opened.record.test_opened is not None
    assert opened.record.split_hash == run.record.split_hash
    assert opened.record.data_hash == run.record.data_hash
    with pytest.raises(ConfigError, match="was opened for this run"):
        open_test(opened, split)
    other = tt.Split.by_ratio(split.data, rng=5)
    with pytest.raises(ConfigError, match="another split"):
        open_test(load(tmp_path / "sealed"), other)


def test_what_chooses_holds_no_test_pair(run: Run):
    sealed = run.split.without_test()
    pairs = set(
        zip(
            *(part.tolist() for part in (sealed.data.interactions.user, sealed.data.interactions.item)),
            strict=True,
        )
    )
    assert pairs.isdisjoint(zip(*(part.tolist() for part in run.split.test), strict=True))
    assert len(pairs) == len(run.split.train) + len(run.split.valid)
    assert (sealed.n_users, sealed.n_items) == (run.split.n_users, run.split.n_items)
    for part in ("train", "valid"):
        assert np.array_equal(np.stack(sealed.pairs(part)), np.stack(run.split.pairs(part)))
    assert sealed.without_test().content_hash == sealed.content_hash


def test_saving_over_something_else_is_refused(run: Run, tmp_path: Path):
    run.save(tmp_path / "run")
    with pytest.raises(StorageError, match="already exists"):
        run.save(tmp_path / "run")
    run.save(tmp_path / "run", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(StorageError, match="not made by"):
        run.save(tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "precious.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_damage_to_any_file_of_a_run_is_noticed(run: Run, tmp_path: Path):
    run.save(tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 7
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StorageError):
            load(tmp_path / "run")
        path.write_bytes(whole)
    assert load(tmp_path / "run").record == run.record


def test_a_run_of_another_schema_and_a_folder_that_is_none(run: Run, tmp_path: Path):
    run.save(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    write_json(path, {**read_json(path), "schema_version": 99})
    for read in (load, read_record):
        with pytest.raises(StorageError, match="schema version 99"):
            read(tmp_path / "run")
        with pytest.raises(StorageError, match="is not a run"):
            read(tmp_path)


def test_the_record_is_read_without_what_it_vouches_for(run: Run, tmp_path: Path):
    run.save(tmp_path / "run")
    for path in (tmp_path / "run").glob("*.safetensors"):
        path.unlink()
    assert read_record(tmp_path / "run") == run.record
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"seed": ', '"seed": 1'))
    with pytest.raises(StorageError, match="checksum"):
        read_record(tmp_path / "run")
    write_json(path, {"kind": "run", "schema_version": 1, "files": {}})
    with pytest.raises(StorageError, match="does not describe a run: Field required"):
        read_record(tmp_path / "run")


def test_nan_embeddings_are_refused(run: Run):
    users, items = run.scorer.embeddings
    broken = EmbeddingScorer(Embeddings(users.clone().fill_(float("nan")), items))
    with pytest.raises(TrainingError, match="NaN"):
        evaluate_ranking(broken, run.split, "test", (2,))


def test_settings_beside_a_settings_object_are_refused():
    with pytest.raises(ConfigError, match="settings beside LightGCNConfig, which holds them"):
        train(LightGCNConfig(), checkerboard(), settings={"n_layers": 3})


def test_what_a_notebook_shows_is_a_line():
    split = checkerboard()
    run = train("popularity", split, device="cpu", k=2, config=TrainConfig(metric="recall@2"))
    for shown in (run, split, split.data):
        assert len(repr(shown).splitlines()) == 1
        assert split.data.name in repr(shown)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"split": checkerboard().data}, "training on a Dataset"),
        ({"settings": {"epochs": 3}}, r"'epochs', a setting of the training loop.*TrainConfig\(epochs="),
    ],
)
def test_arguments_in_the_wrong_place_are_told_where_they_belong(arguments, says):
    with pytest.raises(ConfigError, match=says):
        train("lightgcn", **{"split": checkerboard(), **arguments})


def test_one_length_a_number_of_numpy_and_names_of_folders_will_do(tmp_path):
    config = TrainConfig(epochs=1, metric="recall@2")
    run = train(
        "lightgcn", checkerboard(), seed=np.int64(3), config=config, device="cpu", k=2,
        checkpoint_dir=str(tmp_path / "c"), graph_cache=str(tmp_path / "g"),
    )  # fmt: skip
    assert run.record.seed == 3
    assert evaluate(run, k=2).mean()["recall@2"] == run.record.test["recall@2"]
