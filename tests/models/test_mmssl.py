"""MMSSL keeps the contract, and does what its equations say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import graph_alone, interactions, toy_split, with_features
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Step, Triplets
from triptych.models.mmssl import MMSSL, MMSSLConfig
from triptych.testing import RecommenderContract
from triptych.training.config import TrainConfig

BATCH = Triplets(torch.tensor([1, 3, 3, 11, 5]), torch.tensor([4, 2, 5, 9, 2]), torch.tensor([4, 4, 0, 2, 1]))
QUICK = TrainConfig(epochs=25, batch_size=128, learning_rate=0.05, metric="recall@2")
EXACT = {"dropout": 0.0, "critic_dropout": (0.0, 0.0)}


class TestMMSSL(RecommenderContract):
    config = MMSSLConfig(embedding_dim=8)
    training = QUICK


class TestMMSSLAsInThePaper(RecommenderContract):
    training = QUICK
    config = MMSSLConfig(embedding_dim=8, variant="paper", graph_refresh="epoch", graph_share=0.1)


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, item 7 both; user 0 chose nothing."""
    return toy_split(bare=7, sound=False)


def build(split: Split, **settings) -> MMSSL:
    torch.manual_seed(0)
    config = MMSSLConfig(**{"embedding_dim": 4, "n_heads": 2, "critic_widths": (4, 3), **settings})
    model = MMSSL(config, ModelInputs.from_split(split)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def steps(model: MMSSL, batch: Triplets = BATCH, seed: int = 5) -> tuple[Step, Step]:
    torch.manual_seed(seed)
    critic, main = model.batch_steps(batch)
    return critic, main


def by_root(matrix: torch.Tensor) -> torch.Tensor:
    weight = matrix.sum(1, keepdim=True).clamp(min=1).rsqrt()
    return matrix * weight.float().double()  # graphs are built in float32


# The docstring's equations, with (U, I) matrices


def plain_attention(model: MMSSL, parts: torch.Tensor) -> torch.Tensor:
    block, n_heads = model.attention, model.config.n_heads
    width = parts.shape[2] // n_heads
    fused = []
    for asking in parts:
        heads = []
        for h in range(n_heads):
            rows = slice(h * width, (h + 1) * width)
            if model.config.variant == "paper":
                query, key = block.query.weight[rows], block.key.weight[rows]
                scores = torch.stack([((asking @ query.T) * (other @ key.T)).sum(1) for other in parts])
                heads.append(((scores / width**0.5).softmax(0)[:, :, None] * parts).sum(0))
            else:
                heads.append(asking)
        fused.append(torch.cat(heads, dim=1) @ block.combine.weight.T)
    return torch.stack(fused).mean(0)


def plain_views(model: MMSSL, split: Split, generated: torch.Tensor) -> dict[str, torch.Tensor]:
    config, chosen = model.config, interactions(split)
    receive, send = by_root(chosen), by_root(chosen.T)
    contents = []
    for modality, linear in zip(model.features.dims, model.maps, strict=True):
        features = split.data.features[modality]
        projected = torch.from_numpy(features.values).double() @ linear.weight.T + linear.bias
        contents.append(projected * torch.from_numpy(features.present)[:, None])
    users_content = torch.stack([receive @ content for content in contents])
    items_content = torch.stack([send @ users for users in users_content])
    p, q = model.nodes.weight.split([split.n_users, split.n_items])
    users_told = torch.stack([by_root(h) @ q for h in generated])
    items_told = torch.stack([by_root(h.T) @ p for h in generated])
    x = p + config.attention_weight * F.normalize(plain_attention(model, users_told))
    y = q + config.attention_weight * F.normalize(plain_attention(model, items_told))
    layers = [(x, y)]
    for layer in range(1, config.n_layers + 1):
        finish = (lambda z: z.softmax(1)) if layer == config.n_layers else (lambda z: z)
        x = finish(receive @ y)
        y = finish(send @ x)
        layers.append((x, y))
    means = [torch.stack(side).mean(0) for side in zip(*layers, strict=True)]
    final = [
        mean + config.content_weight * sum(F.normalize(content) for content in side)
        for mean, side in zip(means, (users_content, items_content), strict=True)
    ]
    return {
        "users": final[0], "items": final[1], "users_content": users_content,
        "items_content": items_content, "told": users_told,
    }  # fmt: skip


def plain_critic(model: MMSSL, rows: torch.Tensor) -> torch.Tensor:
    slope = 0.01 if model.config.variant == "paper" else 1.0
    first, inner, second, last = model.critic.rest
    x = rows @ model.critic.by_item
    for layer, linear in ((first, inner), (second, last)):
        x = F.leaky_relu(x + layer.bias, slope)
        x = F.batch_norm(x, None, None, layer.scale, layer.shift, training=True)
        x = linear(x)
    return 100 * x.squeeze(1).sigmoid()


def plain_losses(model: MMSSL, split: Split, generated: torch.Tensor, seed: int = 5) -> list[dict]:
    config, views = model.config, plain_views(model, split, generated)
    user, pos, neg = BATCH
    chosen = interactions(split)[user]
    free = 1 - chosen
    n_modalities = len(generated)
    guesses = torch.cat(
        [
            F.normalize((views["users_content"][m][user] @ views["items_content"][m].T) * free)
            for m in range(n_modalities)
        ]
    )
    own = F.normalize((views["users"][user] @ views["items"].T) * free)
    torch.manual_seed(seed)
    gumbel = torch.zeros_like(chosen)
    places = chosen.nonzero(as_tuple=True)
    gumbel[places] = -torch.log(torch.empty(len(places[0])).double().exponential_() + 1e-8)
    shares = ((chosen + 1e-5 * gumbel) / 0.005).softmax(1)
    true = F.normalize(shares + config.true_guess_weight * own).detach()
    share = torch.rand(len(guesses), 1, dtype=torch.float64)
    fake, repeated = guesses.detach(), true.repeat(n_modalities, 1)
    between = (share * repeated + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(plain_critic(model, between).sum(), between, create_graph=True)
    critic = {
        "critic": plain_critic(model, fake).mean() - plain_critic(model, repeated).mean(),
        "penalty": config.penalty_weight * ((slope.norm(dim=1) - 1) ** 2).mean(),
    }
    u, i, j = views["users"][user], views["items"][pos], views["items"][neg]
    squares = sum((rows**2).sum() for rows in (u, i, j)) / (2 * len(user))
    contents = (views["users_content"], views["items_content"])
    main = {
        "bpr": -torch.sigmoid((u * (i - j)).sum(1)).log().mean(),
        "reg": config.reg_weight * (squares + sum((c**2).sum() for c in contents) / (2 * split.n_items)),
        "adversarial": -config.adversarial_weight * plain_critic(model, guesses).mean(),
    }
    for m, modality in enumerate(model.features.dims):
        a, b = F.normalize(views["told"][m][user]), F.normalize(u)
        within, across = (a @ a.T / config.temperature).exp(), (a @ b.T / config.temperature).exp()
        others = within.sum(1) - within.diagonal() + across.sum(1)
        main[f"contrast_{modality}"] = -config.contrast_weight * (across.diagonal() / others).log().mean()
    return [critic, main]


def three_edges(split: Split) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Graphs in which most users have nothing, as edges and written out."""
    edges = torch.tensor([0, 0, 1]), torch.tensor([3, 5, 3]), torch.tensor([8, 8, 0])
    generated = torch.zeros(2, split.n_users, split.n_items, dtype=torch.float64)
    generated[edges] = 1
    return edges, generated


@pytest.mark.parametrize("n_layers", [0, 1, 2])
@pytest.mark.parametrize("graph", ["training pairs", "few edges"])
@pytest.mark.parametrize("variant", ["official", "paper"])
def test_equals_the_plain_form_in_value_each_loss_and_gradient(split: Split, variant, graph, n_layers):
    weights = {"contrast_weight": 0.3, "reg_weight": 0.2, "adversarial_weight": 0.1, "attention_weight": 0.7}
    model = build(split, variant=variant, n_layers=n_layers, **weights, **EXACT)
    generated = interactions(split).repeat(2, 1, 1)
    if graph == "few edges":
        edges, generated = three_edges(split)
        model.generated.replace(*edges)
        model.double()
    views = plain_views(model, split, generated)
    assert torch.allclose(model.embeddings().users, views["users"])
    assert torch.allclose(model.embeddings().items, views["items"])
    parameters = dict(model.named_parameters())
    for step, expected in zip(steps(model), plain_losses(model, split, generated), strict=True):
        assert list(step.losses) == list(expected)
        for name, term in expected.items():
            assert step.losses[name].item() == pytest.approx(term.item(), rel=1e-8), name
        fast, slow = (
            torch.autograd.grad(sum(losses.values()), list(parameters.values()), allow_unused=True)
            for losses in (step.losses, expected)
        )
        for name, ours, theirs in zip(parameters, fast, slow, strict=True):
            if name.startswith("critic.") != (step.group == "critic"):
                assert ours is None, name  # a step moves its own group alone
            else:
                scale = max(1.0, theirs.abs().max().item())
                assert torch.allclose(ours, theirs, atol=1e-9 * scale), name


def test_critic_steps_first_and_the_others_answer_the_critic_that_has_moved(split: Split):
    model = build(split, **EXACT)
    stream = model.batch_steps(BATCH)
    assert next(stream).group == "critic"
    with torch.no_grad():
        model.critic.rest[-1].bias.fill_(1e3)  # an optimiser that makes it believe all
    main = next(stream)
    assert main.group == "main"
    assert main.losses["adversarial"].item() == pytest.approx(-0.01)
    assert list(stream) == []


def test_groups_are_adamw_and_adam_of_the_critic(split: Split):
    groups = build(split, weight_decay=0.3, critic_learning_rate=0.01).optimizer_groups()
    assert groups["main"].options == {"weight_decay": 0.3, "decoupled_weight_decay": True}
    assert groups["critic"].options == {"lr": 0.01, "betas": (0.5, 0.9)}
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for weight, kind in zip(weights, (torch.optim.Adam, torch.optim.AdamW), strict=True):
        options = groups["main"].options if kind is torch.optim.Adam else {"weight_decay": 0.3}
        optimizer = kind([weight], lr=0.1, **options)
        (weight * torch.tensor([1.0, -2.0, 0.0])).sum().backward()
        optimizer.step()
    assert torch.equal(*weights)


# Generated graphs


def found_edges(model: MMSSL) -> set[tuple[int, int]]:
    """Rows m U + user, and items."""
    row, item, _ = model.generated.users.edges()
    back, user, _ = model.generated.items.edges()
    sides = [set(zip(*(part.tolist() for part in edge), strict=True)) for edge in ((row, item), (back, user))]
    flipped = {(b // model.n_items * model.n_users + u, b % model.n_items) for b, u in sides[1]}
    assert sides[0] == flipped
    return sides[0]


def best_guesses(model: MMSSL, split: Split, users: list[int], k: int) -> set[tuple[int, int]]:
    views = plain_views(model, split, interactions(split).repeat(2, 1, 1))
    best = set()
    for m in range(2):
        scores = (views["users_content"][m] @ views["items_content"][m].T) * (1 - interactions(split))
        for user in users:
            order = scores[user].argsort(descending=True).tolist()
            best |= {(m * split.n_users + user, i) for i in order[:k] if scores[user, i] > 0}
    return best


def test_official_graphs_live_for_the_third_batch_of_an_epoch(split: Split):
    model = build(split, graph_share=0.25, **EXACT)
    every = {
        (m * split.n_users + int(u), int(i)) for m in range(2) for u, i in zip(*split.train, strict=True)
    }
    for start in (every, set()):
        model.epoch_steps(1)
        expected = [start, start, best_guesses(model, split, BATCH.user.tolist(), 2), set(), set()]
        assert expected[2]
        for edges in expected:
            assert found_edges(model) == edges
            model.double()
            steps(model)


def test_official_graphs_of_few_items_are_always_empty(split: Split):
    model = build(split, **EXACT)
    for _ in range(2):
        steps(model)
    assert found_edges(model) == set()
    told = model.double()._forward().generated
    assert told.abs().max() == 0
    alike = [losses["contrast_image"].item() for losses in (steps(model, seed=s)[1].losses for s in (1, 2))]
    assert alike[0] == alike[1] == pytest.approx(0.03 * np.log(2 * len(BATCH.user) - 1))


def test_graphs_by_epoch_are_those_of_all_users(split: Split):
    model = build(split, graph_refresh="epoch", graph_share=0.2, dropout=0.5)
    first = found_edges(model)
    model.epoch_steps(1)
    steps(model)
    assert found_edges(model) == first
    model.epoch_steps(2)
    assert found_edges(model) == best_guesses(model, split, list(range(split.n_users)), 2)
    assert not any(row % split.n_users == 0 for row, _ in found_edges(model))  # user 0 chose nothing
    least = build(split, graph_refresh="epoch", **EXACT)
    least.epoch_steps(2)
    assert found_edges(least) == best_guesses(least, split, list(range(split.n_users)), 1)


def test_generated_graphs_are_part_of_the_state(split: Split):
    first, second = (build(split, graph_refresh="epoch", graph_share=0.2) for _ in range(2))
    first.epoch_steps(2)
    first.double()
    second.load_state_dict(first.state_dict())
    assert found_edges(first) == found_edges(second)
    for a, b in zip(first.eval().embeddings(), second.eval().embeddings(), strict=True):
        assert torch.equal(a, b)


# Settings


@pytest.mark.parametrize(
    "settings",
    [{"n_layers": 1}, {"dropout": 0.5}, {"content_weight": 0.1}, {"attention_weight": 0.1}, {"n_heads": 4},
     {"variant": "paper"}, {"contrast_weight": 0.5}, {"temperature": 1.0}, {"reg_weight": 1.0},
     {"adversarial_weight": 1.0}, {"penalty_weight": 1.0}, {"true_guess_weight": 0.1}, {"embedding_dim": 8},
     {"critic_dropout": (0.5, 0.0)}, {"critic_dropout": (0.0, 0.5)}, {"critic_widths": (5, 3)},
     {"critic_widths": (4, 2)}, {"modalities": ("text",)}],
)  # fmt: skip
def test_every_setting_counts(split: Split, settings: dict):
    usual, other = (
        [{name: term.item() for name, term in step.losses.items()} for step in steps(build(split, **chosen))]
        for chosen in (EXACT, EXACT | settings)
    )
    assert usual != other


def test_critic_is_as_wide_as_the_authors_rule_and_the_bound_say(split: Split):
    def widths(**settings) -> tuple[int, ...]:
        critic = build(split, **settings).critic
        return *critic.by_item.shape, critic.rest[1].out_features

    assert split.n_items == 10
    assert widths(critic_widths=None) == (10, 2, 1)
    assert widths(critic_widths=None, critic_max_width=1) == (10, 1, 1)
    assert widths(critic_widths=(7, 5), critic_max_width=1) == (10, 7, 5)


def test_heads_have_to_share_the_width(split: Split):
    with pytest.raises(ConfigError, match="3 heads for vectors of 4 entries"):
        build(split, n_heads=3)


# Data at the edge


def finite_gradients(model: MMSSL, batch: Triplets = BATCH) -> bool:
    for step in steps(model, batch):
        sum(step.losses.values()).backward()
    return all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("modalities", [("text",), ("image", "text", "audio")])
@pytest.mark.parametrize("variant", ["official", "paper"])
def test_one_modality_and_three(split: Split, variant, modalities):
    sound = ItemFeatures.dense(np.random.default_rng(0).normal(size=(split.n_items, 3)))
    more = with_features(split, {**split.data.features, "audio": sound})
    model = build(more, modalities=modalities, variant=variant, **EXACT)
    generated = interactions(split).repeat(len(modalities), 1, 1)
    assert torch.allclose(model.embeddings().items, plain_views(model, more, generated)["items"])
    for step, expected in zip(steps(model), plain_losses(model, more, generated), strict=True):
        for name, term in expected.items():
            assert step.losses[name].item() == pytest.approx(term.item(), rel=1e-8), name
    assert list(model.modality_embeddings()) == list(modalities)
    assert finite_gradients(build(more, modalities=modalities, variant=variant))


def test_no_bias_stands_in_for_what_an_item_lacks(split: Split):
    model = build(split, modalities=("image",))
    with torch.no_grad():
        model.maps[0].bias.fill_(7.0)
        model.maps[0].weight.zero_()
    items = model.modality_embeddings()["image"]
    chosen = interactions(split)
    known = torch.from_numpy(split.data.features["image"].present).double()
    told = by_root(chosen.T) @ by_root(chosen) @ (7 * known)
    assert torch.allclose(items, told[:, None].expand(-1, 4))
    assert not known[[0, 7]].any()


def test_content_that_no_item_has_is_silent(split: Split):
    nothing = ItemFeatures.dense(np.zeros((split.n_items, 3)), np.zeros(split.n_items, dtype=bool))
    model = build(with_features(split, {**split.data.features, "audio": nothing}))
    assert model.modality_embeddings()["audio"].abs().max() == 0
    assert finite_gradients(model)
    model.epoch_steps(2)
    assert finite_gradients(model.double())


def test_modality_given_as_a_graph_only_is_refused(split: Split):
    mixed = with_features(split, {**split.data.features, "image": graph_alone(split)})
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(mixed)
    assert list(build(mixed, modalities=("text",)).modality_embeddings()) == ["text"]


def test_last_batch_of_a_single_pair(split: Split):
    alone = Triplets(*(part[:1] for part in BATCH))
    assert finite_gradients(build(split, modalities=("text",)), alone)


def test_mixed_precision_is_close(split: Split):
    for variant in ("official", "paper"):
        model = build(split, variant=variant, **EXACT).float()
        exact = steps(model)[1].losses
        with torch.autocast("cpu", torch.bfloat16):
            critic, main = steps(model)
        for step in (critic, main):
            sum(step.losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert main.losses["bpr"].item() == pytest.approx(exact["bpr"].item(), rel=0.01)
