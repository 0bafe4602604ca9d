"""MGCN against its equations, spelled out in float64 with dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import (
    adjacency,
    check_mixed_precision,
    graph_alone,
    interactions,
    linear,
    mean_of_layers,
    toy_split,
    with_features,
)
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph.neighbors import knn_edges
from triptych.graph.store import GraphStore
from triptych.models.base import ModelInputs, Triplets
from triptych.models.mgcn import MGCN, MGCNConfig
from triptych.testing import RecommenderContract

BATCH = Triplets(torch.tensor([0, 3, 3, 11, 5]), torch.tensor([1, 2, 0, 9, 3]), torch.tensor([4, 4, 3, 2, 8]))


class TestMGCN(RecommenderContract):
    config = MGCNConfig(embedding_dim=8, n_neighbors=4)


class TestMGCNAsPrintedWithFrozenFeatures(RecommenderContract):
    config = MGCNConfig(embedding_dim=8, n_neighbors=4, variant="paper", feature_training="frozen")


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 3 both; all have a sound, and user 0 chose nothing."""
    return toy_split(bare=3)


def build(split: Split, **settings) -> MGCN:
    torch.manual_seed(0)
    config = MGCNConfig(**{"embedding_dim": 4, "n_neighbors": 3, "modalities": ("image", "text")} | settings)
    return MGCN(config, ModelInputs.from_split(split)).double()


def item_graph(split: Split, modality: str, k: int) -> torch.Tensor:
    row, col, cosine = knn_edges(split.data.features[modality], k)
    dense = torch.zeros(split.n_items, split.n_items, dtype=torch.float64)
    dense[row, col] = cosine.double()
    sums = dense.sum(1)
    assert (sums[torch.unique(row)] > 0).all()
    scale = torch.where(sums > 0, sums.clamp(min=1e-9).rsqrt(), 0)
    return scale[:, None] * dense * scale


