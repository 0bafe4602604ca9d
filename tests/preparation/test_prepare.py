import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data.dataset import Dataset
from triptych.data.prepare import prepare
from triptych.data.readers import Columns
from triptych.data.split import Split, read_label_meaning
from triptych.errors import ConfigError, ShapeError, TriptychError
from triptych.files import sha256

REAL = Path(os.environ.get("TRIPTYCH_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

# Item 5 is liked by nobody, item 4 by one user only; the pair (a, 1) comes twice.
ROWS = [
    ("a", 1, 5.0), ("a", 2, 4.0), ("b", 1, 3.0), ("b", 2, 5.0), ("a", 1, 2.0), ("c", 4, 5.0), ("c", 5, 1.0),
]  # fmt: skip
RATED = Columns(rating="rating")


@pytest.fixture
def shop(tmp_path):
    pl.DataFrame(ROWS, schema=["user", "item", "rating"], orient="row").write_csv(tmp_path / "ratings.csv")
    items = {"item": [2, 1, 9, 5], "name": ["Two", "One", "Nine", "Five"]}
    pl.DataFrame(items).write_csv(tmp_path / "items.csv")
    np.save(tmp_path / "by_id.npy", np.arange(6.0)[:, None])
    np.save(tmp_path / "by_table.npy", np.array([[2.0], [1.0], [9.0], [5.0]]))
    edges = {"row": np.array([1, 2, 5]), "col": np.array([2, 4, 1]), "weight": np.ones(3)}
    np.savez(tmp_path / "knn.npz", **edges, n=6)
    return tmp_path


def test_every_dropped_row_is_accounted_for(shop):
    data = prepare(shop / "ratings.csv", name="shop", columns=RATED, min_rating=2.0, core=2)
    assert data.items.ids.tolist() == [1, 2]
    facts = data.provenance["interactions"]
    assert (facts["rows"], facts["below_threshold"], facts["duplicates"]) == (7, 1, 1)
    removed = {"k": 2, "users_removed": 1, "items_removed": 1, "interactions_removed": 1}
    assert data.provenance["core"] == removed
    assert facts["rows"] - 1 - 1 - 1 == len(data.interactions)
    assert facts["file"] == "ratings.csv"
    assert facts["sha256"] == sha256(shop / "ratings.csv")
    assert facts["columns"]["user"] == "user"
    assert str(shop) not in json.dumps(data.provenance)


def test_feature_rows_count_items_that_the_threshold_drops(shop):
    features = [("image", shop / "by_id.npy"), ("image", shop / "knn.npz")]
    data = prepare(shop / "ratings.csv", name="shop", columns=RATED, min_rating=2.0, features=features)
    assert data.items.ids.tolist() == [1, 2, 4]
    image = data.features["image"]
    assert image.values.tolist() == [[1], [2], [4]]
    assert (image.graph.row.tolist(), image.graph.col.tolist()) == ([0, 1], [1, 2])
    assert [entry["file"] for entry in data.provenance["features"]["image"]] == ["by_id.npy", "knn.npz"]
    assert image.source.startswith("by_id.npy (2 rows of items without interactions ignored) + knn.npz")


def test_an_item_table_gives_titles_and_the_order_of_feature_rows(shop):
    data = prepare(
        shop / "ratings.csv",
        name="shop",
        items_file=shop / "items.csv",
        features=[("text", shop / "by_table.npy")],
    )
    assert data.item_table.rows() == [(1, "One"), (2, "Two"), (4, None), (5, "Five")]
    assert data.titles == ["One", "Two", "", "Five"]
    assert data.features["text"].values.tolist() == [[1], [2], [0], [5]]
    assert data.features["text"].present.tolist() == [True, True, False, True]
    facts = data.provenance["items"]
    assert (facts["rows"], facts["unknown_items"], facts["items_without_row"]) == (4, 1, 1)


def test_the_result_can_be_saved(shop):
    data = prepare(
        shop / "ratings.csv",
        name="shop",
        items_file=shop / "items.csv",
        features=[("text", shop / "by_table.npy")],
        core=1,
    )
    data.save(shop / "out")
    again = Dataset.load(shop / "out")
    assert again.content_hash == data.content_hash
    assert again.provenance == data.provenance


def test_the_order_of_rows_does_not_change_the_data(shop):
    lines = (shop / "ratings.csv").read_text().splitlines(keepends=True)
    (shop / "turned.csv").write_text("".join([lines[0], *lines[:0:-1]]))
    one, other = (prepare(shop / name, name="shop", core=2) for name in ("ratings.csv", "turned.csv"))
    assert one.content_hash == other.content_hash


WRONG = {
    "two dense files": (
        {"features": [("image", "by_id.npy"), ("image", "by_id.npy")]},
        ConfigError,
        "two dense files for image: by_id.npy .*by_id.npy",
    ),
    "two graphs": ({"features": [("image", "knn.npz")] * 2}, ConfigError, "two graphs for image"),
    "a bad modality": ({"features": [("../image", "by_id.npy")]}, ConfigError, "modality name"),
    "other rows": (
        {"features": [("image", "by_table.npy")]},
        ShapeError,
        "by_table.npy: has 4 rows; wanted 6",
    ),
    "no features": ({"features": [("image", "none.npy")]}, TriptychError, "none.npy does not exist"),
    "no items": ({"items_file": "none.csv"}, TriptychError, "none.csv does not exist"),
    "other items": (
        {"items_file": "items.csv", "item_column": "name"},
        TriptychError,
        "items.csv: none of its 4",
    ),
    "no such title": (
        {"items_file": "items.csv", "title_column": "titel"},
        TriptychError,
        "no column 'titel'",
    ),
    "core too small": ({"core": 0}, ConfigError, "a 0-core"),
    "core too large": ({"core": 5}, TriptychError, "the 5-core .* is empty"),
    "no ratings": ({"min_rating": 3.0}, ConfigError, "--rating COLUMN"),
    "no such column": (
        {"columns": Columns(user="usr")},
        TriptychError,
        "ratings.csv: there is no column 'usr'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_work_is_named_and_nothing_is_written(shop, kind):
    settings, error, message = WRONG[kind]
    settings = dict(settings)
    if "features" in settings:
        settings["features"] = [(modality, shop / file) for modality, file in settings["features"]]
    if "items_file" in settings:
        settings["items_file"] = shop / settings["items_file"]
    before = sorted(shop.iterdir())
    with pytest.raises(error, match=message):
        prepare(shop / "ratings.csv", name="shop", **settings)
    assert sorted(shop.iterdir()) == before


def real(folder):
    path = REAL / folder
    if not (path / "interactions.parquet").is_file():
        pytest.skip(f"{path} is not here: put the data there, or name its folder with TRIPTYCH_DATA")
    return path


def test_amazon_baby_has_its_published_size_and_split(tmp_path):
    baby = real("amazon-baby")
    features = [
        (modality, baby / file)
        for modality in ("image", "text")
        for file in (f"{modality}_feat_derived.npy", f"{modality}_knn10.npz")
    ]
    data = prepare(
        baby / "interactions.parquet",
        name="baby",
        columns=Columns(label="x_label"),
        label_meaning=read_label_meaning("0=train,2=valid,1=test"),
        core=5,
        items_file=baby / "item_map.parquet",
        features=features,
    )
    assert (data.n_users, data.n_items, len(data.interactions)) == (19_445, 7_050, 160_792)
    for split in (Split.by_label(data), Split.by_ratio(data)):  # the rule alone fixes the sizes
        assert [len(split.pairs(part)) for part in ("train", "valid", "test")] == [118_551, 20_559, 21_682]
        assert split.protocol["left_out"] == 0
    for features in data.features.values():
        assert (features.dim, features.coverage, len(features.graph)) == (128, 1.0, 70_500)
    assert data.item_table.columns == ["item_id", "asin", "image_url"]
    data.save(tmp_path / "baby")
    assert Dataset.load(tmp_path / "baby").content_hash == data.content_hash


def test_movielens_has_ratings_times_and_titles():
    movies = real("movielens-100k")
    data = prepare(
        movies / "interactions.parquet",
        name="ml-100k",
        columns=Columns(rating="rating", timestamp="timestamp", label="x_label"),
        items_file=movies / "item_text.parquet",
        features=[("image", movies / "image_feat_derived.npy")],
    )
    assert (data.n_users, data.n_items, len(data.interactions)) == (943, 1_682, 100_000)
    assert data.titles[0] == "Toy Story (1995)"
    split = Split.by_label(data)
    assert [len(split.pairs(part)) for part in ("train", "valid", "test")] == [80_367, 9_596, 10_037]
    past = Split.by_time(data)
    assert past.protocol["left_out"] > 0


def test_tiktok_has_two_dense_modalities():
    videos = real("tiktok")
    data = prepare(
        videos / "interactions.parquet",
        name="tiktok",
        columns=Columns(label="x_label"),
        features=[("image", videos / "image_feat.npy"), ("audio", videos / "audio_feat.npy")],
    )
    assert (data.n_users, data.n_items, len(data.interactions)) == (9_308, 6_710, 68_722)
    assert {name: features.dim for name, features in data.features.items()} == {"image": 128, "audio": 128}
