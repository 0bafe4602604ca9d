import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from triptych.graph.bipartite import bipartite_graph
from triptych.nn.attention import CrossAttention, GraphAttention, node_attention

N_USERS, N_ITEMS, DIM = 5, 7, 4
N_NODES = N_USERS + N_ITEMS
USER = torch.tensor([0, 0, 1, 2, 2, 2, 4])  # user 3 and items 5 and 6 have no edges
ITEM = torch.tensor([0, 3, 3, 1, 2, 4, 0])


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_same_gradients(fast, slow, leaves):
    pull = [torch.randn_like(part) for part in fast]
    grads = [
        torch.autograd.grad(sum((part * p).sum() for part, p in zip(parts, pull, strict=True)), leaves)
        for parts in (fast, slow)
    ]
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)
        assert expected.abs().max() > 1e-6


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


# Attention over edges


def dense_graph_attention(layer, nodes):
    """The docstring's equations with an (N, N, 2D) tensor of pairs."""
    linked = bipartite_graph(USER, ITEM, N_USERS, N_ITEMS).to_dense() > 0
    x = nodes @ layer.project.weight.T
    pairs = torch.cat([x[:, None].expand(-1, N_NODES, -1), x[None].expand(N_NODES, -1, -1)], dim=2)
    scores = pairs @ layer.score.weight[0]
    scores = torch.where(scores > 0, scores, layer.negative_slope * scores)
    power = torch.where(linked, scores.exp(), 0)
    shares = power / power.sum(dim=1, keepdim=True).clamp(min=1e-300)
    return (shares @ x).clamp(min=0)


@pytest.mark.parametrize("negative_slope", [0.2, 0.5])
def test_graph_attention_equals_the_dense_form_in_value_and_gradient(negative_slope):
    layer, nodes = GraphAttention(DIM, negative_slope).double(), random(N_NODES, DIM)
    graph = bipartite_graph(USER, ITEM, N_USERS, N_ITEMS)
    fast, slow = layer(graph, nodes), dense_graph_attention(layer, nodes)
    torch.testing.assert_close(fast, slow)
    assert_same_gradients([fast], [slow], [nodes, *layer.parameters()])


def test_graph_attention_by_hand():
    layer, graph = GraphAttention(1), bipartite_graph(torch.tensor([0, 0]), torch.tensor([0, 1]), 1, 2)
    with torch.no_grad():
        layer.project.weight.fill_(2.0)
        layer.score.weight.copy_(torch.tensor([[0.0, 1.0]]))  # what the neighbour is
    out = layer(graph, torch.tensor([[-1.0], [0.5], [1.0]])).flatten()
    share = torch.tensor(1.0).exp() / (torch.tensor(1.0).exp() + torch.tensor(2.0).exp())
    torch.testing.assert_close(out, torch.stack([share + 2 * (1 - share), torch.zeros(()), torch.zeros(())]))


def test_nodes_without_neighbours_are_zero():
    out = GraphAttention(DIM)(bipartite_graph(USER, ITEM, N_USERS, N_ITEMS), torch.randn(N_NODES, DIM))
    assert torch.equal(out[[3, N_USERS + 5, N_USERS + 6]], torch.zeros(3, DIM))
    assert out.abs().sum() > 0


def test_scores_of_any_size_are_finite():
    nodes = (1e4 * torch.randn(N_NODES, DIM)).requires_grad_()
    out = GraphAttention(DIM)(bipartite_graph(USER, ITEM, N_USERS, N_ITEMS), nodes)
    out.sum().backward()
    assert out.isfinite().all()
    assert nodes.grad.isfinite().all()


def test_nothing_has_a_vector_for_each_edge():
    n_users, n_items, n_pairs = 40, 40, 1500
    pair = torch.randperm(n_users * n_items)[:n_pairs]
    graph = bipartite_graph(pair // n_items, pair % n_items, n_users, n_items)
    with LargestTensor() as seen:
        GraphAttention(8)(graph, torch.randn(n_users + n_items, 8))
    assert graph.n_entries <= seen.entries < 8 * graph.n_entries


# Attention among channels and among nodes


def test_channel_attention_is_the_papers_with_nodes_as_columns():
    block = CrossAttention(DIM).double()
    asking, answering = random(30, DIM), random(30, DIM)
    seen = []
    block.map_common.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    block(asking, answering, torch.ones(30, 2, dtype=torch.bool), torch.arange(30))
    q = linear(block.query, asking).T  # D x N, as CAmgr prints them
    k, v = (linear(part, answering).T for part in (block.key, block.value))
    products = (q @ k.T / 30**0.5).exp()
    slow = (products / products.sum(dim=1, keepdim=True) @ v).T
    torch.testing.assert_close(seen[0], slow)
    leaves = [asking, answering, *(p for part in (block.query, block.key) for p in part.parameters())]
    assert_same_gradients([seen[0]], [slow], leaves)


def test_channel_attention_makes_nothing_of_nodes_by_nodes():
    block, every = CrossAttention(8), torch.ones(500, 2, dtype=torch.bool)
    with LargestTensor() as seen:
        block(torch.randn(500, 8), torch.randn(500, 8), every, torch.arange(500))
    assert seen.entries == 500 * 8


def test_node_attention_equals_the_dense_form_in_value_and_gradient():
    query, key, value = random(9, DIM), random(30, DIM), random(30, DIM)
    fast = node_attention(query, key, value, 0.7)
    products = (query @ key.T * 0.7).exp()
    slow = products / products.sum(dim=1, keepdim=True) @ value
    torch.testing.assert_close(fast, slow)
    assert_same_gradients([fast], [slow], [query, key, value])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_node_attention_runs_on_the_kernel_that_goes_by_blocks(dtype):
    rows = torch.randn(50, 6, dtype=dtype, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # refuses what it cannot do, instead of the whole matrix
        node_attention(rows, rows[:40], rows[:40], 0.5).sum().backward()
        with pytest.raises(RuntimeError), pytest.warns(match="kernel"):
            torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)
    assert rows.grad.isfinite().all()


# Two modalities


def refined(part, x):
    norm, first, _, second = part
    centred = x - x.mean(dim=1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=1, keepdim=True) + norm.eps).sqrt()
    hidden = (scaled * norm.weight + norm.bias) @ first.weight.T + first.bias
    return hidden.clamp(min=0) @ second.weight.T + second.bias + x


