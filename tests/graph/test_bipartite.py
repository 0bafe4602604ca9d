import numpy as np
import pytest
import torch

from triptych.graph.bipartite import bipartite_graph, side_graph

NORMALISATIONS = ["sym", "sym_loop", "rw_loop", "mean", "root_row"]
LOOPS = {"sym_loop", "rw_loop"}
N_USERS, N_ITEMS = 9, 12


def pairs(seed=0, n_pairs=40):
    """Distinct pairs that leave user 8 and items 10 and 11 alone."""
    rng = np.random.default_rng(seed)
    keys = np.sort(rng.choice((N_USERS - 1) * (N_ITEMS - 2), n_pairs, replace=False))
    return torch.from_numpy(keys // (N_ITEMS - 2)), torch.from_numpy(keys % (N_ITEMS - 2))


def adjacency(user, item, n_users, n_items):
    r = np.zeros((n_users, n_items))
    r[user.numpy(), item.numpy()] = 1.0
    return np.block([[np.zeros((n_users, n_users)), r], [r.T, np.zeros((n_items, n_items))]])


def power(degree, exponent):
    with np.errstate(divide="ignore"):
        return np.diag(np.where(degree > 0, degree**exponent, 0.0))


def formula(a, normalisation):
    """The matrix as its definition says, with D^-1 zero where a degree is."""
    eye = np.eye(len(a))
    d, d_loop = a.sum(axis=1), a.sum(axis=1) + 1
    return {
        "sym": lambda: power(d, -0.5) @ a @ power(d, -0.5),
        "sym_loop": lambda: power(d_loop, -0.5) @ (a + eye) @ power(d_loop, -0.5),
        "rw_loop": lambda: power(d_loop, -1.0) @ (a + eye),
        "mean": lambda: power(d, -1.0) @ a,
        "root_row": lambda: power(d, -0.5) @ a,
    }[normalisation]()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_each_normalisation_is_its_formula(normalisation, seed):
    user, item = pairs(seed)
    graph = bipartite_graph(user, item, N_USERS, N_ITEMS, normalisation)
    expected = formula(adjacency(user, item, N_USERS, N_ITEMS), normalisation)
    np.testing.assert_allclose(graph.to_dense().numpy(), expected, rtol=1e-6, atol=0)
    assert graph.values.dtype == torch.float32


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_way_back_is_the_transpose(normalisation):
    user, item = pairs()
    graph = bipartite_graph(user, item, N_USERS, N_ITEMS, normalisation)
    expected = formula(adjacency(user, item, N_USERS, N_ITEMS), normalisation)
    x = np.random.default_rng(1).normal(size=(N_USERS + N_ITEMS, 3))
    got = graph.multiply_transposed(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected.T @ x, rtol=1e-5, atol=1e-6)
    assert graph.symmetric == (normalisation in {"sym", "sym_loop"})


def test_two_users_and_two_items_by_hand():
    # user 0 chose items 0 and 1, user 1 chose item 1: degrees 2, 1 and 1, 2
    graph = bipartite_graph(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2, 2)
    half, root = 0.5, 0.5**0.5
    expected = [[0, 0, root, half], [0, 0, 0, root], [root, 0, 0, 0], [half, root, 0, 0]]
    torch.testing.assert_close(graph.to_dense(), torch.tensor(expected))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_every_pair_is_two_entries(normalisation):
    user, item = pairs()
    graph = bipartite_graph(user, item, N_USERS, N_ITEMS, normalisation)
    loops = N_USERS + N_ITEMS if normalisation in LOOPS else 0
    assert graph.n_entries == 2 * len(user) + loops


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_node_without_pairs_has_an_empty_row_or_only_itself(normalisation):
    dense = bipartite_graph(*pairs(), N_USERS, N_ITEMS, normalisation).to_dense()
    alone = [N_USERS - 1, N_USERS + N_ITEMS - 2, N_USERS + N_ITEMS - 1]
    expected = torch.eye(N_USERS + N_ITEMS) if normalisation in LOOPS else torch.zeros_like(dense)
    assert torch.equal(dense[alone], expected[alone])
    assert torch.equal(dense[:, alone], expected[:, alone])


def test_row_and_column_sums():
    user, item = pairs()
    degree = torch.from_numpy(adjacency(user, item, N_USERS, N_ITEMS).sum(axis=1)).float()
    sums = {
        name: bipartite_graph(user, item, N_USERS, N_ITEMS, name).to_dense().sum(dim=1)
        for name in ("mean", "rw_loop", "root_row")
    }
    torch.testing.assert_close(sums["mean"], (degree > 0).float())
    torch.testing.assert_close(sums["rw_loop"], torch.ones(N_USERS + N_ITEMS))
    torch.testing.assert_close(sums["root_row"], degree.sqrt())
    sym = bipartite_graph(user, item, N_USERS, N_ITEMS, "sym").to_dense()
    torch.testing.assert_close(sym @ degree.sqrt(), degree.sqrt())  # the top eigenvector
    torch.testing.assert_close(degree.sqrt() @ sym, degree.sqrt())


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_order_of_pairs_does_not_matter(normalisation):
    user, item = pairs()
    order = torch.randperm(len(user), generator=torch.Generator().manual_seed(3))
    graph = bipartite_graph(user, item, N_USERS, N_ITEMS, normalisation)
    other = bipartite_graph(user[order], item[order], N_USERS, N_ITEMS, normalisation)
    assert torch.equal(graph.to_dense(), other.to_dense())


def test_users_link_to_items_only():
    dense = bipartite_graph(*pairs(), N_USERS, N_ITEMS).to_dense()
    assert not dense[:N_USERS, :N_USERS].any()
    assert not dense[N_USERS:, N_USERS:].any()


def test_popular_nodes_keep_their_precision():
    # 20,000 users of one item: the degree is exact, and so is the weight in float32
    user = torch.arange(20_000)
    graph = bipartite_graph(user, torch.zeros_like(user), 20_000, 1, "mean")
    assert graph.edges()[2][:20_000].unique().tolist() == [1.0]
    assert graph.edges()[2][20_000:].unique().tolist() == [np.float32(1 / 20_000)]


@pytest.mark.parametrize("of_users", [True, False])
def test_one_side_receives_from_the_other(of_users):
    user, item = pairs()
    r = adjacency(user, item, N_USERS, N_ITEMS)[:N_USERS, N_USERS:]
    row, col, n_rows, n_cols, r = (
        (user, item, N_USERS, N_ITEMS, r) if of_users else (item, user, N_ITEMS, N_USERS, r.T)
    )
    degree, other = r.sum(1), r.sum(0)
    formulas = {
        "sum": r,
        "mean": power(degree, -1.0) @ r,
        "root_row": power(degree, -0.5) @ r,
        "sym": power(degree, -0.5) @ r @ power(other, -0.5),
    }
    x, g = torch.randn(n_cols, 3), torch.randn(n_rows, 3)
    for normalisation, expected in formulas.items():
        graph = side_graph(row, col, n_rows, n_cols, normalisation)
        np.testing.assert_allclose(graph.to_dense().numpy(), expected, rtol=1e-6, atol=0)
        dense = torch.from_numpy(expected).float()
        torch.testing.assert_close(graph.multiply(x), dense @ x)
        torch.testing.assert_close(graph.multiply_transposed(g), dense.T @ g)


def test_a_side_is_its_part_of_the_whole_graph():
    user, item = pairs()
    for normalisation in ("sym", "mean", "root_row"):
        whole = bipartite_graph(user, item, N_USERS, N_ITEMS, normalisation).to_dense()
        users = side_graph(user, item, N_USERS, N_ITEMS, normalisation).to_dense()
        items = side_graph(item, user, N_ITEMS, N_USERS, normalisation).to_dense()
        torch.testing.assert_close(whole[:N_USERS, N_USERS:], users)
        torch.testing.assert_close(whole[N_USERS:, :N_USERS], items)
