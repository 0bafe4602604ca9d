"""Soft hyperedges: memberships, and what passes through them."""

import pytest
import torch
from torch.nn import functional as F

from triptych.nn.hypergraph import HypergraphSettings, SoftHypergraph, gumbel_like, unit_sum

N_USERS, N_ITEMS, M, A, D = 4, 6, 2, 3, 5
HAS = torch.ones(N_USERS + N_ITEMS, M, dtype=torch.bool)
HAS[1, 0] = HAS[N_USERS + 2, 1] = False  # user 1 lacks the first modality, item 2 the second


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(has: torch.Tensor = HAS, n_users: int = N_USERS, **settings) -> SoftHypergraph:
    options = {"n_hyperedges": A, "temperature": 0.5, "dropout": 0.0} | settings
    return SoftHypergraph(has, n_users, HypergraphSettings(**options))


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(N_USERS + N_ITEMS, M, A).double(), torch.randn(N_ITEMS, D).double()


def test_memberships_are_a_softmax_and_zero_without_the_modality():
    logits, _ = inputs()
    members = build().eval().memberships(logits)
    power = (logits / 0.5).exp()
    expected = power / power.sum(2, keepdim=True)
    expected[1, 0] = expected[N_USERS + 2, 1] = 0
    torch.testing.assert_close(members, expected)


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_equals_the_two_steps_of_the_paper_in_direction_and_gradient(n_layers: int):
    logits, start = (part.requires_grad_() for part in inputs())
    graph = build(n_hyper_layers=n_layers).eval()
    view = graph(logits, start)
    members = graph.memberships(logits)
    for m in range(M):
        users, items = members[:N_USERS, m], members[N_USERS:, m]
        state = start
        for _ in range(n_layers):
            received = users @ items.T @ state  # (U, I) matrix spelled out
            state = items @ items.T @ state
        plain = torch.cat([received, state]) * (A / N_ITEMS) ** n_layers
        torch.testing.assert_close(view.vectors[m], plain)
        towards = torch.randn(N_USERS + N_ITEMS, D).double()
        losses = ((F.normalize(vectors) * towards).sum() for vectors in (view.vectors[m], plain))
        found, expected = (torch.autograd.grad(loss, (logits, start), retain_graph=True) for loss in losses)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(view.members @ view.edges, view.vectors)


def test_by_hand_two_items_one_hyperedge_each():
    has = torch.ones(N_USERS + 2, 1, dtype=torch.bool)
    logits = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None] * 50
    )
    view = build(has, n_hyperedges=2).eval()(logits, torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    expected = torch.tensor([[2.0, 0], [0, 4], [1, 2], [2, 0], [2, 0], [0, 4]])  # an item in each hyperedge
    torch.testing.assert_close(view.vectors[0], expected)


def test_modalities_may_begin_differently():
    logits, start = inputs()
    starts = torch.stack([start, 2 * start])
    graph = build().eval()
    same, other = graph(logits, start).vectors, graph(logits, starts).vectors
    torch.testing.assert_close(other, same * torch.tensor([1.0, 2.0])[:, None, None])


def test_parts_into_users_and_items():
    logits, start = inputs()
    view = build().eval()(logits, start)
    users, items = view.split(N_USERS)
    for name in ("members", "vectors", "has"):
        whole = torch.cat([getattr(users, name), getattr(items, name)], dim=1)
        assert torch.equal(whole, getattr(view, name))
        assert getattr(items, name).shape[1] == N_ITEMS
    assert torch.equal(users.edges, items.edges)


def test_training_draws_fresh_gumbel_noise_from_torch():
    logits, _ = inputs()
    graph = build()
    torch.manual_seed(3)
    first, second = graph.memberships(logits), graph.memberships(logits)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    expected = F.gumbel_softmax(logits, 0.5, dim=2) * HAS[:, :, None]
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_noise_is_multiplied_in_training_and_in_scores(noise: float):
    logits, _ = inputs()
    graph = build(noise=noise, scoring_noise=True).double()
    torch.manual_seed(3)
    first = graph.memberships(logits)
    torch.manual_seed(3)
    expected = ((logits + noise * gumbel_like(logits)) / 0.5).softmax(2) * HAS[:, :, None]
    torch.testing.assert_close(first, expected)
    scored = ((logits + noise * graph.noise) / 0.5).softmax(2) * HAS[:, :, None]
    torch.testing.assert_close(graph.eval().memberships(logits), scored)


def test_gumbel_noise_has_its_mean_and_spread():
    noise = gumbel_like(torch.empty(100_000))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(1.6449, rel=0.03)
    assert noise.isfinite().all()


def test_dropout_is_for_memberships_in_training_only():
    logits = torch.zeros(N_USERS + N_ITEMS, M, A)
    graph = build(torch.ones_like(HAS), dropout=0.75, temperature=1e6)  # all memberships a third
    drawn = torch.stack([graph.memberships(logits) for _ in range(300)])
    kept = drawn > 0
    torch.testing.assert_close(drawn[kept], torch.full_like(drawn[kept], 4 / 3), atol=1e-4, rtol=0)
    assert kept.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert drawn.mean().item() == pytest.approx(1 / 3, rel=0.05)
    torch.testing.assert_close(graph.eval().memberships(logits), torch.full_like(logits, 1 / 3))


def test_scoring_is_free_of_noise_or_has_one_draw_that_is_state():
    logits, _ = inputs()
    silent, noisy = build().eval(), build(scoring_noise=True).double().eval()
    assert silent.state_dict() == {}
    assert list(noisy.state_dict()) == ["noise"]
    state = torch.get_rng_state()
    first, second = noisy.memberships(logits), noisy.memberships(logits)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    expected = ((logits + noisy.noise) / 0.5).softmax(2) * HAS[:, :, None]
    torch.testing.assert_close(first, expected)
    assert not torch.allclose(first, silent.memberships(logits))
    other = build(scoring_noise=True).double().eval()
    other.load_state_dict(noisy.state_dict())
    assert torch.equal(other.memberships(logits), first)


@pytest.mark.parametrize("n_hyperedges", [2, 40])
def test_vectors_keep_their_size_at_any_depth(n_hyperedges: int):
    n_items = 5_000
    has = torch.ones(n_items + 1, 1, dtype=torch.bool)
    graph = build(has, 1, n_hyperedges=n_hyperedges, n_hyper_layers=12, temperature=1.0).eval()
    start = torch.full((n_items, 3), 1e3, requires_grad=True)
    vectors = graph(torch.randn(n_items + 1, 1, n_hyperedges), start).vectors
    torch.testing.assert_close(vectors, torch.full_like(vectors, 1e3), rtol=0.2, atol=0)
    unit_sum(vectors, 0, each=False)[:, 0].sum().backward()
    assert start.grad.isfinite().all()


def test_unit_sum_by_hand():
    parts = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]]])
    assert unit_sum(parts, 0, each=False).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    assert unit_sum(parts, 0, each=True).tolist() == [[1, 1], [0, 0]]
    assert unit_sum(parts.transpose(0, 1), 1, each=True).tolist() == [[1, 1], [0, 0]]
