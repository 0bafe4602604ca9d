import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.bad_rows import BadRows
from triptych.data.dataset import Dataset
from triptych.data.export import MARKER, export_mmrec, export_recbole
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions
from triptych.data.layouts import find_layout
from triptych.data.readers import interactions_from_frame
from triptych.data.split import Split
from triptych.errors import ConfigError, DataError, StorageError
from triptych.files import read_json, sha256

PAIRS = [("ann", "M1"), ("ann", "M2"), ("ann", "007"), ("bob", "M1"), ("bob", "M4")]


def make_shop(labels=(TRAIN, VALID, TEST, TRAIN, LEFT_OUT), numbers=False):
    """Items by index: 007, M1, M2, M4, the last of them only in what is left out."""
    rng = np.random.default_rng(0)
    users, items = (np.array(column) for column in zip(*PAIRS, strict=True))
    if numbers:
        users = np.array([len(user) + ord(user[0]) for user in users])
        items = np.array([sum(map(ord, item)) for item in items])
    data = Interactions.from_ids(
        users, items, rating=rng.random(5) * 5, timestamp=rng.random(5) * 1e9,
        label=None if labels is None else np.array(labels, dtype=np.int8),
    )  # fmt: skip
    present = np.array([True, False, True, True])
    graph = ItemGraph.from_edges(np.array([0]), np.array([1]), np.array([1.0]), 4)
    features = {
        "image": ItemFeatures.dense(rng.normal(size=(4, 3)), present),
        "text": ItemFeatures.dense(rng.normal(size=(4, 2)) * 1e-20),
        "audio": ItemFeatures(present=np.ones(4, dtype=bool), graph=graph),
    }
    table = pl.DataFrame(
        {
            "item_id": data.items.ids,
            "title": ['Mug "big"', "Two\nlines", None, "tab\there\r\n"],
            "price": [1.5, None, 2.0, 3.0],
            "sold": [True, False, True, None],
            "tags": [["a"], [], ["b", "c"], None],
            "a:b": ["x", "x", "x", "x"],
        }
    )
    return Dataset("my shop", data, table, features)


def triples(interactions, label):
    users, items = interactions.users.ids, interactions.items.ids
    columns = [
        users[interactions.user],
        items[interactions.item],
        interactions.rating,
        interactions.timestamp,
        label,
    ]
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def read_back(folder):
    layout = find_layout(folder)
    return layout, interactions_from_frame(*layout.read_interactions(BadRows(0.0))).interactions


def test_mmrec_round_trip(tmp_path):
    data = make_shop()
    facts = export_mmrec(data, tmp_path / "shop")
    layout, back = read_back(tmp_path / "shop")
    assert layout.name == "mmrec"
    raw = layout.read_items(back.items, BadRows()).filter(pl.col("item_id").is_in(back.items.ids.tolist()))
    assert dict(raw.rows()) == {at: data.items.ids[at].item() for at in back.items.ids}
    label = data.interactions.label
    kept = label != LEFT_OUT
    indices = np.stack([data.interactions.user, data.interactions.item])[:, kept]
    assert np.stack([back.users.ids[back.user], back.items.ids[back.item]]).tolist() == indices.tolist()
    assert back.label.tolist() == label[kept].tolist()
    assert back.rating.tolist() == data.interactions.rating[kept].tolist()
    assert back.timestamp.tolist() == data.interactions.timestamp[kept].tolist()
    assert layout.modalities == ("image", "text")
    for modality in layout.modalities:
        features = layout.read_features(modality, back.items, back.items)
        was = data.features[modality]
        assert np.array_equal(features.values, was.values[back.items.ids])
        assert np.array_equal(features.present, was.present[back.items.ids])
    assert facts["counts"] == {
        "users": 2, "items": 4, "interactions": 4, "train": 2, "valid": 1, "test": 1,
    }  # fmt: skip
    assert facts["not_carried"] == {
        "interactions_left_out": 1,
        "item_graphs": ["audio"],
        "item_columns": ["title", "price", "sold", "tags", "a:b"],
        "missing_features": {"image": 1},
        "thumbnails": False,
    }


