"""GRCN keeps the contract, and does what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import check_mixed_precision, graph_alone, interactions, links, toy_split, unit, with_features

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph.store import GraphStore
from triptych.models.base import ModelInputs, Triplets
from triptych.models.grcn import GRCN, GRCNConfig
from triptych.testing import RecommenderContract

DIM = 4


class TestGRCN(RecommenderContract):
    config = GRCNConfig(embedding_dim=8)


class TestGRCNRoutedAndUnpruned(RecommenderContract):
    config = GRCNConfig(embedding_dim=8, routing="paper", n_routings=2, pruning=False)


@pytest.fixture
def split() -> Split:
    """Items 0 and 1 lack a modality each, and user 0 chose nothing."""
    return toy_split(sound=False)


@pytest.fixture
def batch() -> Triplets:
    return Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


def build(split: Split, **settings) -> GRCN:
    """A model in float64, with confidences and ids large enough to matter."""
    torch.manual_seed(0)
    config = GRCNConfig(**{"embedding_dim": DIM, **settings})
    model = GRCN(config, ModelInputs.from_split(split)).double()
    with torch.no_grad():
        model.confidence.copy_(torch.randn_like(model.confidence))
    return model


def shares(scores: torch.Tensor, linked: torch.Tensor) -> torch.Tensor:
    """Softmax over the linked columns of each row, spelled out."""
    power = torch.where(linked, scores.exp(), 0)
    return power / power.sum(1, keepdim=True).clamp_min(1e-300)


def dense_embeddings(model: GRCN, split: Split) -> torch.Tensor:
    """The docstring's equations with (N, N) matrices."""
    chosen, linked = interactions(split) > 0, links(split) > 0
    contents, refined = [], []
    for m, modality in enumerate(model.modalities):
        features = split.data.features[modality]
        linear = model.project.maps["of_" + modality]
        hidden = torch.from_numpy(features.values).double() @ linear.weight.T + linear.bias
        items = unit(torch.maximum(hidden, 0.01 * hidden)) * torch.from_numpy(features.present)[:, None]
        users = unit(model.preferences[m])
        for _ in range(model.config.n_routings if model.config.routing == "paper" else 0):
            users = unit(users + shares(users @ items.T, chosen) @ items)
        x = torch.cat([users, items])
        attention = shares(x @ x.T, linked)
        contents.append(x + attention @ x)
        refined.append(attention * model.confidence[:, m])  # columns send
    weight = torch.where(linked, torch.stack(refined).max(0).values, 0)
    weight = weight.clamp_min(0) if model.config.pruning else weight
    ids = unit(model.nodes.weight)
    return torch.cat([ids + weight @ ids + weight @ weight @ ids, *contents], dim=1)


def nodes(model: GRCN) -> torch.Tensor:
    return torch.cat(model.embeddings())


@pytest.mark.parametrize("pruning", [True, False])
@pytest.mark.parametrize(("routing", "n_routings"), [("off", 3), ("paper", 1), ("paper", 3)])
def test_equals_the_dense_equations_in_value_loss_and_gradient(
    split: Split, batch: Triplets, routing, n_routings, pruning
):
    model = build(split, routing=routing, n_routings=n_routings, pruning=pruning, reg_weight=0.3)
    plain = dense_embeddings(model, split)
    assert torch.allclose(nodes(model), plain)
    users, items = plain.split([split.n_users, split.n_items])
    margin = (users[batch.user] * (items[batch.pos] - items[batch.neg])).sum(1)
    ids, item_ids = model.nodes.weight.split([split.n_users, split.n_items])
    both = torch.cat([batch.pos, batch.neg])
    pairs = ids[torch.cat([batch.user, batch.user])] ** 2 + item_ids[both] ** 2
    tastes = sum(table[batch.user].pow(2).mean() for table in model.preferences)
    expected = {"bpr": -torch.sigmoid(margin).log().mean(), "reg": 0.3 * (pairs.mean() + tastes)}
    losses = model.loss(batch)
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-10)
    parameters = list(model.parameters())
    fast = torch.autograd.grad(sum(losses.values()), parameters)
    slow = torch.autograd.grad(sum(expected.values()), parameters)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(fast, slow, strict=True))
    assert all(grad.abs().max() > 1e-6 for grad in fast)


@pytest.mark.parametrize("pruning", [True, False])
def test_by_hand_one_user_with_two_items(pruning: bool):
    user, item = torch.tensor([0, 0]), torch.tensor([0, 1])
    features = {"sound": ItemFeatures.dense(np.eye(2))}
    inputs = ModelInputs(1, 2, user, item, features, GraphStore(user, item, 1, 2, features))
    model = GRCN(GRCNConfig(embedding_dim=2, pruning=pruning), inputs)
    with torch.no_grad():
        model.project.maps["of_sound"].weight.copy_(torch.eye(2))
        model.project.maps["of_sound"].bias.zero_()
        model.preferences.copy_(torch.tensor([[[7.0, 0.0]]]))
        model.confidence.copy_(torch.tensor([[0.5], [2.0], [-1.0]]))
        model.nodes.weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]))
    a = np.e / (np.e + 1)  # the user's attention to item 0, at score 1; item 1 has score 0
    cut = 0.0 if pruning else a - 1  # weight of the edge from item 1, which is not trusted
    # One step: the user gets 2 a (1, 0) + cut (0, 1), each item half of (0.6, 0.8); then once more.
    ids_user = [0.6 + 2 * a + 0.6 * a + 0.3 * cut, 0.8 + cut + 0.8 * a + 0.4 * cut]
    ids_items = [[1 + 0.3 + a, 0.4 + cut / 2], [0.3 + a, 1 + 0.4 + cut / 2]]
    users, items = model.embeddings()
    assert users[0].tolist() == pytest.approx([*ids_user, 1 + a, 1 - a], rel=1e-5)
    assert items[0].tolist() == pytest.approx([*ids_items[0], 2, 0], rel=1e-5)
    assert items[1].tolist() == pytest.approx([*ids_items[1], 1, 1], rel=1e-5)


