"""DiffMM keeps the contract, and does what its paper says."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from planted import graph_alone, interactions, toy_split, unit, with_features

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import GraphStore
from triptych.models.base import ModelInputs, Triplets
from triptych.models.diffmm import DiffMM, DiffMMConfig
from triptych.testing import RecommenderContract

DIM = 4
SMALL = {"embedding_dim": DIM, "denoiser_width": 6, "user_batch_size": 5}


class TestDiffMM(RecommenderContract):
    config = DiffMMConfig(embedding_dim=8, denoiser_width=16, user_batch_size=16)


class TestDiffMMAsForTikTok(RecommenderContract):
    config = DiffMMConfig(
        embedding_dim=8,
        denoiser_width=16,
        user_batch_size=16,
        content_map="linear",
        contrast="main",
        edge_dropout=0.5,
        rebuild_k=2,
    )


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 2 both; all have a sound. User 0 chose nothing."""
    return toy_split(bare=2)


@pytest.fixture
def batch() -> Triplets:
    return Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


def build(split: Split, **settings) -> DiffMM:
    """A model in float64 of image and text, with modality weights that differ."""
    torch.manual_seed(0)
    config = DiffMMConfig(**{"modalities": ("image", "text"), **SMALL, **settings})
    model = DiffMM(config, ModelInputs.from_split(split)).double()
    with torch.no_grad():
        model.modality_weights.add_(torch.arange(len(model.modalities)))
    return model


def generate(model: DiffMM) -> DiffMM:
    """Give the model the graphs that an epoch begins with, without training it."""
    for _ in model.epoch_steps(1):
        pass
    return model.double()


def generated(model: DiffMM, modality: str) -> SparseGraph:
    return model.get_submodule(f"generated_{modality}")


def looped(rows: torch.Tensor) -> torch.Tensor:
    """(D + I)^-1/2 (A + I) (D + I)^-1/2 of a (U, I) matrix of pairs."""
    n_users, n_nodes = len(rows), sum(rows.shape)
    adjacency = torch.eye(n_nodes, dtype=torch.float64)
    adjacency[:n_users, n_users:] += rows
    adjacency[n_users:, :n_users] += rows.T
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


def plain_contents(model: DiffMM, split: Split) -> list[torch.Tensor]:
    contents = []
    for place, modality in enumerate(model.modalities):
        features = split.data.features[modality]
        values, parts = torch.from_numpy(features.values).double(), list(model.maps[place].parameters())
        content = values @ parts[0].T
        if model.config.content_map == "activated" or (model.config.content_map == "mixed" and place == 0):
            assert len(parts) == 1
            content = torch.where(content > 0, content, 0.2 * content)
        else:
            content = content + parts[1]
        contents.append(content * torch.from_numpy(features.present)[:, None])
    return contents


def plain_nodes(model: DiffMM, split: Split) -> list[torch.Tensor]:
    """The docstring's Z and V_m, modality by modality with (N, N) matrices."""
    config, n_users = model.config, split.n_users
    graph = model.adj.to_dense()
    assert torch.allclose(graph, looped(interactions(split)), atol=1e-7)  # stored in float32
    layers = sum(torch.linalg.matrix_power(graph, n) for n in range(config.n_layers + 1))
    ids = model.nodes.weight
    users, items = ids[:n_users], ids[n_users:]
    fused, views = torch.zeros_like(ids), []
    for m, content in enumerate(map(unit, plain_contents(model, split))):
        made = generated(model, model.modalities[m]).to_dense()
        a = graph @ torch.cat([users, content])
        b = graph @ torch.cat([a[:n_users], items])
        share = model.modality_weights.exp()[m] / model.modality_weights.exp().sum()
        fused = fused + share * (a + b + config.modality_graph_weight * made @ ids)
        views.append(layers @ made @ torch.cat([users, content]))
    return [layers @ fused + config.residual_weight * unit(fused), *views]


