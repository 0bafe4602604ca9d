"""KSI as a model: contracts of its backbones, which are models with the plug-in, and what it adds to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelConfig, ModelInputs, Recommender, Triplets
from triptych.models.ksi import KSI, KSIConfig
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.mf_bpr import MFBPRConfig
from triptych.models.ngcf import NGCFConfig
from triptych.models.plugins.base import create_plugged_in
from triptych.models.plugins.ksi import KSIPluginConfig
from triptych.models.registry import create_model, model_entry
from triptych.testing import RecommenderContract, toy_dataset
from triptych.training.recipe import Recipe, find_recipe
from triptych.training.space import shipped_space

BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


class TestKSI(RecommenderContract):
    config = KSIConfig(embedding_dim=16, n_neighbors=3)


class TestKSIOnNGCF(RecommenderContract):
    config = KSIConfig(embedding_dim=16, n_neighbors=3, backbone="ngcf", redundancy_weight=0.1)


class TestKSIOnMatrixFactorisation(RecommenderContract):
    config = KSIConfig(embedding_dim=16, n_neighbors=3, backbone="mf", redundancy_weight=0.1, reg_weight=1e-3)


class TestKSIOfAttention(RecommenderContract):
    config = KSIConfig(embedding_dim=16, n_neighbors=3, item_gnn="gat", n_item_layers=2, semantic_items="all")


class TestKSIWithoutSemantics(RecommenderContract):
    config = KSIConfig(embedding_dim=16, n_neighbors=3, use_semantics=False, normalisation="rw_loop")


class TestKSIWithoutStructure(RecommenderContract):
    config = KSIConfig(embedding_dim=16, use_structure=False)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def build(split: Split, **settings: Any) -> KSI:
    torch.manual_seed(0)
    model = create_model(
        KSIConfig(**{"embedding_dim": 4, "n_neighbors": 5} | settings), ModelInputs.from_split(split)
    )
    assert isinstance(model, KSI)
    return model


def gradients(model: Recommender, losses: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
    total = torch.stack(list(losses.values())).sum()
    return list(torch.autograd.grad(total, list(model.parameters()), allow_unused=True))


BACKBONES = {
    "lightgcn": LightGCNConfig(embedding_dim=4, reg_weight=0.0),
    "mf": MFBPRConfig(embedding_dim=4, reg_weight=0.0),
    "ngcf": NGCFConfig(embedding_dim=4, n_layers=2, combine="mean", negative_slope=0.01, reg_weight=0.0),
}


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize(
    "settings", [{}, {"n_item_layers": 2, "item_gnn": "gcn"}, {"use_structure": False}], ids=str
)
def test_it_is_its_backbone_with_the_plugin(split: Split, backbone: str, settings: dict):
    ours = build(split, backbone=backbone, **settings).eval()  # nothing is dropped from NGCF's layers
    torch.manual_seed(0)
    attached = {"ksi": KSIPluginConfig(n_neighbors=5, **settings)}
    theirs = create_plugged_in(BACKBONES[backbone], attached, ModelInputs.from_split(split)).eval()
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    for epoch in (1, 2):
        for model in (ours, theirs):
            torch.manual_seed(epoch)
            list(model.epoch_steps(epoch))
        assert torch.equal(ours.plugin.retrieval.others, theirs.plugins["ksi"].retrieval.others)
        (found,), (expected,) = ours.batch_steps(BATCH), theirs.batch_steps(BATCH)
        assert found.losses.keys() | {"reg"} == expected.losses.keys()
        assert expected.losses["reg"] == 0
        for name, term in found.losses.items():
            assert torch.equal(term, expected.losses[name]), name
        for mine, other in zip(
            gradients(ours, found.losses), gradients(theirs, expected.losses), strict=True
        ):
            torch.testing.assert_close(mine, other)
    for mine, other in zip(ours.embeddings(), theirs.embeddings(), strict=True):
        assert torch.equal(mine, other)


def test_the_regulariser_is_of_final_vectors_and_the_sum_of_half_squares(split: Split):
    model = build(split, reg_weight=0.6)
    users, items = model.embeddings()
    rows = users[BATCH.user], items[BATCH.pos], items[BATCH.neg]
    expected = 0.6 * sum(part.pow(2).sum() for part in rows) / 2 / 4
    losses = model.loss(BATCH)
    assert list(losses) == ["bpr", "ksi_semantic", "ksi_redundancy", "reg"]
    torch.testing.assert_close(losses["reg"], expected)
    assert "reg" not in build(split).loss(BATCH)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 5}, {"backbone": "mf"}, {"backbone": "ngcf"}, {"n_layers": 1},
        {"normalisation": "rw_loop"}, {"reg_weight": 0.1}, {"modalities": ("text",)}, {"n_neighbors": 4},
    ],
)  # fmt: skip
def test_every_setting_of_its_own_changes_the_loss(split: Split, change: dict):
    totals = [sum(build(split, **settings).loss(BATCH).values()).item() for settings in ({}, {}, change)]
    assert totals[0] == totals[1] != totals[2]


def test_all_settings_of_the_plugin_are_settings_of_the_model():
    ours, plugin = (KSIConfig.model_fields, KSIPluginConfig.model_fields)
    own = {"embedding_dim", "backbone", "n_layers", "normalisation", "reg_weight"}
    assert set(ours) == set(plugin) | own
    for name, field in plugin.items():
        assert ours[name].default == field.default
        assert ours[name].description


def test_backbones_know_nothing_of_content(split: Split):
    for name, kind in (("mf", "mf-bpr"), ("ngcf", "ngcf"), ("lightgcn", "lightgcn")):
        model = build(split, backbone=name, n_layers=1)
        assert type(model.backbone) is model_entry(kind).model
        assert model.backbone.config.reg_weight == 0.0
        assert model.embeddings().items.shape == (split.n_items, 4)
        assert torch.equal(model.id_embeddings().items, model.backbone.id_embeddings().items)


def test_a_factorisation_has_no_graph_for_settings_of_graphs_to_change(split: Split):
    of_graphs = {"n_layers": 4, "normalisation": "rw_loop"}
    assert all('"mf"' in str(KSIConfig.model_fields[name].description) for name in of_graphs)
    plain, changed = (build(split, backbone="mf", **settings) for settings in ({}, of_graphs))
    assert torch.equal(plain.embeddings().items, changed.embeddings().items)
    uniform, normal = (
        build(split, backbone=name).id_embeddings().users.std().item() for name in ("lightgcn", "mf")
    )
    assert normal / uniform == pytest.approx(1, abs=0.5)


def test_lattices_lightgcn_averages_over_neighbours_and_itself(split: Split):
    adj = build(split, normalisation="rw_loop").backbone.adj
    dense = torch.zeros(adj.n_rows, adj.n_rows)
    user, item = (torch.from_numpy(part) for part in split.train)
    dense[user, split.n_users + item] = dense[split.n_users + item, user] = 1.0
    dense += torch.eye(adj.n_rows)
    torch.testing.assert_close(adj.to_dense(), dense / dense.sum(dim=1, keepdim=True))
    assert LightGCNConfig().normalisation == "sym"


def test_modalities_show_items_as_their_graphs_do(split: Split):
    model = build(split)
    found = model.modality_embeddings()
    assert list(found) == ["image", "text"]
    items = model.id_embeddings().items
    for name, rows in found.items():
        graph = ModelInputs.from_split(split).graphs.items(name, 5, "positive").to_dense()
        torch.testing.assert_close(rows, graph @ items)
    assert build(split, use_structure=False).modality_embeddings() == {}


@pytest.mark.parametrize("n_modalities", [1, 3])
def test_any_number_of_modalities(split: Split, n_modalities: int):
    rng = np.random.default_rng(0)
    names = ("audio", "items", "forward")[:n_modalities]
    features = {name: ItemFeatures.dense(rng.normal(size=(split.n_items, 6))) for name in names}
    model = build(replace(split, data=replace(split.data, features=features)))
    assert model.plugin.retrieval.others.shape == (n_modalities, split.n_items, 1)
    losses = model.loss(BATCH)
    assert all(grad.isfinite().all() for grad in gradients(model, losses))
    assert set(model.modality_embeddings()) == set(names)


def test_item_graphs_alone_suffice_without_semantics(split: Split):
    n = split.n_items
    each = np.arange(n)
    graph = ItemGraph.from_edges(each, (each + 1) % n, np.ones(n, dtype=np.float32), n)
    given = {"image": ItemFeatures(present=each >= 0, graph=graph)}
    bare = replace(split, data=replace(split.data, features=given))
    with pytest.raises(ConfigError, match="given as item graphs only"):
        build(bare)
    model = build(bare, use_semantics=False)
    torch.testing.assert_close(
        model.modality_embeddings()["image"], model.id_embeddings().items.roll(-1, dims=0)
    )
    assert model_entry("ksi").needs == "features or item graphs"


def test_recipes_and_search_space_hold_what_the_paper_prints():
    for name, weight in (("sports", 0.05), ("clothing", 0.1)):
        config, training, plugins = find_recipe(f"ksi-{name}.toml").configs()
        assert isinstance(config, ModelConfig)
        assert plugins == {}
        wanted = KSIConfig(semantic_weight=weight)
        assert config == wanted
        assert (training.epochs, training.batch_size, training.learning_rate) == (50, 1024, 5e-4)
    space = shipped_space("ksi")
    assert space.values["semantic_weight"] == (0.01, 0.05, 0.1, 0.5, 1.0)
    assert space.values["redundancy_weight"] == (0.1, 0.5, 1.0, 5.0, 10.0)
    assert space.values["temperature"] == (0.01, 0.05, 0.1, 0.5, 1.0)


def test_the_search_trains_as_the_recipes_do():
    loop = find_recipe("ksi-sports.toml").configs().training
    searched = {name: one for name, (one, *more) in shipped_space("ksi").values.items() if not more}
    assert Recipe("ksi", searched).configs().training == loop
