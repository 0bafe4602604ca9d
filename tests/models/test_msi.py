"""MSI against its equations."""

from __future__ import annotations

import math
from itertools import combinations

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
from torch.distributions import Independent, Normal, kl_divergence

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.graph import sparse
from triptych.models.base import ModelInputs, Triplets
from triptych.models.bm3 import BM3, BM3Config
from triptych.models.msi import MSI, MSIConfig
from triptych.testing import RecommenderContract

NOTHING = torch.empty(0, dtype=torch.int64)
BATCH = Triplets(torch.tensor([3, 0, 3, 11, 5, 7]), torch.tensor([2, 1, 5, 2, 0, 7]), NOTHING)
BOTH = ("image", "text")
THREE = ("text", "audio", "image")


class TestMSI(RecommenderContract):
    config = MSIConfig(embedding_dim=8, critic_width=16)


class TestMSIWithFurtherLayers(RecommenderContract):
    config = MSIConfig(
        embedding_dim=8, n_layers=2, mi_estimator="infonce", z_flow="sample", reg_norm="row", cl_weight=2.0,
        ssd_weight=0.01,
    )  # fmt: skip


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text; all have a sound; user 1 chose nothing."""
    return toy_split(stranger=1)


def build(split: Split, **settings) -> MSI:
    torch.manual_seed(0)
    config = {"embedding_dim": 4, "modalities": BOTH, "dropout": 0.0, "critic_width": 8} | settings
    return MSI(MSIConfig(**config), ModelInputs.from_split(split))


def values(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in losses.items()}


def light_gcn(
    split: Split, users: torch.Tensor, items: torch.Tensor, n_layers: int
) -> tuple[torch.Tensor, ...]:
    nodes = mean_of_layers(adjacency(split), torch.cat([users, items]), n_layers)
    return nodes.split([split.n_users, split.n_items])


class Plain:
    """The docstring's equations in float64, with one LightGCN for the ids and for each modality."""

    def __init__(self, model: MSI, split: Split) -> None:
        self.model, self.split, self.config = model, split, model.config
        self.p = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
        self.names = tuple(model.features.dims)
        self.ids_u, self.ids_i = self.p["nodes.weight"].split([split.n_users, split.n_items])

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def q(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear("predict", x)

    def features(self, modality: str) -> torch.Tensor:
        frozen = getattr(self.model.features, f"of_{modality}").detach().double()
        return self.p.get(f"features.of_{modality}", frozen)

    def present(self, modality: str) -> torch.Tensor:
        return torch.from_numpy(self.split.data.features[modality].present)

    def code(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.features(self.names[place])
        mean = self.linear(f"encode.encoders.{place}.mean_map", rows)
        if not self.model.draws:
            return mean, torch.ones_like(mean)
        return mean, (1 + self.linear(f"encode.encoders.{place}.scale_map", rows).exp()).log() + 1e-7

    def nodes(self) -> tuple[torch.Tensor, torch.Tensor]:
        users, items = light_gcn(self.split, self.ids_u, self.ids_i, self.config.n_layers)
        return users, items + self.ids_i

    def on_graph(self, place: int, code: torch.Tensor) -> torch.Tensor:
        sent = code * self.present(self.names[place])[:, None]
        if not self.config.use_interaction_graph:
            return sent
        return light_gcn(self.split, self.ids_u, sent, self.config.n_layers)[1] + sent

    def shared(self, pair: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if self.config.mi_estimator == "infonce":
            a, b = a / a.pow(2).sum(1, keepdim=True).sqrt(), b / b.pow(2).sum(1, keepdim=True).sqrt()
            shares = (a @ b.T / self.config.temperature).exp()
            return math.log(len(a)) + ((shares.diag() / shares.sum(1)).log().mean()
                                       + (shares.diag() / shares.sum(0)).log().mean()) / 2  # fmt: skip
        shift = int(torch.randint(1, len(a), ()))

        def critic(x: torch.Tensor) -> torch.Tensor:
            for layer in (0, 2):
                x = self.linear(f"bottleneck.bounds.{pair}.critic.{layer}", x).clamp(min=0)
            return self.linear(f"bottleneck.bounds.{pair}.critic.4", x)

        together, strangers = critic(torch.cat([a, b], 1)), critic(torch.cat([a.roll(shift, 0), b], 1))
        return -(1 + (-together).exp()).log().mean() - (1 + strangers.exp()).log().mean()

    def losses(self, batch: Triplets) -> dict[str, torch.Tensor]:
        """The terms, with random numbers drawn in the model's order."""
        config, model = self.config, self.model
        u, i = batch.user, batch.pos
        items = i.unique()
        users_z, items_z = self.nodes()
        terms = {
            "user_to_item": away(self.q(users_z)[u], items_z.detach()[i]),
            "item_to_user": away(self.q(items_z)[i], users_z.detach()[u]),
        }
        codes = [self.code(place) for place in range(len(self.names))]
        drawn = [mean for mean, _ in codes]
        if model.draws:
            read = torch.arange(self.split.n_items) if model.far else items  # by what is drawn, in this order
            noise = [torch.randn(len(read), config.embedding_dim) for _ in codes]
            drawn = [m.index_add(0, read, s[read] * e) for (m, s), e in zip(codes, noise, strict=True)]
        pairs = list(combinations(range(len(codes)), 2)) if config.use_ssd else []
        for number, (a, b) in enumerate(pairs):
            first, second = self.names[a], self.names[b]
            both = self.present(first)[items] & self.present(second)[items]
            p, r = (Independent(Normal(*(part[items][both] for part in codes[m])), 1) for m in (a, b))
            weight = config.ssd_weight / len(pairs)
            terms[f"shared_{first}_{second}"] = -weight * self.shared(
                number, drawn[a][items][both], drawn[b][items][both]
            )
            apart = (kl_divergence(p, r) + kl_divergence(r, p)).mean() / 2
            terms[f"apart_{first}_{second}"] = weight * config.kl_weight * apart
        sent = drawn if config.z_flow == "sample" else [mean for mean, _ in codes]
        reg = [users_z.norm() / self.split.n_items, items_z.norm() / self.split.n_items]
        if config.reg_norm == "row":
            reg = [users_z[u].norm(dim=1).mean(), items_z[i].norm(dim=1).mean()]
        for place, modality in enumerate(self.names):
            z, known = self.on_graph(place, sent[place]), i[self.present(modality)[i]]
            terms[f"align_{modality}"] = config.cl_weight * away(self.q(z)[known], items_z.detach()[known])
            terms[f"mask_{modality}"] = config.cl_weight * away(self.q(z)[known], z.detach()[known])
            if config.use_interaction_graph:
                once = z[self.present(modality) if model.far else known.unique()]
                share = len(once) / self.present(modality).sum()
                table = once.norm() / share.sqrt() / self.split.n_items
                reg.append(table if config.reg_norm == "table" else z[known].norm(dim=1).mean())
        terms["reg"] = config.reg_weight * sum(reg)
        return terms


CASES = [
    {"n_layers": 1},
    {"n_layers": 0, "encoder": "unit_var", "modalities": THREE},
    {"n_layers": 1, "modalities": THREE, "feature_training": "all", "z_flow": "sample", "initial_scale": 0.1},
    {"n_layers": 1, "modalities": ("audio",), "reg_norm": "row"},
    {"n_layers": 1, "use_interaction_graph": False, "mi_estimator": "infonce", "temperature": 0.5},
    {"n_layers": 2, "feature_training": "all", "mi_estimator": "infonce", "reg_norm": "row"},
    {"n_layers": 2, "feature_training": "frozen", "z_flow": "sample"},
    {"n_layers": 3, "feature_training": "rows", "use_ssd": False, "modalities": THREE},
    {"n_layers": 4, "feature_training": "all", "encoder": "unit_var"},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_loss_and_gradients_are_those_of_a_graph_for_each_modality(split: Split, settings: dict):
    model = build(split, ssd_weight=0.9, kl_weight=0.6, reg_weight=0.7, cl_weight=1.5, **settings)
    plain = Plain(model, split)
    torch.manual_seed(5)
    losses = model.loss(BATCH)
    torch.manual_seed(5)
    expected = plain.losses(BATCH)
    assert list(losses) == list(expected)
    assert values(losses) == pytest.approx(values(expected), rel=1e-4, abs=1e-6)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad.to_dense().double()
        assert plain.p[name].grad.abs().max() > 1e-5, name
        assert torch.allclose(grad, plain.p[name].grad, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("n_layers", [1, 2])
def test_features_learn_in_the_rows_that_a_step_reads(split: Split, n_layers: int):
    model = build(split, n_layers=n_layers)
    sum(model.loss(BATCH).values()).backward()
    read = BATCH.pos.unique() if n_layers == 1 else torch.arange(split.n_items)
    for modality in BOTH:
        grad = getattr(model.features, f"of_{modality}").grad
        assert grad.is_sparse
        assert grad.coalesce().indices()[0].tolist() == read.tolist()
    assert len(model.optimizer_groups()["main"].by_row) == 2


def test_the_norm_of_a_modalitys_table_is_exact_for_a_batch_of_all_items(split: Split):
    model = build(split, reg_weight=1.0, modalities=("image",))
    every = torch.arange(split.n_items)
    plain = Plain(model, split)
    users, items = plain.nodes()
    image = plain.on_graph(0, plain.code(0)[0])[1:]  # item 0 has none
    expected = (users.norm() + items.norm() + image.norm()).item() / split.n_items
    assert model.loss(Triplets(every, every, NOTHING))["reg"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n_layers", "products"), [(0, 0), (1, 1), (2, 4), (3, 5), (4, 8)])
def test_graphs_cost_few_sparse_products(split: Split, monkeypatch, n_layers: int, products: int):
    model = build(split, n_layers=n_layers, modalities=THREE)
    calls, real = [], sparse._gather_sum

    def counted(*args):
        calls.append(args[3].shape[1])
        return real(*args)

    monkeypatch.setattr(sparse, "_gather_sum", counted)
    model.loss(BATCH)
    there_and_back = [3 * 4] * (2 * (n_layers // 2))  # of all modalities side by side
    assert sorted(calls) == [4] * n_layers + there_and_back
    assert len(calls) == products


@pytest.mark.parametrize("n_layers", [0, 1])
def test_near_graphs_read_no_features_but_those_of_the_batch(split: Split, n_layers: int):
    model = build(split, n_layers=n_layers, feature_training="frozen")
    others = torch.ones(split.n_items, dtype=torch.bool)
    others[BATCH.pos] = False
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(values(model.loss(BATCH)))
        for modality in BOTH:
            getattr(model.features, f"of_{modality}")[others] = torch.nan
    assert found[1] == found[0]


@pytest.mark.parametrize("n_layers", [0, 1, 2])
@pytest.mark.parametrize("modalities", [BOTH, THREE])
def test_without_both_modules_it_is_bm3(split: Split, n_layers: int, modalities):
    shared = {
        "embedding_dim": 4,
        "modalities": modalities,
        "n_layers": n_layers,
        "dropout": 0.4,
        "cl_weight": 2.0,
    }
    bm3 = BM3(BM3Config(**shared), ModelInputs.from_split(split))
    msi = build(split, **shared, use_ssd=False, use_interaction_graph=False)
    weights = bm3.state_dict()
    for place, modality in enumerate(modalities):
        for part in ("weight", "bias"):
            learned = weights.pop(f"project.maps.of_{modality}.{part}")
            weights[f"encode.encoders.{place}.mean_map.{part}"] = learned
    msi.load_state_dict(weights)
    assert sum(p.numel() for p in msi.parameters()) == sum(p.numel() for p in bm3.parameters())
    losses = []
    for model in (bm3, msi):
        torch.manual_seed(7)
        losses.append(values(model.loss(BATCH)))
        sum(model.loss(BATCH).values()).backward()
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for ours, theirs in zip(msi.eval().embeddings(), bm3.eval().embeddings(), strict=True):
        assert torch.equal(ours, theirs)
    for modality, vectors in bm3.modality_embeddings().items():
        assert torch.allclose(msi.modality_embeddings()[modality], vectors, atol=1e-6)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_scores_are_products_of_predictions_by_ids_or_by_a_modality(split: Split, n_layers: int):
    for wanted in ("ids", "image", "text", "all"):
        model = build(split, n_layers=n_layers, score_with=wanted, z_flow="sample").eval()
        plain = Plain(model, split)
        users, items = plain.nodes()
        vectors = {m: plain.on_graph(place, plain.code(place)[0]) for place, m in enumerate(BOTH)}
        found = model.embeddings()
        assert torch.allclose(found.users.double(), plain.q(users), atol=1e-5)
        ranked = {"ids": items, **vectors}
        expected = sum(map(plain.q, ranked.values())) if wanted == "all" else plain.q(ranked[wanted])
        assert torch.allclose(found.items.double(), expected, atol=1e-5)
        for modality, mine in model.modality_embeddings().items():
            assert torch.allclose(mine.double(), vectors[modality], atol=1e-5)
    with pytest.raises(ConfigError, match="score_with is 'audio'"):
        build(split, score_with="audio")


def test_one_layer_by_hand(split: Split):
    model = build(split, modalities=("audio",))
    with torch.no_grad():
        model.nodes.weight.fill_(0.0)
        user = split.train.user[0]
        model.nodes.weight[user] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        model.encode.encoders[0].mean_map.weight.zero_()
        model.encode.encoders[0].mean_map.bias.copy_(torch.tensor([10.0, 0.0, 0.0, 0.0]))
    item = split.train.item[0]
    chosen, choosers = (split.train.user == user).sum(), (split.train.item == item).sum()
    sent = 0.5 / math.sqrt(chosen * choosers)
    found = model.modality_embeddings()["audio"][item]
    assert found.tolist() == pytest.approx([15 + sent, 2 * sent, 3 * sent, 4 * sent], rel=1e-5)


def test_an_item_without_a_modality_has_there_what_users_send_it(split: Split):
    model = build(split).eval()
    without_content = model.modality_embeddings()["image"][0]
    users = model.nodes.ego.users[split.train.user[split.train.item == 0]]
    chosen = np.bincount(split.train.user, minlength=split.n_users)
    degree = chosen[split.train.user[split.train.item == 0]] * (split.train.item == 0).sum()
    weights = torch.from_numpy(0.5 / np.sqrt(degree)).float()
    assert torch.allclose(without_content, weights @ users, atol=1e-6)
    with torch.no_grad():
        model.encode.encoders[0].mean_map.bias.add_(5.0)
    assert torch.allclose(model.modality_embeddings()["image"][0], without_content, atol=1e-6)
    assert not torch.allclose(model.modality_embeddings()["image"][2], without_content)


def test_terms_of_items_without_a_modality_are_left_out(split: Split):
    nobody = Triplets(torch.tensor([0, 7]), torch.tensor([0, 0]), NOTHING)  # item 0 lacks an image
    for settings in ({}, {"reg_norm": "row"}, {"mi_estimator": "infonce", "n_layers": 2}):
        model = build(split, **settings)
        losses = model.loss(nobody)
        left_out = {"align_image", "mask_image", "shared_image_text", "apart_image_text"}
        assert {name for name, term in losses.items() if term.item() == 0} == left_out
        sum(losses.values()).backward()
        assert all(p.grad.to_dense().isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_modality_that_nobody_has(split: Split):
    none = ItemFeatures.dense(np.zeros((split.n_items, 3)), np.zeros(split.n_items, dtype=bool))
    features = {**split.data.features, "audio": none}
    model = build(with_features(split, features), modalities=THREE, n_layers=2)
    losses = model.loss(BATCH)
    sum(losses.values()).backward()
    assert all(math.isfinite(value) for value in values(losses).values())
    assert losses["align_audio"].item() == losses["shared_text_audio"].item() == 0.0
    assert losses["shared_text_image"].item() > 0.0
    assert all(part.isfinite().all() for part in model.eval().modality_embeddings().values())


def test_pairs_of_modalities_share_the_weight_and_one_alone_has_none(split: Split):
    assert len(build(split, modalities=THREE).bottleneck.bounds) == 3
    alone = build(split, modalities=("image",))
    assert [name for name in values(alone.loss(BATCH)) if name.startswith(("shared", "apart"))] == []
    assert not alone.draws
    assert alone.encode.encoders[0].scale_map is None
    assert values(alone.loss(BATCH)) == values(build(split, modalities=("image",), use_ssd=False).loss(BATCH))
    clueless = build(split, modalities=THREE, ssd_weight=0.6)
    with torch.no_grad():
        for bound in clueless.bottleneck.bounds:
            bound.critic[4].weight.zero_()
            bound.critic[4].bias.zero_()
    shared = [term.item() for name, term in clueless.loss(BATCH).items() if name.startswith("shared")]
    assert shared == pytest.approx([0.2 * math.log(4)] * 3)


def test_ablations_take_their_terms_away(split: Split):
    whole = list(values(build(split).loss(BATCH)))
    for settings, gone in (
        ({"use_ssd": False}, {"shared_image_text", "apart_image_text"}),
        ({"use_align": False}, {"align_image", "align_text"}),
        ({"use_mask": False}, {"mask_image", "mask_text"}),
        ({"use_interaction_graph": False}, set()),
    ):
        model = build(split, **settings)
        assert list(values(model.loss(BATCH))) == [name for name in whole if name not in gone]
    assert values(build(split, use_interaction_graph=False, use_ssd=False).loss(BATCH)) != values(
        build(split, use_ssd=False).loss(BATCH)
    )


@pytest.mark.parametrize(
    "settings", [{"n_layers": 2}, {"dropout": 0.5}, {"cl_weight": 2.0}, {"ssd_weight": 0.2}, {"kl_weight": 0.5},
                 {"reg_weight": 0.01}, {"encoder": "unit_var"}, {"initial_scale": 0.1}, {"z_flow": "sample"}, {"mi_estimator": "infonce"},
                 {"critic_width": 16}, {"reg_norm": "row"}, {"embedding_dim": 5}, {"modalities": ("text",)},
                 {"use_ssd": False}, {"use_align": False}, {"use_mask": False}, {"use_interaction_graph": False}],
)  # fmt: skip
def test_every_setting_counts(split: Split, settings: dict):
    found = []
    for model in (build(split), build(split, **settings)):
        torch.manual_seed(1)
        found.append(values(model.loss(BATCH)))
    assert found[0] != found[1]


def test_the_temperature_counts_where_it_is_used(split: Split):
    losses = [
        build(split, encoder="unit_var", mi_estimator=estimator, temperature=temperature).loss(BATCH)
        for estimator, temperature in (("infonce", 0.2), ("infonce", 0.5))
    ]
    assert losses[0]["shared_image_text"] != losses[1]["shared_image_text"]


def test_a_modality_of_graphs_alone_is_refused(split: Split):
    features = {**split.data.features, "image": graph_alone(split)}
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, features))


@pytest.mark.parametrize("settings", [{}, {"n_layers": 2, "mi_estimator": "infonce", "z_flow": "sample"}])
def test_runs_in_mixed_precision(split: Split, settings: dict):
    check_mixed_precision(build(split, **settings), BATCH, rel=0.05, abs=0.02)


def test_far_graphs_are_state(split: Split):
    model = build(split, n_layers=2, score_with="text")
    torch.manual_seed(9)
    other = MSI(model.config, ModelInputs.from_split(split))
    assert not torch.equal(other.embeddings().items, model.embeddings().items)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.embeddings().items, model.embeddings().items)
    assert {"adj.values", "to_users.values", "to_items.values"} <= model.state_dict().keys()
    assert "to_users.values" not in build(split, n_layers=1).state_dict()
