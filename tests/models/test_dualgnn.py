"""DualGNN against the plain dense form of its two graphs, and its two ways to weigh modalities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import adjacency, graph_alone, interactions, toy_split, with_features
from torch.nn.functional import leaky_relu

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.dualgnn import DualGNN, DualGNNConfig
from triptych.models.registry import create_model
from triptych.testing import RecommenderContract


class TestDualGNN(RecommenderContract):
    config = DualGNNConfig(embedding_dim=8, hidden_dim=8, n_neighbors=15)


class TestDualGNNOfThePaper(RecommenderContract):
    config = DualGNNConfig(embedding_dim=8, hidden_dim=8, variant="paper")


CONFIG = DualGNNConfig(embedding_dim=4, hidden_dim=6, n_neighbors=3, reg_weight=0.5)
BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text, and user 5 has no training pairs."""
    return toy_split(stranger=5, sound=False)


def with_modalities(split: Split, n: int) -> Split:
    """The same split with the first n of image, text and sound."""
    sound = ItemFeatures.dense(np.random.default_rng(0).normal(size=(split.n_items, 7)))
    features = dict([*split.data.features.items(), ("sound", sound)][:n])
    return with_features(split, features)


def build(config: DualGNNConfig, split: Split) -> DualGNN:
    torch.manual_seed(0)
    return create_model(config, ModelInputs.from_split(split))


def changed(**fields) -> DualGNNConfig:
    return CONFIG.model_copy(update=fields)


def smoothing(split: Split) -> torch.Tensor:
    """1 + A + A^2 with A = D^-1/2 A D^-1/2, in float64."""
    linked = adjacency(split)
    return torch.eye(len(linked)) + linked + linked @ linked


def softmax_of_counts(split: Split, k: int) -> torch.Tensor:
    """The user graph where every user with training pairs has at least k others: no slot is left over."""
    common = (interactions(split) @ interactions(split).T).numpy()
    np.fill_diagonal(common, 0)
    graph = np.zeros_like(common)
    for user, counts in enumerate(common):
        best = [v for v in np.argsort(-counts, kind="stable")[:k] if counts[v]]
        assert len(best) in (0, k)
        if best:
            weights = np.exp(counts[best])
            graph[user, best] = weights / weights.sum()
    return torch.from_numpy(graph)


