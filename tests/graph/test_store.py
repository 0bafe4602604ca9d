from collections import Counter

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.graph import store as store_module
from triptych.graph.bipartite import bipartite_graph
from triptych.graph.cooccurrence import cooccurring_users
from triptych.graph.neighbors import item_graph, knn_edges, mix_graphs
from triptych.graph.store import GraphStore

N_USERS, N_ITEMS = 6, 15
USER = torch.tensor([0, 0, 1, 2, 3, 3, 4, 5])
ITEM = torch.tensor([0, 7, 3, 14, 2, 9, 9, 1])


def dense(seed, present=None):
    return ItemFeatures.dense(np.random.default_rng(seed).normal(size=(N_ITEMS, 4)), present)


def given():
    ends = np.arange(N_ITEMS)
    weight = np.linspace(0.5, 1, N_ITEMS).astype(np.float32)
    graph = ItemGraph.from_edges(ends, (ends + 1) % N_ITEMS, weight, N_ITEMS)
    return ItemFeatures(present=np.ones(N_ITEMS, dtype=bool), graph=graph)


def make_store(features=None, cache_dir=None):
    features = {"image": dense(1), "text": dense(2)} if features is None else features
    return GraphStore(USER, ITEM, N_USERS, N_ITEMS, features, cache_dir)


@pytest.fixture
def builds(monkeypatch):
    """Counts how often each building function is called."""
    counts = Counter()

    def counted(name):
        function = getattr(store_module, name)

        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(store_module, name, call)

    for name in ("bipartite_graph", "item_graph", "knn_edges", "mix_graphs"):
        counted(name)
    return counts


def same(one, other):
    return torch.equal(one.to_dense(), other.to_dense())


def test_the_store_gives_what_the_functions_build():
    store = make_store()
    features = {"image": dense(1), "text": dense(2)}
    for normalisation in ("sym", "mean", "rw_loop"):
        built = bipartite_graph(USER, ITEM, N_USERS, N_ITEMS, normalisation)
        assert same(store.bipartite(normalisation), built)
    for modality, part in features.items():
        for weighting in ("binary", "cosine"):
            built = item_graph(knn_edges(part, 3), N_ITEMS, weighting)
            assert same(store.items(modality, 3, weighting), built)
    parts = [item_graph(knn_edges(part, 3), N_ITEMS) for part in features.values()]
    shares = torch.tensor([0.1, 0.9])[:, None].expand(2, N_ITEMS)
    torch.testing.assert_close(
        store.mixed_items({"image": 0.1, "text": 0.9}, 3).to_dense(), mix_graphs(parts, shares).to_dense()
    )


def test_neighbours_are_searched_once_for_graphs_of_any_weights(builds):
    store = make_store()
    for weighting in ("binary", "cosine", "positive"):
        store.items("image", 3, weighting)
    assert store.neighbors("image", 3) is store.neighbors("image", 3)
    assert builds["knn_edges"] == 1
    store.neighbors("image", 2)
    assert builds["knn_edges"] == 2


def test_an_item_of_zeros_leaves_its_share_to_what_it_has():
    image, text = dense(1), dense(2)
    text.values[3] = 0.0  # present, and like nothing
    store = GraphStore(USER, ITEM, N_USERS, N_ITEMS, {"image": image, "text": text})
    mixed = store.mixed_items({"image": 0.1, "text": 0.9}, 3).to_dense()
    torch.testing.assert_close(mixed[3], item_graph(knn_edges(image, 3), N_ITEMS).to_dense()[3])


def test_the_same_question_is_answered_from_memory(builds):
    store = make_store()
    asks = {
        "bipartite_graph": lambda: store.bipartite("sym"),
        "knn_edges": lambda: store.items("image", 4),
        "mix_graphs": lambda: store.mixed_items({"image": 0.5, "text": 0.5}, 4),
    }
    for name, ask in asks.items():
        first = ask()
        n_built = builds.copy()
        second = ask()
        assert builds == n_built
        assert builds[name] >= 1
        assert second is not first  # each owner moves its own
        assert first.values.data_ptr() == second.values.data_ptr()
        assert same(first, second)
    assert builds["bipartite_graph"] == builds["mix_graphs"] == 1
    assert builds["knn_edges"] == 2  # one per modality, and none again for the mixture


