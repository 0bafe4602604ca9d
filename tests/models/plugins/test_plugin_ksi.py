"""KSI as a plug-in: contracts of its hosts, its equations written out, and each of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import LEFT_OUT
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph.store import GraphStore
from triptych.models.base import ModelConfig, ModelInputs, Recommender, Triplets
from triptych.models.bm3 import BM3Config
from triptych.models.freedom import FREEDOMConfig
from triptych.models.lightgcn import LightGCN, LightGCNConfig
from triptych.models.mf_bpr import MFBPRConfig
from triptych.models.mmgcn import MMGCNConfig
from triptych.models.ngcf import NGCFConfig
from triptych.models.plugins.base import PluggedIn, create_plugged_in
from triptych.models.plugins.ksi import KSIPlugin, KSIPluginConfig
from triptych.models.vbpr import VBPRConfig
from triptych.testing import RecommenderContract, toy_dataset

BATCH = Triplets(torch.tensor([0, 3, 3, 11, 7]), torch.tensor([1, 2, 5, 9, 5]), torch.tensor([4, 4, 0, 2, 8]))


class WithKSI(RecommenderContract):
    plugins: ClassVar = {"ksi": {"n_neighbors": 3}}

    def test_no_features_at_all(self, toy: Split) -> None:
        with pytest.raises(ConfigError, match="no item features"):
            self.briefly(replace(toy, data=replace(toy.data, features={})))


class TestMFBPRWithKSI(WithKSI):
    config = MFBPRConfig(embedding_dim=16, reg_weight=1e-3)
    plugins: ClassVar = {"ksi": {"n_neighbors": 3, "redundancy_weight": 0.1}}  # the board is of rank one


class TestLightGCNWithKSI(WithKSI):
    config = LightGCNConfig(embedding_dim=16)


class TestNGCFWithKSI(WithKSI):
    config = NGCFConfig(embedding_dim=16, n_layers=2)


class TestVBPRWithKSI(WithKSI):
    config = VBPRConfig(embedding_dim=16, reg_weight=1e-3)


class TestFREEDOMWithKSI(WithKSI):
    config = FREEDOMConfig(embedding_dim=16, n_neighbors=3, feature_loss_weight=1e-3)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 2 both; all have a sound. User 0 chose nothing."""
    data = toy_dataset()
    kinds = {}
    for name, features in data.features.items():
        present = features.present & (np.arange(data.n_items) != 2)
        kinds[name] = ItemFeatures.dense(features.values, present)
    kinds["audio"] = ItemFeatures.dense(np.random.default_rng(1).normal(size=(data.n_items, 3)))
    whole = Split.by_ratio(replace(data, features=kinds), rng=0)
    part = np.where(data.interactions.user == 0, LEFT_OUT, whole.part).astype(np.int8)
    return replace(whole, part=part)


def with_features(split: Split, features: dict[str, ItemFeatures]) -> Split:
    return replace(split, data=replace(split.data, features=features))


LIGHTGCN = LightGCNConfig(embedding_dim=4, reg_weight=0.3)
HOSTS = {
    "lightgcn": LIGHTGCN,
    "mf-bpr": MFBPRConfig(embedding_dim=4),
    "ngcf": NGCFConfig(embedding_dim=4, n_layers=1, message_dropout=0.0),
    "vbpr": VBPRConfig(embedding_dim=4, modalities=("text",)),
}


def build(split: Split, host: ModelConfig = LIGHTGCN, **settings: Any) -> tuple[PluggedIn, KSIPlugin]:
    """A model in float64 with KSI, whose modalities do not weigh the same."""
    torch.manual_seed(0)
    made = KSIPluginConfig(**{"n_neighbors": 6, "modalities": ("image", "text")} | settings)
    model = create_plugged_in(host, {"ksi": made}, ModelInputs.from_split(split)).double()
    assert isinstance(model, PluggedIn)
    plugin = model.plugins["ksi"]
    assert isinstance(plugin, KSIPlugin)
    with torch.no_grad():
        plugin.modality_logits.copy_(torch.linspace(0.5, -0.5, len(plugin.modality_logits)))
    return model, plugin


