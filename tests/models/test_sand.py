"""SAND keeps the contract, and does what its paper and its authors' code say."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from planted import adjacency, linear, toy_split, unit

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.sand import SAND, SANDConfig
from triptych.nn.composed import ComposedMaps
from triptych.testing import RecommenderContract
from triptych.training.recipe import find_recipe

DIM = 4
SMALL = {"embedding_dim": DIM, "n_neighbors": 3, "club_inner_steps": 2, "club_hidden_dim": 4}
NARROW = {"hidden_dim": 6, "head_dim": 5, "projection_dim": 3, "modalities": None, "modality_weights": None}
OFFICIAL = find_recipe("sand-official.toml").configs().model.model_dump() | SMALL | NARROW
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


class TestSAND(RecommenderContract):
    config = SANDConfig(embedding_dim=8, n_neighbors=3, club_inner_steps=2)


class TestSANDOfficial(RecommenderContract):
    config = SANDConfig(**OFFICIAL | {"embedding_dim": 8})


class TestSANDCheap(RecommenderContract):
    config = SANDConfig(
        embedding_dim=8, n_neighbors=3, align="infonce", align_pool="batch", distance="l2",
        item_graph="fixed", user_weights="global", share_user_table=True,
    )  # fmt: skip


@pytest.fixture
def split() -> Split:
    """Items 0 and 1 lack a modality each, user 0 chose nothing; there is a sound that all items have."""
    return toy_split()


def build(split: Split, **settings) -> SAND:
    """A model in float64 of image and text."""
    torch.manual_seed(0)
    config = SANDConfig(**SMALL | {"modalities": ("image", "text")} | settings)
    return SAND(config, ModelInputs.from_split(split)).double()


def official(split: Split, **settings) -> SAND:
    return build(split, **OFFICIAL | {"modalities": ("image", "text")} | settings)


def final_losses(model: SAND, batch: Triplets = BATCH) -> dict[str, torch.Tensor]:
    """The losses of the model's own step, without taking the others."""
    (last,) = [step.losses for step in model.batch_steps(batch) if step.group == "main"]
    return last


# The plain form


def present_in(split: Split, modality: str) -> torch.Tensor:
    return torch.from_numpy(split.data.features[modality].present)


def dense_item_graph(model: SAND, split: Split) -> torch.Tensor:
    """Each item's own weights of the modalities it has, which sum to what all do, over K."""
    modalities, k = list(model.features.dims), model.config.n_neighbors
    by_default = {"image": 0.1, "text": 0.9} if set(modalities) == {"image", "text"} else None
    given = model.config.modality_weights or by_default or dict.fromkeys(modalities, 1 / len(modalities))
    weights = torch.tensor([given[modality] for modality in modalities], dtype=torch.float64)
    if model.mixture is not None:
        weights = model.mixture.logits.softmax(dim=0)
    rows = []
    for i in range(split.n_items):
        has = [m for m, modality in enumerate(modalities) if present_in(split, modality)[i]]
        row = torch.zeros(split.n_items, dtype=torch.float64)
        for m in has:
            unit_rows = unit(torch.from_numpy(split.data.features[modalities[m]].values))
            cosines = unit_rows @ unit_rows[i]
            cosines[~present_in(split, modalities[m])] = -9
            cosines[i] = 9
            nearest = torch.zeros(split.n_items, dtype=torch.float64)
            nearest[cosines.topk(k).indices] = 1 / k
            row = row + nearest * weights[m] * weights.sum() / weights[has].sum()
        rows.append(row)
    return torch.stack(rows)


