import json
import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triptych.data.columns import Columns
from triptych.data.dataset import Dataset
from triptych.data.demo import build_shop
from triptych.data.filters import Filters
from triptych.data.split import Split, read_label_meaning
from triptych.errors import ConfigError, ShapeError, TriptychError
from triptych.files import sha256
from triptych.preparation import prepare

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
    data = prepare(shop / "ratings.csv", name="shop", columns=RATED, filters=Filters(min_rating=2.0, core=2))
    assert data.items.ids.tolist() == [1, 2]
    facts = data.provenance
    assert facts["steps"] == [
        {"step": "read", "rows": 7},
        {"step": "min_rating", "min_rating": 2.0, "interactions_removed": 1},
        {"step": "duplicates", "kept": "first", "interactions_removed": 1},
        {"step": "core", "core": 2, "users_removed": 1, "items_removed": 1, "interactions_removed": 1},
    ]
    removed = sum(step.get("interactions_removed", 0) for step in facts["steps"])
    assert facts["steps"][0]["rows"] - removed == len(data.interactions)
    assert facts["files"] == {"interactions": {"file": "ratings.csv", "sha256": sha256(shop / "ratings.csv")}}
    assert facts["columns"] == {"user": "user", "item": "item", "rating": "rating"}
    assert str(shop) not in json.dumps(data.provenance)


def test_feature_rows_count_items_that_the_threshold_drops(shop):
    features = [("image", shop / "by_id.npy"), ("image", shop / "knn.npz")]
    data = prepare(
        shop / "ratings.csv", name="shop", columns=RATED, filters=Filters(min_rating=2.0), features=features
    )
    assert data.items.ids.tolist() == [1, 2, 4]
    image = data.features["image"]
    assert image.values.tolist() == [[1], [2], [4]]
    assert (image.graph.row.tolist(), image.graph.col.tolist()) == ([0, 1], [1, 2])
    assert [entry["file"] for entry in data.provenance["features"]["image"]["files"]] == [
        "by_id.npy",
        "knn.npz",
    ]
    assert image.source.startswith("by_id.npy (2 rows of items without interactions ignored) + knn.npz")


def test_an_item_table_gives_titles_and_the_order_of_feature_rows(shop):
    data = prepare(
        shop / "ratings.csv",
        name="shop",
        items_file=shop / "items.csv",
        text="none",
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
        text="none",
        features=[("text", shop / "by_table.npy")],
        filters=Filters(core=1),
    )
    data.save(shop / "out")
    again = Dataset.load(shop / "out")
    assert again.content_hash == data.content_hash
    assert again.provenance == data.provenance


