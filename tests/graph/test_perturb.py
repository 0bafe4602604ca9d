from itertools import combinations, permutations

import pytest
import torch

from triptych.graph.bipartite import bipartite_graph
from triptych.graph.perturb import degree_weights, drop_entries, sample_edges, thinned_bipartite
from triptych.graph.sparse import spmm


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def set_probabilities(weight, n_keep):
    """How likely each set is under successive weighted draws without replacement, order by order."""
    chances = {}
    for order in permutations(range(len(weight)), n_keep):
        chance, left = 1.0, sum(weight)
        for edge in order:
            chance *= weight[edge] / left
            left -= weight[edge]
        key = tuple(sorted(order))
        chances[key] = chances.get(key, 0.0) + chance
    assert sum(chances.values()) == pytest.approx(1.0)
    return chances


@pytest.mark.parametrize("n_keep", [1, 2, 4])
def test_draws_are_successive_weighted_draws(n_keep):
    weight = [1.0, 2.0, 0.5, 4.0, 3.0]
    n_draws = 8000
    counts = dict.fromkeys(combinations(range(5), n_keep), 0)
    for _ in range(n_draws):
        counts[tuple(sample_edges(torch.tensor(weight), n_keep).tolist())] += 1
    chances = set_probabilities(weight, n_keep)
    for kept, chance in chances.items():
        deviation = (n_draws * chance * (1 - chance)) ** 0.5
        assert abs(counts[kept] - n_draws * chance) < 4.5 * deviation
    for edge in range(5):
        chance = sum(p for kept, p in chances.items() if edge in kept)
        count = sum(n for kept, n in counts.items() if edge in kept)
        assert abs(count - n_draws * chance) < 4.5 * (n_draws * chance * (1 - chance)) ** 0.5


@pytest.mark.parametrize("n_keep", [0, 1, 37, 999, 1000])
def test_exactly_so_many_distinct_edges_ascending(n_keep):
    kept = sample_edges(torch.rand(1000) + 0.01, n_keep)
    assert kept.dtype == torch.int64
    assert len(kept) == n_keep
    assert bool((kept.diff() > 0).all())
    assert not n_keep or (int(kept[0]) >= 0 and int(kept[-1]) < 1000)


def test_weights_are_left_as_they_were():
    weight = torch.rand(50) + 0.1
    before = weight.clone()
    sample_edges(weight, 10)
    assert torch.equal(weight, before)


def test_the_default_generator_decides():
    weight = torch.rand(200) + 0.1
    torch.manual_seed(1)
    first, second = sample_edges(weight, 50), sample_edges(weight, 50)
    torch.manual_seed(1)
    assert torch.equal(sample_edges(weight, 50), first)
    assert not torch.equal(first, second)


def test_weights_may_be_of_any_scale():
    weight = torch.tensor([1.0, 2.0, 4.0])
    torch.manual_seed(1)
    first = [sample_edges(weight, 1).item() for _ in range(200)]
    torch.manual_seed(1)
    assert [sample_edges(weight * 2.0**-40, 1).item() for _ in range(200)] == first


def test_degree_weights_by_hand():
    # degrees: user 0 has 3, user 1 has 1; item 0 has 2, items 1 and 3 have 1
    user, item = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 3, 0])
    expected = [1 / 6**0.5, 1 / 3**0.5, 1 / 3**0.5, 1 / 2**0.5]
    weight = degree_weights(user, item, 2, 4)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, torch.tensor(expected))


def test_degree_weights_follow_the_order_of_pairs():
    user, item = torch.tensor([1, 0, 0, 0]), torch.tensor([0, 3, 0, 1])
    expected = [1 / 2**0.5, 1 / 3**0.5, 1 / 6**0.5, 1 / 3**0.5]
    torch.testing.assert_close(degree_weights(user, item, 5, 9), torch.tensor(expected))


def small_graph():
    user, item = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 1, 3])
    return bipartite_graph(user, item, 3, 4, "sym")


def test_dropped_entries_are_zero_and_the_others_scaled():
    graph = small_graph()
    dense = graph.to_dense()
    n_left, n_lopsided = 0, 0
    for _ in range(200):
        thinned = drop_entries(graph, 0.25).to_dense()
        kept = thinned != 0
        torch.testing.assert_close(thinned[kept], dense[kept] / 0.75)
        n_left += int(kept.sum())
        n_lopsided += int((kept != kept.T).sum())
    assert abs(n_left - 200 * 12 * 0.75) < 4.5 * (200 * 12 * 0.75 * 0.25) ** 0.5
    assert n_lopsided > 0  # each direction is dropped by itself
    assert torch.equal(drop_entries(graph, 0.0).to_dense(), dense)


def test_the_way_back_through_a_thinned_graph_is_its_transpose():
    thinned = drop_entries(small_graph(), 0.5)
    x = torch.randn(7, 2, requires_grad=True)
    g = torch.randn(7, 2)
    spmm(thinned, x).backward(g)
    torch.testing.assert_close(x.grad, thinned.to_dense().T @ g)
    torch.testing.assert_close(spmm(thinned, x), thinned.to_dense() @ x)


def test_thinned_graphs_keep_their_share_and_are_normalised_by_what_is_left():
    user, item = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 1, 3])
    whole = bipartite_graph(user, item, 3, 4, "sym").to_dense()
    for by_degree in (False, True):
        torch.manual_seed(3)
        thinned = thinned_bipartite(user, item, 3, 4, 0.5, by_degree=by_degree).to_dense()
        edges = (thinned > 0).float()
        assert edges.sum() == 2 * 3  # three of six pairs, in both directions
        assert ((whole > 0) | (thinned == 0)).all()
        degree = edges.sum(dim=1).clamp(min=1)
        torch.testing.assert_close(thinned, edges / (degree[:, None] * degree[None, :]).sqrt())


def test_degree_makes_thinning_spare_the_edges_of_rare_nodes():
    user, item = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 1, 2, 3, 4])
    kept = {
        by_degree: sum(
            float(thinned_bipartite(user, item, 2, 5, 0.8, by_degree=by_degree).to_dense()[1, 6] > 0)
            for _ in range(400)
        )
        for by_degree in (False, True)
    }
    # one edge of five is kept: a fifth of all times, and a third with weights 1/2, 1/2, 1/2, 1/2 and 1
    assert abs(kept[False] / 400 - 1 / 5) < 0.08
    assert abs(kept[True] / 400 - 1 / 3) < 0.08


def test_thinning_leaves_one_edge_at_least():
    graph = thinned_bipartite(torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 2, 0.99, by_degree=True)
    assert (graph.to_dense() > 0).sum() == 2
