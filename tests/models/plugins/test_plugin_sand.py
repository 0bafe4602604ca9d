"""SAND on hosts: what it adds to their losses, that it changes nothing else, and whom it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelConfig, ModelInputs, Recommender, Triplets
from triptych.models.bm3 import BM3Config
from triptych.models.freedom import FREEDOMConfig
from triptych.models.grcn import GRCNConfig
from triptych.models.ksi import KSIConfig
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.mgcn import MGCNConfig
from triptych.models.plugins.base import PluggedIn, create_plugged_in, make_plugin_configs
from triptych.models.plugins.sand import SANDPlugin, SANDPluginConfig
from triptych.models.vbpr import VBPRConfig
from triptych.scorer import Embeddings
from triptych.testing import RecommenderContract, toy_dataset

FEW = {"club_inner_steps": 2}
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))
HOSTS: dict[str, ModelConfig] = {
    "vbpr": VBPRConfig(embedding_dim=8),
    "freedom": FREEDOMConfig(embedding_dim=8, n_neighbors=3, feature_loss_weight=1e-3),
    "mgcn": MGCNConfig(embedding_dim=8, n_neighbors=3),
    "bm3": BM3Config(embedding_dim=8),
}


class TestVBPRWithSAND(RecommenderContract):
    config = VBPRConfig(embedding_dim=16)
    plugins: ClassVar = {"sand": {**FEW, "align_head": True, "head_dim": 8}}


class TestFREEDOMWithSAND(RecommenderContract):
    config = FREEDOMConfig(embedding_dim=16, n_neighbors=3, feature_loss_weight=1e-3)
    plugins: ClassVar = {"sand": FEW}


class TestBM3WithSAND(RecommenderContract):
    config = BM3Config(embedding_dim=16)
    plugins: ClassVar = {"sand": {"distance": "l2", "align_pool": "batch"}}


class TestMGCNWithSAND(RecommenderContract):
    config = MGCNConfig(embedding_dim=16, n_neighbors=3)
    plugins: ClassVar = {"sand": {**FEW, "club_shared": True, "club_pairing": "official_bug"}}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text; there is a sound that all items have."""
    toy = toy_dataset()
    sound = ItemFeatures.dense(np.random.default_rng(1).normal(size=(toy.n_items, 3)))
    return Split.by_ratio(replace(toy, features={**toy.features, "audio": sound}), rng=0)


def build(split: Split, config: ModelConfig, **settings: Any) -> PluggedIn:
    torch.manual_seed(0)
    attached = make_plugin_configs({"sand": {**FEW, **settings}})
    model = create_plugged_in(config, attached, ModelInputs.from_split(split))
    assert isinstance(model, PluggedIn)
    return model


def plugin_of(model: PluggedIn) -> SANDPlugin:
    plugin = model.plugins["sand"]
    assert isinstance(plugin, SANDPlugin)
    return plugin


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.pow(2).sum(1, keepdim=True).sqrt()


def dense_terms(model: PluggedIn, split: Split) -> dict[str, torch.Tensor]:
    """The plug-in's default losses of halves of the host's vectors, over all pairs of items."""
    plugin, vectors = plugin_of(model), model.host.modality_embeddings()
    present = {name: torch.from_numpy(split.data.features[name].present) for name in vectors}
    width = next(iter(vectors.values())).shape[1] // 2
    terms, aligned = {}, []
    for a, b in combinations(vectors, 2):
        both = present[a] & present[b]
        x, y = (unit(vectors[m][both, :width]) for m in (a, b))
        powers = (x @ y.T / plugin.config.temperature).exp()
        aligned.append(-(powers.diag() / powers.sum(1)).log().mean())
    if aligned:
        terms["sand_align"] = plugin.config.align_weight * torch.stack(aligned).mean()
    for m, (name, rows) in enumerate(vectors.items()):
        generic, unique = rows[present[name]].split(width, dim=1)
        mean, log_variance = plugin.separate.clubs[m](unique)
        squares = (generic[None] - mean[:, None]) ** 2 / (2 * log_variance[:, None].exp())
        log_q = -squares.sum(2)  # what i and j share of log q cancels
        bound = log_q.diag().mean() - log_q.mean()
        terms[f"sand_distance_{name}"] = plugin.config.distance_weight * bound
    return terms


