import pytest
import torch

from triptych.graph.sparse import SparseGraph
from triptych.nn.item_view import ItemView

N_USERS, N_ITEMS, DIM = 4, 6, 3


def graph_of(dense):
    row, col = dense.nonzero().T
    return SparseGraph.from_edges(row, col, dense[row, col], *dense.shape)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


@pytest.fixture
def parts():
    """Two item graphs, user's items, and who has what: no row for item 1 in the first, item 2 absent from both."""
    alike = torch.rand(2, N_ITEMS, N_ITEMS, dtype=torch.float64) * (torch.rand(2, N_ITEMS, N_ITEMS) < 0.6)
    alike[0, 1] = 0
    alike[1, 1, 1] = 0.5
    present = torch.ones(2, N_ITEMS, dtype=torch.bool)
    present[:, 2] = False
    users = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    users[0, [0, 3]] = 0.5
    users[1, 1] = 1  # has the second modality alone
    users[2, 2] = 1  # has none
    return alike, present, users


def build(parts):
    alike, present, users = parts
    return ItemView([graph_of(part) for part in alike], present, graph_of(users)).double()


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_equals_the_dense_products_in_value_and_gradient(parts, n_layers):
    alike, _, users = parts
    contents = torch.randn(2, N_ITEMS, DIM, dtype=torch.float64, requires_grad=True)
    view = build(parts)(list(contents), n_layers)
    mask = torch.ones(2, N_ITEMS, 1, dtype=torch.float64)
    mask[0, 1] = mask[:, 2] = 0
    items = torch.stack([torch.matrix_power(part, n_layers) for part in alike]) @ contents * mask
    expected = torch.cat([users @ items, items], dim=1).transpose(0, 1)  # (N, M, D)
    torch.testing.assert_close(view, expected)
    pull = torch.randn_like(view)
    (fast,) = torch.autograd.grad((view * pull).sum(), contents)
    (slow,) = torch.autograd.grad((expected * pull).sum(), contents)
    torch.testing.assert_close(fast, slow)
    assert fast.abs().max() > 0.01


def test_who_has_what(parts):
    has = build(parts).has
    assert has.shape == (N_USERS + N_ITEMS, 2)
    assert has[:N_USERS].tolist() == [[True, True], [False, True], [False, False], [False, False]]
    assert has[N_USERS:].tolist() == [[True, True], [False, True], [False, False]] + [[True, True]] * 3


def test_what_a_node_lacks_is_zero(parts):
    alike, _, _ = parts
    assert alike[:, 2].any()  # a given graph may know more than there is
    view = build(parts)([torch.ones(N_ITEMS, DIM, dtype=torch.float64)] * 2)
    assert (view[~build(parts).has] == 0).all()
    assert (view[build(parts).has].abs().sum(dim=1) > 0).all()


def test_its_graphs_belong_to_the_state(parts):
    view, contents = build(parts), [torch.randn(N_ITEMS, DIM, dtype=torch.float64) for _ in range(2)]
    other = build((parts[0] * 2, parts[1], parts[2] * 3))
    assert not torch.allclose(view(contents), other(contents))
    other.load_state_dict(view.state_dict())
    torch.testing.assert_close(view(contents), other(contents))
    assert list(view.parameters()) == []
