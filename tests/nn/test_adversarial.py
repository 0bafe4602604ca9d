"""Rows that are not written out against rows that are, the critic against torch's own blocks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from triptych.graph.sparse import SparseGraph
from triptych.nn.adversarial import Critic, GeneratedGraphs, Rows, guess_rows, strongest, true_rows
from triptych.scorer import Embeddings

B, N_ITEMS, D = 5, 9, 4


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def pattern(chosen: torch.Tensor) -> SparseGraph:
    row, col = chosen.nonzero(as_tuple=True)
    return SparseGraph.from_edges(row, col, torch.ones(len(row)).double(), *chosen.shape)


@pytest.fixture
def chosen() -> torch.Tensor:
    """What five users chose of nine items; the second nothing."""
    chosen = (torch.rand(B, N_ITEMS) < 0.3).double()
    chosen[1] = 0
    chosen[:, 0] = torch.tensor([1, 0, 1, 1, 1])
    return chosen


def written_out(rows: Rows) -> torch.Tensor:
    return rows.multiply(torch.eye(len(rows.right), dtype=torch.float64))


def same_gradients(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> bool:
    weight = normal(*ours.shape)
    found = torch.autograd.grad((ours * weight).sum(), inputs)
    expected = torch.autograd.grad((theirs * weight).sum(), inputs)
    return all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))


def test_rows_multiply_as_if_they_were_written_out(chosen):
    places = pattern(chosen)
    left, right, x = (normal(*s).requires_grad_() for s in ((B, D), (N_ITEMS, D), (N_ITEMS, 3)))
    added = normal(places.n_entries).requires_grad_()
    sparse = torch.zeros(B, N_ITEMS).double().index_put(chosen.nonzero(as_tuple=True), added)
    ours, theirs = Rows(left, right, places, added).multiply(x), (left @ right.T + sparse) @ x
    assert torch.allclose(ours, theirs)
    assert same_gradients(ours, theirs, [left, right, added, x])


def test_guesses_are_scores_without_what_is_chosen_at_length_one(chosen):
    users, items = normal(B, D).requires_grad_(), normal(N_ITEMS, D).requires_grad_()
    ours = written_out(guess_rows(users, items, pattern(chosen)))
    theirs = F.normalize((users @ items.T) * (1 - chosen))
    assert torch.allclose(ours, theirs, atol=1e-14)
    assert same_gradients(ours, theirs, [users, items])


def test_guesses_by_hand():
    items = torch.tensor([[3.0, 0.0], [0.0, 9.0], [0.0, 4.0]]).double()
    rows = guess_rows(torch.ones(1, 2).double(), items, pattern(torch.tensor([[0, 1, 0]])))
    assert written_out(rows).tolist() == [pytest.approx([0.6, 0.0, 0.8])]


def test_who_chose_all_or_says_nothing_has_no_guess(chosen):
    chosen[2] = 1
    users, items = normal(B, D), normal(N_ITEMS, D).requires_grad_()
    users[3] = 0
    users.requires_grad_()
    for precision in (torch.float64, torch.float32):
        rows = guess_rows(users.to(precision), items.to(precision), pattern(chosen))
        found = rows.multiply(torch.eye(N_ITEMS, dtype=precision))
        assert found[2].abs().max() == 0
        assert found[3].abs().max() == 0
        found.sum().backward()
    assert users.grad.isfinite().all()
    assert items.grad.isfinite().all()


@pytest.mark.parametrize("guess_weight", [100.0, 1.0, 0.0])
def test_true_rows_are_those_of_a_softmax_over_all_items(chosen, guess_weight):
    chosen[2] = 1  # no guess is left
    guesses = guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen))
    places = chosen.nonzero(as_tuple=True)
    torch.manual_seed(7)
    ours = written_out(true_rows(guesses, guess_weight))
    torch.manual_seed(7)
    drawn = -torch.log(torch.empty(len(places[0])).double().exponential_() + 1e-8)
    gumbel = normal(B, N_ITEMS)  # where nothing is chosen it does not count
    gumbel[places] = drawn
    shares = ((chosen + 1e-5 * gumbel) / 0.005).softmax(1)
    shares[1] = 0  # who chose nothing has nothing to share
    expected = F.normalize(shares + guess_weight * written_out(guesses))
    assert torch.allclose(ours, expected, atol=1e-12)


def test_true_rows_are_noisy_but_little(chosen):
    guesses = guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen))
    first, second = (written_out(true_rows(guesses, 0.0)) for _ in range(2))
    assert not torch.equal(first, second)
    even = F.normalize(chosen)
    assert torch.allclose(first, even, atol=0.01)
    assert first[1].abs().max() == 0


def torch_critic(critic: Critic, slope: float) -> nn.Sequential:
    """The same network of torch's blocks, without dropout."""
    n_items, width = critic.by_item.shape
    first, inner, second, last = critic.rest
    plain = nn.Sequential(
        nn.Linear(n_items, width),
        nn.LeakyReLU(slope),
        nn.BatchNorm1d(width),
        nn.Linear(width, inner.out_features),
        nn.LeakyReLU(slope),
        nn.BatchNorm1d(inner.out_features),
        nn.Linear(inner.out_features, 1),
        nn.Sigmoid(),
    ).double()
    own = [critic.by_item.T, first.bias, first.scale, first.shift, inner.weight, second.bias, second.scale]
    own += [second.shift, last.weight, last.bias]
    with torch.no_grad():
        for its, mine in zip(plain.parameters(), own, strict=True):
            its.copy_(mine)
    return plain