@pytest.mark.parametrize("modalities", [("image",), ("image", "text"), None])
@pytest.mark.parametrize("host", HOSTS)
def test_adds_its_terms_to_those_of_the_host(split: Split, host: str, modalities):
    model = build(split, HOSTS[host].model_copy(update={"modalities": modalities})).double()
    expected = dense_terms(model, split)
    assert len(expected) == {1: 1, 2: 3, 3: 4}[3 if modalities is None else len(modalities)]
    torch.manual_seed(1)
    (last,) = [step.losses for step in model.batch_steps(BATCH) if step.group == "main"]
    torch.manual_seed(1)
    (alone,) = [step.losses for step in model.host.batch_steps(BATCH)]
    assert list(last) == [*alone, *expected]
    torch.testing.assert_close(last, alone | expected)
    parameters = list(model.host.parameters())
    fast, slow = (
        torch.autograd.grad(
            sum(terms[name] for name in expected), parameters, retain_graph=True, allow_unused=True
        )
        for terms in (last, expected)
    )
    reached = [a is not None and bool(a.any()) for a in fast]
    assert any(reached)  # the host learns of it
    for a, b in zip(fast, slow, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("host", HOSTS)
def test_ranking_and_vectors_are_the_hosts(split: Split, host: str):
    model = build(split, HOSTS[host])
    ours, theirs = model.scorer().embeddings, model.host.scorer().embeddings
    assert torch.equal(ours.users, theirs.users)
    assert torch.equal(ours.items, theirs.items)


@pytest.mark.parametrize("host", HOSTS)
def test_attaching_changes_neither_the_host_nor_what_is_drawn(split: Split, host: str):
    torch.manual_seed(0)
    inputs = ModelInputs.from_split(split)
    alone = create_plugged_in(HOSTS[host], {}, inputs).train()
    before = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    state = torch.get_rng_state()
    quiet = make_plugin_configs({"sand": {"use_align": False, "use_distance": False}})["sand"]
    SANDPlugin(quiet, inputs, alone)
    assert torch.equal(torch.get_rng_state(), state)
    assert alone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in alone.state_dict().items())
    assert not SANDPlugin(SANDPluginConfig(), inputs, alone.eval()).separate.heads
    assert not alone.training