def plain_losses(model: DiffMM, split: Split, batch: Triplets) -> dict[str, torch.Tensor]:
    config, (main, *views) = model.config, plain_nodes(model, split)
    users, items = main.split([split.n_users, split.n_items])
    margin = (users[batch.user] * (items[batch.pos] - items[batch.neg])).sum(1)
    losses = {
        "bpr": -torch.sigmoid(margin).log().mean(),
        "reg": config.reg_weight * (model.nodes.weight**2).sum(),
    }
    contrast = torch.zeros(())
    pairs = combinations(views, 2) if config.contrast == "modalities" else [(main, view) for view in views]
    for one, other in pairs:
        cosines = (unit(one) @ unit(other).T / config.temperature).exp()
        for rows, kind in (
            (batch.user, slice(split.n_users)),
            (split.n_users + batch.pos, slice(split.n_users, None)),
        ):
            contrast = contrast - torch.log(cosines[rows, rows] / cosines[rows, kind].sum(1)).mean()
    return losses | {"contrast": config.contrast_weight * contrast}


SETTINGS = [
    {},
    {"content_map": "linear", "contrast": "main", "edge_dropout": 0.4, "n_layers": 2, "temperature": 0.2},
    {"content_map": "mixed", "modalities": ("image", "audio", "text"), "rebuild_k": 3, "residual_weight": 1.3},
    {"modalities": ("audio",), "contrast": "main", "n_layers": 0, "modality_graph_weight": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_dense_equations_in_value_loss_and_gradient(split: Split, batch: Triplets, settings: dict):
    model = generate(build(split, reg_weight=0.3, contrast_weight=0.7, **settings))
    assert torch.allclose(torch.cat(model.embeddings()), plain_nodes(model, split)[0])
    losses, expected = model.loss(batch), plain_losses(model, split, batch)
    assert losses.keys() == expected.keys()
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-10), name
    parameters = model.optimizer_groups()["main"].parameters
    fast = torch.autograd.grad(sum(losses.values()), parameters)
    slow = torch.autograd.grad(sum(expected.values()), parameters)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(fast, slow, strict=True))
    single = len(model.modalities) == 1
    assert all(grad.abs().max() > 1e-6 for grad in fast if not (single and grad.shape == (1,)))


@pytest.mark.parametrize("settings", SETTINGS)
def test_diffusion_equals_its_equations_in_loss_and_gradient(split: Split, settings: dict):
    model = build(split, signal_weight=0.3, denoiser_dropout=0.0, **settings)
    parameters = model.optimizer_groups()["diffusion"].parameters
    torch.manual_seed(5)
    steps = model.epoch_steps(1)
    found = []
    for _ in range(3):  # 12 users in blocks of 5
        losses, group = next(steps)
        assert group == "diffusion"
        found.append((losses, torch.autograd.grad(sum(losses.values()), parameters)))
    assert next(steps, None) is None
    torch.manual_seed(5)
    blocks = torch.randperm(split.n_users).split(5)
    assert torch.cat(blocks).unique().tolist() == list(range(split.n_users))
    items = model.nodes.ego.items
    for users, (losses, grads) in zip(blocks, found, strict=True):
        rows, expected = interactions(split)[users], {}
        for m, (modality, content) in enumerate(
            zip(model.modalities, plain_contents(model, split), strict=True)
        ):
            diffusion = model.diffusions[m]
            step, noise = torch.randint(5, (len(users),)), torch.randn_like(rows)
            noisy = diffusion.signal[step][:, None] * rows + diffusion.noise[step][:, None] * noise
            guess = diffusion.denoiser(noisy, step)
            errors = (rows - guess).pow(2).mean(1)
            expected[f"denoise_{modality}"] = (diffusion.weight[step] * errors).mean()
            apart = guess @ content.detach() - rows @ items.detach()
            expected[f"signal_{modality}"] = 0.3 * apart.pow(2).mean()
        assert list(losses) == list(expected)
        for name, term in losses.items():
            assert term.item() == pytest.approx(expected[name].item(), rel=1e-10), name
        slow = torch.autograd.grad(sum(expected.values()), parameters)
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(grads, slow, strict=True))


