"""LayerGCN keeps the contract, refines each layer by its cosine with layer 0, and prunes anew each epoch."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.dataset import Dataset
from triptych.data.interactions import TRAIN, Interactions
from triptych.data.split import Split
from triptych.models.base import ModelInputs, Triplets
from triptych.models.layergcn import LayerGCN, LayerGCNConfig, refine
from triptych.models.registry import create_model
from triptych.testing import RecommenderContract, toy_dataset

BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


class TestLayerGCN(RecommenderContract):
    config = LayerGCNConfig(embedding_dim=8, n_layers=3)


class TestLayerGCNThatKeepsAllEdges(RecommenderContract):
    config = LayerGCNConfig(embedding_dim=8, n_layers=1, edge_dropout=0.0)


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def build(split: Split, **settings) -> LayerGCN:
    torch.manual_seed(0)
    config = LayerGCNConfig(**{"embedding_dim": 4, **settings})
    return create_model(config, ModelInputs.from_split(split))


def all_nodes(model: LayerGCN) -> Tensor:
    return torch.cat(model.embeddings())


def dense_adjacency(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> Tensor:
    """D^-1/2 A D^-1/2, entry by entry."""
    n = n_users + n_items
    links = [[0] * n for _ in range(n)]
    for user, item in pairs:
        links[user][n_users + item] = links[n_users + item][user] = 1
    degree = [sum(row) for row in links]
    rows = [
        [links[a][b] / sqrt(degree[a] * degree[b]) if links[a][b] else 0.0 for b in range(n)]
        for a in range(n)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def dense_layers(adjacency: Tensor, ego: Tensor, n_layers: int) -> list[Tensor]:
    layers = [ego]
    for _ in range(n_layers):
        around = adjacency @ layers[-1]
        layers.append(F.cosine_similarity(around, ego, dim=1)[:, None] * around)
    return layers[1:]


def kept_pairs(model: LayerGCN) -> list[tuple[int, int]]:
    row, col, _ = model.train_adj.edges()
    return [
        (u, i - model.n_users) for u, i in zip(row.tolist(), col.tolist(), strict=True) if u < model.n_users
    ]


def test_two_users_and_one_item_by_hand():
    interactions = Interactions.from_ids(
        np.array([0, 1]), np.array([0, 0]), label=np.full(2, TRAIN, dtype=np.int8)
    )
    model = build(
        Split.by_label(Dataset.from_interactions("three", interactions)), embedding_dim=2, n_layers=2
    )
    ego = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    model.nodes.weight.data.copy_(ego)
    # Each of the two edges weighs 1/sqrt(2). What arrives first, and its cosine with the row of layer 0:
    #   user 0: (3, 4)/sqrt(2), 0.6;  user 1: (3, 4)/sqrt(2), 0.8;  item: (2, 1)/sqrt(2), 10/(5 sqrt(5)).
    root = sqrt(2)
    first = [(1.8 / root, 2.4 / root), (2.4 / root, 3.2 / root), (4 / sqrt(10), 2 / sqrt(10))]
    # Then users get (4, 2)/sqrt(20), at cosines 2/sqrt(5) and 1/sqrt(5); the item gets (4.2, 5.6)/2, at 1.
    second = [(0.8, 0.4), (0.4, 0.2), (2.1, 2.8)]
    expected = torch.tensor([[a + c, b + d] for (a, b), (c, d) in zip(first, second, strict=True)])
    assert torch.allclose(all_nodes(model), expected, atol=1e-6)


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_loss_and_gradient_equal_the_dense_form(split: Split, n_layers: int):
    model = build(split, n_layers=n_layers, edge_dropout=0.3, reg_weight=0.1)
    list(model.epoch_steps(1))
    ego = model.nodes.weight.detach().double().requires_grad_()
    adjacency = dense_adjacency(kept_pairs(model), split.n_users, split.n_items)
    total = torch.stack(dense_layers(adjacency, ego, n_layers)).sum(0)
    index = BATCH.user, split.n_users + BATCH.pos, split.n_users + BATCH.neg
    u, i, j = (total[part] for part in index)
    expected = {
        "bpr": -torch.log(torch.sigmoid((u * (i - j)).sum(1))).sum(),
        "reg": 0.1 * 0.5 * sum(ego[part].pow(2).sum() for part in index),
    }
    losses = model.loss(BATCH)
    assert losses.keys() == expected.keys()
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-5)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    assert torch.allclose(model.nodes.weight.grad.double(), ego.grad, atol=1e-5)


def test_loss_is_a_sum_over_the_batch(split: Split):
    model = build(split)
    twice = Triplets(*(torch.cat([part, part]) for part in BATCH))
    for name, term in model.loss(BATCH).items():
        assert model.loss(twice)[name].item() == pytest.approx(2 * term.item(), rel=1e-5)


def test_refining_equals_torch_in_value_and_gradient():
    torch.manual_seed(0)
    nodes, ego = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    nodes[1], nodes[2], ego[3] = -2 * ego[1], 0, 0
    nodes.requires_grad_()
    ego.requires_grad_()
    weight = torch.randn(6, 3, dtype=torch.float64)
    refined = refine(nodes, F.normalize(ego, eps=1e-8))
    plain = F.cosine_similarity(nodes, ego, dim=1)[:, None] * nodes
    assert torch.allclose(refined, plain)
    assert torch.allclose(refined[1], 2 * ego[1])  # the cosine is -1, and is not clipped
    assert torch.equal(refined[2], torch.zeros(3, dtype=torch.float64))
    ours = torch.autograd.grad((refined * weight).sum(), [nodes, ego])
    theirs = torch.autograd.grad((plain * weight).sum(), [nodes, ego])
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(ours[0][2], torch.zeros(3, dtype=torch.float64))


def test_scoring_takes_all_edges_and_training_the_kept_ones(split: Split):
    model = build(split, edge_dropout=0.5)
    before = all_nodes(model)
    losses = model.loss(BATCH)
    list(model.epoch_steps(1))
    assert not torch.equal(all_nodes(model), before)
    assert torch.equal(all_nodes(model.eval()), before)
    model.train()
    assert model.loss(BATCH)["bpr"] != losses["bpr"]
    assert model.loss(BATCH)["reg"] == losses["reg"]


@pytest.mark.parametrize(("edge_dropout", "share"), [(0.0, 1.0), (0.3, 0.7), (0.999, 0.0)])
def test_an_epoch_keeps_its_share_of_the_edges_and_at_least_one(
    split: Split, edge_dropout: float, share: float
):
    model = build(split, edge_dropout=edge_dropout)
    drawn = []
    for epoch in (1, 2):
        assert list(model.epoch_steps(epoch)) == []
        drawn.append(kept_pairs(model))
        assert len(set(drawn[-1])) == len(drawn[-1]) == max(1, int(share * len(split.train)))
        expected = dense_adjacency(drawn[-1], split.n_users, split.n_items)
        assert torch.allclose(model.train_adj.to_dense().double(), expected, atol=1e-6)
    assert (drawn[0] == drawn[1]) == (edge_dropout == 0)


def test_a_node_that_lost_all_edges_trains_without_nan(split: Split):
    model = build(split, edge_dropout=0.999)
    list(model.epoch_steps(1))
    sum(model.loss(BATCH).values()).backward()
    assert model.nodes.weight.grad.isfinite().all()


def popular_share(model: LayerGCN, epoch: int, hub: int) -> float:
    """The share of the hub's edges that an epoch keeps, on average over many draws."""
    torch.manual_seed(epoch)
    kept = 0
    for _ in range(40):
        list(model.epoch_steps(epoch))
        kept += sum(user == hub for user, _ in kept_pairs(model))
    return kept / 40 / 36