def dense_forward(model: SAND, split: Split):
    """Users, items, E_m, and of each modality generic and unique halves as the losses compare them."""
    config, n_users = model.config, split.n_users
    linked, graph = adjacency(split), dense_item_graph(model, split)
    smooth, parts = [], []
    for m, (modality, maps) in enumerate(zip(model.features.dims, model.maps, strict=True)):
        x = torch.from_numpy(split.data.features[modality].values).double()
        if config.split_at == "features":
            wide = linear(maps.square, x)
            half = wide.shape[1] // 2
            columns = {"generic": wide[:, :half], "unique": wide[:, half:], "content": wide}
            columns["aligned"] = columns["generic"]
            made = {name: linear(each, columns[name]) for name, each in maps.maps.items()}
            content = made["content"]
            parts.append(made)
        else:
            content = linear(maps, x)
        if config.input_map == "mlp":
            content = linear(model.enter[m][1], torch.where(content > 0, content, 0.01 * content))
        content = content * present_in(split, modality)[:, None]
        layers = [torch.cat([model.preferences[0 if config.share_user_table else m], content])]
        if config.normalize_input:
            layers = [unit(layers[0])]
        for _ in range(config.n_layers):
            layers.append(linked @ layers[-1])
        smooth.append(sum(layers[config.layer_sum_from :]))
        if config.split_at == "gnn":
            items = smooth[-1][n_users:]
            generic, unique = items[:, : DIM // 2], items[:, DIM // 2 :]
            parts.append({"aligned": generic, "generic": generic, "unique": unique})
    items = torch.cat([e[n_users:] for e in smooth], dim=1)
    alike = items
    for _ in range(config.n_item_layers):
        alike = graph @ alike
    weights = model.weights if config.user_weights != "none" else torch.ones(1, len(smooth))
    users = torch.cat([weights[:, m : m + 1] * e[:n_users] for m, e in enumerate(smooth)], dim=1)
    return users, items + alike, smooth, parts


def head(sequence: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    for layer in sequence:
        if isinstance(layer, torch.nn.BatchNorm1d):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * layer.weight + layer.bias
        elif isinstance(layer, torch.nn.Linear):
            x = linear(layer, x)
        else:
            x = x.clamp(min=0)
    return x


def one_way(a: torch.Tensor, b: torch.Tensor, tau: float) -> torch.Tensor:
    logits = (unit(a) @ unit(b).T / tau).exp()
    return -(logits.diag() / logits.sum(1)).log().mean()


def dense_losses(model: SAND, split: Split, order: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    config = model.config
    users, items, _, parts = dense_forward(model, split)
    margin = (users[BATCH.user] * (items[BATCH.pos] - items[BATCH.neg])).sum(1)
    log = torch.log2 if config.bpr_log == "2" else torch.log
    losses = {"bpr": -log(torch.sigmoid(margin)).mean()}
    modalities = list(model.features.dims)
    n_items = split.n_items
    if config.use_align and len(modalities) > 1:
        terms, aligned = [], []
        for m, modality in enumerate(modalities):
            known = present_in(split, modality).nonzero().squeeze(1)
            vectors = parts[m]["aligned"][known]
            vectors = head(model.separate.heads[m], vectors) if config.align_head else vectors
            full = torch.zeros(n_items, vectors.shape[1], dtype=torch.float64)
            aligned.append(full.index_copy(0, known, vectors))
        for a, b in combinations(range(len(modalities)), 2):
            both = present_in(split, modalities[a]) & present_in(split, modalities[b])
            pair = [aligned[a][both], aligned[b][both]]
            pair = pair[::-1] if config.align_anchor == "second" else pair
            terms.append(one_way(*pair, config.temperature))
        losses["align"] = config.align_weight * sum(terms) / len(terms)
    if config.use_distance:
        for m, modality in enumerate(modalities):
            known = present_in(split, modality)
            generic, unique = parts[m]["generic"][known], parts[m]["unique"][known]
            if config.distance == "l2":
                term = -(unit(generic) - unit(unique)).pow(2).sum(1).mean()
            else:
                x, y = (generic, unique) if config.club_reads == "generic" else (unique, generic)
                mean, log_variance = model.separate.clubs[0 if config.club_shared else m](x)
                near = (y - mean) ** 2
                every = ((y[None] - mean[:, None]) ** 2).mean(1)  # over all j
                far = every if order is None else (y[order[: len(y)]] - mean) ** 2
                term = ((far - near) / (2 * log_variance.exp())).sum(1).mean()
                term = term.clamp(min=0) if config.club_clamp else term
            losses[f"distance_{modality}"] = config.distance_weight * term
    return losses


def check_against_dense(model: SAND, split: Split) -> None:
    users, items, smooth, _ = dense_forward(model, split)
    found = model.embeddings()
    assert torch.allclose(found.users, users, atol=1e-6)  # graphs are stored in single precision
    assert torch.allclose(found.items, items, atol=1e-6)
    for (modality, rows), e in zip(model.modality_embeddings().items(), smooth, strict=True):
        assert torch.allclose(rows, e[split.n_users :], atol=1e-6), modality
    expected = dense_losses(model, split)
    losses = final_losses(model)
    assert list(losses) == list(expected)
    for name, term in expected.items():
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-6, abs=1e-9), name
    main = [p for p in model.parameters() if id(p) not in {id(q) for q in model.separate.clubs.parameters()}]
    names = [name for name, p in model.named_parameters() if any(p is q for q in main)]
    fast = torch.autograd.grad(sum(losses.values()), main, allow_unused=True)
    slow = torch.autograd.grad(sum(expected.values()), main, allow_unused=True)
    for name, a, b in zip(names, fast, slow, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name
        assert a.any(), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"distance": "l2", "n_layers": 3, "n_item_layers": 2},
        {"item_graph": "fixed", "share_user_table": True, "user_weights": "global", "n_item_layers": 2},
        {"input_map": "mlp", "hidden_dim": 6, "normalize_input": True, "layer_sum_from": 0},
        {"user_weights": "none", "n_item_layers": 0, "n_layers": 1, "bpr_log": "2"},
        {
            "club_shared": True,
            "club_reads": "generic",
            "align_head": True,
            "head_dim": 5,
            "projection_dim": 3,
        },
        {"split_at": "features", "projection_dim": 3},
        {"modalities": ("image",)},
        {"modalities": ("image", "text", "audio"), "item_graph": "fixed", "align_anchor": "second"},
        {"modalities": ("image", "text", "audio"), "modality_weights": {"image": 2, "text": 1, "audio": 3}},
        {"use_align": False},
        {"use_distance": False},
        {"use_align": False, "use_distance": False},
    ],
    ids=str,
)
def test_equals_the_dense_equations_in_value_loss_and_gradient(split: Split, settings: dict):
    model = build(split, **{"align_weight": 0.7, "distance_weight": 0.6} | settings)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    check_against_dense(model, split)


