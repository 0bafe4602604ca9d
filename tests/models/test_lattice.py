"""LATTICE keeps the contract, and does what its paper says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import (
    adjacency,
    by_row_sums,
    check_mixed_precision,
    graph_alone,
    mean_of_layers,
    nearest,
    toy_split,
    unit,
    with_features,
)

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import GraphStore
from triptych.models.base import ModelInputs, Triplets
from triptych.models.lattice import LATTICE, LATTICEConfig
from triptych.runs import train
from triptych.testing import RecommenderContract
from triptych.training.config import TrainConfig

DIM, K = 4, 3
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))
LEARNED_FROM = ("content.", "modality_logits")
"""Parameters that the item graph alone depends on."""


class TestLATTICE(RecommenderContract):
    config = LATTICEConfig(embedding_dim=8, n_neighbors=3)


class TestLATTICEAsInThePaper(RecommenderContract):
    config = LATTICEConfig(
        embedding_dim=8, n_neighbors=3, n_item_layers=2, normalisation="sym", feature_training="frozen"
    )


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 2 both; all have a sound. User 0 chose nothing."""
    return toy_split(bare=2)


def build(split: Split, **settings) -> LATTICE:
    """A model in float64, whose modalities do not weigh the same."""
    torch.manual_seed(0)
    config = {"embedding_dim": DIM, "n_neighbors": K, "modalities": ("image", "text")} | settings
    model = LATTICE(LATTICEConfig(**config), ModelInputs.from_split(split)).double()
    with torch.no_grad():
        model.modality_logits.copy_(torch.linspace(0.5, -0.5, len(model.modality_logits)))
    return model


def dense_item_graph(model: LATTICE, split: Split) -> torch.Tensor:
    """A of the docstring as an (I, I) matrix."""
    weights, k = model.modality_logits.exp(), model.config.n_neighbors
    learned, fixed, total = 0.0, 0.0, 0.0
    for place, modality in enumerate(model.content.features.dims):
        features = split.data.features[modality]
        known = torch.from_numpy(features.present)
        rows, linear = model.content.features.rows(modality), model.content.project.maps["of_" + modality]
        share = (weights[place] * known)[:, None]
        learned = learned + share * nearest(rows @ linear.weight.T + linear.bias, k, known)
        raw = torch.from_numpy(features.values).double()
        fixed = fixed + share * by_row_sums(nearest(raw, k, known))
        total = total + share
    total = torch.where(total > 0, total, 1.0)
    lam = model.config.fixed_share
    return (1 - lam) * by_row_sums((learned / total).clamp(min=0)) + lam * fixed / total


def dense_embeddings(model: LATTICE, split: Split, item_graph: torch.Tensor) -> torch.Tensor:
    linked = adjacency(split, model.config.normalisation)
    behaviour = mean_of_layers(linked, model.nodes.weight, model.config.n_layers)
    h = model.nodes.weight[split.n_users :]
    for _ in range(model.config.n_item_layers):
        h = item_graph @ h
    return behaviour + torch.cat([torch.zeros(split.n_users, DIM), unit(h)])


def dense_losses(model: LATTICE, split: Split, item_graph: torch.Tensor) -> dict[str, torch.Tensor]:
    nodes = dense_embeddings(model, split, item_graph)
    users, items = nodes.split([split.n_users, split.n_items])
    u, p, n = users[BATCH.user], items[BATCH.pos], items[BATCH.neg]
    squares = (u * u).sum() + (p * p).sum() + (n * n).sum()
    return {
        "bpr": -torch.sigmoid((u * (p - n)).sum(1)).log().mean(),
        "reg": model.config.reg_weight * 0.5 * squares / len(BATCH.user),
    }


def nodes(model: LATTICE) -> torch.Tensor:
    return torch.cat(model.embeddings())


