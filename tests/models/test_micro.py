"""MICRO keeps the contract, and does what its paper says."""

from __future__ import annotations

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

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.micro import MICRO, MICROConfig
from triptych.testing import RecommenderContract

DIM, K = 4, 3
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


class TestMICRO(RecommenderContract):
    config = MICROConfig(embedding_dim=8, n_neighbors=3)


class TestMICROAsInThePaper(RecommenderContract):
    config = MICROConfig(
        embedding_dim=8, n_neighbors=3, n_item_layers=2, normalisation="sym", feature_training="frozen"
    )


class TestMICROWithoutContrast(RecommenderContract):
    config = MICROConfig(embedding_dim=8, n_neighbors=3, contrast_weight=0.0)


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 2 both; all have a sound. User 0 chose nothing."""
    return toy_split(bare=2)


def build(split: Split, **settings) -> MICRO:
    """A model in float64, with an attention that tells modalities apart."""
    torch.manual_seed(0)
    config = {"embedding_dim": DIM, "n_neighbors": K, "modalities": ("image", "text")} | settings
    model = MICRO(MICROConfig(**config), ModelInputs.from_split(split)).double()
    with torch.no_grad():
        for parameter in model.attention.parameters():
            parameter.mul_(3)
    return model


def dense_modalities(model: MICRO, split: Split) -> list[torch.Tensor]:
    """h_m of each modality."""
    parts, share, k = [], model.config.fixed_share, model.config.n_neighbors
    for modality in model.content.features.dims:
        features, linear = split.data.features[modality], model.content.project.maps["of_" + modality]
        known = torch.from_numpy(features.present)
        rows = model.content.features.rows(modality) @ linear.weight.T + linear.bias
        learned = by_row_sums(nearest(rows, k, known).clamp(min=0))
        fixed = by_row_sums(nearest(torch.from_numpy(features.values).double(), k, known))
        h = model.nodes.weight[split.n_users :]
        for _ in range(model.config.n_item_layers):
            h = ((1 - share) * learned + share * fixed) @ h
        parts.append(h)
    return parts


def dense_fusion(model: MICRO, split: Split, parts: list[torch.Tensor]) -> torch.Tensor:
    weight, bias, query = model.attention.parameters()
    total, fused = 0.0, 0.0
    for modality, h in zip(model.content.features.dims, parts, strict=True):
        has = torch.from_numpy(split.data.features[modality].present)
        power = (has * (torch.tanh(h @ weight.T + bias) @ query[0]).exp())[:, None]
        total, fused = total + power, fused + power * h
    return fused / torch.where(total > 0, total, 1)


def dense_embeddings(model: MICRO, split: Split, fused: torch.Tensor) -> torch.Tensor:
    linked = adjacency(split, model.config.normalisation)
    behaviour = mean_of_layers(linked, model.nodes.weight, model.config.n_layers)
    return behaviour + torch.cat([torch.zeros(split.n_users, DIM), unit(fused)])


def dense_contrast(anchor: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    within = (unit(anchor) @ unit(anchor).T / temperature).exp()
    between = (unit(anchor) @ unit(other).T / temperature).exp()
    return -(between.diag() / (within.sum(1) + between.sum(1) - within.diag())).log().mean()


def dense_losses(model: MICRO, split: Split) -> dict[str, torch.Tensor]:
    parts = dense_modalities(model, split)
    fused = dense_fusion(model, split, parts)
    users, items = dense_embeddings(model, split, fused).split([split.n_users, split.n_items])
    u, p, n = users[BATCH.user], items[BATCH.pos], items[BATCH.neg]
    squares = (u * u).sum() + (p * p).sum() + (n * n).sum()
    losses = {
        "bpr": -torch.sigmoid((u * (p - n)).sum(1)).log().mean(),
        "reg": model.config.reg_weight * 0.5 * squares / len(BATCH.user),
    }
    for modality, part in zip(model.content.features.dims, parts, strict=True):
        has = torch.from_numpy(split.data.features[modality].present)
        term = dense_contrast(part[has], fused[has], model.config.temperature)
        losses[f"contrast_{modality}"] = model.config.contrast_weight * term
    return losses


def nodes(model: MICRO) -> torch.Tensor:
    return torch.cat(model.embeddings())


SETTINGS = [
    {},
    {"n_layers": 0, "n_item_layers": 2, "normalisation": "sym", "temperature": 1.5},
    {"fixed_share": 0.3, "n_neighbors": 5, "modalities": ("text",)},
    {"fixed_share": 0.0, "n_item_layers": 3, "modalities": ("audio", "image", "text")},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_dense_equations_in_value_loss_and_gradient(split: Split, settings: dict):
    model = build(split, **{"reg_weight": 0.3, "contrast_weight": 0.7} | settings)
    fused = dense_fusion(model, split, dense_modalities(model, split))
    assert torch.allclose(nodes(model), dense_embeddings(model, split, fused), atol=1e-6)
    losses, expected = model.loss(BATCH), dense_losses(model, split)
    assert list(losses) == list(expected)
    names, parameters = zip(*model.named_parameters(), strict=True)
    moved = set()
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-6)
        fast, slow = (
            torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for x in (losses[name], term)
        )
        for parameter, a, b in zip(names, fast, slow, strict=True):
            assert torch.allclose(a, b, atol=1e-6), (name, parameter)
            moved |= {parameter} if a.abs().max() > 1e-6 else set()
    alone = len(model.content.features.dims) == 1
    assert set(names) - moved == {name for name in names if alone and name.startswith("attention")}


def test_contrast_of_two_items_by_hand(split: Split):
    model = build(split, temperature=0.5)
    part = torch.tensor([[2.0, 0, 0, 0], [9, 9, 9, 9], [0, 3, 0, 0]])
    fused = torch.tensor([[0.6, 0.8, 0, 0], [9, 9, 9, 9], [0, 0, 0, 5.0]])
    # cosines over 0.5: to the partners 1.2 and 0, to the other's fused vector 0 and 1.6, to the other anchor 0
    first = -np.log(np.exp(1.2) / (np.exp(1.2) + 1 + 1))
    second = -np.log(1 / (1 + np.exp(1.6) + 1))
    term = model._contrast(part, fused, torch.tensor([0, 2]))
    assert term.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_the_first_batch_of_an_epoch_learns_the_graphs_and_later_ones_take_them_as_they_are(split: Split):
    model = build(split)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for epoch in (1, 2):
        list(model.epoch_steps(epoch))
        expected = {name: term.item() for name, term in dense_losses(model, split).items()}
        (first,) = model.batch_steps(BATCH)
        assert all(p is not None for p in torch.autograd.grad(sum(first.losses.values()), parameters))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("content"):
                    parameter.add_(torch.randn_like(parameter))
        (later,) = model.batch_steps(BATCH)
        assert {name: term.item() for name, term in later.losses.items()} == pytest.approx(expected)
        gradients = torch.autograd.grad(sum(later.losses.values()), parameters, allow_unused=True)
        reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        assert reached == {name for name in names if name.startswith(("nodes", "attention"))}
    fused = dense_fusion(model, split, dense_modalities(model, split))
    assert torch.allclose(
        nodes(model.eval()), dense_embeddings(model, split, fused), atol=1e-6
    )  # of the graphs as of now


def test_state_holds_all_that_embeddings_need(split: Split):
    first, second = build(split), build(split)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert not torch.equal(nodes(first.eval()), nodes(second.eval()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(nodes(first.eval()), nodes(second.eval()))


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 5}, {"modalities": ("text",)}, {"n_layers": 1}, {"n_item_layers": 2}, {"n_neighbors": 4},
        {"fixed_share": 0.5}, {"normalisation": "sym"}, {"reg_weight": 0.7}, {"contrast_weight": 0.1},
        {"temperature": 0.2},
    ],
)  # fmt: skip
def test_every_setting_changes_the_loss(split: Split, change: dict):
    totals = [sum(build(split, **settings).loss(BATCH).values()).item() for settings in ({}, {}, change)]
    assert totals[0] == totals[1] != totals[2]


def test_features_learn_if_asked_to(split: Split):
    learning, frozen = build(split), build(split, feature_training="frozen")
    assert torch.equal(nodes(learning), nodes(frozen))
    names = {name for name, _ in learning.named_parameters()} - {
        name for name, _ in frozen.named_parameters()
    }
    assert names == {"content.features.of_image", "content.features.of_text"}


def test_without_weight_there_is_no_contrast(split: Split):
    assert list(build(split, contrast_weight=0.0).loss(BATCH)) == ["bpr", "reg"]
    assert list(build(split).loss(BATCH)) == ["bpr", "reg", "contrast_image", "contrast_text"]


def test_items_that_lack_modalities(split: Split):
    model = build(split)
    known = model.modality_embeddings()
    assert list(known) == ["image", "text"]
    assert known["image"].abs().sum(1).gt(0).tolist() == [False, True, False] + [True] * 7
    fused = model._fuse(list(known.values()))
    assert torch.equal(fused[0], known["text"][0])
    assert torch.equal(fused[1], known["image"][1])
    assert fused[2].abs().max() == 0
    sum(model.loss(BATCH).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.content.features.rows("image").grad[[0, 2]].abs().max() == 0


def test_a_modality_of_graphs_alone_is_refused(split: Split):
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, {"image": graph_alone(split)}), modalities=("image",))


def test_mixed_precision(split: Split):
    check_mixed_precision(build(split), BATCH, rel=0.02)
