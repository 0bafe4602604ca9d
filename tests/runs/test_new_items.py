"""New items: through each model as its equations have it, or by known ones alike, and nothing known moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.missing import fill_missing
from triptych.data.split import Split
from triptych.errors import ConfigError, DataError, ShapeError, StorageError
from triptych.models.registry import models
from triptych.runs import ItemMaker, Run, fuse, train
from triptych.runs.cold_start import CONTENT_PATHS, N_NEIGHBORS
from triptych.runs.held_out import measure_new_items
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig

BRIEFLY = TrainConfig(epochs=2, batch_size=128, metric="recall@2")
CONTENT = [entry.name for entry in models() if entry.kind == "content"]
NEW = {
    "image": np.random.default_rng(5).normal(size=(3, 5)),
    "text": np.random.default_rng(6).normal(size=(3, 4)),
}


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(40, 30), rng=0)


def trained(name: str, split: Split, **settings) -> Run:
    fields = next(entry.config for entry in models() if entry.name == name).model_fields
    small = {"n_neighbors": 4, "embedding_dim": 8} if fields["embedding_dim"].default == 64 else {}
    small = {key: value for key, value in small.items() if key in fields} | settings
    return train(name, split, seed=1, config=BRIEFLY, k=(2,), device="cpu", settings=small)


@pytest.mark.parametrize("name", CONTENT)
def test_each_model_comes_to_new_items_as_the_table_says(name: str, split: Split):
    run = trained(name, split)
    maker = ItemMaker(run, split.data)
    kind = CONTENT_PATHS[name].split(":")[0]
    assert maker.sees_content == (kind != "neighbors")
    new = maker.embed(NEW)
    assert len(new) == 3
    scores = new.scores(np.arange(split.n_users))
    assert scores.shape == (split.n_users, 3)
    assert scores.isfinite().all()
    assert len(scores.unique(dim=1).T) == 3
    # One at a time or in another order they are the same.
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if kind != "approximate" else {"rtol": 0.1, "atol": 0.05}
    turned = maker.embed({modality: rows[[2, 0, 1]] for modality, rows in NEW.items()})
    torch.testing.assert_close(turned.scores(np.arange(9)), scores[:9, [2, 0, 1]], **tolerance)
    alone = maker.embed({modality: rows[1:2] for modality, rows in NEW.items()})
    torch.testing.assert_close(alone.scores(np.arange(9)), scores[:9, [1]], **tolerance)


@pytest.mark.parametrize("name", [name for name, told in CONTENT_PATHS.items() if told.startswith("exact")])
def test_nothing_known_changes_where_the_path_is_exact(name: str, split: Split):
    run = trained(name, split)
    maker = ItemMaker(run, split.data)
    content = maker.content.read(NEW)
    seen = []
    through = maker._grown_inputs(content, 3)
    assert through.n_items == 33
    import triptych.runs.cold_start as module

    original = module.fix_learned_graphs

    def spy(model, learned):
        original(model, learned)
        seen.append(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fix_learned_graphs", spy)
        maker.embed(NEW)
    with torch.no_grad():
        users, items = seen[0].embeddings()
    torch.testing.assert_close(users, run.scorer.embeddings.users, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(items[:30], run.scorer.embeddings.items, rtol=1e-4, atol=1e-6)


def test_the_guide_says_what_the_table_says():
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "new-items-and-users.md").read_text(
        encoding="utf-8"
    )
    rows = [f"| `{name}` | {told.replace(': ', ' | ', 1)} |" for name, told in CONTENT_PATHS.items()]
    assert set(CONTENT_PATHS) == set(CONTENT)
    assert [row for row in rows if row not in guide] == []


def test_vbpr_projects_by_hand(split: Split):
    run = trained("vbpr", split)
    new = ItemMaker(run, split.data).embed({"text": NEW["text"]})
    features = np.concatenate([np.zeros((3, 5)), NEW["text"]], axis=1)  # no picture
    weight, bias = run.weights["project.weight"].numpy(), run.weights["project.bias"].numpy()
    content = features @ weight.T + bias
    assert new.vectors.numpy() == pytest.approx(np.concatenate([np.zeros((3, 8)), content], axis=1), abs=1e-5)
    users = run.scorer.embeddings.users.numpy()
    assert new.scores(np.array([4, 0])).numpy() == pytest.approx(users[[4, 0], 8:] @ content.T, abs=1e-4)


def test_freedom_averages_the_ids_of_neighbours_by_hand(split: Split):
    run = trained("freedom", split)
    new = ItemMaker(run, split.data).embed(NEW)
    ids = run.weights["nodes.weight"][split.n_users :].numpy()
    expected = np.zeros((3, 8))
    for modality, share in (("image", 0.1), ("text", 0.9)):
        one = split.data.features[modality]
        rows = one.values / np.maximum(np.linalg.norm(one.values, axis=1, keepdims=True), 1e-12)
        cosines = NEW[modality] @ rows.T
        cosines[:, ~one.present] = -np.inf
        nearest = np.argsort(-cosines, axis=1)[:, :3]  # the fourth is the item itself, whose id is zero
        expected += share * ids[nearest].sum(axis=1) / 4
    assert new.vectors.numpy() == pytest.approx(expected, abs=1e-6)


def test_lattice_takes_new_rows_into_the_graph_it_has_learned(split: Split):
    """With the learned part alone, a new item is the mixture of those nearest by the learned map."""
    run = trained("lattice", split, fixed_share=0.0, modalities=("text",), n_layers=0)
    new = ItemMaker(run, split.data).embed(NEW)
    weight, bias = (run.weights[f"content.project.maps.of_text.{part}"] for part in ("weight", "bias"))
    has = torch.from_numpy(split.data.features["text"].present)
    known = F.normalize(run.weights["content.features.of_text"] @ weight.T + bias, dim=1)
    rows = F.normalize(torch.from_numpy(NEW["text"]).float() @ weight.T + bias, dim=1)

    def strongest(cosines: torch.Tensor, k: int) -> torch.Tensor:
        values, places = cosines.masked_fill(~has, -2).topk(k, dim=1)
        return torch.zeros_like(cosines).scatter(1, places, values.clamp(min=0))

    own = strongest(known @ known.T, 4)
    degree = own.sum(dim=1)
    links = strongest(rows @ known.T, 3)
    scaled = links / (1 + links.sum(dim=1, keepdim=True)).sqrt() / degree.clamp(min=1e-7).sqrt()
    expected = F.normalize(scaled @ run.weights["nodes.weight"][split.n_users :])
    torch.testing.assert_close(new.vectors, expected, rtol=1e-4, atol=1e-5)


def test_an_item_like_a_known_one_has_it_as_its_neighbour(split: Split):
    known = {name: one.values[[7, 12]].astype(float) for name, one in split.data.features.items()}
    for run in (trained("lightgcn", split), trained("ease", split)):
        new = ItemMaker(run, split.data).embed(known)
        assert new.stand_ins[:, 0].tolist() == [7, 12]
        assert new.shares.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert new.similar(2)[1][0].item_id == "i012"
    assert new.similar(2)[1][0].title == "Thing 12"
    every = [item for item in new.similar(split.n_items)[1] if item.item_id != "i012"]
    assert new.similar(2, where="title != 'Thing 12'")[1] == every[:2]


def test_stand_ins_score_by_their_shares(split: Split):
    everybody = np.arange(split.n_users)
    runs = [
        trained("ease", split),
        trained("ease", split, rank=5),
        trained("item-knn", split),
        trained("mf-bpr", split),
    ]
    runs.append(fuse(runs[:1] + runs[3:], metric="recall@2", k=(2,)))
    for run in runs:
        new = ItemMaker(run, split.data).embed(NEW)
        assert new.basis.startswith("An approximation: the mean of the 10 known items")
        assert new.stand_ins.shape == (3, N_NEIGHBORS)
        known = run.scorer.score(torch.from_numpy(everybody))
        expected = torch.stack(
            [known[:, items] @ share for items, share in zip(new.stand_ins, new.shares, strict=True)], dim=1
        )
        torch.testing.assert_close(new.scores(everybody), expected, rtol=1e-4, atol=1e-5)


def test_audience_is_who_scores_it_highest_beside_the_rest(split: Split):
    part = np.where(split.data.interactions.user == 5, -1, split.part).astype(np.int8)
    stranger = replace(split, part=part)
    for name in ("vbpr", "ease"):
        run = trained(name, stranger)
        new = ItemMaker(run, split.data).embed(NEW)
        known = run.scorer.score(torch.arange(40)).numpy()
        with np.errstate(invalid="ignore"):  # the stranger's scores are all zero
            above = (new.scores(np.arange(40)).numpy() - known.mean(1)[:, None]) / known.std(1)[:, None]
        above[5] = -np.inf
        lists = new.audience(40)
        for place, found in enumerate(lists):
            order = np.argsort(-above[:, place], kind="stable")[:39]
            assert [int(one.user_id[1:]) for one in found[:4]] == order[:4].tolist()
            assert [one.score for one in found] == pytest.approx(above[order, place], abs=1e-3)
            assert "u005" not in [one.user_id for one in found]
        assert new.audience(2)[0] == lists[0][:2]


def test_a_modality_that_is_missing_is_left_out(split: Split):
    run = trained("freedom", split)
    maker = ItemMaker(run, split.data)
    text = maker.embed({"text": NEW["text"]})
    unseen = maker.embed({"text": NEW["text"], "image": np.full((3, 5), np.nan)})
    assert torch.equal(text.vectors, unseen.vectors)
    some = maker.embed({"text": NEW["text"], "image": np.where([[1], [0], [1]], NEW["image"], np.nan)})
    assert torch.equal(some.vectors[1], text.vectors[1])
    assert not torch.equal(some.vectors[0], text.vectors[0])


def test_what_a_model_does_not_look_at_is_left_to_neighbours(split: Split):
    run = trained("vbpr", split, modalities=("text",))
    maker = ItemMaker(run, split.data)
    new = maker.embed({"image": NEW["image"], "text": np.where([[1], [0], [1]], NEW["text"], np.nan)})
    assert "Of 1 in 3 it sees nothing" in new.basis
    expected = new.shares[1] @ run.scorer.embeddings.items[new.stand_ins[1]]
    torch.testing.assert_close(new.vectors[1], expected)


def test_what_is_missing_is_filled_as_it_was_for_the_run(split: Split):
    filled = fill_missing(split, "mean")
    run = trained("vbpr", filled)
    maker = ItemMaker(run, split.data)
    image = split.data.features["image"]
    mean = image.values[image.present].mean(axis=0, dtype=np.float64)
    new, told = (
        maker.embed({"text": NEW["text"]}),
        maker.embed({"text": NEW["text"], "image": np.tile(mean, (3, 1))}),
    )
    torch.testing.assert_close(new.vectors, told.vectors)


def test_plug_ins_come_along(split: Split):
    run = train("lightgcn", split, plugins={"ksi": {"n_neighbors": 4}}, settings={"embedding_dim": 8},
                seed=1, config=BRIEFLY, k=(2,), device="cpu")  # fmt: skip
    assert ItemMaker(run, split.data).sees_content


def test_a_run_read_from_a_folder_does_the_same(split: Split, tmp_path):
    from triptych.runs import load

    run = trained("freedom", split)
    run.save(tmp_path / "run")
    again = ItemMaker(load(tmp_path / "run"), split.data, graph_cache=tmp_path / "graphs").embed(NEW)
    assert torch.equal(again.vectors, ItemMaker(run, split.data).embed(NEW).vectors)
    assert list((tmp_path / "graphs").iterdir())


def test_refusals(split: Split):
    run = trained("vbpr", split)
    maker = ItemMaker(run, split.data)
    with pytest.raises(ConfigError, match="Did you mean 'image'"):
        maker.embed({"images": NEW["image"]})
    with pytest.raises(ShapeError, match="rows of 4 numbers"):
        maker.embed({"text": NEW["image"]})
    with pytest.raises(ShapeError, match="3 rows of image, 2 rows of text"):
        maker.embed({"image": NEW["image"], "text": NEW["text"][:2]})
    for empty in ({}, {"text": NEW["text"][:0]}):
        with pytest.raises(ShapeError, match="at least one"):
            maker.embed(empty)
    with pytest.raises(DataError, match="new item 1 hold NaN"):
        maker.embed({"text": np.array([[1.0] * 4, [1.0, np.nan, 1, 1]])})
    with pytest.raises(ConfigError, match="new item 2 has no content"):
        maker.embed({"text": np.where([[1], [1], [0]], NEW["text"], np.nan)})
    with pytest.raises(StorageError, match="the data set that the run was trained on"):
        ItemMaker(run, toy_dataset(40, 30, seed=9))
    bare = Split.by_ratio(replace(split.data, features={}), rng=0)
    with pytest.raises(ConfigError, match="no dense item features"):
        ItemMaker(trained("lightgcn", bare), bare.data)
    new = maker.embed(NEW)
    for k in (0, 31):
        with pytest.raises(ConfigError, match="list lengths"):
            new.similar(k)
    for k in (0, 41):
        with pytest.raises(ConfigError, match="an audience of"):
            new.audience(k)


def test_held_out_items_of_the_shop_are_found_by_content(shop: Dataset):
    config = TrainConfig(epochs=10, learning_rate=0.01)
    found = measure_new_items("vbpr", shop, k=(5,), config=config, device="cpu")
    recall = {name: figures["recall@5"] for name, figures in found.figures.items()}
    assert found.n_candidates == 36
    assert recall["random"] == pytest.approx(5 / 36)
    assert recall["model"] > 1.6 * recall["random"]
    assert recall["neighbors"] > 1.6 * recall["random"]
    assert recall["content"] > 1.4 * recall["random"]
    with pytest.raises(ConfigError, match="some items to hold out"):
        measure_new_items("vbpr", shop, share=0.001)


def test_content_without_meaning_finds_no_more_than_chance(shop: Dataset):
    rng = np.random.default_rng(3)
    shuffled = {
        name: ItemFeatures.dense(one.values[rng.permutation(shop.n_items)])
        for name, one in shop.features.items()
    }
    config = TrainConfig(epochs=10, learning_rate=0.01)
    found = measure_new_items("vbpr", replace(shop, features=shuffled), k=(5,), config=config, device="cpu")
    assert found.figures["model"]["recall@5"] < 1.35 * found.figures["random"]["recall@5"]


def test_a_way_that_is_none_is_refused(split: Split):
    with pytest.raises(ConfigError, match=r"by = 'neighbours'.*Did you mean 'neighbors'"):
        ItemMaker(trained("vbpr", split), split.data, by="neighbours")
