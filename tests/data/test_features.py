import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from triptych.data.features import ItemFeatures, ItemGraph, check_modality, combine
from triptych.errors import ConfigError, DataError, ShapeError

N_ITEMS = 6
edges = st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, N_ITEMS - 1)), min_size=1, unique=True)


def graph_of(pairs, weights=None):
    row, col = np.array(pairs).T
    weights = np.linspace(1, 0, len(pairs)) if weights is None else np.array(weights)
    return ItemGraph.from_edges(row, col, weights, N_ITEMS)


def as_dict(graph):
    return {
        (r, c): w for r, c, w in zip(*(a.tolist() for a in (graph.row, graph.col, graph.weight)), strict=True)
    }


@given(edges, st.randoms(use_true_random=False))
def test_the_order_of_edges_does_not_matter(pairs, random):
    weight = {pair: float(np.float32(random.random())) for pair in pairs}
    one = graph_of(pairs, [weight[pair] for pair in pairs])
    random.shuffle(pairs)
    other = graph_of(pairs, [weight[pair] for pair in pairs])
    assert as_dict(one) == weight
    for name in ("row", "col", "weight"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert (np.diff(one.row) >= 0).all()
    assert (np.diff(one.weight)[np.diff(one.row) == 0] <= 0).all()


@given(edges, st.permutations(range(N_ITEMS)), st.integers(1, N_ITEMS))
def test_taking_items_keeps_the_edges_among_them(pairs, order, n_kept):
    keep = np.array(order[:n_kept])
    whole = graph_of(pairs)
    part = whole.take(keep, N_ITEMS)
    renamed = {(keep[r], keep[c]): w for (r, c), w in as_dict(part).items()}
    assert renamed == {(r, c): w for (r, c), w in as_dict(whole).items() if r in keep and c in keep}


@given(edges, st.integers(1, 4))
def test_strongest_keeps_the_heaviest_of_each_row(pairs, n_neighbors):
    whole = as_dict(graph_of(pairs))
    kept = as_dict(graph_of(pairs).strongest(n_neighbors, N_ITEMS))
    for row in range(N_ITEMS):
        weights = sorted((w for (r, _), w in whole.items() if r == row), reverse=True)
        assert sorted((w for (r, _), w in kept.items() if r == row), reverse=True) == weights[:n_neighbors]
    assert kept.items() <= whole.items()


def test_a_wrong_graph_is_refused():
    one = np.ones(1)
    with pytest.raises(ShapeError, match="2 rows, 1 columns"):
        ItemGraph.from_edges(np.array([0, 1]), np.array([0]), one, 3)
    with pytest.raises(ShapeError, match="links items 0 to 3; wanted indices from 0 to 2"):
        ItemGraph.from_edges(np.array([0]), np.array([3]), one, 3)
    with pytest.raises(DataError, match="edge 0 -> 1 has weight nan"):
        ItemGraph.from_edges(np.array([0]), np.array([1]), one * np.nan, 3)
    with pytest.raises(DataError, match="same edge twice"):
        ItemGraph.from_edges(np.array([0, 0]), np.array([1, 1]), np.ones(2), 3)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8]),
        hnp.array_shapes(min_dims=2, max_dims=2),
        elements=st.integers(-9, 9),
    ),
    st.data(),
)
def test_dense_rows_are_float32_and_zero_where_absent(values, data):
    present = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    features = ItemFeatures.dense(values, present)
    assert features.values.dtype == np.float32
    assert np.array_equal(features.values, values * present[:, None])
    assert features.coverage == present.mean()
    assert (features.n_items, features.dim) == values.shape


def test_missing_rows_may_hold_anything_and_present_ones_may_not():
    values = np.array([[1.0, 2.0], [np.nan, np.inf]])
    assert ItemFeatures.dense(values, np.array([True, False])).values[1].tolist() == [0, 0]
    with pytest.raises(DataError, match="1 rows, first row 1"):
        ItemFeatures.dense(values)
    with pytest.raises(DataError, match="beyond float32"):
        ItemFeatures.dense(np.array([[1e300]]))
    assert np.isnan(values[1, 0]), "the caller's array is left alone"


@pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 2, 2)])
def test_features_are_a_matrix(shape):
    with pytest.raises(ShapeError, match="features of shape"):
        ItemFeatures.dense(np.zeros(shape))


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ShapeError, match="3 rows, but 2 items"):
        ItemFeatures.dense(np.zeros((3, 1)), np.ones(2, dtype=bool))


def test_a_modality_holds_something():
    with pytest.raises(DataError, match="neither dense rows nor a graph"):
        ItemFeatures(present=np.ones(3, dtype=bool))


def features_with_both():
    present = np.array([True, True, False, True, True, True])
    dense = ItemFeatures.dense(np.arange(12.0).reshape(6, 2), present, "dense.npy")
    graph = ItemFeatures(present=np.arange(6) < 3, graph=graph_of([(0, 1), (1, 2)]), source="knn.npz")
    return combine("image", dense, graph)


def test_dense_rows_and_a_graph_combine():
    both = features_with_both()
    assert both.present.all()
    assert (both.dim, len(both.graph), both.source) == (2, 2, "dense.npy + knn.npz")
    for part in (ItemFeatures.dense(np.ones((6, 1))), ItemFeatures(both.present, graph=both.graph)):
        with pytest.raises(ConfigError, match=r"two (dense files|graphs) for image"):
            combine("image", both, part)


def test_arrays_round_trip():
    both = features_with_both()
    again = ItemFeatures.from_arrays(both.to_arrays(), both.source)
    assert again.content_hash == both.content_hash
    with pytest.raises(DataError, match="an array 'present'"):
        ItemFeatures.from_arrays({"values": both.values}, "")


def test_content_hash_sees_values_mask_and_graph():
    values, present = np.ones((6, 2), dtype=np.float32), np.ones(6, dtype=bool)
    fewer = present.copy()
    fewer[2] = False
    variants = [
        ItemFeatures(present, values),
        ItemFeatures(fewer, values),
        ItemFeatures(present, values * 2),
        ItemFeatures(present, values, graph_of([(0, 1)])),
        ItemFeatures(present, values, graph_of([(0, 2)])),
    ]
    assert len({features.content_hash for features in variants}) == len(variants)
    assert ItemFeatures(present, values, source="elsewhere").content_hash == variants[0].content_hash


@pytest.mark.parametrize("name", ["../image", "a.b", "", "two words", "a/b", "1st"])
def test_a_modality_has_a_plain_name(name):
    with pytest.raises(ConfigError, match="the modality name"):
        check_modality(name)
    check_modality("image_2")


@pytest.mark.parametrize("present", [[0, 1, 1], np.array([0, 1, 1]), np.array([False, True, True])])
def test_marks_may_be_numbers(present):
    features = ItemFeatures.dense(np.ones((3, 2)), present)
    assert features.values.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert features.present.tolist() == [False, True, True]
