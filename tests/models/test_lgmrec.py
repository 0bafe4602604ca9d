"""LGMRec keeps the contract, and is what its equations say."""

from __future__ import annotations

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
    mean_of_layers,
    toy_split,
    with_features,
)
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.lgmrec import LGMRec, LGMRecConfig
from triptych.testing import RecommenderContract

BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)  # a graph's values are float32


class TestLGMRec(RecommenderContract):
    config = LGMRecConfig(embedding_dim=8)


class TestLGMRecWithNoiseAndOneModality(RecommenderContract):
    config = LGMRecConfig(embedding_dim=8, scoring_noise=True, n_hyper_layers=2, modalities=("image",))

    def test_any_modality_by_any_name(self, toy: Split) -> None:
        with pytest.raises(ConfigError, match="'image' is not in the data set"):
            super().test_any_modality_by_any_name(toy)


@pytest.fixture
def split() -> Split:
    """Items 0 and 1 lack a modality each, user 0 chose nothing, and all items have a sound."""
    return toy_split()


def build(split: Split, **settings) -> LGMRec:
    """A model in float64, in training; without dropout its noise is all that is drawn."""
    torch.manual_seed(0)
    config = {"embedding_dim": 4, "modalities": ("image", "text"), "dropout": 0.0} | settings
    return LGMRec(LGMRecConfig(**config), ModelInputs.from_split(split)).double()


def noise_of(model: LGMRec, split: Split, seed: int) -> torch.Tensor:
    """The noise that a pass draws first after this seed: (N, M, A)."""
    torch.manual_seed(seed)
    shape = (split.n_users + split.n_items, len(model.hyperedges), model.config.n_hyperedges)
    return -torch.empty(shape, dtype=torch.float64).exponential_().log()


def dense(model: LGMRec, split: Split, noise: torch.Tensor) -> tuple[torch.Tensor, list, torch.Tensor]:
    """The docstring's equations with matrices of all nodes: Z (N, D), Y_m (N, D), who has m (M, N)."""
    config, n_users, choices, linked = model.config, split.n_users, interactions(split), adjacency(split)
    ids = mean_of_layers(linked, model.nodes.weight, config.n_layers)
    local, views, known = ids, [], []
    for m, modality in enumerate(model.content.features.dims):
        features = split.data.features[modality]
        rows, present = torch.from_numpy(features.values).double(), torch.from_numpy(features.present)
        items = rows @ model.content.weights[m].T
        counts = choices @ present.double()
        nodes = torch.cat([choices @ items / counts.clamp(min=1)[:, None], items])
        for _ in range(config.n_modality_layers):
            nodes = linked @ nodes
        local = local + F.normalize(nodes)
        logits = rows @ model.hyperedges[m].T
        logits = (torch.cat([choices @ logits, logits]) + noise[:, m]) / config.temperature
        has = torch.cat([counts > 0, present])
        members = torch.where(has[:, None], logits.exp() / logits.exp().sum(1, keepdim=True), 0)
        state = ids[n_users:]
        for _ in range(config.n_hyper_layers):
            through = members[n_users:].T @ state
            state = members[n_users:] @ through
        views.append(torch.cat([members[:n_users] @ through, state]))
        known.append(has)
    z = local + config.global_weight * F.normalize(torch.stack(views).sum(0))
    return z, views, torch.stack(known)


def dense_losses(model: LGMRec, split: Split, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    z, views, known = dense(model, split, noise)
    users, pos, neg = z[BATCH.user], z[split.n_users + BATCH.pos], z[split.n_users + BATCH.neg]
    norms = users.norm() + pos.norm() + neg.norm()
    losses = {
        "bpr": -torch.sigmoid((users * (pos - neg)).sum(1)).log().mean(),
        "reg": model.config.reg_weight * norms / len(BATCH.neg),
    }
    pairs = [(a, b) for a in range(len(views)) for b in range(a + 1, len(views))]
    total = 0.0
    for a, b in pairs:
        for side, nodes in ((slice(split.n_users), BATCH.user), (slice(split.n_users, None), BATCH.pos)):
            both = known[a, side] & known[b, side]
            cosines = F.normalize(views[a][side]) @ F.normalize(views[b][side]).T
            logits = cosines.div(model.config.temperature).masked_fill(~both, -torch.inf)
            terms = logits.logsumexp(1) - logits.diagonal()
            total = total + terms[nodes[both[nodes]]].sum()
    if pairs:
        losses["contrast"] = model.config.contrast_weight * total / len(pairs)
    return losses


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_layers": 3, "n_modality_layers": 1, "n_hyperedges": 3, "temperature": 0.7, "global_weight": 0.8},
        {"n_hyper_layers": 3, "n_layers": 0, "n_modality_layers": 0},
        {"modalities": ("image", "text", "audio")},
        {"modalities": ("text",)},
    ],
)
def test_equals_the_dense_equations_in_value_each_loss_and_gradient(split: Split, settings: dict):
    model = build(split, reg_weight=0.3, contrast_weight=0.2, **settings)
    noise = noise_of(model, split, 5)
    expected = dense_losses(model, split, noise)
    torch.manual_seed(5)
    close(torch.cat(model.embeddings()), dense(model, split, noise)[0])
    torch.manual_seed(5)
    check_losses(model, model.loss(BATCH), expected)


