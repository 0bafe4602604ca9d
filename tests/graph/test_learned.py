"""Learned item graphs have the values and gradients that dense matrices would give."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from triptych.errors import ConfigError
from triptych.graph.learned import LearnedGraph, inverse_root, mix_learned, neighbor_graph, propagate_sum

N, D, K = 9, 3, 4
KNOWN = torch.tensor([1, 0, 1, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
ALL = torch.ones(N, dtype=torch.bool)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        yield


def learned(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def spelled_out(graph: LearnedGraph) -> torch.Tensor:
    row, col, _ = graph.pattern.edges()
    return graph.values.new_zeros(graph.pattern.n_rows, graph.pattern.n_cols).index_put(
        (row, col), graph.values
    )


def dense_graph(vectors: torch.Tensor, k: int, known: torch.Tensor) -> torch.Tensor:
    """All cosines, the k largest of each row kept, with autograd through all of it."""
    unit = vectors / vectors.pow(2).sum(1, keepdim=True).sqrt()
    cosines = (unit @ unit.T).where(known & known[:, None], -2.0)
    values, places = cosines.topk(k, dim=1)
    kept = torch.zeros_like(cosines).scatter(1, places, values)
    return kept.clamp(min=0) * known[:, None]


def same(fast: torch.Tensor, plain: torch.Tensor, *inputs: torch.Tensor) -> None:
    """Compare two tensors, and their gradients under one random weighting of the entries."""
    assert torch.allclose(fast, plain)
    weight = torch.randn_like(plain)
    gradients = (torch.autograd.grad((x * weight).sum(), inputs, retain_graph=True) for x in (fast, plain))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("known", [ALL, KNOWN], ids=["all", "some"])
@pytest.mark.parametrize("k", [1, K, 7])
def test_neighbors_are_those_of_the_dense_form(k: int, known: torch.Tensor):
    vectors = learned(N, D)
    same(spelled_out(neighbor_graph(vectors, k, known)), dense_graph(vectors, k, known), vectors)


def test_normalising_and_propagating_are_those_of_the_dense_form():
    vectors, x, weight = learned(N, D), learned(N, 2), learned(N)
    graph, plain = neighbor_graph(vectors, K, KNOWN), dense_graph(vectors, K, KNOWN)
    same(graph.row_sums(), plain.sum(1), vectors)
    degree = plain.sum(1).clamp(min=1e-7)
    plain = plain / degree.sqrt() / degree.sqrt()[:, None]
    scale = inverse_root(graph.row_sums())
    graph = graph.scaled(scale, scale)
    same(spelled_out(graph), plain, vectors)
    same(spelled_out(graph.scaled(weight)), weight[:, None] * plain, vectors, weight)
    other = LearnedGraph(neighbor_graph(learned(N, D).detach(), 2, ALL).pattern, learned(2 * N))
    both = plain + spelled_out(other)
    inputs = (vectors, other.values, x)
    same(propagate_sum([graph, other], x, 1), both @ x, *inputs)
    same(propagate_sum([graph, other], x, 3), both @ both @ both @ x, *inputs)
    assert torch.equal(propagate_sum([graph, other], x, 0), x)


@pytest.mark.parametrize("fixed_share", [0.0, 0.3, 1.0])
def test_a_mixture_is_normalised_as_a_whole_beside_fixed_graphs(fixed_share: float):
    shares, vectors = (
        torch.rand(2, N, dtype=torch.float64, requires_grad=True),
        [learned(N, D), learned(N, D)],
    )
    graphs = [neighbor_graph(rows, K, KNOWN) for rows in vectors]
    fixed = [neighbor_graph(torch.randn(N, D).double(), 2, ALL).pattern for _ in range(2)]
    by_row = shares[:, :, None]
    mixture = sum(b * dense_graph(rows, K, KNOWN) for b, rows in zip(by_row, vectors, strict=True))
    root = mixture.sum(1).clamp(min=1e-7).sqrt()
    given = sum(b * graph.to_dense() for b, graph in zip(by_row, fixed, strict=True))
    plain = (1 - fixed_share) * mixture / root / root[:, None] + fixed_share * given
    mixed = mix_learned(graphs, fixed, shares, fixed_share)
    same(sum(spelled_out(graph) for graph in mixed), plain, shares, *vectors)


def test_by_hand():
    vectors = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-1.0, 0.0]])
    graph = neighbor_graph(vectors, 2, torch.ones(4, dtype=torch.bool))
    expected = [[1, 0.6, 0, 0], [0, 1, 0.8, 0], [0, 0.8, 1, 0]]
    assert torch.allclose(spelled_out(graph)[:3], torch.tensor(expected))
    assert spelled_out(graph)[3].tolist() == [0, 0, 0, 1]  # the next nearest has a cosine of 0
    scale = inverse_root(graph.row_sums())
    assert scale.tolist() == pytest.approx([1.6**-0.5, 1.8**-0.5, 1.8**-0.5, 1])
    assert spelled_out(graph.scaled(scale, scale))[0].tolist() == pytest.approx(
        [1 / 1.6, 0.6 / 2.88**0.5, 0, 0]
    )


def test_rows_sum_to_one_at_least_though_all_others_point_away():
    around = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    graph = neighbor_graph(around, 3, torch.ones(3, dtype=torch.bool))
    assert torch.allclose(spelled_out(graph), torch.eye(3))  # every other cosine is -1/2
    assert neighbor_graph(torch.randn(50, 2), 20, torch.ones(50, dtype=torch.bool)).row_sums().min() > 0.9999


def test_gradients_reach_kept_similarities_only():
    vectors = torch.eye(4, dtype=torch.float64).repeat(2, 1).requires_grad_()  # item i is like i + 4 alone
    with torch.no_grad():
        vectors += 0.1 * torch.randn_like(vectors)
    neighbor_graph(vectors, 2, torch.ones(8, dtype=torch.bool)).values[:2].sum().backward()
    assert vectors.grad[[0, 4]].abs().min() > 0
    assert vectors.grad[[1, 2, 3, 5, 6, 7]].abs().max() == 0


def test_unknown_items_are_in_no_entry_and_get_no_gradient():
    vectors = learned(N, D)
    graph = neighbor_graph(vectors, K, KNOWN)
    row, col, _ = graph.pattern.edges()
    assert KNOWN[row].all()
    assert KNOWN[col].all()
    scale = inverse_root(graph.row_sums())
    assert scale.isfinite().all()
    graph.scaled(scale, scale).values.sum().backward()
    assert vectors.grad[~KNOWN].abs().max() == 0
    assert vectors.grad[KNOWN].abs().max() > 0


def test_a_row_of_zeros_counts_nothing_and_does_no_harm():
    vectors = learned(N, D)
    with torch.no_grad():
        vectors[3] = 0
    graph = neighbor_graph(vectors, K, ALL)
    scale = inverse_root(graph.row_sums())
    graph.scaled(scale, scale).values.sum().backward()
    assert graph.row_sums()[3] == 0
    assert vectors.grad.isfinite().all()


def test_detached_graphs_are_constants():
    vectors, x = learned(N, D), learned(N, 2)
    graph = neighbor_graph(vectors, K, ALL)
    fixed = graph.detach()
    assert graph.values.requires_grad
    assert not fixed.values.requires_grad
    product = propagate_sum([fixed], x, 1)
    assert torch.equal(product, propagate_sum([graph], x, 1))
    product.sum().backward()
    assert vectors.grad is None
    assert x.grad.abs().max() > 0


def test_what_is_not_finite_comes_out_as_such():
    vectors = torch.randn(N, D)
    vectors[2] = torch.nan
    values = neighbor_graph(vectors, K, ALL).values
    assert values.isnan().any()
    assert values.isfinite().any()


def test_mixed_precision_compares_in_float32():
    vectors = torch.randn(N, D, dtype=torch.bfloat16)
    exact = neighbor_graph(vectors.float(), K, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        graph = neighbor_graph(vectors, K, ALL)
    assert graph.values.dtype == torch.float32
    assert torch.equal(graph.values, exact.values)
    assert torch.equal(graph.pattern.indices, exact.pattern.indices)


def test_more_neighbors_than_items_are_refused():
    with pytest.raises(ConfigError, match="only 7 items have features"):
        neighbor_graph(torch.randn(N, D), 8, KNOWN)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operator gives in one dense tensor."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self.numbers = max(self.numbers, leaf.numel())
        return out


def test_no_dense_matrix_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("triptych.graph.neighbors._BLOCK_ENTRIES", 6_000)
    n, d = 600, 8
    vectors, x = torch.randn(n, d, requires_grad=True), torch.randn(n, d, requires_grad=True)
    with Largest() as largest:
        graph = neighbor_graph(vectors, K, torch.ones(n, dtype=torch.bool))
        scale = inverse_root(graph.row_sums())
        propagate_sum([graph.scaled(scale, scale)], x, 2).sum().backward()
    assert largest.numbers <= 2 * n * d
    assert vectors.grad.abs().max() > 0