@pytest.mark.parametrize(
    ("pruning", "by_degree"), [("mixed", [1, 3]), ("degree", [1, 2, 3, 4]), ("uniform", [])]
)
def test_odd_epochs_prune_by_degree_and_even_ones_uniformly(pruning: str, by_degree: list[int]):
    # User 0 has 36 items of its own, users 1 to 36 one each: edges of degree 36 and of degree 1, half and half.
    user, item = np.array([0] * 36 + list(range(1, 37))), np.arange(72)
    interactions = Interactions.from_ids(user, item, label=np.full(72, TRAIN, dtype=np.int8))
    split = Split.by_label(Dataset.from_interactions("hub", interactions))
    model = build(split, edge_dropout=0.5, pruning=pruning)
    for epoch in (1, 2, 3, 4):
        share = popular_share(model, epoch, hub=0)
        # Weights 1/6 and 1: keeping half of all edges leaves the hub far fewer than half of its own.
        assert share < 0.35 if epoch in by_degree else share == pytest.approx(0.5, abs=0.05)


def test_default_is_mixed():
    assert LayerGCNConfig().pruning == "mixed"


@pytest.mark.parametrize(
    "change", [{"n_layers": 3}, {"edge_dropout": 0.6}, {"pruning": "uniform"}, {"reg_weight": 0.5}]
)
def test_every_setting_changes_the_loss(split: Split, change: dict):
    settings = {"n_layers": 2, "edge_dropout": 0.4, "pruning": "degree", "reg_weight": 0.1}

    def total(**settings) -> float:
        model, sums = build(split, **settings), []
        for _ in range(5):  # the toy's degrees are alike: one draw may be the same by degree and uniformly
            list(model.epoch_steps(1))
            sums.append(sum(model.loss(BATCH).values()).item())
        return sum(sums)

    assert total(**settings) == total(**settings)
    assert total(**settings) != total(**{**settings, **change})


def test_only_the_vectors_are_learned_and_only_the_whole_graph_is_kept(split: Split):
    model = build(split)
    list(model.epoch_steps(1))
    sum(model.loss(BATCH).values()).backward()
    assert [name for name, _ in model.named_parameters()] == ["nodes.weight"]
    assert model.nodes.weight.grad.any(dim=1).all()  # everyone is within four steps of the batch
    assert set(model.state_dict()) == {"nodes.weight", "adj.offsets", "adj.indices", "adj.values"}


def test_features_make_no_difference(split: Split):
    bare = replace(split, data=replace(split.data, features={}))
    assert torch.equal(all_nodes(build(split)), all_nodes(build(bare)))