def test_each_loss_moves_its_own_group_alone(split: Split, batch: Triplets):
    model = build(split)
    groups = {name: {id(p) for p in group.parameters} for name, group in model.optimizer_groups().items()}
    for name, step in (
        ("diffusion", lambda: next(iter(model.epoch_steps(1))).losses),
        ("main", lambda: model.loss(batch)),
    ):
        model.zero_grad()
        sum(step().values()).backward()
        assert {id(p) for p in model.parameters() if p.grad is not None} == groups[name]


def test_generated_graphs_are_the_strongest_items_of_each_user(split: Split):
    model = generate(build(split, rebuild_k=2))
    graphs = []
    for modality, diffusion in zip(model.modalities, model.diffusions, strict=True):
        rows = torch.zeros(split.n_users, split.n_items, dtype=torch.float64)
        rows.scatter_(1, diffusion.top_items(model.chosen, 2, 100), 1.0)
        assert rows.sum(1).tolist() == [2] * split.n_users
        graphs.append(generated(model, modality).to_dense())
        assert torch.allclose(graphs[-1], looped(rows))
    assert not torch.equal(*graphs)


def test_edges_are_dropped_once_an_epoch_and_the_rest_grow(split: Split):
    model = generate(build(split, edge_dropout=0.25, rebuild_k=5))
    once = generated(model, "image").to_dense()
    generate(model)  # the denoisers have not moved
    again = generated(model, "image").to_dense()
    whole = generated(generate(build(split, rebuild_k=5)), "image").to_dense()
    kept = once > 0
    assert torch.allclose(once[kept], whole[kept] / 0.75)
    assert kept[whole > 0].double().mean().item() == pytest.approx(0.75, abs=0.12)
    assert not torch.equal(once > 0, (once > 0).T)  # each entry goes by itself
    assert not torch.equal(once, again)
    assert torch.equal(torch.cat(model.embeddings()), torch.cat(model.eval().embeddings()))


def test_before_the_first_epoch_generated_graphs_are_loops_alone(split: Split):
    model = build(split)
    for modality in model.modalities:
        dense = generated(model, modality).to_dense()
        assert torch.equal(dense, torch.eye(len(dense), dtype=torch.float64))
    assert torch.cat(model.embeddings()).isfinite().all()


def test_by_hand_one_user_with_one_of_two_items():
    user, item = torch.tensor([0]), torch.tensor([0])
    features = {"sound": ItemFeatures.dense(np.array([[3.0, -4.0], [0.0, 2.0]]))}
    inputs = ModelInputs(1, 2, user, item, features, GraphStore(user, item, 1, 2, features))
    model = DiffMM(DiffMMConfig(embedding_dim=2, denoiser_width=2, modality_graph_weight=0.5), inputs)
    with torch.no_grad():
        model.maps[0][0].weight.copy_(torch.eye(2))
        model.nodes.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 4.0]]))
    model._set_generated("sound", torch.tensor([0]), torch.tensor([1]), 0.0)
    # The user and item 0 meet with weight 1/2 each, item 1 keeps itself; generated are user and item 1.
    c = torch.tensor([[3.0, -0.8], [0.0, 2.0]]) / torch.tensor([[9.64**0.5], [2.0]])
    a = (torch.ones(2) + c[0]) / 2
    b = (a + torch.tensor([2.0, 0.0])) / 2
    e_user = a + b + 0.5 * torch.tensor([0.5, 2.5])
    e_items = [
        a + b + 0.5 * torch.tensor([2.0, 0.0]),
        c[1] + torch.tensor([0.0, 4.0]) + 0.5 * torch.tensor([0.5, 2.5]),
    ]
    both = (e_user + e_items[0]) / 2
    users, items = model.embeddings()
    assert users[0].tolist() == pytest.approx(
        (e_user + both + 0.5 * e_user / e_user.norm()).tolist(), rel=1e-5
    )
    assert items[0].tolist() == pytest.approx(
        (e_items[0] + both + 0.5 * e_items[0] / e_items[0].norm()).tolist(), rel=1e-5
    )
    assert items[1].tolist() == pytest.approx(
        (2 * e_items[1] + 0.5 * e_items[1] / e_items[1].norm()).tolist(), rel=1e-5
    )