def dense_nodes(model: MGCN, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Behaviour C and side vectors S of all nodes: (N, D) each."""
    config, tables = model.config, model.nodes.weight
    modalities = config.modalities or tuple(split.data.features)
    linked, n_users = adjacency(split), split.n_users
    r = linked[:n_users, n_users:]
    behaviour = mean_of_layers(linked, tables, config.n_layers)
    views, known = [], []
    for place, modality in enumerate(modalities):
        rows = model.purify.features.rows(modality)
        content = linear(model.purify.project.maps["of_" + modality], rows)
        gate = torch.sigmoid(linear(model.purify.gates[place].ask, content))
        alike = item_graph(split, modality, config.n_neighbors)
        items = torch.matrix_power(alike, config.n_item_layers) @ (tables[n_users:] * gate)
        present = torch.from_numpy(split.data.features[modality].present).double()
        items = items * present[:, None]
        views.append(torch.cat([r @ items, items]))
        known.append(torch.cat([(interactions(split) @ present > 0).double(), present])[:, None])
    scores = [
        linear(model.attention.score[2], torch.tanh(linear(model.attention.score[0], e))) for e in views
    ]
    power = [score.exp() * has for score, has in zip(scores, known, strict=True)]
    shares = [p / sum(power).clamp(min=1e-300) for p in power]
    common = sum(share * view for share, view in zip(shares, views, strict=True))
    own = sum(
        torch.sigmoid(linear(prefer.ask, behaviour)) * (view - common) * has
        for prefer, view, has in zip(model.prefer, views, known, strict=True)
    )
    n = len(views)
    return behaviour, common + own / n if config.variant == "paper" else (common + own) / (n + 1)


def cosine_contrast(anchor: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    cosines = []
    for part in (anchor, other):
        square = part.square().sum(1, keepdim=True)
        cosines.append(part / torch.where(square > 0, square, 1).sqrt())  # a row of zeros stays one
    power = (cosines[0] @ cosines[1].T / temperature).exp()
    return -(power.diag() / power.sum(1)).log().mean()


def dense_losses(model: MGCN, split: Split, batch: Triplets) -> dict[str, torch.Tensor]:
    behaviour, side = dense_nodes(model, split)
    users, pos, neg = batch.user, split.n_users + batch.pos, split.n_users + batch.neg
    nodes, tau = behaviour + side, model.config.temperature
    margin = (nodes[users] * (nodes[pos] - nodes[neg])).sum(1)
    contrast = sum(cosine_contrast(side[rows], behaviour[rows], tau) for rows in (users, pos))
    squares = sum(nodes[rows].square().sum() for rows in (users, pos, neg)) / 2 / len(users)
    return {
        "bpr": -torch.sigmoid(margin).log().mean(),
        "contrast": model.config.contrast_weight * contrast,
        "reg": model.config.reg_weight * squares,
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"variant": "paper"},
        {"modalities": ("text",)},
        {"modalities": ("audio", "image", "text"), "n_layers": 1, "n_item_layers": 2, "variant": "paper"},
        {"modalities": None, "n_neighbors": 2, "temperature": 0.7},
    ],
)
def test_equals_the_dense_equations_in_value_loss_and_gradient(split: Split, settings: dict):
    model = build(split, **settings, contrast_weight=0.3, reg_weight=0.2)
    torch.testing.assert_close(
        torch.cat(model.embeddings()), sum(dense_nodes(model, split)), rtol=1e-5, atol=1e-7
    )
    losses, expected = model.loss(BATCH), dense_losses(model, split, BATCH)
    assert list(losses) == list(expected)
    for name, term in losses.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-6)
    named = dict(model.named_parameters())
    fast = torch.autograd.grad(sum(losses.values()), list(named.values()), materialize_grads=True)
    slow = torch.autograd.grad(sum(expected.values()), list(named.values()), materialize_grads=True)
    one = len(model.prefer) == 1
    for name, got, wanted in zip(named, fast, slow, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)
        idle = one and ("attention" in name or "prefer" in name)  # nothing to choose between
        assert (wanted.abs().max() > 1e-9) != idle, name


def test_by_hand_one_user_with_two_items_and_one_modality():
    user, item = torch.tensor([0, 0]), torch.tensor([0, 1])
    features = {"sound": ItemFeatures.dense(np.array([[1.0, 0.0], [1.0, 1.0]]))}
    inputs = ModelInputs(1, 2, user, item, features, GraphStore(user, item, 1, 2, features))
    model = MGCN(MGCNConfig(embedding_dim=1, n_layers=1, n_neighbors=1), inputs)
    with torch.no_grad():
        model.purify.project.maps["of_sound"].weight.copy_(torch.tensor([[0.0, 1.0]]))
        model.purify.project.maps["of_sound"].bias.zero_()
        model.purify.gates[0].ask.weight.fill_(np.log(3))
        model.purify.gates[0].ask.bias.zero_()
        model.nodes.weight.copy_(torch.tensor([[1.0], [4.0], [8.0]]))
    # Gates 1/2 and 3/4 leave 2 and 6; each item is alone, so these are its view, the user's 8 / sqrt 2.
    # Behaviour: (1 + 12 / sqrt 2) / 2, (4 + 1 / sqrt 2) / 2, (8 + 1 / sqrt 2) / 2. Of one modality, half counts.
    root = 2**-0.5
    users, items = model.embeddings()
    assert users.flatten().tolist() == pytest.approx([0.5 + 6 * root + 4 * root])
    assert items.flatten().tolist() == pytest.approx([2 + root / 2 + 1, 4 + root / 2 + 3])


def test_variants_differ_by_what_is_divided(split: Split):
    official, paper = (build(split, variant=variant) for variant in ("official", "paper"))
    with torch.no_grad():
        for model in (official, paper):
            for gate in model.prefer:  # nothing of its own is left
                gate.ask.weight.zero_()
                gate.ask.bias.fill_(-1e4)
    behaviour = dense_nodes(official, split)[0]
    side, whole = (torch.cat(model.embeddings()) - behaviour for model in (official, paper))
    torch.testing.assert_close(3 * side, whole)
    assert whole.abs().max() > 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"n_layers": 1},
        {"n_item_layers": 2},
        {"n_neighbors": 2},
        {"contrast_weight": 0.5},
        {"temperature": 1.0},
        {"reg_weight": 0.5},
        {"variant": "paper"},
        {"modalities": ("text",)},
        {"embedding_dim": 5},
    ],
)
def test_every_setting_counts(split: Split, settings: dict):
    usual, other = build(split).loss(BATCH), build(split, **settings).loss(BATCH)
    assert {name: term.item() for name, term in usual.items()} != {
        name: term.item() for name, term in other.items()
    }


def test_features_train_unless_frozen_and_stay_zero_where_there_are_none(split: Split):
    trained, frozen = build(split), build(split, feature_training="frozen")
    names = [name for name, _ in trained.named_parameters() if "features" in name]
    assert len(names) == 2
    assert not any("features" in name for name, _ in frozen.named_parameters())
    torch.testing.assert_close(torch.cat(trained.embeddings()), torch.cat(frozen.embeddings()))
    sum(trained.loss(BATCH).values()).backward()
    moved = trained.purify.features.rows("image").grad.abs().sum(1) > 0
    assert moved.tolist() == split.data.features["image"].present.tolist()


def test_an_item_that_lacks_a_modality_is_the_other_alone(split: Split):
    model = build(split)
    with torch.no_grad():  # biases as large as can be do not stand in for content
        for parameter in model.purify.parameters():
            if parameter.dim() == 1:
                parameter.fill_(20.0)
    behaviour, views = model._views()
    side = model._fuse(behaviour, views, model.item_view.has)
    place = split.n_users + 0  # item 0 has a text alone
    assert torch.equal(views[place, 0], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(side[place], views[place, 1] / 3)
    nothing = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(side[split.n_users + 3], nothing)  # has neither
    assert torch.equal(side[0], nothing)  # chose nothing
    assert side[split.n_users + 4].abs().max() > 0


def test_nodes_without_content_move_nothing_in_the_contrast(split: Split):
    model = build(split, contrast_weight=1.0)
    lone = Triplets(torch.tensor([0, 0]), torch.tensor([3, 3]), torch.tensor([1, 1]))
    contrast = model.loss(lone)["contrast"]
    assert contrast.item() == pytest.approx(2 * np.log(2))
    grads = torch.autograd.grad(contrast, list(model.parameters()), materialize_grads=True)
    assert all(grad.abs().max() < 1e-12 for grad in grads)


def test_what_is_known_by_modality_is_purified_ids(split: Split):
    model = build(split)
    known = model.modality_embeddings()
    assert list(known) == ["image", "text"]
    assert known["text"].shape == (split.n_items, 4)
    with torch.no_grad():
        inside = known["text"].abs() < model.nodes.ego.items.abs()
        assert inside[torch.from_numpy(split.data.features["text"].present)].all()
    assert (known["text"][[1, 3]] == 0).all()
    assert (known["image"][[0, 3]] == 0).all()


def test_a_modality_given_as_a_graph_only_is_refused_and_a_graph_beside_rows_is_used(split: Split):
    image, graph = split.data.features["image"], graph_alone(split).graph

    def given(values):
        features = {**split.data.features, "image": ItemFeatures(image.present, values=values, graph=graph)}
        return with_features(split, features)

    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(given(None))
    model = build(given(image.values))
    assert model.item_view.alike[0].n_entries == split.n_items
    behaviour, views = model._views()
    assert not views[split.n_users + 0, 0].any()  # the graph links item 0, which has no image
    assert views[split.n_users + 1, 0].any()
    assert model._fuse(behaviour, views, model.item_view.has).isfinite().all()


def test_runs_in_mixed_precision(split: Split):
    check_mixed_precision(build(split), BATCH, ["bpr"], rel=0.01)


def test_the_batch_is_fused_alone(split: Split):
    """Rows of the batch are those of all nodes, whichever they are."""
    model = build(split)
    losses = model.loss(BATCH)
    users, items = model.embeddings()
    margin = (users[BATCH.user] * (items[BATCH.pos] - items[BATCH.neg])).sum(1)
    assert losses["bpr"].item() == pytest.approx(F.softplus(-margin).mean().item())
