"""Graphs of content link those items alone that have any; models hold the rest against dense forms."""

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures
from triptych.graph.learned import LearnedGraph, neighbor_graph
from triptych.graph.store import GraphStore
from triptych.nn.content_graphs import ContentGraphs, ContentGraphSettings

N_ITEMS, DIM = 8, 3


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(**settings) -> ContentGraphs:
    """Item 2 lacks an image, and item 5 has one of zeros."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(N_ITEMS, 5)), rng.normal(size=(N_ITEMS, 4))
    image[5] = 0
    features = {
        "image": ItemFeatures.dense(image, np.arange(N_ITEMS) != 2),
        "text": ItemFeatures.dense(text),
    }
    pairs = torch.zeros(N_ITEMS, dtype=torch.int64), torch.arange(N_ITEMS)
    graphs = GraphStore(*pairs, 1, N_ITEMS, features)
    chosen = ContentGraphSettings(**{"n_neighbors": 3} | settings)
    return ContentGraphs(features, graphs, ("image", "text"), DIM, chosen)


def dense(graphs: list[LearnedGraph]) -> torch.Tensor:
    x = torch.eye(N_ITEMS)
    return sum(graph.multiply(x) for graph in graphs)


def test_an_item_that_lacks_a_modality_or_has_zeros_there_is_no_part_of_its_graph():
    content = build()
    assert content.known.tolist() == [[i not in (2, 5) for i in range(N_ITEMS)], [True] * N_ITEMS]
    image, text = (dense(graphs) for graphs in content.apart())
    for place in (2, 5):
        assert image[place].abs().max() == image[:, place].abs().max() == 0
        assert text[place, place] > 0
    assert not content.by_modality()["image"][[2, 5]].any()
    assert content.by_modality()["image"].shape == (N_ITEMS, DIM)


def test_shares_of_one_modality_alone_give_its_own_graph():
    content = build(fixed_share=0.4).eval()
    apart = content.apart()
    for place, known in enumerate(content.known):
        shares = torch.zeros(2, N_ITEMS)
        shares[place] = known.float()
        torch.testing.assert_close(dense(content.mixed(shares)), dense(apart[place]))


@pytest.mark.parametrize(("training", "learn"), [("frozen", False), ("all", True)])
def test_fixed_graphs_are_state_and_what_learns_is_maps_and_features_if_asked(training: str, learn: bool):
    content = build(feature_training=training)
    names = {name.split(".")[0] for name, _ in content.named_parameters()}
    assert names == ({"project", "features"} if learn else {"project"})
    assert "fixed.1.values" in content.state_dict()
    sum(dense(graphs)[0].square().sum() for graphs in content.apart()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in content.parameters())
    assert content.project.maps["of_image"].weight.grad.abs().max() > 0


def test_in_training_graphs_are_learned_once_an_epoch():
    content = build(fixed_share=0.4)
    shares = content.known.float() / content.known.sum(dim=0).clamp(min=1)
    with torch.no_grad():
        content.apart()  # only looked at, without a gradient
    first = content.apart()
    assert first[0][0].values.requires_grad
    assert content.apart() is first
    assert len(content.mixed(shares)) != len(first)  # the one is not taken for the other
    expected = dense(first[0]).detach()
    content.hold()
    with torch.no_grad():
        for parameter in content.parameters():
            parameter.add_(torch.randn_like(parameter))
    kept = dense(content.apart()[0])
    assert torch.equal(kept, expected)
    assert not kept.requires_grad
    assert not torch.allclose(dense(content.eval().apart()[0]), expected)
    assert torch.equal(dense(content.train().apart()[0]), expected)
    content.relearn()
    relearned = dense(content.apart()[0])
    assert relearned.requires_grad
    assert not torch.allclose(relearned, expected)


def test_new_weights_end_the_graphs_of_an_epoch():
    content, other = build(fixed_share=0.4), build(fixed_share=0.4)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = dense(content.apart()[0]).detach()
    content.load_state_dict(other.state_dict())
    now = dense(content.apart()[0])
    assert not torch.allclose(now, before)
    assert torch.equal(now, dense(other.apart()[0]))
    assert content.double().apart()[0][0].values.dtype == torch.float64


def test_where_nobody_has_a_modality_its_graph_is_empty():
    graph = neighbor_graph(torch.randn(5, 3), 2, torch.zeros(5, dtype=torch.bool))
    assert graph.values.shape == (0,)
    assert torch.equal(graph.multiply(torch.randn(5, 2)), torch.zeros(5, 2))
