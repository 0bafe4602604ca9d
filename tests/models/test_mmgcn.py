"""MMGCN against the plain dense form of its layers, and what is frozen in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import graph_alone, links, toy_split, with_features
from torch.nn.functional import leaky_relu

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.mmgcn import MMGCN, MMGCNConfig
from triptych.models.registry import create_model
from triptych.runs import train
from triptych.testing import RecommenderContract
from triptych.training.config import TrainConfig


class TestMMGCN(RecommenderContract):
    config = MMGCNConfig(embedding_dim=8)


class TestMMGCNThatTrainsAll(RecommenderContract):
    config = MMGCNConfig(embedding_dim=8, project_wider_than=4, hidden_dim=6, train_id=True, reg_weight=1e-3)


PROJECTED = MMGCNConfig(embedding_dim=4, project_wider_than=4, hidden_dim=3)  # images have 5 columns, texts 4
RAW = MMGCNConfig(embedding_dim=4)
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, and user 5 has no training pairs."""
    return toy_split(stranger=5, sound=False)


def build(config: MMGCNConfig, split: Split, seed: int = 0) -> MMGCN:
    torch.manual_seed(seed)
    return create_model(config, ModelInputs.from_split(split))


def mean_of_neighbours(split: Split) -> torch.Tensor:
    """D^-1 A, spelled out in float64."""
    return links(split) / links(split).sum(1, keepdim=True).clamp(min=1)


def state_in_double(model: MMGCN) -> dict[str, torch.Tensor]:
    """All weights and frozen tables in float64; those that learn collect gradients."""
    learned = dict(model.named_parameters())
    return {
        name: value.detach().double().requires_grad_(name in learned)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }


def dense_modality(
    s: dict[str, torch.Tensor], branch: int, features: ItemFeatures, mean: torch.Tensor, n_layers
):
    """One modality's network, node by node and from the raw features, without anything taken beforehand."""
    at = f"branches.{branch}."
    content = torch.from_numpy(features.values).double()
    if at + "project.weight" in s:
        content = content @ s[at + "project.weight"].T + s[at + "project.bias"]
    content = torch.where(torch.from_numpy(features.present)[:, None], content, 0.0)
    x = torch.cat([s[at + "nodes.preference"], content])
    x = x / x.pow(2).sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    for layer in range(n_layers):
        aggregate, keep, keep_bias, combine, combine_bias = (
            s[f"{at}layers.{layer}.{name}"]
            for name in ("aggregate.weight", "keep.weight", "keep.bias", "combine.weight", "combine.bias")
        )
        h = leaky_relu(mean @ (x @ aggregate.T), 0.01)
        own = leaky_relu(x @ keep.T + keep_bias, 0.01) + s["shared"]
        x = leaky_relu(torch.cat([h, own], dim=1) @ combine.T + combine_bias, 0.01)
    return x


def dense(s: dict[str, torch.Tensor], split: Split, n_layers: int) -> list[torch.Tensor]:
    mean = mean_of_neighbours(split)
    modalities = enumerate(split.data.features.values())
    return [dense_modality(s, branch, features, mean, n_layers) for branch, features in modalities]


@pytest.mark.parametrize("train_id", [False, True])
@pytest.mark.parametrize(("config", "n_layers"), [(PROJECTED, 3), (RAW, 3), (RAW, 1)])
def test_value_and_gradient_equal_the_dense_form(
    split: Split, config: MMGCNConfig, train_id: bool, n_layers: int
):
    config = config.model_copy(update={"train_id": train_id, "n_layers": n_layers, "reg_weight": 0.5})
    model = build(config, split)
    s = state_in_double(model)
    nodes = torch.stack(dense(s, split, n_layers)).mean(0)
    assert torch.allclose(torch.cat(model.embeddings()).double(), nodes, atol=1e-6)

    users, pos, neg = nodes[BATCH.user], nodes[split.n_users + BATCH.pos], nodes[split.n_users + BATCH.neg]
    expected = {"bpr": -torch.log(torch.sigmoid((users * (pos - neg)).sum(1))).mean()}
    if train_id:
        e = s["shared"]
        twice = torch.cat([BATCH.user, BATCH.user])  # as the codes do: each user beside both items
        items = split.n_users + torch.cat([BATCH.pos, BATCH.neg])
        squares = (e[twice].pow(2) + e[items].pow(2)).mean()
        preferences = [s[name].pow(2).mean() for name in s if name.endswith("preference")]
        expected["reg"] = 0.5 * (squares + sum(preferences))
    losses = model.loss(BATCH)
    assert {name: term.item() for name, term in losses.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-5
    )
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.double(), s[name].grad, atol=1e-6), name
        assert parameter.grad.any(), name


