import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.dataset import MANIFEST, Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import Interactions
from triptych.errors import ConfigError, DataError, ShapeError, StorageError, UnknownIdError


@st.composite
def datasets(draw):
    """Data sets of every kind: ids of both types, optional columns, dense features, graphs, both, none."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = draw(st.integers(1, 40))
    users, items = rng.integers(0, 9, n), rng.integers(0, 9, n)
    if draw(st.booleans()):
        users = np.array([f"u{'é' * user}" for user in users])
        items = np.array([f"{'0' * item}7" for item in items])
    rating = rng.random(n) if draw(st.booleans()) else None
    timestamp = rng.random(n) * 1e9 if draw(st.booleans()) else None
    interactions = Interactions.from_ids(users, items, rating=rating, timestamp=timestamp)
    if draw(st.booleans()):
        interactions = interactions.with_label(rng.integers(-1, 3, len(interactions)).astype(np.int8))
    n_items = interactions.n_items
    table = pl.DataFrame({"item_id": interactions.items.ids})
    if draw(st.booleans()):
        table = table.with_columns(title=pl.Series([f"Item {at}" for at in range(n_items)]))
    present = rng.random(n_items) < 0.7
    dense = ItemFeatures.dense(rng.normal(size=(n_items, 3)), present, "dense")
    row, col = np.nonzero(rng.random((n_items, n_items)) < 0.4)
    graph = ItemGraph.from_edges(row, col, rng.random(len(row)), n_items)
    kinds = {
        "image": dense,
        "text": ItemFeatures(present=present, graph=graph, source="graph"),
        "audio": ItemFeatures(present=present, values=dense.values, graph=graph),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(kinds))))
    return Dataset(
        "toy", interactions, table, {name: kinds[name] for name in chosen}, {"from": ["a", 1, None]}
    )


@settings(max_examples=40, deadline=None)
@given(datasets(), st.booleans())
def test_save_and_load_change_nothing(tmp_path_factory, data, cut):
    if cut:  # a subset, whose arrays of strings may be wider than they need
        data = data.with_interactions(data.interactions.take(data.interactions.user < 1))
    path = tmp_path_factory.mktemp("data") / "shop[1]"
    data.save(path)
    again = Dataset.load(path)
    assert again.content_hash == data.content_hash
    assert again.name == data.name
    assert again.provenance == data.provenance
    assert again.item_table.equals(data.item_table)
    for name in ("user", "item", "rating", "timestamp", "label"):
        one, other = getattr(data.interactions, name), getattr(again.interactions, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
    assert again.users.ids.tolist() == data.users.ids.tolist()
    assert again.items.ids.tolist() == data.items.ids.tolist()
    assert again.features.keys() == data.features.keys()
    for name, features in data.features.items():
        assert again.features[name].source == features.source
        arrays = features.to_arrays()
        assert all(np.array_equal(again.features[name].to_arrays()[key], arrays[key]) for key in arrays)
    assert json.loads(json.dumps(again.describe())) == data.describe()


def shop():
    interactions = Interactions.from_ids(np.array([0, 0, 1, 1, 2]), np.array([10, 20, 10, 20, 30]))
    table = pl.DataFrame({"item_id": [10, 20, 30], "title": ["Mug", None, "Lamp"]})
    values = np.array([[1.0], [2.0], [3.0]])
    graph = ItemGraph.from_edges(np.array([0, 2]), np.array([1, 0]), np.ones(2), 3)
    features = {
        "image": ItemFeatures.dense(values),
        "text": ItemFeatures(np.ones(3, dtype=bool), graph=graph),
    }
    return Dataset("shop", interactions, table, features)


def test_core_takes_table_and_features_along():
    core = shop().core(2)
    assert core.items.ids.tolist() == [10, 20]
    assert core.titles == ["Mug", ""]
    assert core.features["image"].values.tolist() == [[1], [2]]
    assert (core.features["text"].graph.row.tolist(), core.features["text"].graph.col.tolist()) == ([0], [1])
    assert core.content_hash != shop().content_hash


def test_with_interactions_wants_known_items():
    with pytest.raises(UnknownIdError, match="item id 99"):
        shop().with_interactions(Interactions.from_ids(np.array([0]), np.array([99])))


def test_parts_must_fit_together():
    data = shop()
    with pytest.raises(ShapeError, match="item table of 'x' has 2 rows; wanted one for each of its 3 items"):
        Dataset("x", data.interactions, data.item_table.head(2))
    with pytest.raises(ShapeError, match="image features have 2 rows"):
        Dataset("x", data.interactions, data.item_table, {"image": ItemFeatures.dense(np.ones((2, 1)))})
    with pytest.raises(ConfigError, match="modality name"):
        Dataset("x", data.interactions, data.item_table, {"../image": data.features["image"]})


def test_titles_and_counts():
    assert Dataset.from_interactions("x", shop().interactions).titles is None
    facts = shop().describe()
    assert (facts["users"], facts["items"], facts["interactions"]) == (3, 3, 5)
    assert facts["interactions_per_user"] == {"min": 1, "median": 2.0, "max": 2}
    assert facts["modalities"]["text"]["graph_edges"] == 2


def test_content_hash_does_not_see_names_and_origin():
    data = shop()
    renamed = Dataset("other", data.interactions, data.item_table, data.features, {"a": 1})
    assert renamed.content_hash == data.content_hash
    assert Dataset.from_interactions("shop", data.interactions).content_hash != data.content_hash


def test_save_refuses_what_is_there(tmp_path):
    shop().save(tmp_path / "shop")
    with pytest.raises(StorageError, match="--overwrite"):
        shop().save(tmp_path / "shop")
    shop().core(2).save(tmp_path / "shop", overwrite=True)
    assert Dataset.load(tmp_path / "shop").n_items == 2
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_failing_save_leaves_nothing(tmp_path):
    data = shop()
    unwritable = Dataset("x", data.interactions, data.item_table, data.features, {"share": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        unwritable.save(tmp_path / "shop")
    assert list(tmp_path.iterdir()) == []


def change_manifest(change):
    def damage(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return damage


def flip(name, at):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1
        (folder / name).write_bytes(content)

    return damage


DAMAGES = {
    "no folder": (shutil.rmtree, "is not a data set"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), f"holds no {MANIFEST}"),
    "broken manifest": (lambda folder: (folder / MANIFEST).write_text("{"), "damaged"),
    "another kind": (change_manifest(lambda manifest: manifest.update(kind="run")), "of a run"),
    "another version": (change_manifest(lambda manifest: manifest.update(schema_version=99)), "version 99"),
    "no checksums": (change_manifest(lambda manifest: manifest.pop("files")), "KeyError"),
    "odd checksums": (change_manifest(lambda manifest: manifest.update(files={"items.parquet": 3})), "does not desc"),
    "no features": (change_manifest(lambda manifest: manifest.pop("features")), "KeyError"),
    "path outside": (change_manifest(lambda m: m["files"].update({"../x": {}})), "outside the folder"),
    "feature outside": (change_manifest(lambda m: m["features"].update({"../x": ""})), "does not exist"),
    "flipped ids": (flip("users.parquet", 8), "users.parquet is damaged"),
    "flipped pairs": (flip("interactions.parquet", -9), "interactions.parquet is damaged"),
    "flipped features": (flip("features/image.safetensors", -1), "image.safetensors is damaged"),
    "missing features": (lambda folder: (folder / "features/text.safetensors").unlink(), "text.safetensors is miss"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_noticed_on_loading(tmp_path, kind):
    damage, message = DAMAGES[kind]
    shop().save(tmp_path / "shop")
    damage(tmp_path / "shop")
    with pytest.raises((StorageError, DataError), match=message):
        Dataset.load(tmp_path / "shop")


def test_an_item_table_in_another_order_is_refused():
    """It would name other items once it is saved and read."""
    data = Dataset.from_interactions("d", Interactions.from_ids([1, 1, 2], [1, 2, 3]))
    for table in (data.item_table.reverse(), data.item_table.rename({"item_id": "id"})):
        with pytest.raises(DataError, match="does not list its items by 'item_id' in their order"):
            replace(data, item_table=table)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Dataset.from_interactions("d", Interactions.from_ids([1, 1, 2], [1, 2, 3])).save("~/made")
    assert (tmp_path / "made" / MANIFEST).is_file()
    assert Dataset.load("~/made").name == "d"
    monkeypatch.chdir(tmp_path)
    Dataset.from_interactions("d", Interactions.from_ids([1, 1, 2], [1, 2, 3])).save("~nobody-of-this-name")
    assert (tmp_path / "~nobody-of-this-name" / MANIFEST).is_file()
