"""SLMRec against its equations."""

from __future__ import annotations

import pytest
import torch
from planted import adjacency, graph_alone, mean_of_layers, toy_split, with_features
from torch.nn import functional as F

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Triplets
from triptych.models.slmrec import SLMRec, SLMRecConfig
from triptych.testing import RecommenderContract

NOTHING = torch.empty(0, dtype=torch.int64)
BATCH = Triplets(torch.tensor([0, 3, 3, 11, 5]), torch.tensor([1, 2, 5, 9, 0]), NOTHING)


class TestSLMRec(RecommenderContract):
    config = SLMRecConfig(embedding_dim=8, n_layers=2)


class TestSLMRecWithOneModality(RecommenderContract):
    config = SLMRecConfig(embedding_dim=8, n_layers=2, modalities=("image",))

    def test_any_modality_by_any_name(self, toy: Split) -> None:
        with pytest.raises(ConfigError, match="'image' is not in the data set"):
            super().test_any_modality_by_any_name(toy)


@pytest.fixture
def split() -> Split:
    """Item 0 lacks an image, item 1 a text; all have a sound."""
    return toy_split(stranger=None)


def build(split: Split, **settings) -> SLMRec:
    torch.manual_seed(0)
    config = SLMRecConfig(**{"embedding_dim": 4, "modalities": ("image", "text")} | settings)
    return SLMRec(config, ModelInputs.from_split(split))


def dense_channels(model: SLMRec, split: Split, tables: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Propagate ids and each modality alone, over D^-1/2 A D^-1/2 spelled out: C matrices of all nodes."""
    nodes = tables["channels.nodes.weight"]
    contents = [nodes[split.n_users :]]
    for place, modality in enumerate(model.channels.modalities):
        features = split.data.features[modality]
        unit = F.normalize(torch.from_numpy(features.values).double(), dim=1)
        content = unit @ tables[f"channels.maps.{place}.weight"].T + tables[f"channels.maps.{place}.bias"]
        contents.append(content * torch.from_numpy(features.present)[:, None])
    channels = [torch.cat([nodes[: split.n_users], content]) for content in contents]
    return [mean_of_layers(adjacency(split), channel, model.config.n_layers) for channel in channels]


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    return -torch.log(logits.exp().diag() / logits.exp().sum(1)).mean()


def doubled(model: SLMRec) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}


def linear(tables: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ tables[f"{name}.weight"].T + tables[f"{name}.bias"]


@pytest.mark.parametrize(("n_layers", "spare_maps"), [(0, 0), (1, 1), (3, 2)])
def test_loss_and_gradients_are_those_of_the_plain_form(split: Split, n_layers: int, spare_maps: int):
    config = {"n_layers": n_layers, "spare_maps": spare_maps, "temperature": 0.5}
    model = build(split, **config, align_weight=0.3, align_temperature=0.7)
    tables = doubled(model)
    channels = dense_channels(model, split, tables)
    stacked = torch.cat(channels, dim=1)
    users = F.normalize(linear(tables, "readout.user", stacked[BATCH.user]))
    items = F.normalize(linear(tables, "readout.item", stacked[split.n_users + BATCH.pos]))
    expected = {"rank": cross_entropy(users @ items.T / 0.5)}
    ids, image, text = (channel[split.n_users + BATCH.pos] for channel in channels)
    state = linear(tables, "chain.0", ids)
    with_image = BATCH.pos != 0
    other = linear(tables, "heads.0", image)
    expected["align_image"] = 0.3 * cross_entropy(state[with_image] @ other[with_image].T / 0.7)
    for n in range(spare_maps):
        state = linear(tables, f"spare.{n}", state)
    state, other = linear(tables, "chain.1", state), linear(tables, "heads.1", text)
    with_text = BATCH.pos != 1
    expected["align_text"] = 0.3 * cross_entropy(state[with_text] @ other[with_text].T / 0.7)

    losses = model.loss(BATCH)
    assert list(losses) == list(expected)
    for name, term in losses.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-5)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.double(), tables[name].grad, atol=1e-5), name


def test_scores_are_plain_products_of_fused_channels(split: Split):
    model = build(split)
    tables = {name: p.detach().double() for name, p in model.named_parameters()}
    stacked = torch.cat(dense_channels(model, split, tables), dim=1)
    users, items = model.eval().embeddings()
    assert torch.allclose(users.double(), linear(tables, "readout.user", stacked[: split.n_users]), atol=1e-6)
    assert torch.allclose(items.double(), linear(tables, "readout.item", stacked[split.n_users :]), atol=1e-6)


def test_chains_of_one_two_and_three(split: Split):
    widths = {}
    for modalities in (("image",), ("image", "text"), ("image", "audio", "text")):
        model = build(split, modalities=modalities)
        widths[len(modalities)] = [link.out_features for link in model.chain]
        assert [head.out_features for head in model.heads] == widths[len(modalities)]
        assert len(model.spare) == (0 if len(modalities) == 1 else 1)
        terms = [f"align_{modality}" for modality in modalities]
        assert list(model.loss(BATCH)) == ["rank", *terms]
    assert widths == {1: [4], 2: [4, 2], 3: [4, 4, 2]}


def test_a_chain_of_three_goes_through_all_before(split: Split):
    model = build(split, modalities=("image", "audio", "text"), spare_maps=0)
    rows = torch.randn(5, 16)
    ids, _, audio, text = rows.split(4, dim=1)
    second = model.chain[1](model.chain[0](ids))
    third = model.chain[2](second)
    _, audio_term, text_term = model._align(rows, torch.tensor([2, 3, 4, 5, 6]))
    assert audio_term.item() == pytest.approx(
        cross_entropy(second @ model.heads[1](audio).T / 0.2).item(), rel=1e-4
    )
    assert text_term.item() == pytest.approx(
        cross_entropy(third @ model.heads[2](text).T / 0.2).item(), rel=1e-4
    )


def test_a_batch_without_a_modality_has_nothing_to_align(split: Split):
    batch = Triplets(torch.tensor([0, 1]), torch.tensor([0, 0]), NOTHING)  # item 0 lacks an image
    losses = build(split).loss(batch)
    assert losses["align_image"].item() == 0.0
    assert losses["align_text"].item() > 0.0
    assert losses["rank"].item() > 0.0


@pytest.mark.parametrize(
    "settings", [{"n_layers": 1}, {"temperature": 1.0}, {"align_weight": 0.5}, {"align_temperature": 1.0},
                 {"spare_maps": 0}, {"modalities": ("text", "image")}],
)  # fmt: skip
def test_every_setting_counts(split: Split, settings: dict):
    usual, other = build(split).loss(BATCH), build(split, **settings).loss(BATCH)
    assert {name: term.item() for name, term in usual.items()} != {
        name: term.item() for name, term in other.items()
    }


def test_weight_decay_reaches_the_optimiser(split: Split):
    assert build(split).optimizer_groups()["main"].options == {"weight_decay": 1e-4}
    assert build(split, weight_decay=0.5).optimizer_groups()["main"].options == {"weight_decay": 0.5}


def test_a_modality_of_graphs_alone_is_refused(split: Split):
    features = {**split.data.features, "image": graph_alone(split)}
    with pytest.raises(ConfigError, match="'image' is given as an item graph only"):
        build(with_features(split, features))