SETTINGS = [
    {},
    {"n_layers": 0, "n_item_layers": 2, "normalisation": "sym"},
    {"fixed_share": 0.3, "n_neighbors": 5, "modalities": ("text",)},
    {"fixed_share": 0.0, "n_item_layers": 3, "modalities": ("audio", "image", "text")},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_dense_equations_in_value_loss_and_gradient(split: Split, settings: dict):
    model = build(split, reg_weight=0.3, **settings)
    graph = dense_item_graph(model, split)
    assert torch.allclose(nodes(model), dense_embeddings(model, split, graph), atol=1e-6)
    losses, expected = model.loss(BATCH), dense_losses(model, split, graph)
    assert list(losses) == list(expected)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-6)
        fast, slow = (
            torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True)
            for x in (losses[name], term)
        )
        for parameter, a, b in zip(names, fast, slow, strict=True):
            assert torch.allclose(a, b, atol=1e-6), parameter
            usual = parameter != "modality_logits" or len(model.content.features.dims) > 1
            assert (a.abs().max() > 1e-6) == usual, parameter


def test_the_first_batch_of_an_epoch_learns_the_graph_and_later_ones_take_it_as_it_is(split: Split):
    model = build(split)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradients() -> dict[str, torch.Tensor]:
        (step,) = model.batch_steps(BATCH)
        total = torch.stack(list(step.losses.values())).sum()
        return dict(zip(names, torch.autograd.grad(total, parameters, allow_unused=True), strict=True))

    first = model.loss(BATCH)["bpr"].item()
    for epoch in (1, 2):
        list(model.epoch_steps(epoch))
        before = dense_item_graph(model, split).detach()
        assert all(gradient is not None for gradient in gradients().values())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(LEARNED_FROM):
                    parameter.add_(torch.randn_like(parameter))
        later = gradients()
        assert {name for name, gradient in later.items() if gradient is not None} == {"nodes.weight"}
        assert model.loss(BATCH)["bpr"].item() == pytest.approx(
            dense_losses(model, split, before)["bpr"].item()
        )
        learned_then = dense_embeddings(model, split, before)
        assert torch.allclose(nodes(model), learned_then, atol=1e-6)  # what the loss ranks by
        now = dense_embeddings(model, split, dense_item_graph(model, split))
        assert np.allclose(np.concatenate(list(model.scorer().arrays().values())), now.detach(), atol=1e-6)
    list(model.epoch_steps(3))
    assert model.loss(BATCH)["bpr"].item() != first


def test_ranking_and_looking_leave_the_graph_of_the_epoch_alone(split: Split):
    model = build(split)
    with torch.no_grad():
        model.embeddings()  # without a gradient it is not the epoch's
    list(model.batch_steps(BATCH))
    expected = nodes(model).detach()
    with torch.no_grad():
        model.content.project.maps["of_image"].weight.add_(1.0)
    assert not torch.allclose(torch.cat(list(model.eval().embeddings())), expected, atol=1e-3)
    assert torch.equal(nodes(model.train()), expected)