def item_graph(features: ItemFeatures, k: int) -> Tensor:
    """G of eq. 1 to 3, row by row."""
    values, n = features.values.astype(np.float64), len(features.present)
    kept = np.zeros((n, n))
    for i in np.flatnonzero(features.present):
        cosines = {
            j: values[i] @ values[j] / np.linalg.norm(values[i]) / np.linalg.norm(values[j])
            for j in np.flatnonzero(features.present)
        }
        for j in sorted(cosines, key=cosines.get, reverse=True)[:k]:
            kept[i, j] = max(cosines[j], 0.0)
    root = np.sqrt(np.where(kept.sum(1) > 0, kept.sum(1), 1))
    return torch.from_numpy(kept / root[:, None] / root)


def components(features: ItemFeatures, dim: int, whiten: bool) -> Tensor:
    """PCA by singular values; the largest entry of each direction is positive."""
    rows = features.values[features.present].astype(np.float64)
    centred = rows - rows.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:dim]
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])[:, None]
    found = np.zeros((len(features.present), dim))
    found[features.present, : len(directions)] = centred @ directions.T
    if whiten:
        found[:, : len(directions)] /= found[features.present, : len(directions)].std(axis=0, ddof=1)
    return torch.from_numpy(found)


def rr(rows: Tensor, scaling: str) -> Tensor:
    """Eq. 5 to 8."""
    if scaling == "row":
        rows = rows / rows.norm(dim=1, keepdim=True)
    elif scaling == "largest":
        rows = rows / rows.norm(dim=1).max()
    else:
        rows = (rows - rows.mean(dim=0)) / rows.std(dim=0)
    return (torch.cov(rows.T) - torch.eye(rows.shape[1], dtype=rows.dtype)).pow(2).sum()


def dense_layers(plugin: KSIPlugin, place: int, graph: Tensor, items: Tensor) -> tuple[list[Tensor], Tensor]:
    """H^0 ... H^L, and what is made of them."""
    kind, layers = plugin.config.item_gnn, [items]
    for number in range(plugin.config.n_item_layers):
        sent = layers[-1]
        if kind == "gcn":
            sent = F.leaky_relu(graph @ sent @ plugin.encoders[place].layers[number].project.weight.T)
        elif kind == "gat":
            layer = plugin.encoders[place].layers[number]
            sent = sent @ layer.project.weight.T
            ends = (
                sent @ layer.score.weight[0, : sent.shape[1]],
                sent @ layer.score.weight[0, sent.shape[1] :],
            )
            scores = F.leaky_relu(ends[0][:, None] + ends[1], 0.2).exp() * (graph > 0)
            sent = (scores / scores.sum(1, keepdim=True).clamp(min=1e-300) @ sent).relu()
        else:
            sent = graph @ sent
        layers.append(sent)
    return layers, torch.stack(layers).mean(dim=0) if kind == "lightgcn" else layers[-1]