def test_mmrec_files_are_as_mmrec_has_them(tmp_path):
    data = make_shop(numbers=True)
    export_mmrec(data, tmp_path / "shop")
    folder = tmp_path / "shop"
    assert sorted(path.name for path in folder.iterdir()) == [
        "i_id_mapping.csv", "image_feat.npy", "shop.inter", "shop_missing.csv", "text_feat.npy",
        MARKER, "u_id_mapping.csv",
    ]  # fmt: skip
    lines = (folder / "shop.inter").read_text().splitlines()
    assert lines[0] == "userID\titemID\trating\ttimestamp\tx_label"
    assert len(lines) == 5
    assert {line.rpartition("\t")[2] for line in lines[1:]} == {"0", "1", "2"}
    image = np.load(folder / "image_feat.npy", allow_pickle=False)
    assert (image.dtype, image.shape) == (np.float32, (4, 3))
    assert not image[1].any()
    assert (folder / "shop_missing.csv").read_text() == "itemID,modality\n1,image\n"
    assert (folder / "u_id_mapping.csv").read_text() == "user_id\tuserID\n100\t0\n101\t1\n".replace(
        "100\t0\n101\t1\n", "".join(f"{raw}\t{at}\n" for at, raw in enumerate(data.users.ids))
    )
    assert (folder / "i_id_mapping.csv").read_text().splitlines()[0] == "asin\titemID"


def test_recbole_round_trip(tmp_path):
    data = make_shop()
    facts = export_recbole(data, tmp_path / "shop")
    layout, back = read_back(tmp_path / "shop")
    assert layout.name == "recbole"
    kept = data.interactions.take(data.interactions.label != LEFT_OUT)
    assert triples(back, back.label) == triples(kept, kept.label)
    items = layout.read_items(data.items, BadRows()).sort("item_id")
    assert items.select("item_id", "title").rows() == [
        ("007", 'Mug "big"'), ("M1", "Two lines"), ("M2", None), ("M4", "tab here  "),
    ]  # fmt: skip
    assert items["price"].cast(pl.Float64).to_list() == [1.5, None, 2.0, 3.0]
    assert layout.modalities == ("image", "text")
    for modality in layout.modalities:
        features = layout.read_features(modality, data.items, data.items)
        assert np.array_equal(features.values, data.features[modality].values)
        assert np.array_equal(features.present, data.features[modality].present)
    assert facts["not_carried"] == {
        "interactions_left_out": 1,
        "item_graphs": ["audio"],
        "item_columns": ["tags", "a:b"],
        "texts_changed": 2,
        "thumbnails": False,
    }


def test_recbole_files_are_as_recbole_has_them(tmp_path):
    export_recbole(make_shop(labels=None), tmp_path / "shop")
    folder = tmp_path / "shop"
    assert sorted(path.name for path in folder.iterdir()) == [
        "shop.imageemb", "shop.inter", "shop.item", "shop.textemb", MARKER,
    ]  # fmt: skip
    lines = (folder / "shop.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    assert len(lines) == 6
    lines = (folder / "shop.item").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "item_id:token\ttitle:token_seq\tprice:float\tsold:float"
    assert lines[1] == '007\tMug "big"\t1.5\t1'
    lines = (folder / "shop.imageemb").read_text().splitlines()
    assert lines[0] == "image_id:token\timage_emb:float_seq"
    assert [line.partition("\t")[0] for line in lines[1:]] == ["007", "M2", "M4"]
    assert all(len(line.split(" ")) == 3 for line in lines[1:])
    assert read_back(folder)[1].label is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_any_split_comes_back(tmp_path_factory, seed, numbers):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 6, 60), rng.integers(0, 9, 60)
    if not numbers:
        users, items = np.array([f"u{at}é" for at in users]), np.array([f"0{at}" for at in items])
    data = Dataset.from_interactions("x", Interactions.from_ids(
        users, items, rating=rng.normal(size=60) * 1e-9, timestamp=rng.random(60) * 1e9
    ))  # fmt: skip
    split = Split.by_ratio(data, rng=seed)
    folder = tmp_path_factory.mktemp("exports")
    export_recbole(data, folder / "r[1]", split=split)
    export_mmrec(data, folder / "m[1]", split=split)
    expected = triples(data.interactions, split.part)
    _, back = read_back(folder / "r[1]")
    assert triples(back, back.label) == expected
    layout, back = read_back(folder / "m[1]")
    assert back.label.tolist() == split.part.tolist()
    assert layout.read_items(back.items, BadRows())["asin"].to_list() == [str(raw) for raw in data.items.ids]


