"""MMGCL against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.mmgcl import MMGCL, MMGCLConfig, keep_some, replace
from triptych.testing import RecommenderContract, toy_dataset

BATCH = Triplets(torch.tensor([0, 3, 3, 11]), torch.tensor([1, 2, 5, 9]), torch.tensor([4, 4, 0, 2]))


class TestMMGCL(RecommenderContract):
    config = MMGCLConfig(embedding_dim=8, n_layers=2, dropout=0.2)


class TestMMGCLAsThePaperHasIt(RecommenderContract):
    config = MMGCLConfig(embedding_dim=8, n_layers=2, dropout=0.2, variant="paper")


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text."""
    return Split.by_ratio(toy_dataset(), rng=0)


def build(split: Split, **settings) -> MMGCL:
    torch.manual_seed(0)
    return MMGCL(MMGCLConfig(**{"embedding_dim": 4} | settings), ModelInputs.from_split(split))


def terms(model: MMGCL, seed: int = 1) -> dict[str, float]:
    torch.manual_seed(seed)
    return {name: term.item() for name, term in model.loss(BATCH).items()}


def tables_of(model: MMGCL) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}


def linear(tables: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ tables[f"{name}.weight"].T + tables[f"{name}.bias"]


def dense_channels(split: Split, tables: dict[str, torch.Tensor], pairs, n_layers: int) -> list[torch.Tensor]:
    """Propagate ids, image and text each alone over the graph of some pairs, normalised by their degrees."""
    n = split.n_users + split.n_items
    adjacency = np.zeros((n, n))
    for user, item in pairs:
        adjacency[user, split.n_users + item] = adjacency[split.n_users + item, user] = 1
    degree = np.maximum(adjacency.sum(axis=1), 1)
    adjacency = torch.from_numpy(adjacency / np.sqrt(np.outer(degree, degree)))
    nodes = tables["channels.nodes.weight"]
    contents = [nodes[split.n_users :]]
    for place, modality in enumerate(("image", "text")):
        features = split.data.features[modality]
        unit = F.normalize(torch.from_numpy(features.values).double(), dim=1)
        content = linear(tables, f"channels.maps.{place}", unit)
        contents.append(content * torch.from_numpy(features.present)[:, None])
    propagated = []
    for content in contents:
        layers = [torch.cat([nodes[: split.n_users], content])]
        for _ in range(n_layers):
            layers.append(adjacency @ layers[-1])
        propagated.append(torch.stack(layers).mean(0))
    return propagated


def all_pairs(split: Split) -> list[tuple[int, int]]:
    return list(zip(split.train.user.tolist(), split.train.item.tolist(), strict=True))


def pairs_of(graph, split: Split) -> list[tuple[int, int]]:
    row, col, _ = graph.edges()
    upper = row < split.n_users
    return list(zip(row[upper].tolist(), (col[upper] - split.n_users).tolist(), strict=True))


def contrast(users: torch.Tensor, items: torch.Tensor, temperature: float) -> torch.Tensor:
    """User b against all items, of which item b is the right one."""
    odds = (F.normalize(users, dim=1) @ F.normalize(items, dim=1).T / temperature).exp()
    return -torch.log(odds.diag() / odds.sum(1)).mean()


class Plain:
    """The loss spelled out, on the thinned graphs that a model drew."""

    def __init__(self, model: MMGCL, split: Split, thin, lame, drawn: int):
        self.tables = tables = tables_of(model)
        n = model.config.n_layers
        whole = dense_channels(split, tables, all_pairs(split), n)
        cut = dense_channels(split, tables, pairs_of(thin, split), n)
        masked = list(whole)
        masked[1 + drawn] = dense_channels(split, tables, pairs_of(lame, split), n)[1 + drawn]
        user, pos, neg = BATCH.user, split.n_users + BATCH.pos, split.n_users + BATCH.neg

        def read(kind, channels, rows):
            return linear(tables, f"readout.{kind}", torch.cat([c[rows] for c in channels], dim=1))

        u, i, j = read("user", whole, user), read("item", whole, pos), read("item", whole, neg)
        false = [c[neg] if place == 1 + drawn else c[pos] for place, c in enumerate(cut)]
        challenge = linear(tables, "readout.item", torch.cat(false, dim=1))
        temperature = model.config.temperature
        self.bpr = -torch.log(torch.sigmoid((u * (i - j)).sum(1))).mean()
        self.edges = contrast(read("user", cut, user), read("item", cut, pos), temperature)
        self.masked = contrast(read("user", masked, user), read("item", masked, pos), temperature)
        candidates = torch.cat([read("item", cut, pos), challenge])
        self.challenged = contrast(read("user", cut, user), candidates, temperature)


def fixed(model: MMGCL, monkeypatch) -> tuple:
    """Draw the two graphs once and for all."""
    thin, lame = model._without_edges(), model._without_nodes()
    monkeypatch.setattr(model, "_without_edges", lambda: thin)
    monkeypatch.setattr(model, "_without_nodes", lambda: lame)
    return thin, lame


def same_gradients(model: MMGCL, losses, plain: Plain, expected) -> None:
    sum(losses.values()).backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.double(), plain.tables[name].grad, atol=1e-5), name


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_official_adds_the_edge_contrast_twice(split: Split, n_layers: int, monkeypatch):
    model = build(split, n_layers=n_layers, contrast_weight=0.3, temperature=0.5, dropout=0.3)
    plain = Plain(model, split, *fixed(model, monkeypatch), drawn=0)
    losses = model.loss(BATCH)
    assert list(losses) == ["bpr", "edges"]
    assert losses["bpr"].item() == pytest.approx(plain.bpr.item(), rel=1e-5)
    assert losses["edges"].item() == pytest.approx(0.6 * plain.edges.item(), rel=1e-5)
    same_gradients(model, losses, plain, plain.bpr + 0.6 * plain.edges)


