"""What each model's paper says, against plain dense formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import adjacency

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.freedom import FREEDOM, FREEDOMConfig
from triptych.models.lightgcn import LightGCN, LightGCNConfig
from triptych.models.mf_bpr import MFBPR, MFBPRConfig
from triptych.models.registry import create_model
from triptych.models.vbpr import VBPR, VBPRConfig
from triptych.nn.item_mixture import mixture_weights
from triptych.testing import toy_dataset


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(missing=False), rng=0)


@pytest.fixture
def batch() -> Triplets:
    return Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


def build(config, split: Split):
    torch.manual_seed(0)
    return create_model(config, ModelInputs.from_split(split))


def bpr(users: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor) -> torch.Tensor:
    return -torch.log(torch.sigmoid((users * (pos - neg)).sum(1))).mean()


def test_mf_bpr_loss_by_hand(split: Split, batch: Triplets):
    model: MFBPR = build(MFBPRConfig(embedding_dim=4, reg_weight=0.5), split)
    users, items = (table.double() for table in model.embeddings())
    u, i, j = users[batch.user], items[batch.pos], items[batch.neg]
    losses = model.loss(batch)
    assert losses["bpr"].item() == pytest.approx(bpr(u, i, j).item(), rel=1e-5)
    norms = sum(rows.pow(2).sum().sqrt().item() for rows in (u, i, j))
    assert losses["reg"].item() == pytest.approx(0.5 * norms / 4, rel=1e-5)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_lightgcn_is_the_mean_of_its_layers(split: Split, batch: Triplets, n_layers: int):
    model: LightGCN = build(LightGCNConfig(embedding_dim=4, n_layers=n_layers, reg_weight=0.1), split)
    ego = model.nodes.weight.detach().double().requires_grad_()
    layers = [ego]
    for _ in range(n_layers):
        layers.append(adjacency(split) @ layers[-1])
    mean = torch.stack(layers).mean(0)
    users, items = model.embeddings()
    assert torch.allclose(torch.cat([users, items]).double(), mean, atol=1e-6)

    def rows(nodes):
        return nodes[batch.user], nodes[split.n_users + batch.pos], nodes[split.n_users + batch.neg]

    expected = bpr(*rows(mean)) + 0.1 * sum(part.norm() for part in rows(ego)) / 4
    losses = model.loss(batch)
    total = losses["bpr"] + losses["reg"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    total.backward()
    expected.backward()
    assert torch.allclose(model.nodes.weight.grad.double(), ego.grad, atol=1e-6)


def test_vbpr_projects_the_batch_as_it_would_project_all(split: Split, batch: Triplets):
    model: VBPR = build(VBPRConfig(embedding_dim=4, reg_weight=0.5), split)
    features = torch.cat(
        [torch.from_numpy(split.data.features[name].values) for name in ("image", "text")], dim=1
    )
    content = features @ model.project.weight.T + model.project.bias
    items = torch.cat([model.items, content], dim=1)
    assert torch.allclose(model.embeddings().items, items, atol=1e-6)
    u, i, j = model.users[batch.user], items[batch.pos], items[batch.neg]
    expected = bpr(u, i, j) + 0.5 * (u.norm() + i.norm() + j.norm()) / 4
    plain = torch.autograd.grad(expected, list(model.parameters()))
    fast = torch.autograd.grad(sum(model.loss(batch).values()), list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, fast, strict=True))


def neighbours(values: np.ndarray, k: int) -> np.ndarray:
    """1/k at each row's k most similar columns."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    graph = np.zeros((len(values), len(values)))
    for row, similar in enumerate(unit @ unit.T):
        graph[row, np.argsort(-similar)[:k]] = 1 / k
    return graph


def test_freedom_adds_a_tenth_of_image_and_nine_of_text_neighbours(split: Split):
    model: FREEDOM = build(FREEDOMConfig(embedding_dim=4, n_neighbors=3), split)
    image, text = (split.data.features[name].values for name in ("image", "text"))
    mixed = torch.from_numpy(0.1 * neighbours(image, 3) + 0.9 * neighbours(text, 3))
    assert torch.allclose(model.item_adj.to_dense().double(), mixed, atol=1e-6)
    ego = model.nodes.weight.detach().double()
    linked = adjacency(split)
    mean = (ego + linked @ ego + linked @ linked @ ego) / 3
    users, items = model.embeddings()
    assert torch.allclose(users.double(), mean[: split.n_users], atol=1e-6)
    assert torch.allclose(items.double(), mean[split.n_users :] + mixed @ ego[split.n_users :], atol=1e-6)


