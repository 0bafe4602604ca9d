import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from torch.overrides import TorchFunctionMode

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.errors import ConfigError, DataError
from triptych.graph import neighbors
from triptych.graph.neighbors import item_graph, knn_edges, mix_graphs, modality_shares, nearest_neighbors
from triptych.graph.sparse import SparseGraph


def rows(n_items, dim, seed=0, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(n_items, dim)) + shift).astype(np.float32)


def graph_of(dense):
    row, col = dense.nonzero().T
    return SparseGraph.from_edges(row, col, dense[row, col], *dense.shape)


class LargestTensor(TorchFunctionMode):
    """Notes the number of entries of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else [out]:
            if isinstance(part, torch.Tensor):
                self.entries = max(self.entries, part.numel())
        return out


@pytest.mark.parametrize("n_neighbors", [1, 4, 25])
def test_neighbours_are_those_of_the_dense_cosines(n_neighbors):
    values = rows(25, 6)
    expected = cosine_similarity(values.astype(np.float64))
    indices, cosines = nearest_neighbors(torch.from_numpy(values), n_neighbors)
    best = np.argsort(-expected, axis=1)[:, :n_neighbors]
    assert indices.numpy().tolist() == best.tolist()
    np.testing.assert_allclose(cosines.numpy(), np.take_along_axis(expected, best, axis=1), atol=1e-6)
    assert indices.dtype == torch.int64


def test_an_item_is_its_own_first_neighbour():
    indices, cosines = nearest_neighbors(torch.from_numpy(rows(30, 5)), 3)
    assert indices[:, 0].tolist() == list(range(30))
    torch.testing.assert_close(cosines[:, 0], torch.ones(30))


def test_the_length_of_a_row_does_not_matter():
    values = torch.from_numpy(rows(20, 5))
    scale = torch.linspace(0.01, 100, 20)[:, None]
    indices, cosines = nearest_neighbors(values, 4)
    scaled_indices, scaled_cosines = nearest_neighbors(values * scale, 4)
    assert torch.equal(indices, scaled_indices)
    torch.testing.assert_close(cosines, scaled_cosines)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 35), st.integers(0, 10**6), st.data())
def test_the_block_size_does_not_change_the_result(n_items, block_size, seed, data):
    n_neighbors = data.draw(st.integers(1, n_items))
    values = torch.from_numpy(rows(n_items, 7, seed))
    whole, whole_cosines = nearest_neighbors(values, n_neighbors, block_size=n_items)
    indices, cosines = nearest_neighbors(values, n_neighbors, block_size=block_size)
    torch.testing.assert_close(cosines, whole_cosines, rtol=0, atol=1e-6)
    # The product's last bits may differ with the shape of a block: neighbours as good may change places.
    unit = torch.nn.functional.normalize(values.double(), dim=1)
    similar = unit @ unit.T
    torch.testing.assert_close(similar.gather(1, indices), similar.gather(1, whole), rtol=0, atol=1e-6)
    assert all(len(set(row)) == n_neighbors for row in indices.tolist())


def test_the_default_block_holds_what_it_may(monkeypatch):
    values = torch.from_numpy(rows(400, 5))
    expected = nearest_neighbors(values, 6)
    monkeypatch.setattr(neighbors, "_BLOCK_ENTRIES", 16_000)  # forty rows
    with LargestTensor() as seen:
        got = nearest_neighbors(values, 6)
    assert seen.entries == 16_000
    assert torch.equal(got[0], expected[0])


def test_a_block_smaller_than_a_row_is_still_a_row(monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK_ENTRIES", 3)
    values = torch.from_numpy(rows(10, 4))
    assert torch.equal(nearest_neighbors(values, 2)[0], nearest_neighbors(values, 2, block_size=10)[0])


def test_items_by_items_is_never_in_memory():
    n_items = 6000
    features = torch.from_numpy(rows(n_items, 8))
    with LargestTensor() as seen:
        indices, cosines = nearest_neighbors(features, 5, block_size=50)
        edges = (torch.arange(n_items).repeat_interleave(5), indices.flatten(), cosines.flatten())
        graph = item_graph(edges, n_items)
        mix_graphs([graph, graph], torch.full((2, n_items), 0.5))
    assert graph.n_entries == 5 * n_items
    assert seen.entries == 50 * n_items  # the block of similarities, a hundredth of I x I
    with LargestTensor() as seen:
        graph.to_dense()
    assert seen.entries == n_items**2  # the measurement does see such a matrix


def test_a_missing_item_is_nobodys_neighbour_and_has_no_edges():
    present = np.ones(20, dtype=bool)
    present[[3, 4, 11]] = False
    features = ItemFeatures.dense(rows(20, 5), present)
    row, col, cosine = knn_edges(features, 6)
    assert len(row) == len(col) == len(cosine) == 17 * 6
    for ends in (row, col):
        assert not np.isin([3, 4, 11], ends.numpy()).any()
    # the others find what they would find alone
    alone = nearest_neighbors(torch.from_numpy(rows(20, 5)[present]), 6)[0]
    assert torch.equal(col.view(17, 6), torch.from_numpy(np.flatnonzero(present))[alone])
    dense = item_graph((row, col, cosine), 20).to_dense()
    assert not dense[[3, 4, 11]].any()
    assert not dense[:, [3, 4, 11]].any()


def test_missing_items_leave_out_even_far_neighbours():
    # Rows of absent items are zero, which is nearer (cosine 0) than the opposite direction (-1).
    values = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    features = ItemFeatures.dense(values, np.array([True, True, False]))
    row, col, cosine = knn_edges(features, 2)
    assert list(zip(row.tolist(), col.tolist(), cosine.tolist(), strict=True)) == [
        (0, 0, 1.0),
        (0, 1, -1.0),
        (1, 1, 1.0),
        (1, 0, -1.0),
    ]


@pytest.mark.parametrize("n_neighbors", [0, -1, 6])
def test_an_impossible_number_of_neighbours_is_refused(n_neighbors):
    with pytest.raises(ConfigError, match="from 1 to 5"):
        nearest_neighbors(torch.from_numpy(rows(5, 3)), n_neighbors)


def test_more_neighbours_than_items_with_features_are_refused():
    present = torch.tensor([True, True, False, True])
    assert nearest_neighbors(torch.from_numpy(rows(4, 3)), 3, present)[0].shape == (4, 3)
    with pytest.raises(ConfigError, match="only 3 items have features"):
        nearest_neighbors(torch.from_numpy(rows(4, 3)), 4, present)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_no_numbers_are_refused(bad):
    values = torch.from_numpy(rows(8, 3))
    values[5, 1] = bad
    values[7, 0] = bad
    with pytest.raises(DataError, match="first in row 5"):
        nearest_neighbors(values, 2)


@pytest.mark.parametrize("n_neighbors", [1, 3, 7])
def test_a_binary_graph_with_all_neighbours_weighs_one_over_k(n_neighbors):
    features = ItemFeatures.dense(rows(40, 6))
    graph = item_graph(knn_edges(features, n_neighbors), 40, "binary")
    assert graph.n_entries == 40 * n_neighbors
    torch.testing.assert_close(
        graph.values, torch.full((40 * n_neighbors,), 1 / n_neighbors), rtol=3e-7, atol=0
    )


@pytest.mark.parametrize(("weighting", "n_neighbors"), [("binary", 5), ("cosine", 5), ("positive", 25)])
def test_an_item_graph_is_its_formula(weighting, n_neighbors):
    values = rows(30, 6, shift=0.5)  # most alike, so that all row sums are positive
    similar = cosine_similarity(values.astype(np.float64))
    kept = np.zeros_like(similar)
    np.put_along_axis(kept, np.argsort(-similar, axis=1)[:, :n_neighbors], 1.0, axis=1)
    s = kept if weighting == "binary" else kept * similar
    if weighting == "positive":
        assert (s < 0).any()
        s = s.clip(min=0)
    out = s.sum(axis=1)
    assert (out > 0).all()
    expected = s / np.sqrt(out[:, None] * out[None, :])  # row sums on both sides
    graph = item_graph(knn_edges(ItemFeatures.dense(values), n_neighbors), 30, weighting)
    assert graph.n_entries == (s > 0).sum()  # an edge that weighs nothing is none
    np.testing.assert_allclose(graph.to_dense().numpy(), expected, rtol=1e-5, atol=1e-6)
    x = np.random.default_rng(1).normal(size=(30, 2))
    got = graph.multiply_transposed(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected.T @ x, atol=1e-5)
    assert not np.allclose(expected, expected.T)


@pytest.mark.parametrize("weighting", ["binary", "cosine"])
def test_a_graph_normalised_row_by_row_sums_to_one(weighting):
    values = rows(30, 6, shift=0.5)
    edges = knn_edges(ItemFeatures.dense(values), 5)
    kept = torch.zeros(30, 30)
    kept[edges[0], edges[1]] = edges[2] if weighting == "cosine" else 1.0
    graph = item_graph(edges, 30, weighting, "rw")
    torch.testing.assert_close(graph.to_dense(), kept / kept.sum(dim=1, keepdim=True))
    torch.testing.assert_close(graph.to_dense().sum(dim=1), torch.ones(30))


def test_a_row_by_hand_divided_by_its_own_sum_alone():
    edges = (torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), torch.tensor([1.0, 3.0, 9.0]))
    dense = item_graph(edges, 3, "cosine", "rw").to_dense()  # item 2 has no row of its own
    torch.testing.assert_close(dense, torch.tensor([[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0]]))


def test_an_item_graph_by_hand():
    edges = (torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([1.0, 3.0, 9.0]))
    cosine = item_graph(edges, 3, "cosine").to_dense()  # row sums 4 and 9, and item 2 has none
    torch.testing.assert_close(cosine, torch.tensor([[0.25, 0.5, 0], [0, 1, 0], [0, 0, 0]]))
    binary = item_graph(edges, 3).to_dense()  # row sums 2 and 1
    torch.testing.assert_close(binary, torch.tensor([[0.5, 0.5**0.5, 0], [0, 1, 0], [0, 0, 0]]))


def test_an_edge_to_an_item_without_edges_weighs_nothing():
    edges = (torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(item_graph(edges, 2).to_dense(), torch.tensor([[0.5, 0.0], [0.0, 0.0]]))


def test_a_row_of_negative_sum_does_not_blow_up():
    # Each of the other two points away from item 0: its row sums to 1 - 0.9 - 0.9.
    row, col = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    cosine = torch.tensor([1.0, -0.9, -0.9, -0.9, 1.0, 0.62, -0.9, 0.62, 1.0])
    for normalisation in ("sym", "rw"):
        dense = item_graph((row, col, cosine), 3, "cosine", normalisation).to_dense()
        assert dense.abs().max() < 10
        assert not dense[0].any()


def given_graph():
    row = np.array([2, 0, 0, 1, 0, 2])
    col = np.array([0, 3, 1, 2, 2, 1])
    weight = np.array([0.5, 0.2, 0.9, 1.0, 0.4, 0.7], dtype=np.float32)
    return ItemGraph.from_edges(row, col, weight, 4)


def test_a_given_graph_is_used_with_the_strongest_of_each_row():
    values = rows(4, 3)  # the graph goes before dense rows
    features = ItemFeatures(present=np.ones(4, dtype=bool), values=values, graph=given_graph())
    row, col, weight = knn_edges(features, 2)
    assert sorted(zip(row.tolist(), col.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (2, 0), (2, 1)]
    kept = {(r, c): w for r, c, w in zip(row.tolist(), col.tolist(), weight.tolist(), strict=True)}
    assert kept[0, 1] == pytest.approx(0.9)
    assert kept[0, 2] == pytest.approx(0.4)
    assert item_graph((row, col, weight), 4, "cosine").to_dense()[0, 2] == pytest.approx(
        0.4 / (1.3 * 1.2) ** 0.5
    )


def test_a_given_graph_may_have_fewer_edges_than_asked_for():
    features = ItemFeatures(present=np.ones(4, dtype=bool), graph=given_graph())
    assert len(knn_edges(features, 100)[0]) == 6


def test_mixing_adds_row_by_row():
    first = graph_of(torch.tensor([[1.0, 2.0], [0.0, 4.0]]))
    second = graph_of(torch.tensor([[0.0, 10.0], [20.0, 0.0]]))
    mixed = mix_graphs([first, second], torch.tensor([[0.5, 1.0], [0.1, 0.0]]))
    torch.testing.assert_close(mixed.to_dense(), torch.tensor([[0.5, 2.0], [0.0, 4.0]]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 10**6))
def test_mixing_is_a_weighted_sum(n_items, n_graphs, seed):
    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(n_graphs, n_items, n_items, generator=rng)
    dense *= torch.rand(dense.shape, generator=rng) < 0.4
    shares = torch.rand(n_graphs, n_items, generator=rng)
    mixed = mix_graphs([graph_of(part) for part in dense], shares)
    expected = (dense * shares[:, :, None]).sum(dim=0)
    torch.testing.assert_close(mixed.to_dense(), expected)
    x = torch.rand(n_items, 2, generator=rng)
    torch.testing.assert_close(mixed.multiply_transposed(x), expected.T @ x)


def test_shares_by_hand():
    image = torch.tensor([True, True, False, False])
    text = torch.tensor([True, False, True, False])
    shares = modality_shares([0.1, 0.9], [image, text])
    torch.testing.assert_close(shares, torch.tensor([[0.1, 1.0, 0.0, 0.0], [0.9, 0.0, 1.0, 0.0]]))


def test_shares_keep_the_total_and_the_proportions():
    yes, no = torch.tensor([True]), torch.tensor([False])
    shares = modality_shares([1.0, 2.0, 3.0], [yes, no, yes])
    torch.testing.assert_close(shares[:, 0], torch.tensor([1.5, 0.0, 4.5]))


def test_a_modality_of_no_weight_gives_nothing():
    yes, no = torch.tensor([True, True]), torch.tensor([False, True])
    shares = modality_shares([0.0, 2.0], [yes, no])
    torch.testing.assert_close(shares, torch.tensor([[0.0, 0.0], [0.0, 2.0]]))


def test_an_item_without_one_modality_draws_on_the_others_alone():
    image = ItemFeatures.dense(rows(12, 4, 1), np.arange(12) != 5)
    text = ItemFeatures.dense(rows(12, 4, 2), np.arange(12) != 7)
    graphs = [item_graph(knn_edges(features, 3), 12) for features in (image, text)]
    shares = modality_shares([0.1, 0.9], [torch.from_numpy(image.present), torch.from_numpy(text.present)])
    mixed = mix_graphs(graphs, shares).to_dense()
    by_image, by_text = (graph.to_dense() for graph in graphs)
    torch.testing.assert_close(mixed[5], by_text[5])
    torch.testing.assert_close(mixed[7], by_image[7])
    torch.testing.assert_close(mixed[0], 0.1 * by_image[0] + 0.9 * by_text[0])
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(12), rtol=1e-5, atol=1e-5)


def test_an_item_is_its_own_first_neighbour_even_among_equals():
    indices, cosines = nearest_neighbors(torch.ones(30, 4), 3, block_size=7)
    assert indices[:, 0].tolist() == list(range(30))
    assert torch.equal(cosines, torch.ones(30, 3))


def test_a_row_of_zeros_has_no_neighbours_and_is_nobodys():
    values = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=np.float32)
    row, col, _ = knn_edges(ItemFeatures.dense(values), 2)
    assert 1 not in row.tolist()
    assert 1 not in col.tolist()


def test_rows_of_zeros_have_no_neighbours_and_are_nobodys():
    features = ItemFeatures.dense(np.zeros((6, 3), dtype=np.float32), source="zeros")
    assert [len(part) for part in knn_edges(features, 2)] == [0, 0, 0]
    assert item_graph(knn_edges(features, 2), 6).to_dense().abs().sum() == 0