@pytest.mark.parametrize("drawn", [0, 1])
def test_paper_adds_masked_nodes_and_challenging_negatives(split: Split, drawn: int, monkeypatch):
    weights = {"text": (1e-9, 1.0)[drawn], "image": (1.0, 1e-9)[drawn]}
    model = build(split, variant="paper", n_layers=2, contrast_weight=0.3, dropout=0.3, draw_weights=weights)
    plain = Plain(model, split, *fixed(model, monkeypatch), drawn=drawn)
    losses = model.loss(BATCH)
    assert list(losses) == ["bpr", "edges", "masked"]
    assert losses["bpr"].item() == pytest.approx(plain.bpr.item(), rel=1e-5)
    assert losses["edges"].item() == pytest.approx(0.3 * plain.challenged.item(), rel=1e-5)
    assert losses["masked"].item() == pytest.approx(0.3 * plain.masked.item(), rel=1e-5)
    assert plain.challenged.item() > plain.edges.item()
    same_gradients(model, losses, plain, plain.bpr + 0.3 * (plain.challenged + plain.masked))


def test_scores_use_all_edges_and_draw_nothing(split: Split):
    model = build(split, dropout=0.5)
    tables = {name: table.detach() for name, table in tables_of(model).items()}
    stacked = torch.cat(dense_channels(split, tables, all_pairs(split), 3), dim=1)
    users, items = model.eval().embeddings()
    assert torch.allclose(users.double(), linear(tables, "readout.user", stacked[: split.n_users]), atol=1e-6)
    assert torch.allclose(items.double(), linear(tables, "readout.item", stacked[split.n_users :]), atol=1e-6)