def dense(
    model: PluggedIn, plugin: KSIPlugin, split: Split
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """All terms of the docstring, and final vectors."""
    config, (users, items), ids = plugin.config, model.host.embeddings(), model.host.id_embeddings()
    dim, n_items = ids.items.shape[1], split.n_items
    exps = plugin.modality_logits.exp()
    shares = exps / exps.sum()
    features = [split.data.features[name] for name in plugin.modalities]
    graphs = [item_graph(part, config.n_neighbors) for part in features]
    made = [dense_layers(plugin, m, graph, ids.items) for m, graph in enumerate(graphs)]
    if not config.use_structure:
        made = [([ids.items], ids.items)] * len(features)
    terms = {}

    if config.use_structure or config.fuse_without_structure:
        h = sum(share * vectors for share, (_, vectors) in zip(shares, made, strict=True))
        length = h.pow(2).sum(dim=1, keepdim=True)
        unit = torch.where(length > 0, h / length.where(length > 0, 1).sqrt(), 0)
        if items.shape[1] == dim:
            items = items + unit
        else:
            users, items = torch.cat([users, ids.users], 1), torch.cat([items, unit], 1)
        u, p, n = users[BATCH.user], items[BATCH.pos], items[BATCH.neg]
        terms["bpr"] = -torch.sigmoid((u * (p - n)).sum(1)).log().mean()

    aside = shares.detach() if config.detach_shares else shares
    asked = range(n_items) if config.semantic_items == "all" else BATCH.pos.tolist()
    total, weight = 0.0, 0.0
    for m, (part, (_, vectors)) in enumerate(zip(features, made, strict=True)):
        content = components(part, dim, config.whiten)
        found = []
        for i in asked:
            if part.present[i]:
                pool = content[[i, *plugin.retrieval.others[m, i].tolist()]]
                anchor = vectors[i]
                if config.semantic_cosine:
                    anchor, pool = F.normalize(anchor, dim=0), F.normalize(pool)
                products = (pool @ anchor / config.temperature).exp()
                found.append(-(products[0] / products.sum()).log())
        if found:
            total, weight = total + aside[m] * sum(found) / len(found), weight + aside[m]
    terms["ksi_semantic"] = config.semantic_weight * total / weight
    if config.semantic_reduction == "sum":
        terms["ksi_semantic"] = terms["ksi_semantic"] * len(asked)

    redundancy = torch.zeros((), dtype=torch.float64)
    if config.user_redundancy:
        redundancy = redundancy + rr(ids.users, config.redundancy_scaling)
    if config.item_redundancy:
        for m, (part, (layers, _)) in enumerate(zip(features, made, strict=True)):
            for number, layer in enumerate(layers):
                rows = layer[torch.from_numpy(part.present)] if number else layer
                term = aside[m] * rr(rows, config.redundancy_scaling)
                redundancy = redundancy + term / (config.n_item_layers + 1)
    if config.use_structure:
        terms["ksi_redundancy"] = config.redundancy_weight * redundancy
    return terms, (users, items)


@pytest.mark.parametrize(
    ("host", "settings"),
    [
        ("lightgcn", {}),
        ("mf-bpr", {"n_item_layers": 3, "n_negatives": 4, "modalities": ("text",)}),
        ("ngcf", {"redundancy_scaling": "largest", "modalities": ("audio", "image", "text")}),
        ("vbpr", {"detach_shares": True, "n_item_layers": 2}),
        ("mf-bpr", {"item_gnn": "lightgcn", "n_item_layers": 2, "semantic_cosine": True}),
        (
            "mf-bpr",
            {"item_gnn": "gcn", "n_item_layers": 2, "semantic_items": "all", "user_redundancy": False},
        ),
        (
            "mf-bpr",
            {"item_gnn": "gat", "whiten": True, "semantic_reduction": "sum", "item_redundancy": False},
        ),
        ("lightgcn", {"n_item_layers": 0, "redundancy_scaling": "column"}),
        ("lightgcn", {"use_structure": False}),
        ("vbpr", {"use_structure": False, "fuse_without_structure": True, "n_negatives": 3}),
    ],
)
def test_equals_the_equations_in_each_term_vectors_and_gradient(split: Split, host: str, settings: dict):
    model, plugin = build(split, HOSTS[host], semantic_weight=0.7, redundancy_weight=0.3, **settings)
    losses = plugin.losses(model.host, BATCH)
    expected, vectors = dense(model, plugin, split)
    assert list(losses) == list(expected)
    for found, wanted in zip(model.embeddings(), vectors, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-5)
        grads = [
            torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for x in (losses[name], term)
        ]
        for parameter, ours, theirs in zip(names, *grads, strict=True):
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, atol=1e-5 * max(scale, 1), rtol=1e-4, msg=parameter)