def gradients(critic: Critic, plain: nn.Sequential) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pair the critic's gradients with those of torch's blocks."""
    first, inner, second, last = critic.rest
    own = [critic.by_item, first.bias, first.scale, first.shift, inner.weight, second.bias, second.scale]
    own += [second.shift, last.weight, last.bias]
    found = [torch.zeros_like(mine) if mine.grad is None else mine.grad for mine in own]
    expected = [torch.zeros_like(its) if its.grad is None else its.grad for its in plain.parameters()]
    return list(zip([found[0].T, *found[1:]], expected, strict=True))


def make_critic(slope: float, dropout: tuple[float, float] = (0.0, 0.0)) -> Critic:
    critic = Critic(N_ITEMS, (4, 3), dropout, slope).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return critic


@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_critic_is_that_of_torchs_blocks(chosen, slope):
    critic = make_critic(slope)
    plain = torch_critic(critic, slope)
    rows = [guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen)) for _ in range(2)]
    ours = critic(rows)
    theirs = 100 * plain(torch.cat([written_out(part) for part in rows])).squeeze(1)
    assert ours.shape == (2 * B,)
    assert torch.allclose(ours, theirs)
    weight = normal(2 * B)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert all(torch.allclose(found, expected, atol=1e-9) for found, expected in gradients(critic, plain))


@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_penalty_is_that_of_rows_written_out(chosen, slope):
    critic = make_critic(slope)
    plain = torch_critic(critic, slope)
    guesses = guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen))
    true = true_rows(guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen)), 100.0)
    torch.manual_seed(5)
    ours = critic.penalty(critic.enter([true]), critic.enter([guesses]))
    torch.manual_seed(5)
    share = torch.rand(B, 1, dtype=torch.float64)
    between = (share * written_out(true) + (1 - share) * written_out(guesses)).requires_grad_()
    (gradient,) = torch.autograd.grad(100 * plain(between).sum(), between, create_graph=True)
    theirs = (gradient.norm(dim=1) - 1).pow(2).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    ours.backward()
    theirs.backward()
    for found, expected in gradients(critic, plain):
        assert torch.allclose(found, expected, atol=1e-9 * max(1.0, expected.abs().max().item()))


def test_penalty_of_a_critic_without_opinion_is_one_and_finite(chosen):
    critic = make_critic(0.01)
    with torch.no_grad():
        critic.rest[-1].weight.zero_()
    rows = critic.enter([guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen))])
    penalty = critic.penalty(rows.flip(0), rows)
    assert penalty.item() == pytest.approx(1.0)
    penalty.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


def test_critic_judges_from_0_to_100_and_even_a_single_row(chosen):
    critic = make_critic(0.01)
    alone = guess_rows(normal(1, D), normal(N_ITEMS, D), pattern(chosen[:1]))
    middle, *_ = critic([alone]).tolist()
    assert 0 < middle < 100
    with torch.no_grad():
        critic.rest[-1].bias.fill_(1e3)
    assert critic([alone]).tolist() == [100.0]
    critic.penalty(critic.enter([alone]), critic.enter([alone])).backward()
    assert critic.by_item.grad.isfinite().all()


def test_dropout_of_both_layers_is_for_training(chosen):
    rows = [guess_rows(normal(B, D), normal(N_ITEMS, D), pattern(chosen))]
    for dropout in ((0.5, 0.0), (0.0, 0.5)):
        critic = make_critic(0.01, dropout)
        assert not torch.equal(critic(rows), critic(rows))
        critic.eval()
        assert torch.equal(critic(rows), critic(rows))


def test_first_weights_of_the_critic():
    critic = Critic(400, (100, 50), (0.0, 0.0))
    assert critic.by_item.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.05)
    assert critic.rest[1].weight.std().item() == pytest.approx(math.sqrt(2 / 100), rel=0.05)
    assert sum(p.numel() for p in critic.parameters()) == 400 * 100 + 100 * 50 + 50 + 1 + 3 * (100 + 50)
    assert critic.rest[-1].bias.item() == 0


def test_mixed_precision_keeps_rows_exact(chosen):
    critic = make_critic(0.01).float()
    rows = guess_rows(normal(B, D).float(), normal(N_ITEMS, D).float(), pattern(chosen))
    exact = critic.enter([rows])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(critic.enter([rows]), exact)
        assert critic([rows]).dtype == torch.float32
        critic.penalty(exact, exact.flip(0)).backward()
    assert critic.by_item.grad.isfinite().all()


# Graphs

N_USERS = 6


@pytest.fixture
def choices() -> torch.Tensor:
    choices = (torch.rand(N_USERS, N_ITEMS) < 0.3).double()
    choices[0], choices[1] = 0, 1
    return choices


def content() -> Embeddings:
    return Embeddings(normal(2, N_USERS, D), normal(2, N_ITEMS, D))


def test_generated_graphs_send_ids_both_ways(choices):
    user, item = choices.nonzero(as_tuple=True)
    graphs = GeneratedGraphs(2, user, item, N_USERS, N_ITEMS).double()
    ids = Embeddings(normal(N_USERS, D), normal(N_ITEMS, D))

    def expected(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return h / h.sum(1, keepdim=True).clamp(min=1).sqrt() @ x

    for found, h, x in zip(graphs(ids), (choices, choices.T), (ids.items, ids.users), strict=True):
        assert torch.allclose(found, expected(h, x).expand(2, -1, -1))
    graphs.replace(torch.tensor([0, 1, 1]), torch.tensor([5, 5, 2]), torch.tensor([8, 0, 0]))
    h = torch.zeros(2, N_USERS, N_ITEMS).double()
    h[0, 5, 8] = h[1, 5, 0] = h[1, 2, 0] = 1
    users, items = graphs.double()(ids)
    for m in range(2):
        assert torch.allclose(users[m], expected(h[m], ids.items))
        assert torch.allclose(items[m], expected(h[m].T, ids.users))


def test_generated_graphs_are_state_of_any_size(choices):
    user, item = choices.nonzero(as_tuple=True)
    full, empty = (
        GeneratedGraphs(2, user, item, N_USERS, N_ITEMS),
        GeneratedGraphs(2, user[:0], item[:0], N_USERS, N_ITEMS),
    )
    ids = Embeddings(torch.randn(N_USERS, D), torch.randn(N_ITEMS, D).requires_grad_())
    assert not any(side.any() for side in empty(ids))
    empty.load_state_dict(full.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(full(ids), empty(ids), strict=True))
    mine, its = (torch.autograd.grad(graphs(ids).users.sum(), ids.items)[0] for graphs in (full, empty))
    assert torch.equal(mine, its)


def test_strongest_by_hand():
    users = torch.tensor([[[1.0], [-1.0], [0.0]], [[2.0], [1.0], [1.0]]])
    items = torch.tensor([[[1.0], [5.0], [3.0], [-2.0]], [[-1.0], [0.0], [2.0], [4.0]]])
    chosen = torch.zeros(3, 4)
    chosen[0, 1] = chosen[2, 3] = 1
    edges = strongest(Embeddings(users, items), pattern(chosen), torch.tensor([2, 0, 1]), 2)
    found = sorted(zip(*(part.tolist() for part in edges), strict=True))
    assert found == [(0, 0, 0), (0, 0, 2), (0, 1, 3), (1, 0, 2), (1, 0, 3), (1, 1, 2), (1, 1, 3), (1, 2, 2)]
    assert [
        len(part) for part in strongest(Embeddings(users, items), pattern(chosen), torch.arange(3), 0)
    ] == [0] * 3


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_refreshed_graphs_hold_the_best_guesses_of_all_users(choices, block_size):
    known = content()
    graphs = GeneratedGraphs(
        2, torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), N_USERS, N_ITEMS
    )
    graphs.refresh(known, pattern(choices), 2, block_size)
    found = (graphs.users.to_dense() > 0).view(2, N_USERS, N_ITEMS)
    for m in range(2):
        scores = known.users[m] @ known.items[m].T
        for user in range(N_USERS):
            free = [i for i in range(N_ITEMS) if not choices[user, i] and scores[user, i] > 0]
            best = sorted(free, key=lambda i: -scores[user, i])[:2]
            assert found[m, user].nonzero().flatten().tolist() == sorted(best)