def linear(part, x):
    return x @ part.weight.T + part.bias


def dense_cross_attention(block, asking, answering, has):
    """The docstring's equations for all nodes, with (D, D) or (N, N) shares spelled out."""
    asks, answers = has.to(asking.dtype).split(1, dim=1)
    q = linear(block.query, asking) * asks
    k, v = (linear(part, answering) * answers for part in (block.key, block.value))
    n, dim = q.shape
    if block.axis == "channel":
        power = (q.T @ k / (n if block.scale == "contracted" else dim) ** 0.5).exp()
        attended = v @ (power / power.sum(dim=1, keepdim=True)).T
    else:
        power = (q @ k.T / dim**0.5).exp() * answers.T
        attended = power / power.sum(dim=1, keepdim=True) @ v
    attended = attended * asks * answers
    common = linear(block.map_common, attended) * asks * answers + q
    distinct = linear(block.map_distinct, v - attended) * answers + q
    either = torch.maximum(asks, answers)
    return refined(block.refine_common, common) * either, refined(block.refine_distinct, distinct) * either


HAS = torch.tensor([[True, True]] * 6 + [[True, False], [False, True], [False, False]])


@pytest.mark.parametrize("has", [HAS, torch.ones_like(HAS)])
@pytest.mark.parametrize(
    ("axis", "scale"), [("channel", "contracted"), ("channel", "width"), ("nodes", "width")]
)
def test_cross_attention_equals_the_dense_form_in_value_and_gradient(axis, scale, has):
    block = CrossAttention(DIM, axis, scale).double()
    asking, answering = random(9, DIM), random(9, DIM)
    rows = torch.tensor([8, 7, 6, 1, 1, 4])
    fast = block(asking, answering, has, rows)
    slow = [part[rows] for part in dense_cross_attention(block, asking, answering, has)]
    for got, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(got, expected)
    # A bias of keys moves all of a node's products alike, which softmax does not see.
    idle = block.key.bias if axis == "nodes" else None
    leaves = [asking, answering, *(p for p in block.parameters() if p is not idle)]
    assert_same_gradients(fast, slow, leaves)


@pytest.mark.parametrize("axis", ["channel", "nodes"])
def test_what_a_node_lacks_says_nothing(axis):
    block = CrossAttention(DIM, axis).double()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if "bias" in name:
                parameter.fill_(3.0)
    asking, answering, every = random(9, DIM), random(9, DIM), torch.arange(9)
    common, distinct = block(asking, answering, HAS, every)
    assert torch.equal(common[8], torch.zeros(DIM))
    assert torch.equal(distinct[8], torch.zeros(DIM))
    with torch.no_grad():  # node 6 is what it asks, whatever may answer
        asked = linear(block.query, asking)[[6]]
        torch.testing.assert_close(common[[6]], refined(block.refine_common, asked))
        torch.testing.assert_close(distinct[[6]], refined(block.refine_distinct, asked))
        changed = answering.detach().clone()
        changed[[6, 8]] += 5
        again = block(asking, changed, HAS, every)
    torch.testing.assert_close(again, (common, distinct))
    with torch.no_grad():  # node 7 is what it answers, and that is all distinct
        answered = linear(block.map_distinct, linear(block.value, answering))[[7]]
        torch.testing.assert_close(distinct[[7]], refined(block.refine_distinct, answered))
        torch.testing.assert_close(common[[7]], refined(block.refine_common, torch.zeros(1, DIM).double()))


def test_the_scale_counts_among_channels_alone():
    asking, answering, every = torch.randn(9, DIM), torch.randn(9, DIM), torch.arange(9)
    for axis, alike in (("channel", False), ("nodes", True)):
        one, other = CrossAttention(DIM, axis, "contracted"), CrossAttention(DIM, axis, "width")
        other.load_state_dict(one.state_dict())
        results = [block(asking, answering, torch.ones_like(HAS), every)[0] for block in (one, other)]
        assert torch.allclose(*results) == alike


def test_channels_and_nodes_are_not_the_same():
    asking, answering, every = torch.randn(9, DIM), torch.randn(9, DIM), torch.arange(9)
    one, other = CrossAttention(DIM, "channel"), CrossAttention(DIM, "nodes")
    other.load_state_dict(one.state_dict())
    results = [block(asking, answering, torch.ones_like(HAS), every)[0] for block in (one, other)]
    assert not torch.allclose(*results)
