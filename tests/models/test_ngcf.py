"""NGCF keeps the contract, and computes its two forms: the paper's equation and the authors' code."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.data.interactions import LEFT_OUT
from triptych.data.split import Split
from triptych.models.base import ModelInputs, Triplets
from triptych.models.ngcf import NGCF, NGCFConfig
from triptych.models.registry import create_model
from triptych.testing import RecommenderContract, toy_dataset

BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))
VARIANTS = ("official", "paper")
both = pytest.mark.parametrize("variant", VARIANTS)


class TestNGCF(RecommenderContract):
    config = NGCFConfig(embedding_dim=8, n_layers=2)


class TestNGCFOfThePaper(RecommenderContract):
    config = NGCFConfig(embedding_dim=8, n_layers=2, variant="paper")


class TestNGCFOfMeans(RecommenderContract):
    config = NGCFConfig(embedding_dim=8, n_layers=2, combine="mean")


class TestNGCFWithNodeDropout(RecommenderContract):
    config = NGCFConfig(embedding_dim=8, n_layers=1, node_dropout=0.1)


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def build(split: Split, **settings) -> NGCF:
    torch.manual_seed(0)
    config = NGCFConfig(**{"embedding_dim": 4, **settings})
    return create_model(config, ModelInputs.from_split(split))


def all_nodes(model: NGCF) -> Tensor:
    return torch.cat(model.embeddings())


def links(split: Split) -> Tensor:
    """A, in float64."""
    n = split.n_users + split.n_items
    adjacency = np.zeros((n, n))
    adjacency[split.train.user, split.n_users + split.train.item] = 1
    return torch.from_numpy(adjacency + adjacency.T)


def leaky(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def dense_paper(weights: dict[str, Tensor], adjacency: Tensor, n_layers: int, slope: float) -> Tensor:
    """Equations 3 to 6 and 9, message by message."""
    degree = adjacency.sum(1)
    parts = [weights["nodes.weight"]]
    for layer in range(n_layers):
        w1, w2 = (weights[f"layers.{layer}.{name}.weight"] for name in ("of_sum", "of_product"))
        before, after = parts[-1], []
        for a in range(len(adjacency)):
            received = w1 @ before[a]
            for b in adjacency[a].nonzero().flatten().tolist():
                message = w1 @ before[b] + w2 @ (before[b] * before[a])
                received = received + message / sqrt(degree[a] * degree[b])
            after.append(leaky(received, slope))
        parts.append(torch.stack(after))
    return torch.cat(parts, dim=1)


def dense_official(weights: dict[str, Tensor], adjacency: Tensor, n_layers: int, slope: float) -> Tensor:
    """Row means with self-loops; two activations with biases; rows of length 1 side by side."""
    looped = adjacency + torch.eye(len(adjacency), dtype=torch.float64)
    mean = looped / looped.sum(1, keepdim=True)
    layer = weights["nodes.weight"]
    parts = [layer]
    for number in range(n_layers):
        (w1, b1), (w2, b2) = (
            (weights[f"layers.{number}.{name}.weight"], weights[f"layers.{number}.{name}.bias"])
            for name in ("of_sum", "of_product")
        )
        around = mean @ layer
        layer = leaky(around @ w1.T + b1, slope) + leaky((layer * around) @ w2.T + b2, slope)
        parts.append(layer / layer.pow(2).sum(1, keepdim=True).sqrt())
    return torch.cat(parts, dim=1)


DENSE = {"official": dense_official, "paper": dense_paper}


@both
@pytest.mark.parametrize(("n_layers", "slope"), [(1, 0.2), (3, 0.01)])
def test_loss_and_gradient_equal_the_dense_form(split: Split, variant: str, n_layers: int, slope: float):
    model = build(
        split,
        variant=variant,
        n_layers=n_layers,
        negative_slope=slope,
        message_dropout=0.0,
        reg_weight=0.3,
    )
    with torch.no_grad():
        model.nodes.weight.mul_(3)  # so that products weigh as much as sums
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    nodes = DENSE[variant](weights, links(split), n_layers, slope)
    assert nodes.shape == (split.n_users + split.n_items, 4 * (n_layers + 1))
    assert torch.allclose(all_nodes(model).double(), nodes, atol=1e-6)
    u, i, j = nodes[BATCH.user], nodes[split.n_users + BATCH.pos], nodes[split.n_users + BATCH.neg]
    expected = {
        "bpr": -torch.log(torch.sigmoid((u * (i - j)).sum(1))).mean(),
        "reg": 0.3 * 0.5 * sum(part.pow(2).sum() for part in (u, i, j)) / 4,
    }
    losses = model.loss(BATCH)
    assert losses.keys() == expected.keys()
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-5)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.double(), weights[name].grad, atol=1e-5), name
        assert parameter.grad.any(), name


@both
def test_the_mean_of_layers_instead_of_all_side_by_side(split: Split, variant: str):
    settings = {"variant": variant, "n_layers": 2, "message_dropout": 0.0, "reg_weight": 0.3}
    mean, beside = build(split, combine="mean", **settings), build(split, **settings)
    nodes = torch.stack(all_nodes(beside).split(4, dim=1)).mean(dim=0)
    torch.testing.assert_close(all_nodes(mean), nodes)
    u, i, j = nodes[BATCH.user], nodes[split.n_users + BATCH.pos], nodes[split.n_users + BATCH.neg]
    losses = mean.loss(BATCH)
    bpr = -torch.log(torch.sigmoid((u * (i - j)).sum(1))).mean()
    torch.testing.assert_close(losses["bpr"], bpr)
    torch.testing.assert_close(losses["reg"], 0.15 * sum(part.pow(2).sum() for part in (u, i, j)) / 4)
    losses["bpr"].backward()
    bpr.backward()
    for ours, theirs in zip(mean.parameters(), beside.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@both
def test_losses_are_means_over_the_batch(split: Split, variant: str):
    model = build(split, variant=variant).eval()
    twice = Triplets(*(torch.cat([part, part]) for part in BATCH))
    for name, term in model.loss(BATCH).items():
        assert model.loss(twice)[name].item() == pytest.approx(term.item(), rel=1e-5)


def test_official_layers_have_length_one_beside_the_learned_vectors(split: Split):
    model = build(split, n_layers=2).eval()
    ego, first, second = all_nodes(model).split(4, dim=1)
    assert torch.equal(ego, model.nodes.weight)
    for part in (first, second):
        assert torch.allclose(part.norm(dim=1), torch.ones(len(part)), atol=1e-5)
    paper = all_nodes(build(split, n_layers=2, variant="paper").eval()).split(4, dim=1)
    assert not torch.allclose(paper[1].norm(dim=1), torch.ones(len(ego)), atol=0.1)


def test_variants_differ_in_weights_of_edges_and_in_biases(split: Split):
    official, paper = (build(split, variant=variant) for variant in VARIANTS)
    assert torch.allclose(official.adj.to_dense().sum(1), torch.ones(official.adj.n_rows), atol=1e-6)
    assert (official.adj.to_dense().diagonal() > 0).all()
    assert torch.equal(paper.adj.to_dense(), paper.adj.to_dense().T)
    assert not paper.adj.to_dense().diagonal().any()
    biases = {name for name, _ in official.named_parameters()} - {
        name for name, _ in paper.named_parameters()
    }
    assert biases == {f"layers.{n}.{name}.bias" for n in range(3) for name in ("of_sum", "of_product")}
    assert NGCFConfig().variant == "official"


def test_everything_starts_xavier_uniform(split: Split):
    model = build(split, embedding_dim=64, n_layers=1)
    layer = model.layers[0]
    for part, bound in ((layer.of_sum.weight, sqrt(6 / 128)), (layer.of_product.bias, sqrt(6 / 65))):
        assert part.abs().max() <= bound
        assert part.abs().max() > 0.8 * bound
    users, items = model.nodes.ego
    assert users.abs().max() <= sqrt(6 / (split.n_users + 64))
    assert items.abs().max() <= sqrt(6 / (split.n_items + 64))


@both
def test_message_dropout_falls_on_layers_in_training_alone(split: Split, variant: str):
    model = build(split, embedding_dim=32, n_layers=2, variant=variant, message_dropout=0.4)
    ego, *layers = all_nodes(model).split(32, dim=1)
    assert torch.equal(ego, model.nodes.weight)
    for part in layers:
        assert (part == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert not torch.equal(all_nodes(model), all_nodes(model))
    model.eval()
    assert (all_nodes(model) != 0).all()
    assert torch.equal(all_nodes(model), all_nodes(model))


def test_kept_entries_are_doubled_where_half_are_dropped(split: Split):
    model = build(split, n_layers=1, variant="paper", message_dropout=0.5)
    scale = all_nodes(model)[:, 4:] / all_nodes(model.eval())[:, 4:]
    assert torch.allclose(scale, scale.round(), atol=1e-4)
    assert set(scale.round().flatten().tolist()) == {0.0, 2.0}


@both
def test_node_dropout_thins_the_graph_in_training_alone(split: Split, variant: str):
    settings = {"n_layers": 1, "variant": variant, "message_dropout": 0.0}
    model, whole = build(split, node_dropout=0.5, **settings), build(split, **settings)
    entries = model.adj.values.clone()
    assert torch.equal(all_nodes(whole), all_nodes(whole))
    assert not torch.equal(all_nodes(model), all_nodes(model))
    assert torch.equal(all_nodes(model.eval()), all_nodes(whole))
    assert torch.equal(model.adj.values, entries)


@both
@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 1},
        {"message_dropout": 0.5},
        {"node_dropout": 0.5},
        {"negative_slope": 0.01},
        {"reg_weight": 0.5},
        {"embedding_dim": 5},
        {"combine": "mean"},
    ],
)
def test_every_setting_changes_the_loss(split: Split, variant: str, change: dict):
    settings = {"variant": variant, "n_layers": 2, "reg_weight": 0.1}

    def total(**settings) -> float:
        return sum(build(split, **settings).loss(BATCH).values()).item()

    assert total(**settings) == total(**settings)
    assert total(**settings) != total(**{**settings, **change})


def test_without_layers_it_is_matrix_factorisation(split: Split):
    model = build(split, n_layers=0)
    assert torch.equal(all_nodes(model), model.nodes.weight)
    assert [name for name, _ in model.named_parameters()] == ["nodes.weight"]


@pytest.mark.parametrize(("variant", "itself"), [("official", 1.0), ("paper", 0.0)])
def test_a_user_without_pairs_hears_nobody_else(split: Split, variant: str, itself: float):
    part = np.where(split.data.interactions.user == 5, LEFT_OUT, split.part).astype(np.int8)
    alone = replace(split, part=part)
    model = build(alone, n_layers=2, variant=variant).eval()
    heard = torch.zeros(model.adj.n_rows)
    heard[5] = itself
    assert torch.equal(model.adj.to_dense()[5], heard)
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    nodes = DENSE[variant](weights, links(alone), 2, 0.2)
    assert torch.allclose(all_nodes(model).double(), nodes, atol=1e-6)