def test_state_of_any_epoch_fits_a_new_model_in_value_and_gradient(split: Split, batch: Triplets):
    first = generate(build(split, edge_dropout=0.5, rebuild_k=2))
    torch.manual_seed(1)
    second = DiffMM(first.config, ModelInputs.from_split(split)).double()
    second.load_state_dict(first.state_dict())
    grads = []
    for model in (first, second):
        parameters = model.optimizer_groups()["main"].parameters
        grads.append(torch.autograd.grad(sum(model.loss(batch).values()), parameters))
    assert torch.equal(*(torch.cat(model.embeddings()) for model in (first, second)))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("content_map", ["activated", "linear"])
def test_an_item_that_lacks_a_modality_has_no_content_in_it(split: Split, content_map: str):
    model = generate(build(split, content_map=content_map))
    for modality, absent in (("image", [0, 2]), ("text", [1, 2])):
        content = model.modality_embeddings()[modality]
        assert content.shape == (split.n_items, DIM)
        assert (content.norm(dim=1) == 0).nonzero().flatten().tolist() == absent
        assert torch.allclose(
            content.norm(dim=1), torch.tensor(split.data.features[modality].present).double()
        )
    users, items = model.embeddings()
    assert users.isfinite().all()
    assert items.isfinite().all()


def test_one_modality_has_no_other_to_meet(split: Split, batch: Triplets):
    assert "contrast" not in build(split, modalities=("text",)).loss(batch)
    assert build(split, modalities=("text",), contrast="main").loss(batch)["contrast"].item() > 0
    assert "contrast" not in build(split, contrast_weight=0.0).loss(batch)


def test_a_modality_of_graphs_alone_is_refused(split: Split):
    features = {**split.data.features, "image": graph_alone(split)}
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, features))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rebuild_k": 11}, "only 10 items"), ({"noise_min": 0.5, "noise_max": 0.1}, "fall from 0.5 to 0.1")],
)
def test_impossible_settings_are_refused(split: Split, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        build(split, **settings)


CHANGES = {
    "embedding_dim": 5,
    "modalities": ("text", "image"),
    "n_layers": 2,
    "content_map": "linear",
    "modality_graph_weight": 0.9,
    "residual_weight": 0.9,
    "contrast": "main",
    "contrast_weight": 0.9,
    "temperature": 0.9,
    "reg_weight": 0.9,
    "rebuild_k": 3,
    "edge_dropout": 0.9,
    "signal_weight": 0.9,
    "n_steps": 3,
    "noise_scale": 0.9,
    "noise_min": 0.009,
    "noise_max": 0.9,
    "denoiser_width": 7,
    "denoiser_dropout": 0.9,
    "time_dim": 7,
    "user_batch_size": 6,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_setting_counts(split: Split, batch: Triplets, field: str):
    outcomes = []
    for settings in ({}, {field: CHANGES[field]}):
        model = build(split, **settings)
        losses = [step.losses for step in model.epoch_steps(1)] + [model.double().loss(batch)]
        outcomes.append([{name: term.item() for name, term in terms.items()} for terms in losses])
    assert outcomes[0] != outcomes[1]
    assert CHANGES.keys() == DiffMMConfig.model_fields.keys()


def test_runs_in_mixed_precision(split: Split, batch: Triplets):
    model = build(split, content_map="mixed", contrast="main").float()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [step.losses for step in model.epoch_steps(1)] + [model.loss(batch)]
    for terms in losses:
        sum(terms.values()).backward()
    assert losses[-1]["bpr"].item() == pytest.approx(model.loss(batch)["bpr"].item(), rel=0.01)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_first_maps_are_xavier_uniform_where_activated(split: Split):
    model = build(split, embedding_dim=500, content_map="mixed")
    (image, _), text = model.maps
    bound = (6 / (5 + 500)) ** 0.5
    assert image.bias is None
    assert 0.98 * bound < image.weight.abs().max().item() <= bound
    assert text.weight.abs().max().item() > (6 / (4 + 500)) ** 0.5  # torch's usual: up to 1 / sqrt(4)
    assert model.modality_weights.tolist() == [0.5, 1.5]  # build() added 0 and 1