def test_networks_are_fitted_to_the_hosts_vectors_before_its_step(split: Split):
    model = build(split, HOSTS["vbpr"], club_inner_steps=3)
    groups = model.optimizer_groups()
    assert set(groups) == {"main", "sand.club"}
    assert {id(p) for p in groups["sand.club"].parameters} == {
        id(p) for p in plugin_of(model).separate.clubs.parameters()
    }
    steps = list(model.batch_steps(BATCH))
    assert [step.group for step in steps] == ["sand.club"] * 3 + ["main"]
    assert list(steps[0].losses) == ["fit_audio", "fit_image", "fit_text"]
    sum(steps[0].losses.values()).backward()
    assert all(p.grad is None for p in model.host.parameters())
    rows = model.host.modality_embeddings()["image"][1:]
    generic, unique = rows.split(4, dim=1)
    mean, log_variance = plugin_of(model).separate.clubs[1](unique)
    expected = ((generic - mean) ** 2 / log_variance.exp() + log_variance).sum(1).mean() / 2
    assert steps[0].losses["fit_image"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_heads_are_moved_with_the_host(split: Split):
    model = build(split, HOSTS["vbpr"], align_head=True, club_learning_rate=0.5)
    groups = model.optimizer_groups()
    heads = {id(p) for p in plugin_of(model).separate.heads.parameters()}
    assert heads < {id(p) for p in groups["main"].parameters}
    assert groups["sand.club"].options == {"lr": 0.5}
    assert "sand.club" not in build(split, HOSTS["vbpr"], distance="l2").optimizer_groups()


class Counting(Recommender):
    """Gives vectors of given widths, counts how often it is asked, and has other ones in training."""

    def __init__(self, inputs: ModelInputs, *widths: int) -> None:
        super().__init__(ModelConfig(), inputs)
        self.rows = torch.nn.ParameterList(torch.randn(inputs.n_items, width) for width in widths)
        self.asked: list[tuple[bool, bool]] = []

    def modality_embeddings(self) -> dict[str, torch.Tensor]:
        self.asked.append((self.training, torch.is_grad_enabled()))
        return dict(zip(("image", "text", "audio"), (1.0 * rows for rows in self.rows), strict=False))

    def embeddings(self) -> Embeddings:
        return Embeddings(self.rows[0][:2], self.rows[0])


def test_the_host_is_asked_once_for_the_losses_and_once_for_all_inner_steps(split: Split):
    inputs = ModelInputs.from_split(split)
    for settings, wanted in ((FEW, [(True, False), (True, True)]), ({"distance": "l2"}, [(True, True)])):
        host = Counting(inputs, 4, 4).train()
        plugin = SANDPlugin(SANDPluginConfig(**settings), inputs, host)
        assert host.asked == [(False, False)]
        host.asked.clear()
        list(plugin.batch_steps(host, BATCH))
        plugin.losses(host, BATCH)
        assert host.asked == wanted


def test_hosts_without_vectors_of_modalities_are_refused(split: Split):
    for config, name, way in (
        (LightGCNConfig(embedding_dim=8), "LightGCN", "such as VBPR"),
        (FREEDOMConfig(embedding_dim=8, n_neighbors=3), "FREEDOM", "--set feature_loss_weight=0.001, or"),
        (KSIConfig(embedding_dim=8, use_structure=False), "KSI", "Leave use_structure on"),
    ):
        with pytest.raises(ConfigError, match=f"{name} with these settings gives no vectors") as caught:
            build(split, config)
        assert way in str(caught.value)


def test_what_freedom_ranks_by_learns_of_its_maps_alone(split: Split):
    """As its docstring and the table of the paper say."""
    model = build(split, HOSTS["freedom"])
    terms = plugin_of(model).losses(model.host, BATCH)
    sum(terms.values()).backward()
    reached = {name for name, p in model.host.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached
    assert all(name.startswith("project.") for name in reached)
    assert not any(name.startswith("project.") for name in gradients_of_ranking(model.host))


def gradients_of_ranking(host: Recommender) -> set[str]:
    users, items = host.embeddings()
    found = torch.autograd.grad(users.sum() + items.sum(), list(host.parameters()), allow_unused=True)
    return {
        name
        for (name, _), gradient in zip(host.named_parameters(), found, strict=True)
        if gradient is not None
    }


def test_vectors_that_cannot_be_halved_are_refused(split: Split):
    for width in (1, 5):
        with pytest.raises(ConfigError, match=f"GRCN gives vectors of {width} columns for 'audio'"):
            build(split, GRCNConfig(embedding_dim=width))


def test_vectors_of_several_widths_need_heads(split: Split):
    inputs = ModelInputs.from_split(split)
    host = Counting(inputs, 4, 6)
    with pytest.raises(ConfigError, match="different widths: 4, 6"):
        SANDPlugin(SANDPluginConfig(), inputs, host)
    plugin = SANDPlugin(SANDPluginConfig(align_head=True), inputs, host)
    assert all(term.isfinite() for term in plugin.losses(host, BATCH).values())


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ({}, {"align_weight": 0.1}), ({}, {"align": "infonce"}), ({}, {"align_anchor": "second"}),
        ({}, {"align_pool": "batch"}), ({}, {"align_head": True}), ({}, {"temperature": 0.5}),
        ({}, {"distance_weight": 0.1}), ({}, {"distance": "l2"}), ({}, {"club_reads": "generic"}),
        ({}, {"club_negatives": "permutation"}), ({}, {"club_shared": True}), ({}, {"club_hidden_dim": 6}),
        ({}, {"use_align": False}), ({}, {"use_distance": False}),
        ({"distance": "l2"}, {"l2_normalize": False}), ({"distance": "l2"}, {"l2_reduce": "sum"}),
        ({"align_head": True}, {"head_dim": 7}), ({"align_head": True}, {"projection_dim": 7}),
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_counts(split: Split, base: dict, settings: dict):
    found = []
    for changed in (base, base | settings):
        model = build(split, HOSTS["vbpr"], **changed)
        terms = plugin_of(model).losses(model.host, BATCH)
        found.append({name: term.item() for name, term in terms.items()})
    assert found[0] != found[1]


def test_fits_into_mixed_precision(split: Split):
    model = build(split, HOSTS["freedom"], align_head=True)
    with torch.autocast("cpu", torch.bfloat16):
        steps = list(model.batch_steps(BATCH))
    for step in steps:
        sum(step.losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