def test_the_official_reading_equals_its_dense_form(split: Split):
    model = official(split, align_weight=0.7, distance_weight=0.6, club_negatives="exact", club_clamp=False)
    for normed in model.separate.heads.modules():
        if isinstance(normed, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(normed.weight)
    check_against_dense(model, split)


def test_the_official_bound_has_random_strangers_and_is_not_below_zero(split: Split):
    model = official(split, modalities=("image",), distance_weight=1.0)
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        loss = final_losses(model)["distance_image"].item()
        torch.manual_seed(seed)
        order = torch.randperm(split.n_items - 1)
        assert loss == pytest.approx(dense_losses(model, split, order)["distance_image"].item(), abs=1e-12)
        found.append(loss)
    assert min(found) == 0 < max(found)


def test_the_official_recipe_is_all_that_the_code_does_otherwise():
    config = find_recipe("sand-official.toml").configs().model
    usual = SANDConfig()
    differing = {name for name in type(usual).model_fields if getattr(config, name) != getattr(usual, name)}
    assert differing == {
        "modalities", "modality_weights", "split_at", "input_map", "normalize_input", "layer_sum_from",
        "bpr_log", "item_graph", "align_anchor", "align_head", "distance_weight", "club_reads", "club_negatives",
        "club_clamp", "club_shared", "club_pairing",
    }  # fmt: skip
    assert find_recipe("sand-official.toml").configs().training.metric_decimals == 4  # as MMRec rounds
    baby = find_recipe("sand-baby.toml").configs()
    assert baby.model == usual
    assert baby.training.learning_rate == 1e-4


# Steps


def test_networks_are_fitted_before_the_step_of_the_model(split: Split):
    model = build(split, club_inner_steps=3)
    steps = model.batch_steps(BATCH)
    bounds = model.optimizer_groups()["club"].parameters
    groups = []
    for step in steps:
        groups.append(step.group)
        if step.group == "club":
            assert list(step.losses) == ["fit_image", "fit_text"]
            with torch.no_grad():
                for parameter in bounds:
                    parameter.mul_(0)  # guesses 0 with variance 1, so that nothing tells of anything
        else:
            assert step.losses["distance_image"].item() == pytest.approx(0, abs=1e-12)
            step.losses["align"].backward()  # what was made before is still whole
    assert groups == ["club"] * 3 + ["main"]


def test_gradients_reach_exactly_what_a_step_moves(split: Split):
    model = build(split, club_hidden_dim=16)  # of fewer neurons all may be asleep
    groups = {name: {id(p) for p in group.parameters} for name, group in model.optimizer_groups().items()}
    for step in model.batch_steps(BATCH):
        model.zero_grad()
        sum(step.losses.values()).backward()
        reached = {id(p) for p in model.parameters() if p.grad is not None and p.grad.any()}
        assert reached == groups[step.group]


def test_each_loss_reaches_what_it_is_about(split: Split):
    """Of the halves, alignment moves generic ones alone; in the official reading both losses act through T."""
    losses = final_losses(build(split, n_layers=2, distance="l2"))
    assert losses["align"].requires_grad
    model = official(split, align_weight=1.0, distance_weight=1.0, club_clamp=False)
    losses = final_losses(model)
    for name in ("align", "distance_image"):
        (grad,) = torch.autograd.grad(losses[name], model.maps[0].square.weight, retain_graph=True)
        assert grad.any()
        unused = (model.preferences, model.weights, *model.enter.parameters())
        grads = torch.autograd.grad(losses[name], unused, retain_graph=True, allow_unused=True)
        assert grads == (None,) * len(grads)


def test_the_rate_of_the_networks_may_be_their_own(split: Split):
    assert build(split).optimizer_groups()["club"].options == {}
    assert build(split, club_learning_rate=0.5).optimizer_groups()["club"].options == {"lr": 0.5}


def test_ablations_leave_out_their_terms(split: Split):
    terms = {"align": ["align"], "distance": ["distance_image", "distance_text"]}
    for left_out in (["align"], ["distance"], ["align", "distance"]):
        model = build(split, **{f"use_{name}": False for name in left_out})
        kept = [term for name, its in terms.items() if name not in left_out for term in its]
        assert list(final_losses(model)) == ["bpr", *kept]
        assert ("club" in model.optimizer_groups()) == ("distance" not in left_out)
        assert len(list(model.batch_steps(BATCH))) == (1 if "distance" in left_out else 3)
    assert "club" not in build(split, distance="l2").optimizer_groups()


# Settings


CHANGES = [
    {"n_layers": 3}, {"n_item_layers": 2}, {"n_neighbors": 2}, {"modality_weights": {"image": 1, "text": 1}},
    {"share_user_table": True}, {"user_weights": "global"}, {"user_weights": "none"},
    {"split_at": "features"}, {"input_map": "mlp"}, {"normalize_input": True}, {"layer_sum_from": 0},
    {"bpr_log": "2"}, {"modalities": ("text", "image")}, {"embedding_dim": 6}, {"align_weight": 0.1},
    {"align": "infonce"}, {"align": "positive_only"}, {"align": "literal"}, {"align_anchor": "second"},
    {"align_pool": "batch"}, {"align_head": True}, {"temperature": 0.5}, {"distance_weight": 0.1},
    {"distance": "l2"}, {"club_reads": "generic"}, {"club_negatives": "permutation"}, {"club_shared": True},
    {"club_hidden_dim": 6}, {"use_align": False}, {"use_distance": False},
]  # fmt: skip


@pytest.mark.parametrize("settings", CHANGES, ids=str)
def test_every_setting_counts(split: Split, settings: dict):
    usual, other = (
        {name: term.item() for name, term in final_losses(build(split, **changed)).items()}
        for changed in ({}, settings)
    )
    assert usual != other


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ({"distance": "l2"}, {"l2_normalize": False}),
        ({"distance": "l2"}, {"l2_reduce": "sum"}),
        ({"align_head": True}, {"head_dim": 7}),
        ({"align_head": True}, {"projection_dim": 7}),
        ({"input_map": "mlp"}, {"hidden_dim": 7}),
        ({"item_graph": "learned", "n_neighbors": 3}, {"n_neighbors": 4}),
    ],
    ids=str,
)
def test_settings_count_where_they_are_for_something(split: Split, base: dict, settings: dict):
    usual, other = (
        {name: term.item() for name, term in final_losses(build(split, **base | changed)).items()}
        for changed in ({}, settings)
    )
    assert usual != other


