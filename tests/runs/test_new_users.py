"""New users: exact where scores are made of items, near the trained vector elsewhere, and never silent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.errors import ConfigError, UnknownIdError
from triptych.models.registry import models
from triptych.runs import Run, fold_in, fuse, train
from triptych.runs.fold_in import UserFolder, history_graph
from triptych.runs.held_out import measure_new_users
from triptych.scorer import Embeddings, EmbeddingScorer, FusedScorer
from triptych.testing import checkerboard, toy_dataset
from triptych.training.config import TrainConfig

BRIEFLY = TrainConfig(epochs=2, batch_size=32, metric="recall@2")


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(40, 30), rng=0)


def trained(name: str, split: Split, **settings) -> Run:
    return train(name, split, seed=1, config=BRIEFLY, k=(2,), device="cpu", settings=settings)


def own_items(split: Split, user: int) -> list[str]:
    return split.data.items.ids[split.train.item[split.train.user == user]].tolist()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ease", {}),
        ("ease", {"rank": 6}),
        ("item-knn", {"n_neighbors": 5}),
        ("add-ease", {}),
        ("l3ae", {"rank": 6}),
    ],
)
def test_closed_forms_score_a_known_user_told_again_exactly_alike(name: str, settings, split: Split):
    run = trained(name, split, **settings)
    for user in (0, 7):
        (again,) = fold_in(run, [own_items(split, user)], 8)
        (known,) = run.recommend([f"u{user:03d}"], 8, exclude="train")
        assert again.basis == "fold-in"
        assert [item.item_id for item in again.items] == [item.item_id for item in known.items]
        assert [item.score for item in again.items] == pytest.approx(
            [item.score for item in known.items], rel=1e-4
        )


def test_ease_scores_as_if_the_user_had_been_in_the_matrix(split: Split):
    """x B by hand, B solved in numpy from the training pairs."""
    run = trained("ease", split, reg_weight=5.0)
    x = np.zeros((40, 30))
    x[split.train.user, split.train.item] = 1
    p = np.linalg.inv(x.T @ x + 5 * np.eye(30))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    expected = b[[2, 9]].sum(axis=0)
    expected[[2, 9]] = -np.inf
    (found,) = fold_in(run, [["i002", "i009", "i002"]], 28)
    order = np.argsort(-expected, kind="stable")[:28]
    assert [int(item.item_id[1:]) for item in found.items] == order.tolist()
    assert [item.score for item in found.items] == pytest.approx(expected[order], abs=1e-4)
    assert len(fold_in(run, [["i002", "i009"]], 30)[0].items) == 28


def test_users_that_are_a_linear_map_of_their_items_are_found_again(split: Split):
    """Planted: vectors of users are the mean of their items', turned and moved."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(30, 4))
    x = np.zeros((40, 30))
    x[split.train.user, split.train.item] = 1
    turn, move = rng.normal(size=(4, 4)), rng.normal(size=4)
    users = x / x.sum(axis=1, keepdims=True) @ items @ turn + move
    scorer = EmbeddingScorer(Embeddings(torch.from_numpy(users), torch.from_numpy(items)))
    folder = UserFolder(scorer, split)
    assert folder.weighting == "mean"
    history = np.array([3, 8, 20])
    made = folder.users(history_graph([history], 30))[0].numpy()
    assert made == pytest.approx(items[history].mean(axis=0) @ turn + move, abs=0.02)


def test_a_fusion_is_asked_part_by_part(split: Split):
    runs = [trained("ease", split), trained("lightgcn", split, embedding_dim=8)]
    fused = fuse(runs, metric="recall@2", k=(2,), normalisation="minmax")
    scorer = FusedScorer(fused.scorer.parts, torch.tensor([0.25, 0.75]), "minmax")
    history = history_graph([np.array([1, 2]), np.array([4])], 30)
    parts = [UserFolder(run.scorer, split).score(history).numpy() for run in runs]
    unit = [(part - part.min(1, keepdims=True)) / np.ptp(part, axis=1)[:, None] for part in parts]
    expected = 0.25 * unit[0] + 0.75 * unit[1]
    assert UserFolder(scorer, split).score(history).numpy() == pytest.approx(expected, abs=1e-5)
    assert fold_in(fused, [["i001"]], 3)[0].basis == "fold-in"


