"""BUIR against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import adjacency, mean_of_layers
from torch.nn import functional as F

from triptych.data.split import Split
from triptych.models.base import ModelInputs, Triplets
from triptych.models.buir import BUIR, BUIRConfig
from triptych.testing import RecommenderContract, toy_dataset

NOTHING = torch.empty(0, dtype=torch.int64)
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), NOTHING)


class TestBUIR(RecommenderContract):
    config = BUIRConfig(embedding_dim=8, momentum=0.9)


class TestBUIRAsTheAuthorsHaveIt(RecommenderContract):
    config = BUIRConfig(embedding_dim=8, momentum=0.9, edge_dropout=0.0, weight_decay=1e-4)


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def build(split: Split, **settings) -> BUIR:
    torch.manual_seed(0)
    return BUIR(
        BUIRConfig(**{"embedding_dim": 4, "edge_dropout": 0.0} | settings), ModelInputs.from_split(split)
    )


def dense_mean(split: Split, table: torch.Tensor, n_layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of layers 0 ... L over D^-1/2 A D^-1/2, in float64."""
    nodes = mean_of_layers(adjacency(split), table.double(), n_layers)
    return nodes.split([split.n_users, split.n_items])


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_loss_and_gradient_are_the_papers(split: Split, n_layers: int):
    model = build(split, n_layers=n_layers)
    with torch.no_grad():
        model.target.add_(torch.randn_like(model.target))  # else the two tables are equal
    ego = model.nodes.weight.detach().double().requires_grad_()
    weight, bias = model.predict.weight.detach().double(), model.predict.bias.detach().double()
    users, items = dense_mean(split, ego, n_layers)
    t_users, t_items = dense_mean(split, model.target, n_layers)

    def away(online, target):
        return (2 - 2 * F.cosine_similarity(online @ weight.T + bias, target)).mean()

    to_item = away(users[BATCH.user], t_items[BATCH.pos])
    to_user = away(items[BATCH.pos], t_users[BATCH.user])
    losses = model.loss(BATCH)
    assert losses["user_to_item"].item() == pytest.approx(to_item.item(), rel=1e-5)
    assert losses["item_to_user"].item() == pytest.approx(to_user.item(), rel=1e-5)
    sum(losses.values()).backward()
    (to_item + to_user).backward()
    assert torch.allclose(model.nodes.weight.grad.double(), ego.grad, atol=1e-5)


def test_score_is_the_sum_of_two_products(split: Split):
    model = build(split, n_layers=2, edge_dropout=1.0)
    users, items = dense_mean(split, model.nodes.weight.detach(), 2)
    weight, bias = model.predict.weight.detach().double(), model.predict.bias.detach().double()
    expected = (users @ weight.T + bias) @ items.T + users @ (items @ weight.T + bias).T
    found = model.eval().embeddings()
    assert found.users.shape == (split.n_users, 8)
    assert torch.allclose((found.users @ found.items.T).double(), expected, atol=1e-5)


def test_target_follows_after_the_step_and_is_state(split: Split):
    model = build(split, momentum=0.75)
    start = model.nodes.weight.detach().clone()
    assert torch.equal(model.target, start)
    steps = model.batch_steps(BATCH)
    next(steps)
    with torch.no_grad():
        model.nodes.weight.add_(4.0)  # what an optimiser might do
    assert torch.equal(model.target, start)
    assert list(steps) == []
    assert torch.allclose(model.target, start + 1.0)
    assert torch.equal(model.state_dict()["target"], model.target)
    assert "target" not in dict(model.named_parameters())


def test_both_graphs_are_thinned_at_rates_of_their_own(split: Split):
    model = build(split, edge_dropout=1.0)
    full = model.adj.values
    rates = []
    for _ in range(200):
        values = model._thinned().values
        kept = values > 0
        assert torch.allclose((values / full)[kept], (values / full)[kept][:1], rtol=1e-5)  # 1 / (1 - rate)
        rates.append(1 - kept.float().mean().item())
    assert min(rates) < 0.1
    assert max(rates) > 0.9
    assert np.mean(rates) == pytest.approx(0.5, abs=0.1)
    mild = build(split, edge_dropout=0.2)
    assert max((mild._thinned().values == 0).float().mean().item() for _ in range(100)) < 0.4


def test_thinning_is_for_training_alone(split: Split):
    model = build(split, edge_dropout=1.0)
    assert model.loss(BATCH)["user_to_item"] != model.loss(BATCH)["user_to_item"]
    assert torch.equal(model.embeddings().users, model.embeddings().users)


def test_gradient_of_a_thinned_graph_goes_the_way_it_came(split: Split):
    model = build(split, n_layers=1, edge_dropout=0.9)
    thinned = model._thinned()
    table = torch.randn_like(model.target).requires_grad_()
    towards = torch.randn_like(table)
    (torch.cat(model._encode(thinned, table)) * towards).sum().backward()
    expected = (towards + thinned.to_dense().T @ towards) / 2
    assert torch.allclose(table.grad, expected, atol=1e-5)


def test_settings_reach_the_optimiser_and_the_trainer(split: Split):
    assert build(split).optimizer_groups()["main"].options == {"weight_decay": 0.0}
    assert build(split, weight_decay=1e-4).optimizer_groups()["main"].options == {"weight_decay": 1e-4}
    assert BUIR.negatives == 0