def test_another_question_is_another_graph(builds):
    store = make_store()
    graphs = [
        store.bipartite("sym"),
        store.bipartite("mean"),
        store.bipartite("root_row"),
    ]
    assert not same(graphs[0], graphs[1])
    assert not same(graphs[1], graphs[2])
    items = [
        store.items("image", 3),
        store.items("text", 3),
        store.items("image", 4),
        store.items("image", 3, "cosine"),
        store.mixed_items({"image": 0.1, "text": 0.9}, 3),
        store.mixed_items({"image": 0.9, "text": 0.1}, 3),
        store.mixed_items({"image": 0.9, "text": 0.1}, 3, "cosine"),
    ]
    for place, graph in enumerate(items):
        assert not any(same(graph, other) for other in items[:place])


def test_moving_a_graph_does_not_move_the_stores_own():
    store = make_store()
    store.bipartite().half()
    store.bipartite().to("meta")
    assert store.bipartite().values.dtype == torch.float32
    assert store.bipartite().values.device.type == "cpu"


def test_missing_modalities_reach_the_mixture():
    features = {"image": dense(1, np.arange(N_ITEMS) != 4), "text": dense(2)}
    store = make_store(features)
    mixed = store.mixed_items({"image": 0.1, "text": 0.9}, 3).to_dense()
    torch.testing.assert_close(mixed[4], store.items("text", 3).to_dense()[4])


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store().mixed_items({"image": 0.5, "text": 0.5}, 3)
    assert not list(tmp_path.iterdir())


def test_a_second_store_reads_what_the_first_one_wrote(tmp_path, builds):
    first = make_store(cache_dir=tmp_path / "cache").items("image", 3, "cosine")
    assert builds["knn_edges"] == 1
    second = make_store(cache_dir=tmp_path / "cache").items("image", 3, "cosine")
    assert builds["knn_edges"] == 1
    assert same(first, second)
    binary = make_store(cache_dir=tmp_path / "cache").items("image", 3)  # of the same neighbours
    assert builds["knn_edges"] == 1
    assert same(binary, make_store().items("image", 3))


def test_other_features_never_meet_an_old_graph(tmp_path, builds):
    make_store({"image": dense(1)}, tmp_path).items("image", 3)
    for features in (dense(2), dense(1, np.arange(N_ITEMS) != 0)):
        fresh = make_store({"image": features}, tmp_path).items("image", 3)
        assert same(fresh, make_store({"image": features}).items("image", 3))
    assert len(list(tmp_path.iterdir())) == 3
    other_k = make_store({"image": dense(1)}, tmp_path).items("image", 5)
    assert same(other_k, make_store({"image": dense(1)}).items("image", 5))


def test_the_same_features_under_another_name_are_found(tmp_path, builds):
    make_store({"image": dense(1)}, tmp_path).items("image", 3)
    make_store({"photo": dense(1)}, tmp_path).items("photo", 3)
    assert builds["knn_edges"] == 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "lacking"])
def test_a_damaged_cache_file_is_built_again(tmp_path, builds, damage):
    whole = make_store(cache_dir=tmp_path).items("image", 3, "cosine")
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "lacking":
        store_module.write_arrays(file, {"row": np.zeros(3, dtype=np.int64)})
    else:
        parts = {"truncated": content[: len(content) // 2], "empty": b"", "other": b"no tensors at all"}
        file.write_bytes(parts[damage])
    assert same(make_store(cache_dir=tmp_path).items("image", 3, "cosine"), whole)
    assert builds["knn_edges"] == 2
    assert file.read_bytes() == content  # mended, so that a third store reads it
    make_store(cache_dir=tmp_path).items("image", 3)
    assert builds["knn_edges"] == 2


def test_a_given_graph_is_not_kept_a_second_time(tmp_path):
    graph = make_store({"image": given()}, tmp_path).items("image", 2, "cosine")
    assert not list(tmp_path.iterdir())
    assert graph.n_entries == N_ITEMS


def test_similar_users_are_found_once_and_kept(tmp_path, monkeypatch):
    first = make_store(cache_dir=tmp_path).similar_users(2)
    for given, expected in zip(first, cooccurring_users(USER, ITEM, N_USERS, N_ITEMS, 2), strict=True):
        assert torch.equal(given, expected)
    assert len(first[0])
    (kept,) = tmp_path.glob("users-*.safetensors")
    monkeypatch.setattr("triptych.graph.store.cooccurring_users", None)  # not needed again
    for given, expected in zip(make_store(cache_dir=tmp_path).similar_users(2), first, strict=True):
        assert torch.equal(given, expected)
    with pytest.raises(TypeError):
        make_store(cache_dir=tmp_path).similar_users(1)  # another K is another file
    assert kept.is_file()
