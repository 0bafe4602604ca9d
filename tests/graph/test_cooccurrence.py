from collections import Counter

import pytest
import torch

from triptych.graph.cooccurrence import cooccurring_users, resampled_graph


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def pairs(*chosen):
    """Users one after the other, with the items they chose."""
    both = [(u, i) for u, items in enumerate(chosen) for i in items]
    return torch.tensor(both, dtype=torch.int64).T


def random_pairs(n_users, n_items, density):
    return (torch.rand(n_users, n_items) < density).nonzero(as_tuple=True)


def as_lists(edges):
    return list(zip(*(part.tolist() for part in edges), strict=True))


def plain(user, item, n_users, n_neighbors):
    """The definition, user by user, with Python's sets and stable sort."""
    chosen = [set(item[user == u].tolist()) for u in range(n_users)]
    edges = []
    for u in range(n_users):
        common = [(v, len(chosen[u] & chosen[v])) for v in range(n_users) if v != u]
        common = sorted((pair for pair in common if pair[1]), key=lambda pair: -pair[1])
        edges += [(u, v, count) for v, count in common[:n_neighbors]]
    return edges


def test_most_in_common_first_and_of_equals_the_lower_index():
    #           0          1       2       3          4    5 shares nothing, 6 has nothing
    user, item = pairs([0, 1, 2], [1, 2], [0, 3], [0, 1, 2], [2], [4], [])
    edges = as_lists(cooccurring_users(user, item, 7, 5, 3))
    assert edges == [
        *[(0, 3, 3), (0, 1, 2), (0, 2, 1)],  # 4 has as much in common as 2, but comes after it
        *[(1, 0, 2), (1, 3, 2), (1, 4, 1)],
        *[(2, 0, 1), (2, 3, 1)],
        *[(3, 0, 3), (3, 1, 2), (3, 2, 1)],
        *[(4, 0, 1), (4, 1, 1), (4, 3, 1)],
    ]


@pytest.mark.parametrize("block_products", [1, 50, 1 << 23])
@pytest.mark.parametrize(("n_neighbors", "density"), [(1, 0.3), (4, 0.1), (7, 0.5), (100, 0.3)])
def test_equals_the_definition_whatever_the_blocks(n_neighbors, density, block_products):
    user, item = random_pairs(23, 11, density)
    edges = cooccurring_users(user, item, 23, 11, n_neighbors, block_products)
    assert all(part.dtype == torch.int64 for part in edges)
    assert as_lists(edges) == plain(user, item, 23, n_neighbors)


def test_pairs_may_come_in_any_order():
    user, item = random_pairs(20, 9, 0.3)
    order = torch.randperm(len(user))
    assert as_lists(cooccurring_users(user[order], item[order], 20, 9, 5)) == plain(user, item, 20, 5)


def test_one_item_that_all_chose():
    user = torch.arange(60)
    edges = as_lists(cooccurring_users(user, torch.zeros_like(user), 60, 1, 3, block_products=100))
    assert edges[:6] == [(0, 1, 1), (0, 2, 1), (0, 3, 1), (1, 0, 1), (1, 2, 1), (1, 3, 1)]
    assert edges[-3:] == [(59, 0, 1), (59, 1, 1), (59, 2, 1)]


@pytest.mark.parametrize("n_users", [0, 1, 4])
def test_nothing_in_common_is_no_edge(n_users):
    user = torch.arange(n_users)
    assert as_lists(cooccurring_users(user, user, n_users, 4, 2)) == []
    none = torch.empty(0, dtype=torch.int64)
    assert as_lists(cooccurring_users(none, none, n_users, 4, 2)) == []


def test_as_many_neighbours_as_slots_weigh_the_softmax_of_their_counts():
    edges = tuple(torch.tensor(part) for part in ([0, 0, 2, 2], [1, 3, 3, 0], [3, 1, 2, 2]))
    dense = resampled_graph(edges, 4, 2).to_dense()
    expected = torch.zeros(4, 4)
    expected[0, [1, 3]] = torch.tensor([3.0, 1.0]).softmax(0)
    expected[2, [0, 3]] = 0.5
    assert torch.allclose(dense, expected)


def test_the_only_neighbour_has_all_slots():
    edges = tuple(torch.tensor(part) for part in ([1], [0], [1]))
    assert torch.equal(resampled_graph(edges, 2, 40).to_dense(), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_large_counts_do_not_overflow():
    edges = tuple(torch.tensor(part) for part in ([0, 0], [1, 2], [5000, 4999]))
    weight = resampled_graph(edges, 3, 2).to_dense()[0]
    assert torch.allclose(weight[1:], torch.tensor([1.0, 0.0]).softmax(0))


def test_left_over_slots_go_to_copies_of_filled_ones_one_after_the_other():
    counts, n_slots, n_draws = torch.tensor([2, 1, 1]), 6, 4000
    edges = torch.zeros(3, dtype=torch.int64), torch.arange(1, 4), counts
    drawn = Counter()
    for _ in range(n_draws):
        graph = resampled_graph(edges, 4, n_slots)
        assert graph.n_entries == 3
        slots = graph.values / counts.exp()  # a neighbour's weight is proportional to slots e^count
        drawn[tuple((slots / slots.sum() * n_slots).round().int().tolist())] += 1
    chances = {(1, 1, 1): 1.0}  # of each outcome, by following all draws one after the other
    for filled in range(3, n_slots):
        after = Counter()
        for slots, chance in chances.items():
            for place in range(3):
                copied = tuple(n + (m == place) for m, n in enumerate(slots))
                after[copied] += chance * slots[place] / filled
        chances = after
    assert set(drawn) == set(chances)
    for slots, chance in chances.items():
        deviation = (n_draws * chance * (1 - chance)) ** 0.5
        assert abs(drawn[slots] - n_draws * chance) < 4.5 * deviation


def test_draws_anew_from_torchs_default_generator():
    edges = cooccurring_users(*random_pairs(30, 12, 0.2), 30, 12, 40)
    torch.manual_seed(1)
    first, second = (resampled_graph(edges, 30, 40) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(resampled_graph(edges, 30, 40).values, first.values)
    assert not torch.equal(first.values, second.values)
    assert torch.equal(first.indices, second.indices)  # the same neighbours, in other shares


def test_every_row_with_neighbours_sums_to_one():
    user, item = random_pairs(50, 30, 0.05)
    graph = resampled_graph(cooccurring_users(user, item, 50, 30, 5), 50, 5)
    total = graph.to_dense().sum(1)
    has = torch.tensor([any(u == row for row, _, _ in plain(user, item, 50, 5)) for u in range(50)])
    assert torch.allclose(total, has.float(), atol=1e-6)
    assert 0 < int(has.sum()) < 50
    assert bool((graph.values > 0).all())


@pytest.mark.parametrize("n_slots", [1, 3])
def test_no_neighbours_at_all(n_slots):
    none = torch.empty(0, dtype=torch.int64)
    assert resampled_graph((none, none, none), 3, n_slots).n_entries == 0


def test_a_single_slot_is_the_first_neighbours():
    edges = cooccurring_users(*random_pairs(20, 9, 0.4), 20, 9, 1)
    graph = resampled_graph(edges, 20, 1)
    assert as_lists(graph.edges()[:2]) == as_lists(edges[:2])
    assert bool((graph.values == 1).all())
