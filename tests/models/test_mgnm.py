"""MGNM keeps the contract, and is what its equations say."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from planted import (
    adjacency,
    check_losses,
    check_mixed_precision,
    graph_alone,
    interactions,
    toy_split,
    with_features,
)
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.lgmrec import LGMRec, LGMRecConfig
from triptych.models.mgnm import MGNM, MGNMConfig
from triptych.testing import RecommenderContract

BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)  # a graph's values are float32


class TestMGNM(RecommenderContract):
    config = MGNMConfig(embedding_dim=8)


class TestMGNMOfOneModality(RecommenderContract):
    config = MGNMConfig(embedding_dim=8, modalities=("image",), filter="leaky_relu", scoring_noise=True)

    def test_any_modality_by_any_name(self, toy: Split) -> None:
        with pytest.raises(ConfigError, match="'image' is not in the data set"):
            super().test_any_modality_by_any_name(toy)


@pytest.fixture
def split() -> Split:
    """Items 0 and 1 lack a modality each, user 0 chose nothing, and all items have a sound."""
    return toy_split()


def build(split: Split, **settings) -> MGNM:
    """A model in float64, in training, all of whose terms and weights are large enough to matter."""
    torch.manual_seed(0)
    config = {
        "embedding_dim": 4,
        "modalities": ("image", "text"),
        "dropout": 0.0,
        "reg_weight": 0.3,
        "contrast_weight": 0.2,
        "id_decorrelation": 0.4,
        "modality_decorrelation": 0.6,
    } | settings
    model = MGNM(MGNMConfig(**config), ModelInputs.from_split(split)).double()
    with torch.no_grad():
        for part in model.filters:
            part.inner.bias.normal_()
            part.outer.bias.normal_()
    return model


def draw_noise(model: MGNM, split: Split) -> torch.Tensor:
    """The noise that a pass draws first: (N, M, A)."""
    shape = (split.n_users + split.n_items, len(model.hyperedges), model.config.n_hyperedges)
    return -torch.empty(shape, dtype=torch.float64).exponential_().log()


class Dense:
    """The docstring's equations with matrices of all nodes."""

    def __init__(self, model: MGNM, split: Split, noise: torch.Tensor | None) -> None:
        self.config, self.n_users = model.config, split.n_users
        self.choices, self.adjacency = interactions(split), adjacency(split)
        self.id_layers = self.spread(model.nodes.weight, self.config.n_layers)
        stacked = torch.stack(self.id_layers)
        combined = {"mean": stacked.mean(0), "sum": stacked.sum(0), "last": stacked[-1]}
        self.ids = combined[self.config.combine]
        self.content_layers, self.known, self.views = [], [], []
        for m, modality in enumerate(model.content.features.dims):
            features = split.data.features[modality]
            rows, present = torch.from_numpy(features.values).double(), torch.from_numpy(features.present)
            items = rows @ model.content.weights[m].T
            counts = self.choices @ present.double()
            users = self.choices @ items / counts.clamp(min=1)[:, None]
            self.content_layers.append(self.spread(torch.cat([users, items]), self.config.n_modality_layers))
            self.known.append(torch.cat([counts > 0, present]))
            if self.config.use_global:
                own = {"raw": model.nodes.weight, "propagated": self.ids}
                self.views.append(self.view(model, m, rows, present, counts, own, noise[:, m]))
        contents = [layers[-1] for layers in self.content_layers]
        self.z = {
            "sum": self.ids + F.normalize(sum(contents)),
            "each": self.ids + sum(F.normalize(content) for content in contents),
            "with_ids": F.normalize(self.ids) + F.normalize(sum(contents)),
        }[self.config.local_norm]
        if self.config.use_global:
            whole, each = F.normalize(sum(self.views)), sum(F.normalize(view) for view in self.views)
            printed = sum(whole for _ in self.views)
            passed = {"sum": whole, "each": each, "printed": printed}[self.config.global_norm]
            self.z = self.z + self.config.global_weight * passed

    def spread(self, nodes: torch.Tensor, n_layers: int) -> list[torch.Tensor]:
        layers = [nodes]
        for _ in range(n_layers):
            layers.append(self.adjacency @ layers[-1])
        return layers

    def view(self, model, m, rows, present, counts, own, noise) -> torch.Tensor:
        ids = {name: nodes[self.n_users :] for name, nodes in own.items()}
        filtered = ids[self.config.filter_ids]
        if self.config.filter == "off":
            logits = rows @ model.hyperedges[m].T
        else:
            part = model.filters[m]
            hidden = rows @ part.inner.weight.T + part.inner.bias
            if self.config.filter == "leaky_relu":
                hidden = torch.maximum(hidden, 0.01 * hidden)
            filtered = filtered * torch.sigmoid(hidden @ part.outer.weight.T + part.outer.bias)
            logits = filtered @ model.hyperedges[m].T
        logits = logits * present[:, None]
        users = self.choices @ logits
        if self.config.user_logits == "mean":
            users = users / counts.clamp(min=1)[:, None]
        members = ((torch.cat([users, logits]) + noise) / self.config.temperature).softmax(1)
        members = members * self.known[m][:, None]
        state = {**ids, "filtered": filtered}[self.config.hyper_start]
        for _ in range(self.config.n_hyper_layers):
            through = members[self.n_users :].T @ state
            state = members[self.n_users :] @ through
        return torch.cat([members[: self.n_users] @ through, state])

    def sides(self):
        return (slice(self.n_users), slice(self.n_users, None))

    def losses(self) -> dict[str, torch.Tensor]:
        config = self.config
        users, pos, neg = (
            self.z[nodes] for nodes in (BATCH.user, self.n_users + BATCH.pos, self.n_users + BATCH.neg)
        )
        norms = users.norm() + pos.norm() + neg.norm()
        squares = 0.5 * (users**2 + pos**2 + neg**2).sum()
        losses = {
            "bpr": -torch.sigmoid((users * (pos - neg)).sum(1)).log().mean(),
            "reg": config.reg_weight * (norms if config.regulariser == "norm" else squares) / len(users),
        }
        if len(self.views) > 1 and config.contrast_weight:
            losses["contrast"] = config.contrast_weight * self.contrast()
        if config.id_decorrelation:
            everybody = torch.ones(len(self.z), dtype=torch.bool)
            losses["id_decorrelation"] = config.id_decorrelation * self.redundancy(self.id_layers, everybody)
        if config.modality_decorrelation:
            parts = zip(self.content_layers, self.known, strict=True)
            total = sum(self.redundancy(layers, known) for layers, known in parts)
            losses["modality_decorrelation"] = config.modality_decorrelation * total
        return losses

    def contrast(self) -> torch.Tensor:
        total, pairs = 0.0, [(a, b) for a in range(len(self.views)) for b in range(a + 1, len(self.views))]
        for a, b in pairs:
            for side, nodes in zip(self.sides(), (BATCH.user, BATCH.pos), strict=True):
                both = self.known[a][side] & self.known[b][side]
                chosen = nodes[both[nodes]]
                first, second = (F.normalize(self.views[m][side]) for m in (a, b))
                others = chosen if self.config.contrast_candidates == "batch" else both.nonzero().flatten()
                own = (first * second).sum(1)[chosen] / self.config.temperature
                logits = first[chosen] @ second[others].T / self.config.temperature
                total = total - (own.exp() / logits.exp().sum(1)).log().sum()
        return total / len(pairs)

    def redundancy(self, layers: list[torch.Tensor], known: torch.Tensor) -> torch.Tensor:
        total = 0.0
        for side in self.sides():
            found = []
            for layer in layers[self.config.first_decorrelated :]:
                correlation = torch.corrcoef(layer[side][known[side]].T)
                found.append((correlation - torch.eye(len(correlation))).norm() / math.sqrt(2))
            found = torch.stack(found)
            shares = (1 / found) / (1 / found).sum()
            total = total + ((shares.detach() if self.config.detach_shares else shares) * found).sum()
        return total


