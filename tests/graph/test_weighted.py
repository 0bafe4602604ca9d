"""Each product over a pattern with learned values equals the same thing spelled out with dense matrices."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from triptych.graph.bipartite import bipartite_graph
from triptych.graph.sparse import SparseGraph
from triptych.graph.weighted import edge_dots, segment_softmax, spmm_weighted

WIDTH = 3


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


def pattern(mask) -> SparseGraph:
    """The pattern of a 0/1 matrix, given entry by entry in no order; its own values must not matter."""
    row, col = torch.tensor(mask).nonzero(as_tuple=True)
    order = torch.randperm(len(row))
    return SparseGraph.from_edges(row[order], col[order], torch.rand(len(row)) + 5, len(mask), len(mask[0]))


def bipartite() -> SparseGraph:
    user, item = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([1, 2, 1, 0, 1, 4])
    return bipartite_graph(user, item, 4, 5)


PATTERNS = {
    "tall, with empty rows and an empty column": lambda: pattern(
        [[0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    ),
    "wide": lambda: pattern([[1, 0, 0, 1, 1], [0, 0, 0, 0, 1]]),
    "square, not symmetric": lambda: pattern([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 0]]),
    "symmetric": bipartite,
    "symmetric pattern, other values": lambda: bipartite().with_values(torch.rand(12)),
    "one row": lambda: pattern([[1, 0, 1, 1]]),
    "one column": lambda: pattern([[1], [0], [1]]),
    "one entry": lambda: pattern([[0, 0], [0, 1], [0, 0]]),
    "no entries": lambda: pattern([[0, 0], [0, 0], [0, 0]]),
    "full": lambda: pattern([[1] * 4] * 3),
}


@pytest.fixture(params=PATTERNS)
def graph(request) -> SparseGraph:
    return PATTERNS[request.param]()


def places(graph):
    row, col, _ = graph.edges()
    return row, col


def dense(graph, values):
    return values.new_zeros(graph.n_rows, graph.n_cols).index_put(places(graph), values)


def dense_softmax(graph, scores):
    empty = scores.new_full((graph.n_rows, graph.n_cols), -torch.inf)
    return empty.index_put(places(graph), scores).softmax(1)[places(graph)]


def learned(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def both_sides(graph):
    return learned(graph.n_rows, WIDTH), learned(graph.n_cols, WIDTH)


def same(fast, plain, inputs):
    """Compare two tensors, and their gradients under one random weighting of the entries."""
    assert fast.shape == plain.shape
    assert torch.allclose(fast, plain)
    weight = torch.randn_like(plain)
    pairs = zip(
        torch.autograd.grad((fast * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    )
    assert all(torch.allclose(a, b) for a, b in pairs)


def test_product_is_the_dense_product(graph):
    values, x = learned(graph.n_entries), learned(graph.n_cols, WIDTH)
    same(spmm_weighted(graph, values, x), dense(graph, values) @ x, (values, x))


def test_dots_are_picked_from_the_dense_product(graph):
    rows, cols = both_sides(graph)
    same(edge_dots(graph, rows, cols), (rows @ cols.T)[places(graph)], (rows, cols))


def test_shares_are_the_softmax_of_each_row(graph):
    scores = learned(graph.n_entries)
    same(segment_softmax(graph, scores), dense_softmax(graph, scores), (scores,))
    sums = dense(graph, segment_softmax(graph, scores)).sum(1)
    assert torch.allclose(sums, (graph.offsets.diff() > 0).double())


def test_attention_of_all_three_together(graph):
    rows, cols = both_sides(graph)
    fast = spmm_weighted(graph, segment_softmax(graph, edge_dots(graph, rows, cols)), cols)
    shares = dense_softmax(graph, (rows @ cols.T)[places(graph)])
    same(fast, dense(graph, shares) @ cols, (rows, cols))


def test_first_and_second_derivatives(graph):
    rows, cols = both_sides(graph)
    values = learned(graph.n_entries)
    for function, inputs in (
        (lambda v, x: spmm_weighted(graph, v, x), (values, cols)),
        (lambda a, b: edge_dots(graph, a, b), (rows, cols)),
        (lambda v: segment_softmax(graph, v), (values,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_one_matrix_on_both_sides():
    graph, x = bipartite(), learned(9, WIDTH)
    same(edge_dots(graph, x, x), (x @ x.T)[places(graph)], (x,))


def test_only_what_is_asked_for_gets_a_gradient():
    graph = PATTERNS["wide"]()
    rows, cols = both_sides(graph)
    edge_dots(graph, rows, cols.detach()).sum().backward()
    spmm_weighted(graph, torch.ones(graph.n_entries, dtype=torch.float64), cols).sum().backward()
    assert torch.allclose(rows.grad, dense(graph, torch.ones(4, dtype=torch.float64)) @ cols)
    assert torch.equal(cols.grad[:, 0], torch.tensor([1.0, 0, 0, 1, 2], dtype=torch.float64))


def test_strided_inputs():
    graph = PATTERNS["wide"]()
    rows, cols = torch.randn(2, 2 * WIDTH)[:, ::2], torch.randn(WIDTH, 5).T
    assert torch.allclose(edge_dots(graph, rows, cols), (rows @ cols.T)[places(graph)])
    values = torch.randn(8)[::2]
    assert torch.allclose(spmm_weighted(graph, values, cols), dense(graph, values) @ cols)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_shares_of_huge_scores(size):
    graph = PATTERNS["one row"]()
    scores = torch.tensor([1.0, 1.0, -1.0]) * size
    assert segment_softmax(graph, scores).tolist() == [0.5, 0.5, 0.0]
    assert segment_softmax(graph, -scores).tolist() == [0.0, 0.0, 1.0]
    by_hand = segment_softmax(graph, torch.tensor([1000.0, 1001.0, 999.0]))
    assert torch.allclose(by_hand, torch.tensor([0.24473, 0.66524, 0.09003]), atol=1e-5)


def test_huge_vectors_in_float32():
    graph = PATTERNS["square, not symmetric"]()
    rows, cols = torch.randn(4, WIDTH) * 1e15, torch.randn(4, WIDTH) * 1e15
    exact = (rows.double() @ cols.double().T)[places(graph)]
    dots = edge_dots(graph, rows, cols)
    assert dots.dtype == torch.float32
    assert ((dots - exact).abs() / exact.abs().max()).max() < 1e-6


def test_not_a_number_stays_in_its_row():
    graph = PATTERNS["square, not symmetric"]()
    scores = torch.zeros(graph.n_entries)
    scores[0] = torch.nan
    in_first_row = places(graph)[0] == 0
    assert torch.equal(segment_softmax(graph, scores).isnan(), in_first_row)


class Largest(TorchDispatchMode):
    """Notes the size of the largest dense tensor that any operation gives, forward or backward."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        dense_ones = [
            t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.layout == torch.strided
        ]
        self.numel = max([self.numel, *(t.numel() for t in dense_ones)])
        return out


def test_no_vector_per_entry_is_ever_made():
    n, width = 40, 25
    graph = pattern([[1] * n] * n)  # E = 1600, so E D = 40,000, while both sides have 1,000 numbers
    rows, cols = (torch.randn(n, width, requires_grad=True) for _ in range(2))
    with Largest() as largest:
        shares = segment_softmax(graph, edge_dots(graph, rows, cols))
        spmm_weighted(graph, shares, cols).sum().backward()
    assert rows.grad is not None
    assert n * n <= largest.numel <= n * n + n
