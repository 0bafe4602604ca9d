"""Changed content: worked by hand, nested and seeded, and nothing changed but what is to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.split import Split
from triptych.experiments.content import Change, change_content
from triptych.experiments.jobs import Job
from triptych.testing import toy_dataset
from triptych.training.recipe import Recipe

N_ITEMS = 10


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def with_features(split: Split, **features: ItemFeatures) -> Split:
    data = replace(split.data, features=features)
    return Split(data, split.part, split.protocol)


def changed(split: Split, kind: str, *modalities: str, amount: float | None = None, seed: int = 1):
    return change_content(split, Change(kind=kind, modalities=modalities, amount=amount), seed).data.features


def chain(*edges: tuple[int, int]) -> ItemGraph:
    row, col = np.array(edges).T
    return ItemGraph.from_edges(row, col, np.linspace(1, 0.5, len(row), dtype=np.float32), N_ITEMS)


KINDS = ("zeros", "constant", "noise", "shuffled")


@pytest.mark.parametrize("kind", KINDS)
def test_one_modality_is_changed_and_all_else_stays(split: Split, kind: str):
    after = change_content(split, Change(kind=kind, modalities=("image",)), 1)
    before = split.data
    assert after.data.interactions is before.interactions
    assert np.array_equal(after.part, split.part)
    assert after.data.features["text"] is before.features["text"]
    image, old = after.data.features["image"], before.features["image"]
    assert np.array_equal(image.present, old.present)
    assert not image.values[~image.present].any()
    assert not np.array_equal(image.values, old.values)
    assert after.data.content_hash != before.content_hash
    assert after.content_hash != split.content_hash
    assert after.protocol["content"] == {
        "kind": kind, "modalities": ["image"], "amount": None, "seed": 1,
    }  # fmt: skip
    assert old.content_hash == toy_dataset().features["image"].content_hash  # nothing in place


def test_zeros_and_the_mean_row_by_hand(split: Split):
    present = np.arange(N_ITEMS) >= 2
    values = np.arange(N_ITEMS * 2, dtype=np.float32).reshape(N_ITEMS, 2)
    of = with_features(split, image=ItemFeatures.dense(values, present))
    assert not changed(of, "zeros", "image")["image"].values.any()
    constant = changed(of, "constant", "image")["image"].values
    assert constant[present].tolist() == [[11.0, 12.0]] * 8  # means of 4, 6, ..., 18 and of 5, 7, ..., 19
    assert not constant[~present].any()


def test_noise_has_the_mean_and_spread_of_each_column_and_nothing_of_the_rows():
    rng = np.random.default_rng(3)
    values = rng.normal(loc=[-5.0, 0.0, 100.0], scale=[0.1, 1.0, 20.0], size=(4000, 3))
    data = Dataset.from_interactions("many", toy_dataset(12, 4000).interactions)
    split = Split.by_ratio(with_dense(data, values), rng=0)
    noise = changed(split, "noise", "image")["image"].values
    assert np.allclose(noise.mean(axis=0), values.mean(axis=0), atol=4 * values.std(axis=0) / 4000**0.5)
    assert np.allclose(noise.std(axis=0), values.std(axis=0), rtol=0.06)
    for column in range(3):
        assert abs(np.corrcoef(noise[:, column], values[:, column])[0, 1]) < 0.06


def with_dense(data: Dataset, values: np.ndarray) -> Dataset:
    return replace(data, features={"image": ItemFeatures.dense(values)})


def test_wide_features_are_drawn_in_all_columns():
    values = np.random.default_rng(0).normal(size=(N_ITEMS, 300))
    split = Split.by_ratio(with_dense(replace(toy_dataset(), features={}), values), rng=0)
    noise = changed(split, "noise", "image")["image"].values
    assert len({column.tobytes() for column in noise.T}) == 300
    assert not np.isclose(noise, values).any(axis=1).all()


def test_shuffled_gives_each_item_another_ones_row(split: Split):
    for seed in range(20):
        old = split.data.features["image"]
        new = changed(split, "shuffled", "image", seed=seed)["image"]
        assert not (new.values == old.values)[old.present].all(axis=1).any()
        assert sorted(map(tuple, new.values)) == sorted(map(tuple, old.values))


def test_shuffled_renames_the_items_of_a_graph_and_keeps_rows_with_it(split: Split):
    graph = chain((0, 1), (1, 2), (2, 0), (5, 6))
    values = np.arange(N_ITEMS, dtype=np.float32)[:, None] + 1  # a row names its item
    of = with_features(split, both=ItemFeatures(np.ones(N_ITEMS, bool), values, graph))
    new = changed(of, "shuffled", "both")["both"]
    origin = (new.values[:, 0] - 1).astype(int)
    edges = {(origin[row], origin[col]): weight for row, col, weight in zip(new.graph.row, new.graph.col, new.graph.weight, strict=True)}  # fmt: skip
    assert edges == {
        (row, col): weight for row, col, weight in zip(graph.row, graph.col, graph.weight, strict=True)
    }
    assert (origin != np.arange(N_ITEMS)).all()


def test_missing_is_nested_counted_and_takes_edges_along(split: Split):
    present = np.arange(N_ITEMS) != 9
    graph = chain(*((item, (item + 1) % 9) for item in range(9)))
    features = ItemFeatures(present, np.where(present, 1.0, 0.0)[:, None].astype(np.float32), graph)
    of = with_features(split, image=features)
    before = set()
    for share, n in ((10, 1), (20, 2), (50, 4), (90, 8)):  # of 9 items; 4.5 is rounded to even
        new = changed(of, "missing", "image", amount=share)["image"]
        gone = set(np.flatnonzero(present & ~new.present))
        assert len(gone) == n
        assert before <= gone
        assert not new.values[~new.present].any()
        assert new.values[new.present].all()
        kept = {(row, col) for row, col in zip(graph.row, graph.col, strict=True) if not {row, col} & gone}
        assert set(zip(new.graph.row, new.graph.col, strict=True)) == kept
        before = gone
    others = changed(of, "missing", "image", amount=50, seed=2)["image"].present
    assert (others != changed(of, "missing", "image", amount=50)["image"].present).any()


def test_added_noise_grows_in_proportion_to_each_columns_spread(split: Split):
    old = split.data.features["image"]
    by = {
        amount: changed(split, "noisy", "image", amount=amount)["image"].values - old.values
        for amount in (0.5, 1.0, 2.0)
    }
    assert np.allclose(by[0.5] * 2, by[1.0], atol=1e-6)
    assert np.allclose(by[1.0] * 2, by[2.0], atol=1e-6)
    wide = with_features(
        split, image=ItemFeatures.dense(old.values * [1, 10, 100, 1000, 1], old.present)
    )  # fmt: skip
    ten = changed(wide, "noisy", "image", amount=1.0)["image"].values - wide.data.features["image"].values
    assert np.allclose(ten, by[1.0] * [1, 10, 100, 1000, 1], rtol=1e-3, atol=1e-3)


def test_modalities_draw_their_own_and_seeds_repeat(split: Split):
    same = np.ones((N_ITEMS, 3), dtype=np.float32) * np.arange(N_ITEMS)[:, None]
    of = with_features(split, image=ItemFeatures.dense(same), text=ItemFeatures.dense(same))
    one = changed(of, "noise", "image", "text")
    assert not np.allclose(one["image"].values, one["text"].values)
    assert np.array_equal(one["image"].values, changed(of, "noise", "image")["image"].values)
    assert not np.array_equal(one["image"].values, changed(of, "noise", "image", seed=2)["image"].values)


def test_what_a_graph_cannot_be_is_said():
    graph = ItemFeatures(np.ones(N_ITEMS, bool), graph=chain((0, 1)))
    dense = ItemFeatures.dense(np.ones((N_ITEMS, 2)))
    one = ItemFeatures.dense(np.ones((N_ITEMS, 2)), np.arange(N_ITEMS) == 0)
    for kind in ("zeros", "constant", "noise", "noisy"):
        change = Change(kind=kind, modalities=("image",))
        assert kind in str(change.refused(graph))
        assert change.refused(dense) is None
    for kind in ("shuffled", "missing", "absent"):
        assert Change(kind=kind, modalities=("image",)).refused(graph) is None
    assert "fewer than two" in str(Change(kind="shuffled", modalities=("image",)).refused(one))


def test_a_changed_training_has_a_name_of_its_own(split: Split):
    sealed, recipe = split.without_test(), Recipe("vbpr")
    changes = [
        None,
        Change(kind="zeros", modalities=("image",)),
        Change(kind="zeros", modalities=("text",)),
        Change(kind="noise", modalities=("image",)),
        Change(kind="noisy", modalities=("image",), amount=1),
        Change(kind="noisy", modalities=("image",), amount=2),
    ]
    assert len({Job(recipe, 1, change).name(sealed) for change in changes}) == len(changes)
    assert Job(recipe, 1, changes[-1]).title == "vbpr: image noisy 2 sd, seed 1"
    assert Job(recipe, 1).title == "vbpr, seed 1"
    assert Job(recipe, 1).split(split) is split