SETTINGS = [
    {},
    {"filter": "leaky_relu", "filter_ids": "propagated", "hyper_start": "filtered", "n_hyper_layers": 3},
    {"filter": "off", "hyper_start": "raw", "user_logits": "mean", "local_norm": "each"},
    {"filter": "off", "hyper_start": "raw", "filter_ids": "propagated", "global_norm": "each"},
    {"combine": "sum", "n_layers": 3, "first_decorrelated": 1, "contrast_candidates": "batch"},
    {"combine": "last", "n_modality_layers": 1, "detach_shares": False, "regulariser": "half_squared"},
    {"local_norm": "with_ids", "n_hyperedges": 3, "temperature": 0.7, "global_weight": 0.8},
    {"modalities": ("image", "text", "audio"), "hyper_start": "filtered", "global_norm": "printed"},
    {"modalities": ("text",)},
    {"use_global": False},
    {"contrast_weight": 0.0, "id_decorrelation": 0.0, "modality_decorrelation": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_dense_equations_in_value_each_loss_and_gradient(split: Split, settings: dict):
    model = build(split, **settings)
    torch.manual_seed(5)
    noise = draw_noise(model, split) if model.config.use_global else None
    plain = Dense(model, split, noise)
    expected = plain.losses()
    torch.manual_seed(5)
    close(torch.cat(model.embeddings()), plain.z)
    torch.manual_seed(5)
    check_losses(model, model.loss(BATCH), expected)


def test_is_lgmrec_without_filter_and_decorrelation(split: Split):
    shared = {"embedding_dim": 4, "modalities": ("text", "image"), "dropout": 0.3, "n_hyper_layers": 2}
    child = build(
        split, **shared, filter="off", local_norm="each", id_decorrelation=0.0, modality_decorrelation=0.0
    )
    config = LGMRecConfig(**shared, reg_weight=0.3, contrast_weight=0.2)
    parent = LGMRec(config, ModelInputs.from_split(split)).double()
    parent.load_state_dict(child.state_dict())
    losses = []
    for model in (parent, child):
        torch.manual_seed(3)
        losses.append(model.loss(BATCH))
    assert list(losses[0]) == list(losses[1])
    close(losses[0], losses[1])
    close(torch.cat(parent.eval().embeddings()), torch.cat(child.eval().embeddings()))


def test_scores_are_free_of_noise_and_dropout_or_keep_one_draw(split: Split):
    silent = build(split, dropout=0.5).eval()
    noisy = build(split, dropout=0.5, scoring_noise=True).eval()
    close(torch.cat(silent.embeddings()), Dense(silent, split, torch.zeros_like(noisy.hypergraph.noise)).z)
    close(torch.cat(noisy.embeddings()), Dense(noisy, split, noisy.hypergraph.noise).z)
    assert "hypergraph.noise" in noisy.state_dict()
    assert "hypergraph.noise" not in silent.state_dict()


def seen(model: MGNM) -> list[float]:
    """All that a setting could change, from the same draws: scores, losses, and a sum of gradients."""
    torch.manual_seed(1)
    losses = model.loss(BATCH)
    sum(losses.values()).backward()
    values = [term.item() for term in losses.values()]
    return [*values, model.nodes.weight.grad.abs().sum().item(), model.eval().embeddings().users.sum().item()]


@pytest.mark.parametrize(
    "setting",
    [
        {"n_layers": 1},
        {"n_modality_layers": 1},
        {"combine": "sum"},
        {"combine": "last"},
        {"local_norm": "each"},
        {"local_norm": "with_ids"},
        {"filter": "leaky_relu"},
        {"filter": "off"},
        {"filter_ids": "propagated"},
        {"use_global": False},
        {"n_hyperedges": 2},
        {"n_hyper_layers": 2},
        {"hyper_start": "raw"},
        {"hyper_start": "filtered"},
        {"user_logits": "mean"},
        {"dropout": 0.5},
        {"temperature": 0.4},
        {"scoring_noise": True},
        {"global_weight": 0.9},
        {"global_norm": "each"},
        {"global_norm": "printed"},
        {"contrast_weight": 0.1},
        {"contrast_weight": 0.0},
        {"contrast_candidates": "batch"},
        {"id_decorrelation": 0.1},
        {"modality_decorrelation": 0.0},
        {"first_decorrelated": 1},
        {"detach_shares": False},
        {"regulariser": "half_squared"},
        {"reg_weight": 0.1},
        {"modalities": ("text", "image")},
        {"embedding_dim": 6},
    ],
)
def test_every_setting_counts(split: Split, setting: dict):
    usual, other = seen(build(split)), seen(build(split, **setting))
    assert len(usual) != len(other) or any(abs(a - b) > 1e-7 for a, b in zip(usual, other, strict=True))


def test_shares_change_the_gradient_and_not_the_value(split: Split):
    constant, free = (build(split, detach_shares=detach) for detach in (True, False))
    assert seen(constant)[:5] == pytest.approx(seen(free)[:5])
    assert not torch.allclose(constant.nodes.weight.grad, free.nodes.weight.grad)


def test_without_layers_there_is_layer_zero_to_decorrelate(split: Split):
    alone = {"n_layers": 0, "n_modality_layers": 0}
    first, second = (seen(build(split, **alone, first_decorrelated=n)) for n in (0, 1))
    assert first == second


def test_decorrelation_reaches_no_more_than_its_side_of_the_model(split: Split):
    model = build(split)
    losses = model.loss(BATCH)
    reached = {
        name: {
            parameter
            for (parameter, _), grad in zip(
                model.named_parameters(),
                torch.autograd.grad(
                    losses[name], list(model.parameters()), retain_graph=True, allow_unused=True
                ),
                strict=True,
            )
            if grad is not None and grad.any()
        }
        for name in ("id_decorrelation", "modality_decorrelation", "contrast")
    }
    assert reached["id_decorrelation"] == {"nodes.weight"}
    assert reached["modality_decorrelation"] == {"content.weights.0", "content.weights.1"}
    parts = {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}
    filters = {f"filters.{m}.{part}" for m in range(2) for part in parts}
    assert reached["contrast"] == {"nodes.weight", "hyperedges.0", "hyperedges.1"} | filters


def test_training_lowers_the_redundancy_it_is_told_to_lower(split: Split):
    found = {}
    for weight in (0.0, 3.0):
        model = build(split, id_decorrelation=weight, contrast_weight=0.0).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            sum(model.loss(BATCH).values()).backward()
            optimizer.step()
        with torch.no_grad():
            found[weight] = model._redundancy(model._pass().ids).item()
    assert found[3.0] < 0.5 * found[0.0]


def test_what_an_item_lacks_says_nothing(split: Split):
    model = build(split, n_modality_layers=0).eval()
    assert not split.data.features["image"].present[0]
    contents = model.modality_embeddings()
    assert list(contents) == ["image", "text"]
    assert contents["image"].shape == (split.n_items, 4)
    assert not contents["image"][0].any()
    assert contents["text"][0].any()
    view = model._pass().view
    assert not view.members[0, split.n_users].any()
    assert not view.vectors[0, split.n_users].any()
    assert view.vectors[1, split.n_users].any()


def test_users_logits_do_not_count_items_without_the_modality(split: Split):
    """The filter of an item without a picture is sigmoid(b), not zero, and must not reach its users."""
    model = build(split).eval()
    before = model._pass().view.members[0].clone()
    with torch.no_grad():
        model.nodes.weight[split.n_users] += 3.0  # item 0, which has no image
    close(model._pass().view.members[0], before)


def test_user_without_training_items_keeps_the_ids_alone(split: Split):
    model = build(split).eval()
    close(model.embeddings().users[0], model.nodes.weight[0] / 3)


def test_nothing_of_any_modality_stays_finite(split: Split):
    nothing = {
        name: ItemFeatures.dense(f.values, np.zeros(split.n_items, dtype=bool))
        for name, f in split.data.features.items()
    }
    model = build(with_features(split, nothing))
    losses = model.loss(BATCH)
    assert losses["contrast"].item() == losses["modality_decorrelation"].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_modality_given_as_a_graph_only_is_refused(split: Split):
    graphic = with_features(split, {**split.data.features, "image": graph_alone(split)})
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(graphic)
    assert len(build(graphic, modalities=("text",)).hyperedges) == 1


def test_runs_in_mixed_precision(split: Split):
    for filter_ in ("linear", "leaky_relu"):
        check_mixed_precision(build(split, filter=filter_), BATCH, ["bpr"], rel=0.03)
