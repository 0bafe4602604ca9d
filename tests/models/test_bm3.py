"""BM3 against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import (
    adjacency,
    away,
    check_mixed_precision,
    graph_alone,
    mean_of_layers,
    toy_split,
    with_features,
)

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.bm3 import BM3, BM3Config
from triptych.runs import train
from triptych.testing import RecommenderContract
from triptych.training.config import TrainConfig

NOTHING = torch.empty(0, dtype=torch.int64)
BATCH = Triplets(torch.tensor([3, 0, 3, 11, 5]), torch.tensor([2, 1, 5, 2, 0]), NOTHING)


class TestBM3(RecommenderContract):
    config = BM3Config(embedding_dim=8)


class TestBM3AsTheAuthorsTrainIt(RecommenderContract):
    config = BM3Config(embedding_dim=8, n_layers=2, feature_training="all")


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text; all have a sound; user 1 chose nothing."""
    return toy_split(stranger=1)


def build(split: Split, **settings) -> BM3:
    torch.manual_seed(0)
    config = {"embedding_dim": 4, "modalities": ("image", "text"), "dropout": 0.0} | settings
    return BM3(BM3Config(**config), ModelInputs.from_split(split))


def plain_losses(model: BM3, split: Split, batch: Triplets) -> tuple[dict, dict]:
    """The docstring's equations on whole tables, in float64: the terms, and the parameters they hang on."""
    p = {name: tensor.detach().double().requires_grad_() for name, tensor in model.named_parameters()}
    nodes = mean_of_layers(adjacency(split), p["nodes.weight"], model.config.n_layers)
    users, items = nodes.split([split.n_users, split.n_items])
    items = items + p["nodes.weight"][split.n_users :]

    def q(x):
        return x @ p["predict.weight"].T + p["predict.bias"]

    u, i = batch.user, batch.pos
    terms = {
        "user_to_item": away(q(users)[u], items.detach()[i]),
        "item_to_user": away(q(items)[i], users.detach()[u]),
    }
    for modality in model.features.dims:
        known = i[torch.from_numpy(split.data.features[modality].present)[i]]
        rows = p.get(f"features.of_{modality}", getattr(model.features, f"of_{modality}").double())
        name = f"project.maps.of_{modality}"
        content = rows @ p[f"{name}.weight"].T + p[f"{name}.bias"]
        weight = model.config.cl_weight
        terms[f"align_{modality}"] = weight * away(q(content)[known], items.detach()[known])
        terms[f"mask_{modality}"] = weight * away(q(content)[known], content.detach()[known])
    norms = users.pow(2).sum().sqrt() + items.pow(2).sum().sqrt()
    terms["reg"] = model.config.reg_weight * norms / split.n_items
    return terms, p


@pytest.mark.parametrize("training", ["rows", "all", "frozen"])
@pytest.mark.parametrize(("n_layers", "modalities"), [(0, ("image",)), (1, ("image", "text")), (3, ("text", "audio", "image"))])  # fmt: skip
def test_loss_and_gradients_are_those_of_whole_tables(split: Split, n_layers: int, modalities, training):
    model = build(split, n_layers=n_layers, modalities=modalities, feature_training=training, reg_weight=0.7)
    expected, tables = plain_losses(model, split, BATCH)
    losses = model.loss(BATCH)
    assert list(losses) == list(expected)
    for name, term in losses.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-5), name
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad.to_dense().double()
        assert tables[name].grad.abs().max() > 1e-5, name
        assert torch.allclose(grad, tables[name].grad, rtol=1e-4, atol=1e-6), name


def test_by_hand_one_user_and_one_item(split: Split):
    model = build(split, embedding_dim=2, n_layers=0, modalities=("audio",), cl_weight=3.0)
    with torch.no_grad():
        model.nodes.weight[0] = torch.tensor([1.0, 0.0])
        model.nodes.weight[split.n_users] = torch.tensor([0.0, 2.0])
        model.predict.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))  # swaps the two entries
        model.predict.bias.zero_()
        model.project.maps["of_audio"].weight.zero_()
        model.project.maps["of_audio"].bias.copy_(torch.tensor([3.0, 4.0]))
    losses = model.loss(Triplets(torch.tensor([0]), torch.tensor([0]), NOTHING))
    assert losses["user_to_item"].item() == pytest.approx(0.0, abs=1e-6)
    assert losses["item_to_user"].item() == pytest.approx(0.0, abs=1e-6)
    assert losses["align_audio"].item() == pytest.approx(3 * (1 - 3 / 5))  # (4, 3) with (0, 4)
    assert losses["mask_audio"].item() == pytest.approx(3 * (1 - 24 / 25))  # (4, 3) with (3, 4)