def test_a_first_layer_that_never_changes_is_averaged_once(split: Split):
    assert [branch.average is None for branch in build(PROJECTED, split).branches] == [True, False]
    assert [branch.average is None for branch in build(RAW, split).branches] == [False, False]
    learning = RAW.model_copy(update={"train_id": True})
    assert [branch.average is None for branch in build(learning, split).branches] == [True, True]


def test_frozen_tables_are_state_that_no_training_moves(split: Split):
    model = build(PROJECTED, split)
    frozen = {"shared", "branches.0.nodes.preference", "branches.1.nodes.preference"}
    assert frozen <= set(model.state_dict())
    assert frozen.isdisjoint(name for name, _ in model.named_parameters())
    before = {name: model.state_dict()[name].clone() for name in frozen}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(model.loss(BATCH).values()).backward()
        optimizer.step()
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in frozen)

    learning = build(PROJECTED.model_copy(update={"train_id": True}), split)
    assert frozen <= {name for name, _ in learning.named_parameters()}


def test_loaded_tables_bring_their_averages(split: Split):
    model, other = build(RAW, split), build(RAW, split, seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.embeddings().users, model.embeddings().users)


def test_training_the_tables_is_another_model(split: Split):
    config = TrainConfig(epochs=2, batch_size=16, metric="recall@1")
    frozen, learned = (
        train(RAW.model_copy(update={"train_id": choice}), split, seed=0, config=config, device="cpu", k=(1,))
        for choice in (False, True)
    )
    assert not torch.equal(frozen.scorer.embeddings.users, learned.scorer.embeddings.users)
    assert "reg" not in frozen.record.history[0].losses
    assert learned.record.history[0].losses["reg"] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 5},
        {"n_layers": 2},
        {"project_wider_than": 5},
        {"hidden_dim": 2},
        {"modalities": ("text",)},
        {"reg_weight": 0.7},
    ],
)
def test_every_field_changes_the_loss(split: Split, change: dict):
    config = PROJECTED.model_copy(update={"train_id": True})
    changed = config.model_copy(update=change)
    totals = [sum(build(c, split).loss(BATCH).values()).item() for c in (config, config, changed)]
    assert totals[0] == totals[1] != totals[2]


def test_first_weights(split: Split):
    wide = ItemFeatures.dense(np.random.default_rng(0).normal(size=(split.n_items, 300)))
    model = build(MMGCNConfig(embedding_dim=200), with_features(split, {"image": wide}))
    first, second, _ = model.branches[0].layers
    for weight in (first.aggregate.weight, first.keep.weight, first.combine.weight, second.keep.weight):
        assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.05)
    assert second.combine.weight.std().item() == pytest.approx((1 / 3 / 400) ** 0.5, rel=0.05)  # torch's own


def test_what_is_known_by_modality(split: Split):
    model = build(PROJECTED, split)
    known = model.modality_embeddings()
    assert list(known) == ["image", "text"]
    assert torch.allclose(torch.stack(list(known.values())).mean(0), model.embeddings().items, atol=1e-7)
    assert torch.allclose(
        known["text"].double(), dense(state_in_double(model), split, 3)[1][split.n_users :], atol=1e-6
    )


def test_item_graphs_alone_are_refused(split: Split):
    with pytest.raises(ConfigError, match="is given as an item graph only"):
        build(RAW, with_features(split, {"image": graph_alone(split)}))