def dense(s: dict[str, torch.Tensor], split: Split, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes' forward pass, with MMRec's addition in place done to the list of modalities."""
    r = []
    for m, features in enumerate(split.data.features.values()):
        hidden = (
            torch.from_numpy(features.values).double() @ s[f"content.{m}.0.weight"].T
            + s[f"content.{m}.0.bias"]
        )
        content = leaky_relu(hidden, 0.01) @ s[f"content.{m}.2.weight"].T + s[f"content.{m}.2.bias"]
        content = torch.where(torch.from_numpy(features.present)[:, None], content, 0.0)
        x = torch.cat([s[f"nodes.{m}.preference"], content])
        r.append(smoothing(split) @ (x / x.pow(2).sum(1, keepdim=True).sqrt().clamp(min=1e-12)))
    everything = sum(r)
    if variant == "mmrec":
        r[0] = everything
    wanted = sum(s["weights"][:, m, None] * part[: split.n_users] for m, part in enumerate(r))
    users = wanted + softmax_of_counts(split, CONFIG.n_neighbors) @ wanted
    return users, everything[split.n_users :]


@pytest.mark.parametrize("variant", ["paper", "mmrec"])
@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_value_and_gradient_equal_the_dense_form(split: Split, variant: str, n_modalities: int):
    split = with_modalities(split, n_modalities)
    model = build(changed(variant=variant), split)
    s = {name: value.detach().double().requires_grad_() for name, value in model.named_parameters()}
    users, items = dense(s, split, variant)
    assert torch.allclose(model.embeddings().users.double(), users, atol=1e-5)
    assert torch.allclose(model.embeddings().items.double(), items, atol=1e-5)

    difference = (users[BATCH.user] * (items[BATCH.pos] - items[BATCH.neg])).sum(1)
    squares = [s[f"nodes.{m}.preference"][BATCH.user].pow(2).mean() for m in range(n_modalities)]
    expected = {
        "bpr": -torch.log2(torch.sigmoid(difference)).mean(),
        "reg": 0.5 * (sum(squares) + s["weights"].pow(2).mean()),
    }
    losses = model.loss(BATCH)
    assert {name: term.item() for name, term in losses.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-5
    )
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.double(), s[name].grad, atol=1e-5), name
        assert parameter.grad.any(), name


def test_variants_differ_for_users_but_not_for_items(split: Split):
    paper, mmrec = (build(changed(variant=variant), split).embeddings() for variant in ("paper", "mmrec"))
    assert torch.equal(paper.items, mmrec.items)
    assert not torch.allclose(paper.users, mmrec.users, atol=1e-3)
    alone = with_modalities(split, 1)  # a single modality has nothing added to it
    paper, mmrec = (build(changed(variant=variant), alone).embeddings() for variant in ("paper", "mmrec"))
    assert torch.equal(paper.users, mmrec.users)


def test_mmrec_lets_the_first_weight_count_for_all(split: Split):
    model = build(CONFIG, with_modalities(split, 3))
    with torch.no_grad():
        model.weights.copy_(torch.tensor([0.5, 0.25, -1.0]))
    assert model._effective_weights()[0].tolist() == [0.5, 0.75, -0.5]


def test_weights_start_as_shares_and_are_then_free(split: Split):
    model = build(CONFIG, split)
    assert torch.allclose(model.weights.sum(1), torch.ones(split.n_users))
    optimizer = torch.optim.SGD([model.weights], lr=1.0)
    sum(model.loss(BATCH).values()).backward()
    optimizer.step()
    assert not torch.allclose(model.weights.sum(1), torch.ones(split.n_users))


def test_epochs_draw_anew_who_fills_slots_that_are_left_over(split: Split):
    model = build(changed(n_neighbors=40), split)  # there are 12 users: all have slots left over
    drawn = []
    for epoch in (1, 2):
        assert list(model.epoch_steps(epoch)) == []
        drawn.append(model.user_adj.to_dense())
        first, second = model.embeddings().users, model.embeddings().users
        assert torch.equal(first, second)
        model.eval()
        assert torch.equal(model.embeddings().users, first)  # scoring uses the graph of the epoch
        model.train()
    assert not torch.equal(*drawn)
    common = (interactions(split) @ interactions(split).T).fill_diagonal_(0) > 0
    assert all(torch.equal(graph > 0, common) for graph in drawn)


def test_no_slot_left_over_no_draw(split: Split):
    model = build(CONFIG, split)
    before = model.user_adj.to_dense()
    model.epoch_steps(1)
    assert torch.equal(model.user_adj.to_dense(), before)


def test_the_drawn_graph_is_state_and_the_counts_are_not(split: Split):
    state = build(CONFIG, split).state_dict()
    assert "user_adj.values" in state
    assert {"row", "col", "count"}.isdisjoint(state)


def test_users_without_training_pairs_have_their_own_wants_only(split: Split):
    model = build(CONFIG, split)
    own = torch.nn.functional.normalize(torch.stack([nodes.preference[5] for nodes in model.nodes]), dim=1)
    expected = model._effective_weights()[5] @ own
    assert torch.allclose(model.embeddings().users[5], expected, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 5},
        {"n_layers": 1},
        {"n_neighbors": 2},
        {"hidden_dim": 5},
        {"reg_weight": 0.7},
        {"variant": "paper"},
        {"modalities": ("text",)},
    ],
)
def test_every_field_changes_the_loss(split: Split, change: dict):
    totals = [sum(build(c, split).loss(BATCH).values()).item() for c in (CONFIG, CONFIG, changed(**change))]
    assert totals[0] == totals[1] != totals[2]


def test_what_is_known_by_modality(split: Split):
    model = build(CONFIG, split)
    known = model.modality_embeddings()
    assert list(known) == ["image", "text"]
    assert torch.allclose(known["image"] + known["text"], model.embeddings().items, atol=1e-6)


def test_item_graphs_alone_are_refused(split: Split):
    with pytest.raises(ConfigError, match="is given as an item graph only"):
        build(CONFIG, with_features(split, {"image": graph_alone(split)}))