def test_a_split_comes_before_labels_and_must_be_of_the_data(tmp_path):
    data = make_shop()
    split = Split(data, np.array([TEST, TRAIN, TRAIN, TRAIN, VALID], dtype=np.int8))
    export_mmrec(data, tmp_path / "shop", split=split)
    assert read_back(tmp_path / "shop")[1].label.tolist() == split.part.tolist()
    other = Split.by_label(
        Dataset.from_interactions("other", data.interactions.take(data.interactions.user < 1))
    )
    for export in (export_mmrec, export_recbole):
        with pytest.raises(ConfigError, match=r"a split of 'other' with 3 interactions.*Split this data"):
            export(data, tmp_path / "new", split=other)
    assert not (tmp_path / "new").exists()


def test_mmrec_needs_a_split(tmp_path):
    with pytest.raises(ConfigError, match=r"'my shop' is not split.*Split it first"):
        export_mmrec(make_shop(labels=None), tmp_path / "shop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_mmrec, export_recbole])
def test_the_folder_says_what_it_is_and_only_such_are_replaced(tmp_path, export):
    data, folder = make_shop(), tmp_path / "shop"
    facts = export(data, folder)
    assert read_json(folder / MARKER) == facts
    files = {path.name for path in folder.iterdir()} - {MARKER}
    assert facts["files"].keys() == files
    assert all(facts["files"][name]["sha256"] == sha256(folder / name) for name in files)
    assert (facts["name"], facts["content_hash"]) == ("shop", data.content_hash)
    with pytest.raises(StorageError, match="--overwrite"):
        export(data, folder)
    assert export(data, folder, overwrite=True) == facts
    (folder / MARKER).unlink()
    with pytest.raises(StorageError, match="was not made by this command"):
        export(data, folder, overwrite=True)


@pytest.mark.parametrize(("user", "item", "kind"), [("a\tb", "x", "user"), ("a", "x\ny", "item")])
def test_recbole_cannot_hold_breaks_in_ids(tmp_path, user, item, kind):
    label = np.zeros(1, dtype=np.int8)
    interactions = Interactions.from_ids(np.array([user]), np.array([item]), label=label)
    data = Dataset.from_interactions("odd", interactions)
    with pytest.raises(DataError, match=rf"1 {kind} ids hold a tab or a line break"):
        export_recbole(data, tmp_path / "r")
    export_mmrec(data, tmp_path / "m")  # which quotes them
    layout, back = read_back(tmp_path / "m")
    assert layout.read_items(back.items, BadRows()).rows() == [(0, item)]


def test_parts_without_rows_are_not_written(tmp_path):
    data = make_shop(labels=(TRAIN, TRAIN, TEST, TRAIN, TRAIN))
    export_recbole(data, tmp_path / "shop")
    assert not (tmp_path / "shop" / "shop.valid.inter").exists()
    assert read_back(tmp_path / "shop")[1].label.tolist() == data.interactions.label.tolist()
