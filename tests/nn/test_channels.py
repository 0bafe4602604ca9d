import numpy as np
import pytest
import torch
from torch.nn import functional as F

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.errors import ConfigError
from triptych.graph.bipartite import bipartite_graph
from triptych.graph.sparse import propagate
from triptych.nn.channels import Channels, Readout, xavier_linear
from triptych.scorer import Embeddings

N_USERS, N_ITEMS, DIM = 4, 6, 3
WIDTHS = {"text": 2, "image": 5, "forward": 7}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def make_features():
    """Item 5 lacks the image, item 2 the text; item 0 has a text that says nothing."""
    rng = np.random.default_rng(0)
    features = {
        name: ItemFeatures.dense(
            rng.normal(size=(N_ITEMS, width), scale=width), np.arange(N_ITEMS) != width, source="made"
        )
        for name, width in WIDTHS.items()
    }
    text = features["text"]
    values = text.values.copy()
    values[0] = 0
    return features | {"text": ItemFeatures.dense(values, text.present)}


def make_channels(*modalities):
    return Channels(make_features(), modalities or tuple(WIDTHS), N_USERS, N_ITEMS, DIM)


def test_channels_stand_side_by_side_over_the_same_users():
    channels = make_channels()
    stacked = channels()
    assert channels.width == 4 * DIM
    assert stacked.shape == (N_USERS + N_ITEMS, 4 * DIM)
    users, items = channels.split(stacked)
    for part in users.split(DIM, dim=1):
        assert torch.equal(part, channels.nodes.ego.users)
    assert torch.equal(items[:, :DIM], channels.nodes.ego.items)
    for place in range(3):
        assert torch.equal(items[:, channels.columns(place)], channels.content(place))


def test_content_is_a_map_of_unit_rows_and_zero_where_there_is_none():
    features, channels = make_features(), make_channels()
    assert channels.modalities == ("text", "image", "forward")
    for place, modality in enumerate(channels.modalities):
        linear = channels.maps[place].double()
        unit = F.normalize(torch.from_numpy(features[modality].values).double(), dim=1)
        expected = unit @ linear.weight.T + linear.bias
        empty = {"text": [0, 2], "image": [5], "forward": []}[modality]
        expected[empty] = 0
        linear.float()
        assert torch.allclose(channels.content(place).double(), expected, atol=1e-6)
        assert (channels.content(place)[empty] == 0).all()
        known = channels.has(place, torch.tensor([0, 5, 2]))
        assert known.tolist() == [0 not in empty, 5 not in empty, 2 not in empty]


def test_gradients_of_maps_are_those_of_the_plain_form():
    channels = make_channels("image")
    linear = channels.maps[0]
    towards = torch.randn(N_ITEMS, DIM)
    plain = F.normalize(channels.features.rows("image"), dim=1) @ linear.weight.T + linear.bias
    plain[5] = 0
    parameters = list(linear.parameters())
    expected = torch.autograd.grad((plain * towards).sum(), parameters)
    found = torch.autograd.grad((channels.content(0) * towards).sum(), parameters)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_one_product_propagates_all_as_one_each_would():
    channels = make_channels("image", "text")
    user, item = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 3, 3, 1, 5])
    graph = bipartite_graph(user, item, N_USERS, N_ITEMS)
    together = propagate(graph, channels(), 2)
    users, items = channels.nodes.ego
    for n, own in enumerate((items, channels.content(0), channels.content(1))):
        alone = propagate(graph, torch.cat([users, own]), 2)
        assert torch.allclose(together[:, n * DIM : (n + 1) * DIM], alone, atol=1e-6)


def test_the_order_is_the_one_asked_for_and_names_are_free():
    channels = make_channels("forward", "image")
    assert channels.modalities == ("forward", "image")
    assert [linear.in_features for linear in channels.maps] == [7, 5]
    assert channels.columns(1) == slice(2 * DIM, 3 * DIM)


def test_features_are_no_part_of_the_state_and_do_not_learn():
    channels = make_channels("image")
    names = {"nodes.weight", "maps.0.weight", "maps.0.bias"}
    assert set(channels.state_dict()) == {name for name, _ in channels.named_parameters()} == names


def test_a_modality_without_dense_rows_is_refused_even_beside_others():
    ends = np.arange(N_ITEMS)
    graph = ItemGraph.from_edges(ends, ends, np.ones(N_ITEMS, dtype=np.float32), N_ITEMS)
    features = make_features() | {"graphic": ItemFeatures(present=ends >= 0, graph=graph)}
    with pytest.raises(ConfigError, match=r"'graphic' is given as an item graph only.*features file"):
        Channels(features, ("image", "graphic"), N_USERS, N_ITEMS, DIM)


def test_readout_has_a_map_for_users_and_another_for_items():
    readout = Readout(4, 2)
    users, items = torch.randn(3, 4), torch.randn(5, 4)
    fused = readout(Embeddings(users, items))
    assert torch.allclose(fused.users, users @ readout.user.weight.T + readout.user.bias, atol=1e-6)
    assert torch.allclose(fused.items, items @ readout.item.weight.T + readout.item.bias, atol=1e-6)
    assert not torch.equal(readout.user.weight, readout.item.weight)


def test_maps_start_xavier_uniform():
    weight = xavier_linear(300, 100).weight.detach()
    bound = (6 / 400) ** 0.5
    assert 0.98 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