def test_routing_is_off_by_default_and_then_its_number_is_nothing(split: Split):
    assert torch.equal(nodes(build(split)), nodes(build(split, routing="off", n_routings=7)))
    once, thrice = (nodes(build(split, routing="paper", n_routings=n)) for n in (1, 3))
    assert not torch.allclose(once, thrice)
    assert not torch.allclose(once, nodes(build(split)))


def test_routing_moves_preferences_towards_chosen_items(split: Split):
    routed = build(split, routing="paper", n_routings=50, modalities=("image",))
    x = routed._content("image", routed.preferences[0])
    users, items = x.split([split.n_users, split.n_items])
    u, i = (torch.from_numpy(part) for part in split.train)
    before = unit(routed.preferences[0])
    assert (users[u] * items[i]).sum(1).mean() > (before[u] * items[i]).sum(1).mean() + 0.1
    assert torch.allclose(users[0], before[0])  # chose nothing


def test_pruning_cuts_negative_edges_only(split: Split):
    pruned, whole = build(split), build(split, pruning=False)
    trusted = [model.confidence.data.abs_() for model in (pruned, whole)]
    assert torch.equal(*trusted)
    assert torch.allclose(nodes(pruned), nodes(whole))
    for model in (pruned, whole):
        model.confidence.data.neg_()
    ids = nodes(pruned)[:, :DIM]
    assert torch.allclose(ids, unit(pruned.nodes.weight))  # no edge is left
    assert not torch.allclose(ids, nodes(whole)[:, :DIM])


def test_width_is_ids_and_every_modality(split: Split):
    assert nodes(build(split)).shape == (split.n_users + split.n_items, 3 * DIM)
    assert nodes(build(split, embedding_dim=2)).shape[1] == 6
    assert nodes(build(split, modalities=("text",))).shape[1] == 2 * DIM
    sound = ItemFeatures.dense(np.random.default_rng(0).normal(size=(split.n_items, 3)))
    three = with_features(split, {**split.data.features, "audio": sound})
    model = build(three)
    assert model.modalities == ("audio", "image", "text")
    assert torch.allclose(nodes(model), dense_embeddings(model, three))


def test_regulariser_follows_its_weight(split: Split, batch: Triplets):
    light, heavy = (build(split, reg_weight=w).loss(batch)["reg"].item() for w in (0.1, 0.4))
    assert heavy == pytest.approx(4 * light)
    assert build(split, reg_weight=0.0).loss(batch)["reg"].item() == 0.0


def test_item_without_a_picture_receives_the_mean_of_its_users_and_sends_nothing(split: Split):
    model = build(split)
    assert not split.data.features["image"].present[0]
    items = model.embeddings().items
    mean = unit(model.preferences[0])[split.train.user[split.train.item == 0]].mean(0)
    assert mean.abs().max() > 0
    assert torch.allclose(items[0, DIM : 2 * DIM], mean)
    sent = model._content("image", model.preferences[0])[split.n_users]
    assert torch.equal(sent, torch.zeros_like(sent))


def test_user_without_training_items_keeps_ids_and_preferences(split: Split):
    model = build(split)
    expected = [unit(model.nodes.weight)[0], *(unit(table)[0] for table in model.preferences)]
    assert torch.allclose(model.embeddings().users[0], torch.cat(expected))


def test_modality_given_as_a_graph_only(split: Split):
    given = graph_alone(split)
    with pytest.raises(ConfigError, match="is given as an item graph only"):
        build(with_features(split, {"image": given}))
    mixed = with_features(split, {**split.data.features, "image": given})
    with pytest.raises(ConfigError, match="leave it out of 'modalities'"):
        build(mixed)
    assert build(mixed, modalities=("text",)).modalities == ("text",)


def test_both_routings_run_in_mixed_precision(split: Split, batch: Triplets):
    for routing in ("off", "paper"):
        check_mixed_precision(build(split, routing=routing), batch, ["bpr"], rel=0.01)


def test_state_holds_all_that_embeddings_need(split: Split):
    first = build(split, routing="paper")
    torch.manual_seed(1)
    second = GRCN(first.config, ModelInputs.from_split(split)).double()
    assert not torch.equal(nodes(first), nodes(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(nodes(first), nodes(second))


def test_first_weights_are_xavier_normal_over_whole_tables(split: Split):
    torch.manual_seed(0)
    wide = GRCN(GRCNConfig(embedding_dim=512), ModelInputs.from_split(split))
    n_nodes = split.n_users + split.n_items
    for matrix, ends in (
        (wide.nodes.weight, n_nodes + 512),
        (wide.preferences[1], split.n_users + 512),
        (wide.project.maps["of_image"].weight, 5 + 512),
    ):
        assert matrix.std().item() == pytest.approx((2 / ends) ** 0.5, rel=0.05)