def test_edges_go_one_by_one_and_degrees_are_counted_anew(split: Split):
    model = build(split, dropout=0.3)
    known, counts = set(all_pairs(split)), dict.fromkeys(all_pairs(split), 0)
    for _ in range(300):
        graph = model._without_edges()
        kept = pairs_of(graph, split)
        assert len(kept) == int(0.7 * len(known))
        assert set(kept) <= known
        for pair in kept:
            counts[pair] += 1
    row, col, value = graph.edges()
    degree = torch.bincount(row, minlength=graph.n_rows).double()
    assert torch.allclose(value.double(), (degree[row] * degree[col]).rsqrt(), atol=1e-6)
    assert torch.equal(graph.to_dense(), graph.to_dense().T)
    share = np.array(list(counts.values())) / 300
    assert np.abs(share - int(0.7 * len(known)) / len(known)).max() < 4.5 * (0.7 * 0.3 / 300) ** 0.5


def test_nodes_go_with_all_their_edges(split: Split, monkeypatch):
    model = build(split, dropout=0.25)
    staying = {
        split.n_users: torch.arange(split.n_users) != 3,
        split.n_items: ~torch.isin(torch.arange(split.n_items), torch.tensor([2, 7])),
    }
    monkeypatch.setattr("triptych.models.mmgcl.keep_some", lambda n, dropout, device: staying[n])
    graph = model._without_nodes()
    expected = {(user, item) for user, item in all_pairs(split) if user != 3 and item not in (2, 7)}
    assert set(pairs_of(graph, split)) == expected
    row, col, value = graph.edges()
    degree = torch.bincount(row, minlength=graph.n_rows).double()
    assert torch.allclose(value.double(), (degree[row] * degree[col]).rsqrt(), atol=1e-6)


def test_as_many_nodes_go_as_asked_and_each_as_often():
    torch.manual_seed(0)
    device = torch.device("cpu")
    drawn = torch.stack([keep_some(10, 0.39, device) for _ in range(1000)])
    assert (drawn.sum(1) == 7).all()  # 3.9 rounded down go
    assert (drawn.float().mean(0) - 0.7).abs().max().item() < 4.5 * (0.21 / 1000) ** 0.5
    assert keep_some(10, 0.05, device).all()


def test_replacing_columns():
    rows, part = torch.arange(12.0).view(2, 6), -torch.ones(2, 2)
    assert replace(rows, slice(2, 4), part).tolist() == [[0, 1, -1, -1, 4, 5], [6, 7, -1, -1, 10, 11]]
    assert replace(rows, slice(4, 6), part).tolist() == [[0, 1, 2, 3, -1, -1], [6, 7, 8, 9, -1, -1]]


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_every_setting_counts(split: Split, variant: str):
    changes = [{"n_layers": 1}, {"contrast_weight": 0.1}, {"temperature": 1.0}, {"dropout": 0.5}]
    changes += [{"modalities": ("image",)}, {"variant": "paper" if variant == "official" else "official"}]
    usual = {"variant": variant}
    for change in changes:
        assert terms(build(split, **usual | change)) != terms(build(split, **usual)), change
    drawn = [
        terms(build(split, variant=variant, draw_weights={"image": w, "text": 1e-9})) for w in (1.0, 1e-20)
    ]
    assert (drawn[0] != drawn[1]) == (variant == "paper")


def test_dropout_of_nothing_contrasts_on_the_whole_graph(split: Split):
    model = build(split, dropout=0.0)
    assert torch.equal(model._without_edges().to_dense(), model.adj.to_dense())
    assert torch.equal(model._without_nodes().to_dense(), model.adj.to_dense())


def test_modalities_are_drawn_by_weight_from_torchs_generator(split: Split):
    model = build(split, variant="paper", draw_weights={"image": 3.0, "text": 1.0})
    assert model.draw_weights.tolist() == [3.0, 1.0]
    assert build(split).draw_weights.tolist() == [1.0, 1.0]
    assert terms(model, seed=5) == terms(model, seed=5)
    with pytest.raises(
        ConfigError, match=r"draw_weights names image; the modalities are image, text.*one weight"
    ):
        build(split, draw_weights={"image": 1.0})


def test_weight_decay_reaches_the_optimiser(split: Split):
    assert build(split).optimizer_groups()["main"].options == {"weight_decay": 1e-4}
    assert build(split, weight_decay=0.5).optimizer_groups()["main"].options == {"weight_decay": 0.5}
