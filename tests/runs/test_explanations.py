"""Explanations: parts add up, those told as exact are the model's own terms, and knock-outs find what is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError, UnknownIdError
from triptych.models.base import ModelInputs
from triptych.models.registry import models
from triptych.runs import Run, explain, explanation, fuse, modality_shares, train
from triptych.runs.rebuild import rebuild
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig

BRIEFLY = TrainConfig(epochs=2, batch_size=128, metric="recall@2")
ADDITIVE = ("vbpr", "grcn", "sand", "dualgnn", "mmgcn")


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(40, 30), rng=0)


def trained(name: str, split: Split, **settings) -> Run:
    fields = next(entry.config for entry in models() if entry.name == name).model_fields
    small = {"n_neighbors": 4, "embedding_dim": 8} if fields["embedding_dim"].default == 64 else {}
    small = {key: value for key, value in small.items() if key in fields} | settings
    return train(name, split, seed=1, config=BRIEFLY, k=(2,), device="cpu", settings=small)


@pytest.mark.parametrize("name", ADDITIVE)
def test_parts_of_a_model_add_up_to_its_scores(name: str, split: Split):
    run = trained(name, split)
    parts = rebuild(run, ModelInputs.from_split(split)).score_parts()
    total = sum(users @ items.T for users, items in parts.values())
    torch.testing.assert_close(total, run.scorer.score(torch.arange(40)), rtol=1e-4, atol=1e-5)
    found = explain(run, "u003", "i004", split.data)
    assert found.exact
    assert set(found.parts) == set(parts) <= {"behaviour", "image", "text"}
    assert sum(found.parts.values()) == pytest.approx(found.score, abs=1e-5)


@pytest.mark.parametrize("name", [entry.name for entry in models() if entry.kind == "content"])
def test_every_model_of_content_is_taken_apart(name: str, split: Split):
    run = trained(name, split)
    found = explain(run, "u003", "i004", split.data)
    assert found.exact == (name in ADDITIVE)
    assert {"image", "text"} <= set(found.parts) <= {"behaviour", "image", "text"}
    assert found.score == pytest.approx(run.scorer.score(torch.tensor([3]))[0, 4].item(), abs=1e-5)
    assert sum(found.parts.values()) == pytest.approx(found.score, abs=1e-5)
    assert sum(abs(share) for share in found.shares.values()) == pytest.approx(1)
    for part, share in found.shares.items():
        assert np.sign(share) == np.sign(found.parts[part])


def test_vbpr_by_hand(split: Split):
    run = trained("vbpr", split)
    weights = {name: tensor.numpy() for name, tensor in run.weights.items()}
    image, text = (split.data.features[name].values[4] for name in ("image", "text"))
    tastes = weights["users"][3, 8:]
    found = explain(run, "u003", "i004", split.data).parts
    assert found["image"] == pytest.approx(tastes @ weights["project.weight"][:, :5] @ image, abs=1e-5)
    assert found["text"] == pytest.approx(tastes @ weights["project.weight"][:, 5:] @ text, abs=1e-5)
    ids = weights["users"][3, :8] @ weights["items"][4] + tastes @ weights["project.bias"]
    assert found["behaviour"] == pytest.approx(ids, abs=1e-5)


def test_knocking_out_a_modality_of_item_knn_takes_its_sum_away(split: Split):
    run = trained("item-knn", split)
    alone = {
        name: train("item-knn", split, config=BRIEFLY, k=(2,), device="cpu",
                    settings={"n_neighbors": run.record.model_settings["n_neighbors"], "modalities": (name,),
                              "modality_weights": {name: weight}})
        for name, weight in (("image", 0.1), ("text", 0.9))
    }  # fmt: skip
    for user, item in ((0, 5), (3, 4), (11, 20)):
        found = explain(run, f"u{user:03d}", f"i{item:03d}", split.data).parts
        for name, part in alone.items():
            expected = part.scorer.score(torch.tensor([user]))[0, item].item()
            assert found[name] == pytest.approx(expected, abs=1e-5)
        assert found["behaviour"] == pytest.approx(0, abs=1e-5)


def test_a_modality_that_repeats_another_for_every_item_costs_freedom_nothing(split: Split):
    text = split.data.features["text"]
    twice = replace(split, data=replace(split.data, features={"text": text, "copy": text}))
    found = explain(trained("freedom", twice), "u003", "i004", twice.data).parts
    assert found["copy"] == pytest.approx(0, abs=1e-6)
    assert found["text"] == pytest.approx(0, abs=1e-6)
    assert found["behaviour"] == pytest.approx(sum(found.values()), abs=1e-6)


def test_a_given_item_graph_is_knocked_out_too(split: Split):
    n = split.n_items
    graph = ItemGraph.from_edges(np.arange(n), (np.arange(n) + 1) % n, np.ones(n, dtype=np.float32), n)
    given = {"text": split.data.features["text"], "image": ItemFeatures(np.ones(n, dtype=bool), graph=graph)}
    linked = replace(split, data=replace(split.data, features=given))
    run = trained("freedom", linked)
    found = explain(run, "u003", "i004", linked.data).parts
    ids = run.weights["nodes.weight"][40:].numpy()
    text = given["text"].values / np.maximum(
        np.linalg.norm(given["text"].values, axis=1, keepdims=True), 1e-12
    )
    nearest = np.argsort(-(text @ text[4] + 2 * (np.arange(n) == 4)), kind="stable")[:4]
    lost = 0.1 * ids[5] + 0.9 * ids[nearest].mean(axis=0) - ids[nearest].mean(axis=0)
    assert found["image"] == pytest.approx(run.scorer.embeddings.users[3].numpy() @ lost, abs=1e-5)


def test_ids_are_told_as_the_data_have_them():
    from triptych.testing import checkerboard

    found = explain(trained("popularity", checkerboard()), "3", "4")
    assert (found.user_id, found.item_id) == (3, 4)
    assert type(found.user_id) is int


def test_a_fusion_is_its_parts(split: Split):
    runs = [trained("ease", split), trained("vbpr", split), trained("vbpr", split)]
    fused = fuse(runs, metric="recall@2", k=(2,))
    found = explain(fused, "u003", "i004")
    assert list(found.parts) == ["ease", "vbpr 1", "vbpr 2"]
    assert found.exact
    assert sum(found.parts.values()) == pytest.approx(found.score, abs=1e-5)
    comparable = fused.scorer.part_scores(torch.tensor([3]))[:, 0, 4]
    assert list(found.parts.values()) == pytest.approx((fused.scorer.weights * comparable).tolist(), abs=1e-6)


def test_behaviour_alone_needs_no_features(split: Split):
    for name in ("lightgcn", "ease", "popularity"):
        found = explain(trained(name, split), "u003", "i004")
        assert list(found.parts) == ["behaviour"]
        assert found.parts["behaviour"] == pytest.approx(found.score)
        assert found.exact


def test_without_features_content_is_not_guessed_at(split: Split):
    run = trained("vbpr", split)
    found = explain(run, "u003", "i004")
    assert (found.parts, found.shares, found.exact) == ({}, {}, False)
    assert "where the data set is given" in found.how
    assert found.because
    assert explain(run, "u003", "i004", split.data).parts  # and what was told before is not kept


def test_because_names_the_users_own_items_nearest_first(split: Split):
    own = split.train.item[split.train.user == 3]
    run = trained("vbpr", split)
    near = run.scorer.item_similarities(4).numpy()
    found = explain(run, "u003", "i004", split.data, n_neighbors=3).because
    order = sorted((item for item in own if item != 4), key=lambda item: -near[item])[:3]
    assert [one.item_id for one in found] == [f"i{item:03d}" for item in order]
    assert [one.score for one in found] == pytest.approx(near[order])
    assert explain(run, "u003", "i004", split.data, n_neighbors=0).because == []


def test_because_of_a_closed_form_adds_up_to_its_score(split: Split):
    run = trained("ease", split)
    found = explain(run, "u003", "i004", n_neighbors=30)
    assert sum(one.score for one in found.because) == pytest.approx(found.score, abs=1e-5)


def test_shares_of_many_pairs_are_the_mean_of_those_of_each(split: Split):
    users, items = np.array([3, 3, 8, 30]), np.array([4, 7, 0, 29])
    for name in ("vbpr", "freedom", "l3ae"):
        run = trained(name, split)
        each = [
            explain(run, f"u{u:03d}", f"i{i:03d}", split.data).shares
            for u, i in zip(users, items, strict=True)
        ]
        found = modality_shares(run, split.data, users, items)
        assert found == pytest.approx(
            {part: np.mean([one[part] for one in each]) for part in found}, abs=1e-5
        )
        if name == "vbpr":
            assert modality_shares(run, split.data, users, items, exact=True) == found
        else:  # known by now, but by knocking out
            with pytest.raises(ConfigError, match=f"the scores of {name} are no sum by modality"):
                modality_shares(run, split.data, users, items, exact=True)


def test_planted_taste_for_pictures_is_found(shop: Dataset):
    """Users of the shop go by what one modality shows; the other is noise."""
    text = shop.features["text"]
    noise = ItemFeatures.dense(np.random.default_rng(0).normal(size=text.values.shape) * text.values.std())
    told = replace(shop, features={"image": shop.features["image"], "text": noise})
    split = Split.by_ratio(told, rng=7)
    run = train("vbpr", split, seed=1, config=TrainConfig(epochs=10, learning_rate=0.01), device="cpu")
    users, items = (part[::5] for part in split.train)
    shares = modality_shares(run, told, users, items)
    assert shares["image"] > 2 * abs(shares["text"])


def test_large_closed_forms_are_not_solved_again(split: Split, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(explanation, "LARGEST_SOLVE", 20)
    run = trained("l3ae", split)
    assert "too long" in explain(run, "u003", "i004", split.data).how
    with pytest.raises(ConfigError, match="too long"):
        modality_shares(run, split.data, np.array([0]), np.array([1]))


def test_refusals(split: Split):
    run = trained("vbpr", split)
    with pytest.raises(UnknownIdError, match="user id 'nobody'"):
        explain(run, "nobody", "i004", split.data)
    with pytest.raises(UnknownIdError, match="item id 'nothing'"):
        explain(run, "u003", "nothing", split.data)
    with pytest.raises(ConfigError, match="n_neighbors = -1"):
        explain(run, "u003", "i004", split.data, n_neighbors=-1)
    with pytest.raises(StorageError, match="the data set that the run was trained on"):
        explain(run, "u003", "i004", toy_dataset(40, 30, seed=9))
    with pytest.raises(ConfigError, match="no pairs"):
        modality_shares(run, split.data, np.array([], dtype=np.int64), np.array([], dtype=np.int64))
