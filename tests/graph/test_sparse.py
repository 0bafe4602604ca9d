import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from triptych.errors import StorageError
from triptych.graph.sparse import SparseGraph, propagate, propagate_layers, spmm

EDGES = {
    "plain": ([0, 2, 1, 2], [1, 0, 2, 2], [0.5, -2.0, 3.0, 0.25], 3, 3),
    "duplicates": ([1, 1, 0, 1, 1], [2, 2, 0, 0, 2], [1.0, 2.0, 4.0, 8.0, 16.0], 2, 3),
    "empty rows": ([1, 4], [3, 0], [1.5, 2.5], 6, 4),
    "no entries": ([], [], [], 3, 5),
    "no rows": ([], [], [], 0, 2),
    "wide": ([0, 0, 0], [6, 0, 3], [1.0, 2.0, 3.0], 1, 7),
    "tall": ([6, 0, 3], [0, 0, 0], [1.0, 2.0, 3.0], 7, 1),
}


def tensors(row, col, value):
    return (
        torch.tensor(row, dtype=torch.int64),
        torch.tensor(col, dtype=torch.int64),
        torch.tensor(value, dtype=torch.float64),
    )


def dense_of(row, col, value, n_rows, n_cols):
    """The sum of the entries at each place, one after the other."""
    matrix = np.zeros((n_rows, n_cols))
    for r, c, v in zip(row, col, value, strict=True):
        matrix[r, c] += v
    return torch.from_numpy(matrix)


def random_graph(n_rows, n_cols, n_edges, *, seed=0, symmetric=False):
    rng = np.random.default_rng(seed)
    row, col = rng.integers(0, n_rows, n_edges), rng.integers(0, n_cols, n_edges)
    value = rng.normal(size=n_edges)
    if symmetric:
        row, col, value = np.r_[row, col], np.r_[col, row], np.r_[value, value]
    edges = (row.tolist(), col.tolist(), value.tolist())
    graph = SparseGraph.from_edges(*tensors(*edges), n_rows, n_cols, symmetric=symmetric)
    return graph, dense_of(*edges, n_rows, n_cols)


def coo_of(graph):
    row, col, value = graph.edges()
    size = (graph.n_rows, graph.n_cols)
    return torch.sparse_coo_tensor(torch.stack([row, col]), value, size, check_invariants=True)


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(function, x, weight):
    """The result, and the gradient of its weighted sum with respect to x."""
    x = x.clone().requires_grad_()
    out = function(x)
    (out * weight).sum().backward()
    return out.detach(), x.grad


class Holder(nn.Module):
    """A module that keeps a graph as models do."""

    def __init__(self, graph, *, persistent=True):
        super().__init__()
        self.add_module("adj", graph.share(persistent=persistent))


@pytest.mark.parametrize("name", EDGES)
def test_edges_become_the_matrix_they_spell(name):
    *edges, n_rows, n_cols = EDGES[name]
    graph = SparseGraph.from_edges(*tensors(*edges), n_rows, n_cols)
    dense = dense_of(*edges, n_rows, n_cols)
    assert torch.equal(graph.to_dense(), dense)
    assert (graph.n_rows, graph.n_cols) == (n_rows, n_cols)
    assert graph.n_entries == len(set(zip(edges[0], edges[1], strict=True)))
    x, g = normal(n_cols, 3), normal(n_rows, 3)
    torch.testing.assert_close(graph.multiply(x), dense @ x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(graph.multiply_transposed(g), dense.T @ g, rtol=1e-12, atol=1e-12)


def test_edges_come_back_sorted_and_merged():
    graph = SparseGraph.from_edges(*tensors([2, 0, 2, 0], [1, 1, 1, 0], [1.0, 2.0, 4.0, 8.0]), 3, 2)
    row, col, value = graph.edges()
    assert row.tolist() == [0, 0, 2]
    assert col.tolist() == [0, 1, 1]
    assert value.tolist() == [8.0, 2.0, 5.0]


def test_an_entry_of_zero_is_an_entry():
    graph = SparseGraph.from_edges(*tensors([0, 1], [1, 0], [0.0, 1.0]), 2, 2)
    assert graph.n_entries == 2


def test_building_leaves_the_edges_as_they_were():
    row, col, value = tensors([1, 0, 1], [0, 1, 0], [1.0, 2.0, 3.0])
    before = [part.clone() for part in (row, col, value)]
    SparseGraph.from_edges(row, col, value, 2, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, (row, col, value), strict=True))


@st.composite
def edge_lists(draw):
    n_rows, n_cols = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    entry = st.tuples(st.integers(0, n_rows - 1), st.integers(0, n_cols - 1), st.integers(-4, 4))
    edges = draw(st.lists(entry, max_size=25))
    row, col, value = ([edge[place] for edge in edges] for place in range(3))
    return (row, col, value), n_rows, n_cols