def test_the_hosts_other_terms_stay_and_its_bpr_makes_way(split: Split):
    model, plugin = build(split)
    ((losses, group),) = list(model.batch_steps(BATCH))
    assert group == "main"
    assert list(losses) == ["bpr", "reg", "ksi_semantic", "ksi_redundancy"]
    of_host, of_plugin = model.host.loss(BATCH), plugin.losses(model.host, BATCH)
    assert losses["reg"] == of_host["reg"]
    assert losses["bpr"] == of_plugin["bpr"] != of_host["bpr"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"use_semantics": False}, ["bpr", "ksi_redundancy"]),
        ({"semantic_weight": 0.0}, ["bpr", "ksi_redundancy"]),
        ({"use_structure": False}, ["ksi_semantic"]),
        ({"use_structure": False, "fuse_without_structure": True}, ["bpr", "ksi_semantic"]),
        ({"redundancy_weight": 0.0}, ["bpr", "ksi_semantic"]),
        ({"item_redundancy": False, "user_redundancy": False}, ["bpr", "ksi_semantic"]),
        ({"use_structure": False, "use_semantics": False}, []),
    ],
)
def test_what_is_switched_off_is_not_computed(split: Split, settings: dict, names: list[str]):
    model, plugin = build(split, **settings)
    assert list(plugin.losses(model.host, BATCH)) == names
    assert (plugin.retrieval is not None) == ("ksi_semantic" in names)
    changes = not torch.equal(model.embeddings().items, model.host.embeddings().items)
    assert changes == ("bpr" in names)


@pytest.mark.parametrize(
    "change",
    [
        {"modalities": ("text",)}, {"use_structure": False}, {"use_semantics": False}, {"n_neighbors": 4},
        {"n_item_layers": 2}, {"item_gnn": "lightgcn"}, {"item_gnn": "gcn"}, {"item_gnn": "gat"},
        {"redundancy_weight": 0.5}, {"item_redundancy": False}, {"user_redundancy": False},
        {"redundancy_scaling": "largest"}, {"redundancy_scaling": "column"}, {"semantic_weight": 0.2},
        {"temperature": 0.2}, {"n_negatives": 3}, {"semantic_items": "all"}, {"semantic_reduction": "sum"},
        {"semantic_cosine": True}, {"whiten": True},
    ],
)  # fmt: skip
def test_every_setting_changes_the_loss(split: Split, change: dict):
    def total(settings: dict) -> float:
        model, _ = build(split, **settings)
        (step,) = model.batch_steps(BATCH)
        return sum(step.losses.values()).item()

    assert total({}) == total({}) != total(change)


def test_two_settings_change_other_things(split: Split):
    plain, fused = (
        build(split, use_structure=False, fuse_without_structure=fuse)[0] for fuse in (False, True)
    )
    assert not torch.equal(plain.embeddings().items, fused.embeddings().items)

    def towards_shares(**settings: Any) -> Tensor:
        model, plugin = build(split, **settings)
        losses = plugin.losses(model.host, BATCH)
        total = losses["ksi_semantic"] + losses["ksi_redundancy"] + 0.0 * losses["bpr"]
        return torch.autograd.grad(total, plugin.modality_logits)[0]

    assert towards_shares().abs().min() > 1e-4
    assert not towards_shares(detach_shares=True).any()


def test_others_are_as_many_as_the_paper_has_and_drawn_anew_in_each_epoch(split: Split):
    rng = np.random.default_rng(0)
    many = toy_dataset(n_users=300, n_items=1100)
    features = {"image": ItemFeatures.dense(rng.normal(size=(1100, 5)))}
    large, plugin = build(with_features(Split.by_ratio(many, rng=0), features), modalities=None)
    assert plugin.retrieval.others.shape == (1, 1100, 2)
    first = plugin.retrieval.others
    list(large.epoch_steps(1))
    second = plugin.retrieval.others
    assert not torch.equal(first, second)
    large.embeddings()
    plugin.losses(large.host, BATCH)
    assert plugin.retrieval.others is second
    assert build(split)[1].retrieval.others.shape == (2, 10, 1)
    assert not any("retrieval" in name for name in large.state_dict())