def test_state_holds_all_that_embeddings_need(split: Split):
    first = build(split)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    second = build(split)
    assert not torch.equal(nodes(first.eval()), nodes(second.eval()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(nodes(first.eval()), nodes(second.eval()))


def test_features_learn_if_asked_to(split: Split):
    learning, frozen = build(split), build(split, feature_training="frozen")
    assert torch.equal(nodes(learning), nodes(frozen))
    names = {name for name, _ in learning.named_parameters()} - {
        name for name, _ in frozen.named_parameters()
    }
    assert names == {"content.features.of_image", "content.features.of_text"}
    assert not any("features" in name for name in frozen.state_dict())
    learning.loss(BATCH)["bpr"].backward()
    assert learning.content.features.rows("image").grad[0].abs().max() == 0  # lacks an image
    before = split.data.features["image"].values.copy()
    with torch.no_grad():
        learning.content.features.rows("image").add_(1.0)
    assert np.array_equal(split.data.features["image"].values, before)


@pytest.mark.parametrize(("zero_missing_grads", "moved_on"), [(True, True), (False, False)])
def test_zero_missing_gradients_keep_the_momentum(split: Split, zero_missing_grads: bool, moved_on: bool):
    """With several batches an epoch, Adam moves what the graph is learned from once, or in every batch."""
    weights = []
    for batch_size in (1000, 8):
        config = TrainConfig(
            epochs=1, batch_size=batch_size, learning_rate=1e-3, metric="recall@1",
            zero_missing_grads=zero_missing_grads,
        )  # fmt: skip
        settings = LATTICEConfig(embedding_dim=DIM, n_neighbors=K)
        run = train(settings, split, seed=0, config=config, device="cpu", k=(1,))
        moved = run.weights["content.features.of_audio"] - torch.from_numpy(
            split.data.features["audio"].values
        )
        weights.append(moved.abs().max().item())
    once, often = weights
    assert once == pytest.approx(1e-3, rel=1e-2)
    assert (often > 2 * once) == moved_on


def test_by_hand_three_items():
    user, item = torch.tensor([0, 0, 0]), torch.arange(3)
    rows = np.array(
        [[1, 0], [0.6, 0.8], [-0.8, 0.6]]
    )  # cosines 0.6 of 0 and 1, 0 of 1 and 2, -0.8 of 0 and 2
    features = {"sound": ItemFeatures.dense(rows)}
    inputs = ModelInputs(1, 3, user, item, features, GraphStore(user, item, 1, 3, features))
    config = LATTICEConfig(embedding_dim=2, n_neighbors=2, n_layers=0, fixed_share=0.25)
    model = LATTICE(config, inputs)
    with torch.no_grad():
        # Learned: item 0 and 2 change places, so it is items 2 and 1 that are 0.6 alike.
        model.content.features.rows("sound").copy_(torch.tensor(rows[::-1].copy()))
        model.content.project.maps["of_sound"].weight.copy_(torch.eye(2))
        model.content.project.maps["of_sound"].bias.zero_()
        model.nodes.weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    # Fixed: rows 0 and 1 are (1, 0.6)/1.6, row 2 is itself alone, with a cosine of 0 to item 1.
    fixed = np.array([[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1.6]]) / 1.6
    h = (0.75 * fixed[::-1, ::-1] + 0.25 * fixed) @ np.array([[1.0, 0], [0, 2], [0, 0]])
    expected = np.array([[1.0, 0], [0, 2], [0, 0]]) + h / np.linalg.norm(h, axis=1, keepdims=True)
    users, items = model.embeddings()
    assert users.tolist() == [[9, 9]]
    assert np.allclose(items.detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 5}, {"modalities": ("text",)}, {"n_layers": 1}, {"n_item_layers": 2},
        {"n_neighbors": 4}, {"fixed_share": 0.5}, {"normalisation": "sym"}, {"reg_weight": 0.7},
    ],
)  # fmt: skip
def test_every_setting_changes_the_loss(split: Split, change: dict):
    totals = [sum(build(split, **settings).loss(BATCH).values()).item() for settings in ({}, {}, change)]
    assert totals[0] == totals[1] != totals[2]


def test_items_that_lack_modalities(split: Split):
    model, text = build(split), build(split, modalities=("text",))
    graphs = [graph.detach() for graph in model.item_graph()]
    dense = sum(
        SparseGraph.from_edges(*graph.pattern.edges()[:2], graph.values, 10, 10).to_dense()
        for graph in graphs
    )
    assert dense[2].abs().max() == dense[:, 2].abs().max() == 0  # lacks both
    fixed, alone = graphs[3], text.item_graph()[1]
    row = fixed.pattern.edges()[0] == 0
    assert row.sum() == K
    assert torch.allclose(fixed.values[row], alone.values[row])  # has a text only, which has the whole share
    known = model.modality_embeddings()
    assert list(known) == ["image", "text"]
    assert known["image"].abs().sum(1).gt(0).tolist() == [False, True, False] + [True] * 7
    sum(model.loss(BATCH).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_features_of_zeros_count_as_lacking(split: Split):
    def with_text(present: np.ndarray) -> Split:
        values = split.data.features["text"].values.copy()
        values[4] = 0
        features = {**split.data.features, "text": ItemFeatures.dense(values, present)}
        return with_features(split, features)

    present = split.data.features["text"].present
    absent = present & (np.arange(split.n_items) != 4)
    assert torch.equal(nodes(build(with_text(present))), nodes(build(with_text(absent))))


def test_a_modality_of_graphs_alone_is_refused_and_a_given_graph_is_taken(split: Split):
    given = graph_alone(split)
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, {"image": given}), modalities=("image",))
    both = replace(split.data.features["audio"], graph=given.graph)
    model = build(with_features(split, {"audio": both}), modalities=None, fixed_share=1.0)
    ring = torch.eye(split.n_items, dtype=torch.float64).roll(1, dims=1)
    assert torch.allclose(nodes(model), dense_embeddings(model, split, ring))


def test_mixed_precision(split: Split):
    check_mixed_precision(build(split), BATCH, ["bpr"], rel=0.01)