@settings(max_examples=100, deadline=None)
@given(edge_lists())
def test_any_edges_multiply_as_the_dense_matrix_does(case):
    edges, n_rows, n_cols = case  # small whole numbers, so every sum is exact
    graph = SparseGraph.from_edges(*tensors(*edges), n_rows, n_cols)
    dense = dense_of(*edges, n_rows, n_cols)
    x = torch.arange(n_cols * 2, dtype=torch.float64).view(n_cols, 2)
    g = torch.arange(n_rows * 2, dtype=torch.float64).view(n_rows, 2) - 3
    assert torch.equal(graph.to_dense(), dense)
    value, grad = value_and_gradient(lambda x: spmm(graph, x), x, g)
    assert torch.equal(value, dense @ x)
    assert torch.equal(grad, dense.T @ g)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("form", ["dense", "coo"])
def test_spmm_equals_the_plain_product(symmetric, form):
    graph, dense = random_graph(9, 9, 30, symmetric=symmetric)
    plain = dense if form == "dense" else coo_of(graph)
    x, weight = normal(9, 4), normal(9, 4, seed=2)
    ours = value_and_gradient(lambda x: spmm(graph, x), x, weight)
    theirs = value_and_gradient(lambda x: plain @ x, x, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_spmm_of_a_rectangle_equals_the_plain_product():
    graph, dense = random_graph(5, 11, 23)
    x, weight = normal(11, 3), normal(5, 3, seed=2)
    ours = value_and_gradient(lambda x: spmm(graph, x), x, weight)
    for plain in (dense, coo_of(graph)):
        torch.testing.assert_close(
            ours, value_and_gradient(lambda x, a=plain: a @ x, x, weight), rtol=1e-12, atol=1e-12
        )
    assert torch.autograd.gradcheck(lambda x: spmm(graph, x), x.requires_grad_())


def plain_propagate(matrix, x, n_layers, combine):
    layers = [x]
    for _ in range(n_layers):
        layers.append(matrix @ layers[-1])
    if combine == "last":
        return layers[-1]
    total = torch.stack(layers).sum(dim=0)
    return total / (n_layers + 1) if combine == "mean" else total


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("combine", ["mean", "sum", "last"])
def test_propagate_equals_the_layers_spelt_out(combine, n_layers, symmetric):
    graph, dense = random_graph(8, 8, 20, seed=3, symmetric=symmetric)
    x, weight = normal(8, 3), normal(8, 3, seed=2)
    ours = value_and_gradient(lambda x: propagate(graph, x, n_layers, combine), x, weight)
    for plain in (dense, coo_of(graph)):
        theirs = value_and_gradient(lambda x, a=plain: plain_propagate(a, x, n_layers, combine), x, weight)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("combine", ["mean", "sum", "last"])
def test_propagate_passes_the_numerical_gradient_check(combine, symmetric):
    graph, _ = random_graph(6, 6, 14, seed=4, symmetric=symmetric)
    x = normal(6, 2).requires_grad_()
    for n_layers in range(4):
        assert torch.autograd.gradcheck(lambda x, n=n_layers: propagate(graph, x, n, combine), x)


def test_propagate_takes_the_mean_by_default():
    graph, _ = random_graph(6, 6, 14)
    assert torch.equal(propagate(graph, normal(6, 2), 2), propagate(graph, normal(6, 2), 2, "mean"))


@pytest.mark.parametrize("symmetric", [False, True])
def test_layers_are_listed_one_by_one_with_their_gradients(symmetric):
    graph, dense = random_graph(7, 7, 18, symmetric=symmetric)
    x, weight = normal(7, 2), normal(4, 7, 2, seed=2)
    ours = value_and_gradient(lambda x: torch.stack(propagate_layers(graph, x, 3)), x, weight)
    theirs = value_and_gradient(
        lambda x: torch.stack([torch.linalg.matrix_power(dense, layer) @ x for layer in range(4)]), x, weight
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("combine", ["mean", "sum", "last"])
def test_propagate_leaves_its_input_alone(combine, n_layers):
    graph, _ = random_graph(6, 6, 14)
    x = normal(6, 2)
    before = x.clone()
    out = propagate(graph, x, n_layers, combine)
    out.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_propagate_takes_gradients_and_inputs_of_any_layout(n_layers):
    graph, dense = random_graph(6, 6, 14)
    table = normal(3, 6)
    ours, theirs = table.clone().requires_grad_(), table.clone().requires_grad_()
    propagate(graph, ours.T, n_layers).sum().backward()  # an expanded gradient, a transposed input
    plain_propagate(dense, theirs.T, n_layers, "mean").sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_single_precision_stays_single():
    graph, dense = random_graph(6, 6, 14)
    out = propagate(graph, normal(6, 2).float(), 2)
    assert out.dtype == torch.float32
    expected = plain_propagate(dense, normal(6, 2), 2, "mean")
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_symmetric_graph_keeps_no_transpose():
    assert random_graph(5, 5, 9, symmetric=True)[0].symmetric
    assert not random_graph(5, 5, 9)[0].symmetric
    assert set(dict(random_graph(5, 5, 9, symmetric=True)[0].named_buffers())) == {
        "offsets",
        "indices",
        "values",
    }


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_shared_graph_is_the_same_matrix_in_the_same_memory(symmetric):
    graph, dense = random_graph(5, 5, 9, symmetric=symmetric)
    other = graph.share()
    assert other is not graph
    assert torch.equal(other.to_dense(), dense)
    assert other.symmetric == symmetric
    theirs = dict(other.named_buffers())
    assert all(theirs[name].data_ptr() == mine.data_ptr() for name, mine in graph.named_buffers())


@pytest.mark.parametrize("symmetric", [False, True])
def test_moving_one_graph_does_not_move_the_other(symmetric):
    graph, dense = random_graph(5, 5, 9, symmetric=symmetric)
    graph.share().to("meta")
    half = graph.share().half()
    assert half.values.dtype == torch.float16
    assert {buffer.device.type for buffer in graph.buffers()} == {"cpu"}
    assert graph.values.dtype == torch.float64
    x = normal(5, 2)
    torch.testing.assert_close(graph.multiply(x), dense @ x)
    torch.testing.assert_close(graph.multiply_transposed(x), dense.T @ x)


def test_moving_takes_the_transpose_along():
    graph, _ = random_graph(5, 5, 9)
    moved = graph.share().to("meta")
    assert {name for name, buffer in moved.named_buffers() if buffer.device.type == "meta"} == {
        "offsets",
        "indices",
        "values",
        "t_offsets",
        "t_indices",
        "t_values",
    }


def test_only_persistent_graphs_are_part_of_the_state():
    graph, _ = random_graph(5, 5, 9)
    assert set(Holder(graph).state_dict()) == {"adj.offsets", "adj.indices", "adj.values"}
    assert Holder(graph, persistent=False).state_dict() == {}
    assert not list(Holder(graph).parameters())
    assert graph.state_dict() == {}  # sharing did not make the first one persistent


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_edges", [0, 9, 40])
def test_loading_restores_a_graph_of_any_number_of_entries(n_edges, symmetric):
    saved, dense = random_graph(6, 6, n_edges, seed=5, symmetric=symmetric)
    state = copy.deepcopy(Holder(saved).state_dict())
    other = Holder(random_graph(6, 6, 14, seed=6, symmetric=symmetric)[0])
    other.load_state_dict(state)
    x = normal(6, 2)
    assert other.adj.n_entries == saved.n_entries
    assert other.adj.symmetric == symmetric
    assert torch.equal(other.adj.to_dense(), dense)
    torch.testing.assert_close(other.adj.multiply_transposed(x), dense.T @ x, rtol=1e-12, atol=1e-12)
    value, grad = value_and_gradient(lambda x: propagate(other.adj, x, 2), x, x)
    expected = value_and_gradient(lambda x: plain_propagate(dense, x, 2, "mean"), x, x)
    torch.testing.assert_close((value, grad), expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


def test_loading_restores_a_rectangle():
    saved, dense = random_graph(4, 7, 12, seed=5)
    other = Holder(random_graph(4, 7, 5, seed=6)[0])
    other.load_state_dict(Holder(saved).state_dict())
    assert torch.equal(other.adj.to_dense(), dense)
    x = normal(4, 2)
    torch.testing.assert_close(other.adj.multiply_transposed(x), dense.T @ x, rtol=1e-12, atol=1e-12)


def test_loading_does_not_change_graphs_that_share_the_tensors():
    graph, dense = random_graph(6, 6, 12)
    state = copy.deepcopy(Holder(graph).state_dict())
    state["adj.values"] += 1.0  # of the same size, so that a copy in place would go through
    holder = Holder(graph)
    holder.load_state_dict(state)
    assert not torch.equal(holder.adj.to_dense(), dense)
    assert torch.equal(graph.to_dense(), dense)
    x = normal(6, 2)
    torch.testing.assert_close(graph.multiply_transposed(x), dense.T @ x)


def test_loading_without_the_graph_is_refused():
    holder = Holder(random_graph(6, 6, 12)[0])
    with pytest.raises(RuntimeError, match=r"adj\.offsets"):
        holder.load_state_dict({})


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_state_of_a_graph_of_other_nodes_is_refused(symmetric):
    def graph(n):
        ends = torch.arange(n)
        return Holder(SparseGraph.from_edges(ends, ends, torch.ones(n), n, n, symmetric=symmetric))

    with pytest.raises(StorageError, match="graph of 5 rows for one of 2"):
        graph(2).load_state_dict(graph(5).state_dict())


def test_rows_are_taken_in_any_order_and_as_often_as_named():
    row, col = torch.tensor([0, 0, 0, 1, 3, 3, 4, 5, 5]), torch.tensor([1, 4, 8, 0, 2, 4, 8, 0, 7])
    graph = SparseGraph.from_edges(row, col, torch.arange(1.0, 10.0), 7, 9)  # rows 2 and 6 are empty
    x = torch.randn(9, 3)
    for rows in ([], [2], [5, 0, 2, 0], list(range(7))):
        index = torch.tensor(rows, dtype=torch.int64)
        taken, expected = graph.select_rows(index), graph.to_dense()[index]
        assert torch.equal(taken.to_dense(), expected)
        if rows:
            torch.testing.assert_close(taken.multiply(x), expected @ x)