def test_the_order_of_rows_does_not_change_the_data(shop):
    lines = (shop / "ratings.csv").read_text().splitlines(keepends=True)
    (shop / "turned.csv").write_text("".join([lines[0], *lines[:0:-1]]))
    unrated = Columns(rating="none")  # else which of two ratings is kept is a matter of order
    one, other = (
        prepare(shop / name, name="shop", columns=unrated, filters=Filters(core=2))
        for name in ("ratings.csv", "turned.csv")
    )
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
    "core too large": ({"filters": Filters(core=5)}, TriptychError, "the 5-core .* is empty"),
    "no ratings": (
        {"filters": Filters(min_rating=3.0), "columns": Columns(rating="none")},
        ConfigError,
        "--rating COLUMN",
    ),
    "an encoder for nothing": ({"encoders": {"audio": "mfcc"}}, ConfigError, "nothing to encode"),
    "no such layout": ({"layout": "amazon"}, ConfigError, "--layout amazon"),
    "another layout": ({"layout": "recbole"}, TriptychError, "does not look like RecBole"),
    "no such folder": ({"media": {"image": "pictures"}}, ConfigError, "pictures is no folder"),
    "no such column in the template": (
        {"items_file": "items.csv", "text": "{titel}"},
        ConfigError,
        "names the column 'titel'",
    ),
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
        prepare(shop / "ratings.csv", name="shop", **{"text": "none", **settings})
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
        filters=Filters(core=5),
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
        text="none",
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


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The built-in shop as its owner exports it, smaller than usual."""
    folder = tmp_path_factory.mktemp("shop") / "export"
    build_shop(n_users=60, n_items=60, seed=3).export(folder)
    return folder


LIGHT = {"text": "tfidf", "image": "descriptor"}


def test_an_export_becomes_a_data_set_with_features_and_pictures(export):
    data = prepare(export, name="shop", encoders=LIGHT)
    shop = build_shop(n_users=60, n_items=60, seed=3)
    assert data.interactions.content_hash == shop.interactions.content_hash
    assert data.titles == shop.item_table["title"].to_list()
    assert (data.features["image"].present == shop.present["image"]).all()
    assert (data.features["image"].values == shop.dataset().features["image"].values).all()
    assert data.features["text"].present.all()  # items without a description still have a title
    assert [data.thumbnails.jpeg(item) is not None for item in range(60)] == shop.present["image"].tolist()
    facts = data.provenance
    assert facts["layout"] == "tables"
    assert facts["files"]["pictures"] == {"folder": "pictures"}
    assert facts["features"]["text"]["template"] == "{title}. {category}. {description}"
    assert facts["features"]["image"]["files_of_no_item"] == 0
    assert facts["features"]["image"]["encoder"]["name"] == "descriptor"


def test_the_same_command_gives_the_same_bytes_with_a_warm_cache_or_a_cold_one(export, tmp_path):
    for name, cache in (("cold", None), ("first", "cache"), ("warm", "cache")):
        data = prepare(
            export, name="shop", encoders=LIGHT, filters=Filters(core=3),
            cache_dir=None if cache is None else tmp_path / cache,
        )  # fmt: skip
        data.save(tmp_path / name)
    names = sorted(
        path.relative_to(tmp_path / "cold") for path in (tmp_path / "cold").rglob("*") if path.is_file()
    )
    assert len(names) == 7
    for name in names:
        assert (tmp_path / "cold" / name).read_bytes() == (tmp_path / "warm" / name).read_bytes(), name


def test_what_is_found_can_be_switched_off_or_replaced(export, shop):
    plain = prepare(export, name="shop", text="none", media={"image": "none"})
    assert plain.features == {}
    assert plain.thumbnails is None
    assert prepare(export, name="shop", encoders={"text": "none", "image": "none"}).features == {}
    titles = prepare(export, name="shop", text="{title}", encoders=LIGHT, thumbnails=False)
    assert titles.provenance["features"]["text"]["template"] == "{title}"
    assert titles.thumbnails is None
    given = prepare(shop / "ratings.csv", name="shop", features=[("text", shop / "by_table.npy")],
                    items_file=shop / "items.csv")  # fmt: skip
    assert given.features["text"].dim == 1  # ready features are not encoded again


def test_files_belong_to_items_by_id_or_by_the_column_that_names_them(tmp_path, shop):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, name in enumerate(["1.png", "2.jpg", "mug.png", "5.txt", "9.png"]):
        Image.new("RGB", (4, 4), (50 * number, 0, 90)).save(pictures / name, "PNG")
    (pictures / "4.png").write_bytes(b"")
    by_id = prepare(shop / "ratings.csv", name="shop", media={"image": pictures})
    assert dict(zip(by_id.items.ids.tolist(), by_id.features["image"].present.tolist(), strict=True)) == {
        1: True, 2: True, 4: False, 5: True,
    }  # fmt: skip
    facts = by_id.provenance["features"]["image"]
    assert (facts["files"], facts["files_of_no_item"]) == (6, 2)
    assert facts["left_out"] == {"empty file": 1}
    pl.DataFrame({"item": [1, 2], "image_file": ["mug.png", None]}).write_csv(tmp_path / "named.csv")
    named = prepare(
        shop / "ratings.csv", name="shop", items_file=tmp_path / "named.csv", media={"image": pictures}
    )
    assert named.features["image"].present.tolist() == [True, False, False, False]
    (tmp_path / "none").mkdir()
    with pytest.raises(
        TriptychError, match=r"no file in .*none belongs to an item; wanted file names such as 1\.jpg"
    ):
        prepare(shop / "ratings.csv", name="shop", media={"image": tmp_path / "none"})


def test_bad_rows_are_left_out_up_to_the_limit_and_named(tmp_path):
    rows = [f"u{n % 7},i{n % 9},{n % 5},{1_500_000_000 + n}" for n in range(200)]
    rows[10], rows[20], rows[30] = "u1,,3,1500000000", "u1,i1,good,1500000000", "u1,i1,3,-5"
    (tmp_path / "sales.csv").write_text("user,item,rating,timestamp\n" + "\n".join(rows))
    data = prepare(tmp_path / "sales.csv", name="shop", max_bad=0.02)
    bad = data.provenance["unusable"]["sales.csv"]
    assert bad["left_out"] == {"no usable item": 1, "no usable rating": 1, "no usable timestamp": 1}
    assert bad["first_left_out"] == [
        "no usable item: column 'item' holds None in data row 11",
        "no usable rating: column 'rating' holds 'good' in data row 21",
        "no usable timestamp: column 'timestamp' holds -5 in data row 31",
    ]
    assert data.provenance["steps"][:2] == [
        {"step": "read", "rows": 200},
        {"step": "unusable", "interactions_removed": 3},
    ]
    removed = sum(step.get("interactions_removed", 0) for step in data.provenance["steps"])
    assert 200 - removed == len(data.interactions)
    with pytest.raises(TriptychError, match=r"sales\.csv: 3 of 200 rows cannot be used.*--max-bad"):
        prepare(tmp_path / "sales.csv", name="shop")


def test_a_byte_order_mark_decides_for_its_file_and_a_named_encoding_for_the_others(tmp_path):
    (tmp_path / "sales.csv").write_bytes("user,item\nZoë,1\nAda,2\n".encode("utf-16"))
    (tmp_path / "items.csv").write_bytes("item,title\n1,Café\n2,Tee\n".encode("cp1252"))
    data = prepare(tmp_path, name="shop", encoding="cp1252", text="none")
    assert (data.users.ids.tolist(), data.titles) == (["Ada", "Zoë"], ["Café", "Tee"])
    (tmp_path / "items.csv").write_bytes("item,title\n1,Café\n2,Tee\n".encode("utf-8-sig"))
    assert prepare(tmp_path, name="shop", encoding="cp1252", text="none").titles == ["Café", "Tee"]


@pytest.mark.parametrize("encoding", ["ANSI", "utf-9", "rot13"])
def test_an_unknown_encoding_is_refused_for_folders_and_files(tmp_path, encoding):
    (tmp_path / "sales.csv").write_text("user,item\nZoe,1\nAda,2\n")
    for path in (tmp_path, tmp_path / "sales.csv"):
        with pytest.raises(ConfigError, match=f"the encoding '{encoding}'.*Try utf-8"):
            prepare(path, name="shop", encoding=encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_read_when_named(tmp_path, encoding):
    sales, items = "user,item\nZoë,1\nAda,2\n", "item,title\n1,Café\n2,Tee\n"
    (tmp_path / "sales.csv").write_bytes(sales.encode(encoding))
    (tmp_path / "items.csv").write_bytes(items.encode(encoding))
    data = prepare(
        tmp_path / "sales.csv", name="shop", items_file=tmp_path / "items.csv", encoding=encoding, text="none"
    )
    assert data.users.ids.tolist() == ["Ada", "Zoë"]
    assert data.titles == ["Café", "Tee"]
    if encoding == "latin-1":  # UTF-16 says so itself
        with pytest.raises(TriptychError, match="--encoding"):
            prepare(tmp_path / "sales.csv", name="shop", text="none")


def test_columns_that_nothing_is_made_of_are_kept_by_name(tmp_path):
    (tmp_path / "orders.csv").write_text(
        "order_id,Customer ID,Product ID,Menge,Order Date\n7,a,1,2,2024-01-01\n8,b,1,1,2024-01-02\n"
    )
    (tmp_path / "products.csv").write_text("Product ID,Titel,Preis\n1,Mug,3\n")
    data = prepare(tmp_path, name="shop", text="none")
    assert data.interactions.timestamp.tolist() == [1704067200, 1704153600]
    assert data.provenance["columns_not_read"] == {"orders.csv": ["order_id", "Menge"]}
    assert {"Titel", "Preis"} <= set(data.item_table.columns)  # all of an item table is kept
    timeless = prepare(tmp_path, name="shop", text="none", columns=Columns(timestamp="none"))
    assert timeless.provenance["columns_not_read"] == {"orders.csv": ["order_id", "Menge", "Order Date"]}
    (tmp_path / "orders.csv").write_text("user,Product ID\na,1\n")
    assert prepare(tmp_path, name="shop", text="none").provenance["columns_not_read"] == {}


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("../../esc", "esc"),
        ("a/b", "a-b"),
        ("/abs", "abs"),
        ("a/", "a"),
        (".", "shop"),
        ("..", "shop"),
        ("", "shop"),
    ],
)
def test_a_name_is_no_path(tmp_path, name, better):
    with pytest.raises(
        ConfigError, match=rf"named '{re.escape(name)}'; wanted .*\. Call it '{better}' with --name\.$"
    ):
        prepare(tmp_path / "none", name=name)


@pytest.mark.parametrize("name", ["shop", "Läden 2024", "shop.v1", "...", "a\\b"])
def test_a_name_of_one_piece_is_a_name(shop, name):
    assert prepare(shop / "ratings.csv", name=name).name == name
