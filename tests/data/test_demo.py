import time

import numpy as np
import pytest

from triptych.data.dataset import Dataset
from triptych.data.demo import ITEM_COLUMNS, KINDS, PIXELS, SIZES, build_shop
from triptych.data.split import Split
from triptych.errors import ConfigError

SMALL = {"n_users": 60, "n_items": 80}


@pytest.fixture(scope="module")
def built():
    start = time.process_time()
    shop = build_shop()
    return shop, shop.dataset(), time.process_time() - start


@pytest.fixture(scope="module")
def shop(built):
    return built[0]


@pytest.fixture(scope="module")
def data(built):
    return built[1]


@pytest.fixture(scope="module")
def noisy():
    return build_shop(noise=1.0).dataset()


def recall_at_20(scores, split):
    """Share of test pairs found among each user's 20 best items; training and validation items masked."""
    scores = scores.copy()
    for pairs in (split.train, split.valid):
        scores[pairs.user, pairs.item] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    user, item = split.test
    return float((best[user] == item[:, None]).any(axis=1).mean())


def by_likeness(features, split, present=None):
    """Score items by their centred cosine with what the user has in training: (U, I)."""
    present = np.ones(split.n_items, dtype=bool) if present is None else present
    rows = np.zeros(features.shape)
    rows[present] = features[present] - features[present].mean(axis=0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    history = np.zeros((split.n_users, split.n_items))
    history[split.train.user, split.train.item] = 1
    return history @ rows @ rows.T


def probe(data):
    """Recall@20 of popularity, of random features, and of the likeness of pictures and of texts."""
    split = Split.by_ratio(data, rng=1)
    popularity = np.bincount(split.train.item, minlength=data.n_items)
    noise = np.random.default_rng(0).normal(size=(data.n_items, 64))
    found = {
        "popularity": recall_at_20(np.tile(popularity.astype(float), (data.n_users, 1)), split),
        "random": recall_at_20(by_likeness(noise, split), split),
    }
    scores = {name: by_likeness(f.values, split, f.present) for name, f in data.features.items()}
    found |= {name: recall_at_20(score, split) for name, score in scores.items()}
    return found | {"both": recall_at_20(scores["image"] / scores["image"].std() +
                                         scores["text"] / scores["text"].std(), split)}  # fmt: skip


def test_the_shop_is_built_in_seconds(built):
    assert built[2] < 20  # about 2 on an idle machine


def test_the_dataset_offers_it_by_name(monkeypatch):
    monkeypatch.setattr("triptych.data.demo.build_shop", lambda **known: build_shop(**known, **SMALL))
    data = Dataset.demo(seed=3, noise=0.5)
    assert (data.name, data.n_items) == ("demo", 80)
    assert data.provenance == {"kind": "demo", "seed": 3, "noise": {"image": 0.5, "text": 0.5}}


def test_one_seed_gives_one_shop_and_another_seed_another():
    first, again = (build_shop(seed=3, **SMALL).dataset() for _ in range(2))
    assert first.content_hash == again.content_hash
    assert first.item_table.equals(again.item_table)
    assert first.content_hash != build_shop(seed=4, **SMALL).dataset().content_hash


def test_noise_changes_the_content_and_not_what_users_did():
    plain, noisy = build_shop(noise=0.0, **SMALL), build_shop(noise={"image": 0.5, "text": 0.0}, **SMALL)
    assert plain.interactions.content_hash == noisy.interactions.content_hash
    assert plain.item_table.equals(noisy.item_table)
    assert (plain.shown["image"] == plain.attributes).all()
    exchanged = (noisy.shown["image"] != noisy.attributes).any(axis=1)
    assert 0.45 <= exchanged.mean() <= 0.5
    more = build_shop(noise={"image": 0.8}, **SMALL)
    assert (more.shown["image"] != more.attributes).any(axis=1)[exchanged].all()
    assert more.noise == {"image": 0.8, "text": 0.1}


def test_at_the_default_noise_every_item_has_one_right_modality(shop):
    right = [(shop.shown[name] == shop.attributes).all(axis=1) & shop.present[name] for name in shop.shown]
    assert (right[0] | right[1]).all()


def test_pictures_and_texts_both_find_what_users_chose(data):
    found = probe(data)
    assert found["popularity"] > 1.5 * found["random"]
    assert found["image"] > 1.3 * found["popularity"]
    assert found["text"] > 1.3 * found["popularity"]
    assert found["both"] > 1.05 * max(found["image"], found["text"])


def test_the_planted_attributes_explain_the_choices(shop, data):
    split = Split.by_ratio(data, rng=1)
    assert recall_at_20(by_likeness(shop.traits, split), split) > 0.45
    assert recall_at_20(shop.tastes @ shop.traits.T + shop.popularity, split) > 0.8


def test_with_full_noise_content_is_worth_no_more_than_chance(noisy):
    found = probe(noisy)
    chance = 20 / noisy.n_items
    assert found["image"] < 1.6 * chance
    assert found["text"] < 1.6 * chance
    assert found["popularity"] > 1.6 * chance


def test_some_items_have_no_picture_some_no_text_and_none_has_neither(shop, data):
    image, text = data.features["image"], data.features["text"]
    assert image.coverage == pytest.approx(0.92, abs=0.005)
    assert text.coverage == pytest.approx(0.92, abs=0.005)
    assert (image.present | text.present).all()
    assert not image.values[~image.present].any()
    assert not text.values[~text.present].any()
    table = data.item_table
    assert (table["description"].is_not_null().to_numpy() == text.present).all()
    assert all(title.startswith("Item ") for title in table["title"].to_numpy()[~text.present])
    assert [shop.picture(item) is not None for item in range(data.n_items)] == image.present.tolist()


def test_ids_titles_and_times_are_those_of_a_shop(shop, data):
    assert tuple(data.item_table.columns) == ITEM_COLUMNS
    assert data.item_table["item_id"].to_list() == data.items.ids.tolist()
    assert [item_id.split("-")[0] for item_id in data.items.ids] == [
        list(KINDS)[kind] for kind in shop.attributes[:, 0]
    ]
    assert data.users.ids[41] == "u0042"
    assert data.item_table["title"].null_count() == 0
    assert (data.item_table["price"] > 0).all()
    assert data.interactions.rating is None
    times = data.interactions.timestamp
    assert 300 * 86_400 < times.max() - times.min() < 366 * 86_400
    assert list(KINDS) == sorted(KINDS)


def test_users_have_five_items_and_many_items_have_few_users(data):
    train = Split.by_ratio(data, rng=1).train
    of_user, of_item = np.bincount(data.interactions.user), np.bincount(data.interactions.item)
    in_training = np.bincount(train.item, minlength=data.n_items)
    assert of_user.min() >= 5
    assert of_item.min() >= 3
    assert of_item.max() > 3 * np.median(of_item)
    assert ((in_training >= 2) & (in_training <= 5)).mean() > 0.25


def test_the_truth_has_the_shapes_it_says(shop):
    assert shop.traits.shape == (360, sum(SIZES))
    assert (shop.traits.sum(axis=1) == 4).all()
    assert shop.tastes.shape == (600, sum(SIZES))
    assert ((shop.tastes > 0).sum(axis=1) == 8).all()
    assert shop.popularity.shape == (360,)


def test_a_picture_is_drawn_alike_each_time_and_shows_what_it_says(shop):
    item = int(np.flatnonzero(shop.present["image"])[0])
    picture = shop.picture(item)
    assert (picture.mode, picture.size) == ("RGB", (PIXELS, PIXELS))
    assert picture.tobytes() == shop.picture(item).tobytes()
    assert np.asarray(picture).std() > 10  # something is on it


def test_the_dataset_survives_the_disk(tmp_path):
    data = build_shop(**SMALL).dataset()
    data.save(tmp_path / "demo")
    assert Dataset.load(tmp_path / "demo").content_hash == data.content_hash


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise": 1.5},
        {"noise": {"audio": 0.1}},
        {"noise": float("nan")},
        {"seed": -1},
        {"n_items": 10},
        {"n_users": 3},
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        build_shop(**wrong)
