"""CAmgr against its equations, spelled out in float64 with dense matrices."""

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
    links,
    toy_split,
    unit,
    with_features,
)

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph.neighbors import knn_edges
from triptych.models.base import ModelInputs, Triplets
from triptych.models.camgr import CAmgr, CAmgrConfig, choose_query
from triptych.testing import RecommenderContract

BATCH = Triplets(torch.tensor([0, 3, 3, 11, 5]), torch.tensor([1, 2, 0, 9, 3]), torch.tensor([4, 4, 3, 2, 8]))


class TestCAmgr(RecommenderContract):
    config = CAmgrConfig(embedding_dim=8, n_neighbors=4)


class TestCAmgrAmongNodes(RecommenderContract):
    config = CAmgrConfig(embedding_dim=8, n_neighbors=4, attention="nodes", feature_training="all")


class TestCAmgrWithoutItsParts(RecommenderContract):
    config = CAmgrConfig(embedding_dim=8, n_neighbors=4, purifier=False, fusion="mean", id_encoder="lightgcn")


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 3 both; all have a sound, and user 0 chose nothing."""
    return toy_split(bare=3)


def build(split: Split, **settings) -> CAmgr:
    torch.manual_seed(0)
    config = CAmgrConfig(**{"embedding_dim": 4, "n_neighbors": 3, "modalities": ("image", "text")} | settings)
    return CAmgr(config, ModelInputs.from_split(split)).double()


def mean_rows(matrix: torch.Tensor) -> torch.Tensor:
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)


def sym(matrix: torch.Tensor) -> torch.Tensor:
    return matrix / torch.outer(matrix.sum(1).clamp(min=1), matrix.sum(0).clamp(min=1)).sqrt()


def softmax(scores: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    power = scores.exp() if allowed is None else torch.where(allowed, scores.exp(), 0)
    return power / power.sum(1, keepdim=True).clamp(min=1e-300)


def item_graph(split: Split, modality: str, model: CAmgr) -> torch.Tensor:
    row, col, cosine = knn_edges(split.data.features[modality], model.config.n_neighbors)
    dense = torch.zeros(split.n_items, split.n_items, dtype=torch.float64)
    dense[row, col] = cosine.double()
    sums = dense.sum(1)
    assert (sums[torch.unique(row)] > 0).all()
    if model.config.item_normalisation == "rw":
        return dense / sums.where(sums > 0, 1)[:, None]
    scale = torch.where(sums > 0, sums.clamp(min=1e-9).rsqrt(), 0)
    return scale[:, None] * dense * scale


def dense_ids(model: CAmgr, split: Split) -> torch.Tensor:
    linked, layers = links(split), [model.nodes.weight]
    for n in range(model.config.n_layers):
        if model.config.id_encoder == "lightgcn":
            layers.append(adjacency(split) @ layers[-1])
            continue
        layer = model.layers[n]
        x = linear(layer.project, layers[-1])
        pairs = torch.cat([x[:, None].expand(-1, len(x), -1), x[None].expand(len(x), -1, -1)], dim=2)
        scores = linear(layer.score, pairs)[..., 0]
        scores = torch.where(scores > 0, scores, 0.2 * scores)
        layers.append((softmax(scores, linked > 0) @ x).clamp(min=0))
    return sum(layers) / len(layers)


def dense_views(model: CAmgr, split: Split) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """T_m (N, D) and who has it, (N, 1), of each modality."""
    chosen, n_users = interactions(split), split.n_users
    users, items = model.nodes.weight.split([n_users, split.n_items])
    ids = items + mean_rows(chosen.T) @ users
    hand_on = mean_rows(chosen) if model.config.user_aggregation == "mean" else sym(chosen)
    views, known = [], []
    for place, modality in enumerate(model.config.modalities or split.data.features):
        present = torch.from_numpy(split.data.features[modality].present).double()[:, None]
        content = linear(model.purify.project.maps["of_" + modality], model.purify.features.rows(modality))
        if model.config.purifier:
            content = ids * torch.sigmoid(linear(model.purify.gates[place].ask, content))
        smooth = item_graph(split, modality, model) @ (content * present)
        views.append(torch.cat([hand_on @ smooth, smooth]))
        known.append(torch.cat([(chosen @ present > 0).double(), present]))
    return views, known


def refined(part: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    norm, first, _, second = part
    scaled = x
    if isinstance(norm, torch.nn.LayerNorm):
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
        scaled = scaled * norm.weight + norm.bias
    return x + linear(second, linear(first, scaled).clamp(min=0))


def dense_fused(model: CAmgr, split: Split, asking: int) -> torch.Tensor:
    views, known = dense_views(model, split)
    ids = dense_ids(model, split)
    if model.config.fusion == "mean":
        return sum(views) / sum(known).clamp(min=1)
    others = [place for place in range(len(views)) if place != asking] or [asking]
    commons, distincts = [], []
    for block, other in zip(model.attend, others, strict=True):
        asks, answers = known[asking], known[other]
        q = linear(block.query, views[asking]) * asks
        k, v = (linear(part, views[other]) * answers for part in (block.key, block.value))
        if model.config.attention == "channel":
            length = len(q) if model.config.attention_scale == "contracted" else q.shape[1]
            attended = v @ softmax(q.T @ k / length**0.5).T
        else:
            attended = softmax(q @ k.T / q.shape[1] ** 0.5, (answers.T > 0).expand(len(q), -1)) @ v
        attended = attended * asks * answers
        either = torch.maximum(asks, answers)
        common = linear(block.map_common, attended) * asks * answers + q
        distinct = linear(block.map_distinct, v - attended) * answers + q
        commons.append(refined(block.refine_common, common) * either)
        distincts.append(refined(block.refine_distinct, distinct) * either)
    gates = [torch.sigmoid(linear(gate.ask, ids)) for gate in (model.gate_common, model.gate_distinct)]
    return (gates[0] * sum(commons) + gates[1] * sum(distincts)) / len(others) / 2


def dense_losses(model: CAmgr, split: Split, batch: Triplets, asking: int) -> dict[str, torch.Tensor]:
    ids, fused = dense_ids(model, split), dense_fused(model, split, asking)
    nodes, tau = ids + fused, model.config.temperature
    users, pos, neg = batch.user, split.n_users + batch.pos, split.n_users + batch.neg
    margin = (nodes[users] * (nodes[pos] - nodes[neg])).sum(1)
    contrast = torch.zeros(())
    for rows in (users, pos):
        if model.config.contrast == "cross":
            power = (unit(fused[rows]) @ unit(ids[rows]).T / tau).exp()
            contrast = contrast - (power.diag() / power.sum(1)).log().mean()
        else:
            power = ((fused[rows] * ids[rows]).sum(1) / tau).exp()
            contrast = contrast - (power / power.sum()).log().mean()
    squares = sum(nodes[rows].square().sum() for rows in (users, pos, neg)) / 2 / len(users)
    return {
        "bpr": -torch.sigmoid(margin).log().mean(),
        "contrast": model.config.contrast_weight * contrast,
        "reg": model.config.reg_weight * squares,
    }


THREE = ("audio", "text", "image")


@pytest.mark.parametrize(
    ("settings", "asking"),
    [
        ({}, 1),
        ({"attention": "nodes"}, 1),
        ({"attention_scale": "width", "query_modality": "image"}, 0),
        ({"id_encoder": "lightgcn", "item_normalisation": "sym", "user_aggregation": "sym"}, 1),
        ({"purifier": False, "contrast": "literal", "n_layers": 1}, 1),
        ({"fusion": "mean", "modalities": THREE}, 1),
        ({"modalities": ("audio",), "feature_training": "all"}, 0),
        ({"modalities": ("image",), "attention": "nodes"}, 0),
        ({"modalities": THREE}, 1),
        ({"refinement": "unscaled"}, 1),
        ({"modalities": None, "attention": "nodes", "query_modality": "audio", "temperature": 0.7}, 0),
    ],
)
def test_equals_the_dense_equations_in_value_loss_and_gradient(split: Split, settings: dict, asking: int):
    model = build(split, **settings, contrast_weight=0.3, reg_weight=0.2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # where all begin at zero, so does what a ReLU sees
                parameter.add_(0.1 * torch.randn_like(parameter))
    nodes = dense_ids(model, split) + dense_fused(model, split, asking)
    torch.testing.assert_close(torch.cat(model.embeddings()), nodes, rtol=1e-5, atol=1e-6)
    losses, expected = model.loss(BATCH), dense_losses(model, split, BATCH, asking)
    assert list(losses) == list(expected)
    for name, term in losses.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-5)
    named = dict(model.named_parameters())
    fast = torch.autograd.grad(sum(losses.values()), list(named.values()))
    slow = torch.autograd.grad(sum(expected.values()), list(named.values()))
    for name, got, wanted in zip(named, fast, slow, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)
        # A bias of keys moves all of a node's products alike, which softmax does not see.
        idle = model.config.attention == "nodes" and name.endswith("key.bias")
        assert (wanted.abs().max() > 1e-9) != idle, name


def test_unscaled_content_tells_nodes_apart_from_the_start(split: Split):
    """What is printed gives all nodes much the same M at first, whatever their content."""
    apart = {}
    for refinement in ("printed", "unscaled"):
        model = build(split, refinement=refinement)
        ids, views = model._views()
        fused = model._fuse(ids, views, torch.arange(len(ids)))[model.item_view.has.all(dim=1)]
        apart[refinement] = (fused - fused.mean(0)).norm() / fused.norm()
        biases = [
            part.bias
            for part in model.modules()
            if isinstance(part, torch.nn.Linear) and part.bias is not None
        ]
        assert all(bool(bias.any()) == (refinement == "printed") for bias in biases)
    assert apart["printed"] < 0.7 < apart["unscaled"]


def test_an_items_ids_are_its_own_plus_the_mean_of_its_users(split: Split):
    model = build(split)
    with torch.no_grad():
        for gate in model.purify.gates:  # all goes through
            gate.ask.weight.zero_()
            gate.ask.bias.fill_(1e4)
        users, items = model.nodes.ego
        known = model.modality_embeddings()
    for item in (2, 5):
        chosen_by = split.train.user[split.train.item == item]
        assert len(chosen_by) > 1
        torch.testing.assert_close(known["image"][item], items[item] + users[chosen_by].mean(0))
    assert list(known) == ["image", "text"]
    assert (known["image"][[0, 3]] == 0).all()
    assert (known["text"][[1, 3]] == 0).all()


def test_without_the_purifier_items_are_their_content(split: Split):
    model = build(split, purifier=False)
    known = model.modality_embeddings()["image"]
    with torch.no_grad():
        model.nodes.weight.zero_()
    expected = (
        linear(model.purify.project.maps["of_image"], model.purify.features.rows("image"))
        * torch.from_numpy(split.data.features["image"].present)[:, None]
    )
    torch.testing.assert_close(model.modality_embeddings()["image"], expected)
    torch.testing.assert_close(known, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"query_modality": "image"},
        {"purifier": False},
        {"id_encoder": "lightgcn"},
        {"n_layers": 1},
        {"n_neighbors": 2},
        {"item_normalisation": "sym"},
        {"user_aggregation": "sym"},
        {"fusion": "mean"},
        {"attention": "nodes"},
        {"attention_scale": "width"},
        {"contrast": "literal"},
        {"contrast_weight": 0.5},
        {"temperature": 1.0},
        {"reg_weight": 0.5},
        {"modalities": ("text",)},
        {"embedding_dim": 5},
    ],
)
def test_every_setting_counts(split: Split, settings: dict):
    usual, other = build(split).loss(BATCH), build(split, **settings).loss(BATCH)
    assert {name: term.item() for name, term in usual.items()} != {
        name: term.item() for name, term in other.items()
    }


def test_settings_of_graphs_count_within_one_store(split: Split):
    inputs = ModelInputs.from_split(split)
    nodes = []
    for normalisation in ("rw", "sym", "rw"):
        torch.manual_seed(0)
        config = CAmgrConfig(embedding_dim=4, n_neighbors=3, item_normalisation=normalisation)
        nodes.append(torch.cat(CAmgr(config, inputs).embeddings()))
    assert torch.equal(nodes[0], nodes[2])
    assert not torch.allclose(nodes[0], nodes[1])


def test_features_train_when_asked_and_stay_zero_where_there_are_none(split: Split):
    frozen, trained = build(split), build(split, feature_training="all")
    assert not any("features" in name for name, _ in frozen.named_parameters())
    torch.testing.assert_close(torch.cat(trained.embeddings()), torch.cat(frozen.embeddings()))
    sum(trained.loss(BATCH).values()).backward()
    moved = trained.purify.features.rows("image").grad.abs().sum(1) > 0
    assert moved.tolist() == split.data.features["image"].present.tolist()


def test_who_asks():
    assert choose_query(("image", "text", "audio"), None) == 1
    assert choose_query(("image", "audio"), None) == 1
    assert choose_query(("audio",), None) == 0
    assert choose_query(("image", "text"), "image") == 0
    with pytest.raises(ConfigError, match=r"'txt' is none of the model's modalities.*Did you mean 'text'"):
        choose_query(("image", "text"), "txt")


def test_one_modality_asks_itself_and_each_of_several_others_answers_by_itself(split: Split):
    assert build(split, modalities=("text",)).pairs == [(0, 0)]
    assert build(split).pairs == [(1, 0)]
    three = build(split, modalities=THREE)
    assert three.pairs == [(1, 0), (1, 2)]
    assert len(three.attend) == 2
    shared = {id(p) for p in three.attend[0].parameters()} & {id(p) for p in three.attend[1].parameters()}
    assert not shared


@pytest.mark.parametrize("settings", [{}, {"attention": "nodes"}, {"fusion": "mean"}, {"purifier": False}])
def test_who_has_no_content_is_ids_alone(split: Split, settings: dict):
    model = build(split, **settings)
    with torch.no_grad():  # biases as large as can be do not stand in for content
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.fill_(20.0)
        ids, views = model._views()
        fused = model._fuse(ids, views, torch.arange(len(ids)))
    nothing = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(fused[split.n_users + 3], nothing)  # has neither
    assert torch.equal(fused[0], nothing)  # chose nothing
    assert torch.equal(views[split.n_users + 0, 0], nothing)  # has no image
    assert fused[split.n_users + 0].abs().max() > 0


def test_nodes_without_content_move_nothing_in_the_contrast(split: Split):
    model = build(split, contrast_weight=1.0)
    lone = Triplets(torch.tensor([0, 0]), torch.tensor([3, 3]), torch.tensor([1, 1]))
    contrast = model.loss(lone)["contrast"]
    assert contrast.item() == pytest.approx(2 * np.log(2))
    grads = torch.autograd.grad(contrast, list(model.parameters()), materialize_grads=True)
    assert all(grad.abs().max() < 1e-12 for grad in grads)


def test_the_printed_contrast_is_least_where_all_products_are_equal(split: Split):
    model = build(split, contrast="literal", temperature=0.5)
    fused, ids = torch.randn(6, 4), torch.randn(6, 4)
    products = (fused * ids).sum(1) / 0.5
    torch.testing.assert_close(model._contrast(fused, ids), torch.logsumexp(products, 0) - products.mean())
    for size in (-5.0, 5.0):  # aligned or opposed, it is all the same
        one = torch.ones(6, 4)
        assert model._contrast(size * one, one).item() == pytest.approx(np.log(6), rel=1e-5)
    assert model._contrast(fused, ids).item() > np.log(6)


def test_first_weights_are_xavier_uniform(split: Split):
    torch.manual_seed(0)
    wide = CAmgr(CAmgrConfig(embedding_dim=300, n_neighbors=3), ModelInputs.from_split(split))
    for part in (
        wide.purify.project.maps["of_image"],
        wide.purify.gates[0].ask,
        wide.layers[1].project,
        wide.layers[0].score,
        wide.attend[0].key,
        wide.attend[0].refine_common[3],
        wide.gate_distinct.ask,
    ):
        bound = (6 / sum(part.weight.shape)) ** 0.5
        assert 0.97 * bound < part.weight.abs().max().item() <= bound
    bound = (6 / (split.n_users + 300)) ** 0.5
    assert 0.97 * bound < wide.nodes.ego.users.abs().max().item() <= bound


def test_a_modality_given_as_a_graph_only_is_refused(split: Split):
    features = {**split.data.features, "image": graph_alone(split)}
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, features))


@pytest.mark.parametrize("settings", [{}, {"attention": "nodes"}, {"purifier": False, "contrast": "literal"}])
def test_runs_in_mixed_precision(split: Split, settings: dict):
    check_mixed_precision(build(split, **settings), BATCH, ["bpr"], rel=0.02)