@pytest.mark.parametrize("settings", [{"modalities": ("text",)}, {"n_item_layers": 0}], ids=str)
def test_without_graphs_to_mix_there_is_no_weight_to_learn(split: Split, settings: dict):
    model, fixed = build(split, **settings), build(split, item_graph="fixed", **settings)
    assert model.state_dict().keys() == fixed.state_dict().keys()
    assert torch.equal(model.embeddings().items, fixed.embeddings().items)


def test_a_learned_mixture_begins_as_the_fixed_one_and_learns(split: Split):
    fixed, learned = build(split, item_graph="fixed"), build(split)
    assert torch.allclose(fixed.embeddings().items, learned.embeddings().items)
    sum(final_losses(learned).values()).backward()
    assert learned.mixture.logits.grad.any()


def test_official_maps_are_never_as_wide_as_the_features(split: Split):
    model = official(split)
    assert all(isinstance(maps, ComposedMaps) for maps in model.maps)
    assert [maps.square.weight.shape for maps in model.maps] == [(5, 5), (4, 4)]
    assert not any(isinstance(maps, ComposedMaps) for maps in build(split).maps)


# Content at the edge


def test_item_without_a_modality_enters_as_zeros(split: Split):
    for make in (build, official):
        model = make(split, n_layers=1, layer_sum_from=0)
        with torch.no_grad():
            model.preferences.zero_()  # so that E_m is the items' content alone
        for lacking, rows in enumerate(model.modality_embeddings().values()):
            assert torch.equal(rows.any(dim=1), torch.arange(split.n_items) != lacking)