def test_gradients_of_the_hosts_content_come_from_bpr_alone(split: Split):
    model, plugin = build(split, HOSTS["vbpr"])
    losses = plugin.losses(model.host, BATCH)
    for name, reached in (("bpr", True), ("ksi_semantic", False), ("ksi_redundancy", False)):
        (gradient,) = torch.autograd.grad(
            losses[name], [model.host.project.weight], retain_graph=True, materialize_grads=True
        )
        assert gradient.any() == reached


def test_wider_hosts_score_as_narrow_ones_with_their_ids_beside(split: Split):
    model, plugin = build(split, HOSTS["vbpr"])
    (users, items), ids = model.host.embeddings(), model.host.id_embeddings()
    fused = plugin.fuse(plugin.look(model.host), ids).items - ids.items
    expected = users @ items.T + ids.users @ fused.T
    ours = model.embeddings()
    assert ours.users.shape[1] == 12
    torch.testing.assert_close(ours.users @ ours.items.T, expected)
    assert torch.allclose(fused.norm(dim=1)[[0, 1, 3]], torch.ones(3, dtype=torch.float64))


def test_items_that_lack_modalities(split: Split):
    model, plugin = build(split)
    items, of_host = model.embeddings().items, model.host.embeddings().items
    assert torch.equal(items[2], of_host[2])  # lacks both
    by_modality = plugin.by_modality(model.host)
    assert list(by_modality) == ["image", "text"]
    assert by_modality["image"].abs().sum(1).gt(0).tolist() == [False, True, False] + [True] * 7
    assert by_modality["text"].abs().sum(1).gt(0).tolist() == [True, False, False] + [True] * 7
    alone = build(split, modalities=("text",))[0]
    torch.testing.assert_close(items[0], alone.embeddings().items[0])  # has a text only
    others = plugin.retrieval.others
    assert not (others[0] == 0).any()
    assert not (others[1] == 1).any()
    assert not (others == 2).any()
    no_content = plugin._semantic(
        plugin.retrieval, plugin.look(model.host), torch.ones(2), Triplets(*(torch.tensor([2]),) * 3)
    )
    assert no_content.item() == 0.0  # as nobody asks
    no_content.backward()
    assert not model.host.nodes.weight.grad.any()
    sum(next(iter(model.batch_steps(BATCH))).losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def with_text_of(split: Split, owners: list[int]) -> Split:
    """Everything has an image and a sound, and only some items a text."""
    rng = np.random.default_rng(2)
    has = {"image": np.ones(split.n_items, dtype=bool), "text": np.isin(np.arange(split.n_items), owners)}
    kinds = {name: ItemFeatures.dense(rng.normal(size=(split.n_items, 6)), of) for name, of in has.items()}
    return with_features(split, kinds)


@pytest.mark.parametrize("items", ["batch", "all"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_shares_do_not_learn_which_modality_few_items_have(split: Split, items: str, reduction: str):
    settings = {"semantic_items": items, "semantic_reduction": reduction}
    model, plugin = build(with_text_of(split, [2, 9]), use_structure=False, n_negatives=3, **settings)
    with torch.no_grad():
        plugin.modality_logits.zero_()
        model.host.nodes.weight.zero_()  # all products are 0: each item finds its content as hardly, ln 4

    def towards_shares() -> Tensor:
        found = plugin.losses(model.host, BATCH)["ksi_semantic"]
        asked = {"batch": 5, "all": 10}[items] if reduction == "sum" else 1
        torch.testing.assert_close(found, torch.tensor(0.1 * asked * np.log(4)))
        return torch.autograd.grad(found, plugin.modality_logits)[0]

    assert towards_shares().abs().max() < 1e-12

    # Where texts are found more easily than images, shares do learn it.
    with torch.no_grad():
        ids = model.host.nodes.weight[split.n_users :]
        text = plugin.retrieval.content[1]
        for item in (2, 9):
            ids[item] = text[item] - text[11 - item]
        plugin.retrieval.others[1, [2, 9]] = torch.tensor([[9], [2]], dtype=torch.int32)
    found = plugin.losses(model.host, BATCH)["ksi_semantic"]
    image, of_text = torch.autograd.grad(found, plugin.modality_logits)[0].tolist()
    assert of_text < -1e-3 < 1e-3 < image


def test_a_batch_without_a_text_says_nothing_of_shares(split: Split):
    model, plugin = build(with_text_of(split, [0, 7, 8]), use_structure=False)
    nobody = Triplets(*(torch.tensor([1, 2, 3]),) * 3)
    found = plugin.losses(model.host, nobody)["ksi_semantic"]
    each = plugin.retrieval(0, model.host.id_embeddings().items, nobody.pos)
    torch.testing.assert_close(found, 0.1 * each.mean())
    assert torch.autograd.grad(found, plugin.modality_logits)[0].abs().max() < 1e-12


def test_complete_content_is_asked_for_as_if_nothing_could_lack(split: Split):
    model, plugin = build(with_text_of(split, list(range(split.n_items))), n_negatives=2)
    seen, shares = plugin.look(model.host), plugin.modality_logits.softmax(dim=0)
    each = [shares[m] * plugin.retrieval(m, seen.vectors[m], BATCH.pos).sum() for m in range(2)]
    plain = torch.stack(each).sum() / len(BATCH.pos)
    found = plugin._semantic(plugin.retrieval, seen, shares, BATCH)
    assert found == plain  # to the last bit, so that runs on complete data can be repeated
    for parameter in (plugin.modality_logits, model.host.nodes.weight):
        grads = [torch.autograd.grad(x, parameter, retain_graph=True)[0] for x in (found, plain)]
        assert torch.equal(*grads)


def test_the_mean_of_layers_shows_no_modality_that_an_item_lacks(split: Split):
    model, plugin = build(split, item_gnn="lightgcn")
    assert plugin.look(model.host).vectors[0][0].any()  # half its own id
    assert not plugin.by_modality(model.host)["image"][0].any()


def ring(n: int) -> ItemGraph:
    each = np.arange(n)
    return ItemGraph.from_edges(each, (each + 1) % n, np.full(n, 2, dtype=np.float32), n)


def test_a_modality_of_graphs_alone_has_structure_but_no_semantics(split: Split):
    n = split.n_items
    given = ItemFeatures(present=np.ones(n, dtype=bool), graph=ring(n))
    text = split.data.features["text"]
    both = with_features(split, {"image": given, "text": text})
    model, plugin = build(both)
    seen = plugin.look(model.host)
    torch.testing.assert_close(seen.vectors[0], seen.ids.items.roll(-1, dims=0))
    assert plugin.asked == [1]
    found = plugin.losses(model.host, BATCH)["ksi_semantic"]
    each = plugin.retrieval(0, seen.vectors[1], BATCH.pos)
    assert (each > 0).sum() == 3  # items 1 and 2 lack a text
    torch.testing.assert_close(found, 0.1 * each.sum() / 3)
    (towards_graph,) = torch.autograd.grad(found, plugin.modality_logits)
    assert towards_graph.abs().max() < 1e-12  # the graph asks nothing, which is no reason to prefer it

    alone = with_features(split, {"image": given})
    with pytest.raises(ConfigError, match="given as item graphs only"):
        build(alone, modalities=None)
    assert build(alone, modalities=None, use_semantics=False)[0].embeddings().items.isfinite().all()


def test_hosts_without_ids_and_without_negatives_are_refused(split: Split):
    with pytest.raises(
        ConfigError, match="MMGCN with these settings learns no vectors of users and"
    ) as caught:
        build(split, MMGCNConfig(embedding_dim=4))
    assert "--set train_id=true" in str(caught.value)
    model, plugin = build(split, MMGCNConfig(embedding_dim=4, train_id=True))
    assert torch.equal(torch.cat(plugin.look(model.host).ids), model.host.shared)
    (towards_ids,) = torch.autograd.grad(plugin.losses(model.host, BATCH)["ksi_semantic"], model.host.shared)
    assert towards_ids.any()
    with pytest.raises(ConfigError, match="BM3 samples no items"):
        build(split, BM3Config(embedding_dim=4))
    model, plugin = build(split, BM3Config(embedding_dim=4), use_structure=False)
    assert list(plugin.losses(model.host, BATCH)) == ["ksi_semantic"]
    with pytest.raises(ConfigError, match="n_negatives = 10, but there are only 10 items"):
        build(split, n_negatives=10)
    values = np.zeros((split.n_items, 2))
    values[3] = 1
    with pytest.raises(ConfigError, match="only 1 items have features"):
        build(with_features(split, {"image": ItemFeatures.dense(values)}), modalities=None, n_neighbors=1)


def test_state_holds_all_that_embeddings_need(split: Split):
    (first, _), (second, _) = (build(split, item_gnn="gat") for _ in range(2))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        first.plugins["ksi"].encoders[0].graph.values.mul_(2)
    assert not torch.equal(first.embeddings().items, second.embeddings().items)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.embeddings().items, second.embeddings().items)


def test_mixed_precision(split: Split):
    model, plugin = build(split, item_gnn="gcn")
    model.float()
    exact = plugin.losses(model.host, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        found = plugin.losses(model.host, BATCH)
    sum(found.values()).backward()
    for name, term in exact.items():
        assert found[name].item() == pytest.approx(term.item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_by_hand_three_items():
    """Cosines 0.6 of items 0 and 1, 0 of 1 and 2, -0.8 of 0 and 2, which no edge has."""
    user, item = torch.tensor([0, 0, 0]), torch.arange(3)
    features = {"sound": ItemFeatures.dense(np.array([[1, 0], [0.6, 0.8], [-0.8, 0.6]]))}
    inputs = ModelInputs(1, 3, user, item, features, GraphStore(user, item, 1, 3, features))
    host = LightGCN(LightGCNConfig(embedding_dim=2, n_layers=0), inputs)
    config = KSIPluginConfig(n_neighbors=3, temperature=2.0, semantic_weight=1.0, n_negatives=1)
    plugin = KSIPlugin(config, inputs, host)
    with torch.no_grad():
        host.nodes.weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
    # G = [[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]] / (1.6, 1.6, 1) by rows, H^1 = [[1, 1.2], [0.6, 2], [-1.6, 0]] / 1.6
    h = np.array([[1, 1.2], [0.6, 2], [-1.6, 0]]) / 1.6
    users, items = plugin.refine(host, host.embeddings())
    expected = np.array([[1.0, 0], [0, 2], [-1, 0]]) + h / np.linalg.norm(h, axis=1, keepdims=True)
    assert users.tolist() == [[9, 9]]
    np.testing.assert_allclose(items.detach().numpy(), expected, atol=1e-6)
    # One user: C = 0 and RR = 2. Items: rows (1, 0), (0, 1), (-1, 0) have C = diag(1, 1/3), RR = 4/9.
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    later = ((np.cov(unit.T) - np.eye(2)) ** 2).sum()
    losses = plugin.losses(host, Triplets(torch.tensor([0]), torch.tensor([2]), torch.tensor([0])))
    assert losses["ksi_redundancy"].item() == pytest.approx(2 + (4 / 9 + later) / 2, rel=1e-5)


def test_it_trains_what_it_should(split: Split):
    model, plugin = build(split)
    list(model.epoch_steps(1))
    sum(next(iter(model.batch_steps(BATCH))).losses.values()).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {
        "host.nodes.weight",
        "plugins.ksi.modality_logits",
    }
    assert isinstance(model.host, Recommender)
    assert not plugin.retrieval.content.requires_grad