def test_score_is_the_product_of_predictions_and_knows_no_contents(split: Split):
    model = build(split, n_layers=2)
    tables = {name: p.detach().double() for name, p in model.named_parameters()}
    first = adjacency(split) @ tables["nodes.weight"]
    users, items = ((tables["nodes.weight"] + first + adjacency(split) @ first) / 3).split(
        [split.n_users, split.n_items]
    )
    items = items + tables["nodes.weight"][split.n_users :]
    found = model.eval().embeddings()
    for mine, plain in ((found.users, users), (found.items, items)):
        assert torch.allclose(
            mine.double(), plain @ tables["predict.weight"].T + tables["predict.bias"], atol=1e-6
        )
    with torch.no_grad():
        model.project.maps["of_image"].weight.add_(1.0)
    assert torch.equal(model.embeddings().items, found.items)


def test_targets_get_no_gradient(split: Split):
    model = build(split, n_layers=0)
    model.loss(BATCH)["user_to_item"].backward()
    ids = model.nodes.weight.grad
    assert ids[BATCH.user].abs().sum() > 0
    assert ids[split.n_users :].abs().sum() == 0


def test_items_without_a_modality_take_no_part_in_its_terms(split: Split):
    model = build(split, dropout=0.0)
    with_both = Triplets(torch.tensor([3, 5]), torch.tensor([2, 4]), NOTHING)
    and_without = Triplets(torch.tensor([3, 5, 0, 7]), torch.tensor([2, 4, 0, 0]), NOTHING)
    few, more = model.loss(with_both), model.loss(and_without)
    assert more["align_image"].item() == pytest.approx(few["align_image"].item())
    assert more["mask_image"].item() == pytest.approx(few["mask_image"].item())
    assert more["align_text"].item() != pytest.approx(few["align_text"].item())
    nobody = model.loss(Triplets(torch.tensor([0, 7]), torch.tensor([0, 0]), NOTHING))
    assert nobody["align_image"].item() == nobody["mask_image"].item() == 0.0
    sum(nobody.values()).backward()
    assert all(p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_modality_embeddings_are_contents_and_zero_where_there_is_none(split: Split):
    model = build(split).eval()
    found = model.modality_embeddings()
    assert list(found) == ["image", "text"]
    linear = model.project.maps["of_image"]
    values = torch.from_numpy(split.data.features["image"].values)
    assert torch.allclose(found["image"][1:], linear(values)[1:], atol=1e-6)
    assert found["image"][0].abs().sum() == 0
    assert found["text"][1].abs().sum() == 0


def test_a_step_reads_the_features_of_its_items_alone(split: Split):
    model = build(split)
    sum(model.loss(BATCH).values()).backward()
    grad = model.features.of_image.grad
    assert grad.is_sparse
    assert grad.coalesce().indices()[0].tolist() == [0, 1, 2, 5]
    assert len(model.optimizer_groups()["main"].by_row) == 2


def test_features_learn_as_they_are_asked_to(split: Split):
    values = torch.from_numpy(split.data.features["text"].values)
    seen = torch.from_numpy(np.isin(np.arange(split.n_items), split.train.item))
    learned = {}
    for training in ("rows", "all", "frozen"):
        model = build(split, feature_training=training)
        settings = TrainConfig(epochs=2, batch_size=8, metric="recall@1")
        learned[training] = train(model.config, split, config=settings, device="cpu", k=(1,)).weights.get(
            "features.of_text", values
        )
    assert torch.equal(learned["frozen"], values)
    for training in ("rows", "all"):
        moved = (learned[training] != values).any(dim=1)
        assert torch.equal(moved, seen & torch.from_numpy(split.data.features["text"].present))
    assert not torch.equal(learned["rows"], learned["all"])  # momentum moves what no step reads


@pytest.mark.parametrize(
    "settings", [{"n_layers": 2}, {"dropout": 0.5}, {"cl_weight": 1.0}, {"reg_weight": 0.01}, {"embedding_dim": 5},
                 {"modalities": ("text",)}],
)  # fmt: skip
def test_every_setting_counts(split: Split, settings: dict):
    usual, other = build(split).loss(BATCH), build(split, **settings).loss(BATCH)
    assert {name: term.item() for name, term in usual.items()} != {
        name: term.item() for name, term in other.items()
    }


def test_a_modality_of_graphs_alone_is_refused(split: Split):
    features = {**split.data.features, "image": graph_alone(split)}
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, features))


def test_runs_in_mixed_precision(split: Split):
    check_mixed_precision(build(split), BATCH, rel=0.05, abs=0.02)