def test_nothing_is_infinite_where_an_item_lacks_everything(split: Split):
    features = {
        name: ItemFeatures.dense(given.values, np.arange(split.n_items) != 1)
        for name, given in split.data.features.items()
    }
    bare = replace(split, data=replace(split.data, features=features))
    for model in (build(bare), official(bare), build(bare, item_graph="fixed")):
        assert all(part.isfinite().all() for part in model.embeddings())
        losses = final_losses(model)
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.optimizer_groups()["main"].parameters)


def test_user_without_training_items_is_what_the_code_leaves_of_them(split: Split):
    assert not build(split).embeddings().users[0].any()  # layers from 1 on see neighbours alone
    kept = build(split, layer_sum_from=0)
    expected = torch.cat([kept.weights[0, m] * kept.preferences[m, 0] for m in range(2)])
    assert torch.allclose(kept.embeddings().users[0], expected)


def test_width_is_that_of_all_modalities(split: Split):
    assert build(split).embeddings().items.shape[1] == 2 * DIM
    assert build(split, modalities=None).embeddings().users.shape[1] == 3 * DIM


def test_what_cannot_be_halved_is_refused(split: Split):
    with pytest.raises(ConfigError, match="vectors of 5 columns are to be halved"):
        build(split, embedding_dim=5)
    build(split, embedding_dim=5, split_at="features")
    thin = ItemFeatures.dense(np.arange(split.n_items)[:, None] + 1.0)
    narrow = replace(split, data=replace(split.data, features={"price": thin}))
    with pytest.raises(ConfigError, match="vectors of 1 columns"):
        build(narrow, modalities=None, split_at="features")


def test_modality_given_as_a_graph_only_is_refused(split: Split):
    ends = np.arange(split.n_items)
    graph = ItemGraph.from_edges(
        ends, (ends + 1) % len(ends), np.ones(len(ends), dtype=np.float32), len(ends)
    )
    given = ItemFeatures(present=np.ones(len(ends), dtype=bool), graph=graph)
    mixed = replace(split, data=replace(split.data, features={**split.data.features, "image": given}))
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(mixed)
    assert list(build(mixed, modalities=("text",)).features.dims) == ["text"]


def test_weights_of_other_modalities_are_refused(split: Split):
    with pytest.raises(ConfigError, match="modality_weights names image"):
        build(split, modality_weights={"image": 1.0})


def test_runs_in_mixed_precision(split: Split):
    for model in (build(split).float(), official(split, club_negatives="exact").float()):
        exact = final_losses(model)["bpr"].item()
        with torch.autocast("cpu", torch.bfloat16):
            steps = list(model.batch_steps(BATCH))
        assert steps[-1].losses["bpr"].item() == pytest.approx(exact, rel=0.02)
        for step in steps:
            sum(step.losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_first_tables_are_xavier_normal_and_weights_near_an_equal_share(split: Split):
    torch.manual_seed(0)
    wide = SAND(SANDConfig(**SMALL | {"embedding_dim": 512}), ModelInputs.from_split(split))
    for table in wide.preferences:
        assert table.std().item() == pytest.approx((2 / (split.n_users + 512)) ** 0.5, rel=0.05)
    assert torch.allclose(wide.weights.sum(dim=1), torch.ones(split.n_users))
    assert (wide.weights > 0).all()
    assert build(split, user_weights="global").weights.shape == (1, 2)