def test_scores_are_free_of_noise_and_dropout(split: Split):
    model = build(split, dropout=0.5).eval()
    silent = torch.zeros(split.n_users + split.n_items, 2, 4).double()
    close(torch.cat(model.embeddings()), dense(model, split, silent)[0])
    model.train()
    assert not torch.equal(model.embeddings().users, model.embeddings().users)


def test_scoring_noise_is_one_draw_that_goes_with_the_state(split: Split):
    model = build(split, scoring_noise=True).eval()
    expected = dense(model, split, model.hypergraph.noise)[0]
    close(torch.cat(model.embeddings()), expected)
    assert not torch.allclose(torch.cat(build(split).eval().embeddings()), expected)
    torch.manual_seed(9)
    other = LGMRec(model.config, ModelInputs.from_split(split)).double().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.embeddings().users, model.embeddings().users)


def seen(model: LGMRec) -> list[float]:
    """All that a setting could change, from the same draws."""
    torch.manual_seed(1)
    losses = [term.item() for term in model.loss(BATCH).values()]
    return [*losses, model.eval().embeddings().users.sum().item()]


@pytest.mark.parametrize(
    "setting",
    [
        {"n_layers": 1},
        {"n_modality_layers": 1},
        {"n_hyperedges": 2},
        {"n_hyper_layers": 2},
        {"dropout": 0.5},
        {"temperature": 0.4},
        {"global_weight": 0.9},
        {"contrast_weight": 0.1},
        {"contrast_weight": 0.0},
        {"reg_weight": 0.1},
        {"scoring_noise": True},
        {"modalities": ("text", "image")},
        {"embedding_dim": 6},
    ],
)
def test_every_setting_counts(split: Split, setting: dict):
    assert seen(build(split, **setting)) != seen(build(split))


def test_what_an_item_lacks_reaches_it_by_the_graph_alone(split: Split):
    model = build(split, n_modality_layers=0).eval()
    assert not split.data.features["image"].present[0]
    contents = model.modality_embeddings()
    assert list(contents) == ["image", "text"]
    assert contents["image"].shape == (split.n_items, 4)
    assert not contents["image"][0].any()
    assert contents["text"][0].any()
    _, view = model._embed()
    assert not view.members[0, split.n_users].any()
    assert not view.vectors[0, split.n_users].any()
    assert view.vectors[1, split.n_users].any()


def test_user_without_training_items_keeps_the_ids_alone(split: Split):
    model = build(split).eval()
    close(model.embeddings().users[0], model.nodes.weight[0] / 3)


def test_first_weights_are_xavier_uniform(split: Split):
    torch.manual_seed(0)
    model = LGMRec(LGMRecConfig(embedding_dim=300, n_hyperedges=200), ModelInputs.from_split(split))
    for matrix, ends in (
        (model.content.weights[0], 305),
        (model.hyperedges[1], 204),
        (model.nodes.ego.items, split.n_items + 300),
    ):
        assert matrix.abs().max().item() == pytest.approx((6 / ends) ** 0.5, rel=0.02)


def test_a_modality_given_as_a_graph_only_is_refused(split: Split):
    graphic = with_features(split, {**split.data.features, "image": graph_alone(split)})
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(graphic)
    assert len(build(graphic, modalities=("text",)).hyperedges) == 1


def test_an_item_or_user_that_lacks_all_stays_finite(split: Split):
    nothing = {
        name: ItemFeatures.dense(f.values, np.zeros(split.n_items, dtype=bool))
        for name, f in split.data.features.items()
    }
    model = build(with_features(split, nothing))
    losses = model.loss(BATCH)
    assert losses["contrast"].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    close(model.eval().embeddings().users[0], model.nodes.weight[0] / 3)


def test_runs_in_mixed_precision(split: Split):
    check_mixed_precision(build(split), BATCH, ["bpr"], rel=0.03)