@pytest.mark.parametrize("name", [entry.name for entry in models() if entry.kind == "collaborative"])
def test_every_model_of_behaviour_folds_in(name: str, split: Split):
    (found,) = fold_in(trained(name, split), [["i003", "i004"]], 5)
    assert len(found.items) == 5
    assert not {"i003", "i004"} & {item.item_id for item in found.items}
    assert all(np.isfinite(item.score) for item in found.items)


def test_many_users_are_those_one_by_one(split: Split):
    run = trained("mf-bpr", split, embedding_dim=8)
    rng = np.random.default_rng(1)
    histories = [[f"i{item:03d}" for item in rng.choice(30, n % 6, replace=False)] for n in range(300)]
    together = fold_in(run, histories, 3)
    assert [entry.user_id for entry in together] == list(range(300))
    for place in (0, 1, 127, 128, 299):
        (alone,) = fold_in(run, [histories[place]], 3)
        assert alone.basis == together[place].basis == ("fold-in" if histories[place] else "popular")
        assert [one.item_id for one in alone.items] == [one.item_id for one in together[place].items]


def test_nobody_without_items_is_guessed_at(split: Split):
    run = trained("mf-bpr", split, embedding_dim=8)
    (found,) = fold_in(run, [[]], 4)
    counts = np.bincount(split.train.item, minlength=30)
    assert found.basis == "popular"
    assert [item.score for item in found.items] == sorted(counts, reverse=True)[:4]
    assert fold_in(run, [], 4) == []


@pytest.mark.parametrize("name", ["ease", "mf-bpr"])
def test_a_condition_holds_for_those_with_items_and_those_without(name: str, split: Split):
    run = trained(name, split)
    histories = [["i001", "i002"], []]
    gone = ["i003", "i004", "i017"]
    where = "not item_id in ('i003', 'i004', 'i017')"
    for every, some in zip(
        fold_in(run, histories, 30), fold_in(run, histories, 30, where=where), strict=True
    ):
        assert some.basis == every.basis
        assert some.items == [item for item in every.items if item.item_id not in gone]
    marks = ~np.isin(split.data.items.ids, gone)
    assert fold_in(run, histories, 5, where=marks) == fold_in(run, histories, 5, where=where)
    assert all(len(entry.items) == 5 for entry in fold_in(run, histories, 5, where=where))


def test_refusals(split: Split):
    run = trained("ease", split)
    with pytest.raises(UnknownIdError, match="item id 'i999'"):
        fold_in(run, [["i001"], ["i002", "i999"]], 3)
    for k in (0, 31):
        with pytest.raises(ConfigError, match="list lengths"):
            fold_in(run, [["i001"]], k)
    with pytest.raises(ConfigError, match="cannot be read"):
        fold_in(run, [["i001"]], 3, where="price <")
    with pytest.raises(ConfigError, match="some users to hold out"):
        measure_new_users("ease", split.data, share=1.0)


def test_a_user_of_one_colour_is_offered_that_colour():
    """On the checkerboard like meets like; nobody there was new."""
    board = checkerboard()
    config = TrainConfig(epochs=60, batch_size=64, learning_rate=0.02, metric="recall@2")
    for name in ("lightgcn", "ease"):
        run = train(name, board, seed=3, config=config, device="cpu", k=(2,))
        for colour in (0, 1):
            (found,) = fold_in(run, [[colour, colour + 6, colour + 12]], 5)
            assert {item.item_id % 2 for item in found.items} == {colour}


def test_users_that_were_held_out_are_served_better_than_by_popularity(shop: Dataset):
    config = TrainConfig(epochs=10, learning_rate=0.01)
    found = measure_new_users("lightgcn", shop, k=(20,), config=config, device="cpu")
    assert found.n_users == 60
    assert found.figures["model"]["recall@20"] > 1.5 * found.figures["popular"]["recall@20"]


def test_users_without_training_take_no_part_in_the_map(split: Split):
    part = np.where(split.data.interactions.user < 3, -1, split.part).astype(np.int8)
    run = trained("mf-bpr", split, embedding_dim=4)
    users = run.scorer.embeddings.users.clone()
    users[:3] = 1e6
    scorer = EmbeddingScorer(Embeddings(users, run.scorer.embeddings.items))
    without = replace(split, part=part)
    history = history_graph([np.array([3, 8])], 30)
    folder, plain = UserFolder(scorer, without), UserFolder(run.scorer, without)
    assert torch.equal(folder.users(history), plain.users(history))