def test_freedom_trains_on_a_new_sample_of_edges_and_scores_with_all(split: Split):
    model: FREEDOM = build(FREEDOMConfig(embedding_dim=4, n_neighbors=3, edge_dropout=0.7), split)
    scored = model.embeddings().users
    drawn = []
    for epoch in (1, 2):
        assert list(model.epoch_steps(epoch)) == []
        row, col, value = model.train_adj.edges()
        degree = torch.bincount(row, minlength=model.train_adj.n_rows).double()
        assert len(row) == 2 * int(0.3 * len(split.train))
        assert torch.allclose(value.double(), (degree[row] * degree[col]).rsqrt(), atol=1e-6)
        drawn.append(set(zip(row.tolist(), col.tolist(), strict=True)))
        assert drawn[-1] <= set(zip(*(part.tolist() for part in model.adj.edges()[:2]), strict=True))
    assert drawn[0] != drawn[1]
    assert not torch.equal(model.embeddings().users, scored)
    assert torch.equal(model.eval().embeddings().users, scored)


def test_freedom_feature_loss_compares_only_items_that_have_the_modality(split: Split, batch: Triplets):
    present = np.ones(split.n_items, dtype=bool)
    present[[5, 4]] = False  # of the four triplets, (1, 4), (2, 4) and (5, 0) lack one of their items
    image = ItemFeatures.dense(split.data.features["image"].values, present)
    data = replace(split.data, features={"image": image})
    config = FREEDOMConfig(embedding_dim=4, n_neighbors=3, feature_loss_weight=0.5)
    model: FREEDOM = build(config, replace(split, data=data))
    losses = model.loss(batch)
    users = model.embeddings().users[11]
    linear = model.project.maps["of_image"]
    values = torch.from_numpy(image.values)
    difference = linear(values[9]) - linear(values[2])
    assert losses["bpr_image"].item() == pytest.approx(
        -0.5 * torch.log(torch.sigmoid(users @ difference)).item(), rel=1e-5
    )
    nothing = Triplets(*(part[:3] for part in batch))
    assert model.loss(nothing)["bpr_image"].item() == 0.0


def test_freedom_item_without_text_has_image_neighbours_in_full():
    split = Split.by_ratio(toy_dataset(missing=True), rng=0)  # item 0 lacks an image, item 1 a text
    model: FREEDOM = build(FREEDOMConfig(embedding_dim=4, n_neighbors=2), split)
    graph = model.item_adj.to_dense()
    assert torch.allclose(graph.sum(1), torch.ones(split.n_items), atol=1e-6)
    assert sorted(graph[1][graph[1] > 0].tolist()) == pytest.approx([0.5, 0.5])
    assert sorted(graph[0][graph[0] > 0].tolist()) == pytest.approx([0.5, 0.5])


def test_freedom_weights():
    assert mixture_weights(None, ("text", "image")) == {"image": 0.1, "text": 0.9}
    assert mixture_weights(None, ("image", "audio")) == {"image": 0.5, "audio": 0.5}
    split = Split.by_ratio(toy_dataset(), rng=0)
    with pytest.raises(ConfigError, match="one weight for each modality"):
        build(FREEDOMConfig(modality_weights={"image": 1.0}), split)
    with pytest.raises(ConfigError, match="Did you mean 'image'"):
        build(FREEDOMConfig(modalities=("imagee",)), split)
    with pytest.raises(ConfigError, match="n_neighbors = 10"):
        build(FREEDOMConfig(n_neighbors=10), split)


def test_trainable_features_move_and_frozen_ones_do_not(split: Split):
    for train_features in (False, True):
        config = FREEDOMConfig(
            embedding_dim=4, n_neighbors=2, feature_loss_weight=0.1, train_features=train_features
        )
        model: FREEDOM = build(config, split)
        learned = {name for name, _ in model.named_parameters()}
        assert ("features.of_image" in learned) == train_features
