import numpy as np
import pytest
import torch
from torch import nn

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.errors import ConfigError
from triptych.nn.content import FeatureBank, Projector
from triptych.nn.embedding import NodeEmbedding, take_rows

N_ITEMS = 9
DIMS = {"text": 3, "image": 5, "audio": 2}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def make_features():
    rng = np.random.default_rng(0)
    features = {
        name: ItemFeatures.dense(rng.normal(size=(N_ITEMS, dim)), np.arange(N_ITEMS) != dim)
        for name, dim in DIMS.items()
    }
    ends = np.arange(N_ITEMS)
    graph = ItemGraph.from_edges(ends, ends[::-1], np.ones(N_ITEMS, dtype=np.float32), N_ITEMS)
    features["graph"] = ItemFeatures(present=np.ones(N_ITEMS, dtype=bool), graph=graph)
    return features


def test_users_come_first():
    nodes = NodeEmbedding(3, 5, 4)
    assert nodes.weight.shape == (8, 4)
    assert torch.equal(nodes.ego.users, nodes.weight[:3])
    assert torch.equal(nodes.ego.items, nodes.weight[3:])
    table = torch.arange(16.0).view(8, 2)
    users, items = nodes.split(table)
    assert torch.equal(users, table[:3])
    assert torch.equal(items, table[3:])


def test_there_is_one_parameter():
    nodes = NodeEmbedding(3, 5, 4)
    assert [name for name, _ in nodes.named_parameters()] == ["weight"]
    (nodes.ego.users.sum() + 2 * nodes.ego.items.sum()).backward()
    assert nodes.weight.grad.tolist() == [[1.0] * 4] * 3 + [[2.0] * 4] * 5


def test_users_and_items_start_as_two_xavier_matrices():
    n_users, n_items, dim = 40, 700, 8
    nodes = NodeEmbedding(n_users, n_items, dim)
    for part, n in ((nodes.ego.users, n_users), (nodes.ego.items, n_items)):
        bound = (6 / (n + dim)) ** 0.5
        assert 0.97 * bound < part.detach().abs().max().item() <= bound
        assert part.detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_each_part_is_filled_by_itself():
    shapes = []

    def fill(part):
        shapes.append(tuple(part.shape))
        return part.fill_(len(shapes))

    nodes = NodeEmbedding(2, 3, 4, initialise=fill)
    assert shapes == [(2, 4), (3, 4)]
    assert nodes.weight.tolist() == [[1.0] * 4] * 2 + [[2.0] * 4] * 3
    assert nodes.weight.requires_grad


def test_taken_rows_and_their_gradient_are_those_of_indexing():
    index = torch.tensor([2, 0, 2, 5, 2])
    weight = torch.randn(5, 3, dtype=torch.float64)
    ours = torch.randn(7, 3, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    assert torch.equal(take_rows(ours, index), theirs[index])
    (take_rows(ours, index) * weight).sum().backward()
    (theirs[index] * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-14, atol=1e-15)
    assert take_rows(ours, index[:0]).shape == (0, 3)


def test_a_bank_gives_the_rows_of_each_modality():
    features = make_features()
    bank = FeatureBank(features, ["image", "text"])
    assert bank.dims == {"image": 5, "text": 3}
    items = torch.tensor([4, 0, 4])
    for name in ("image", "text"):
        values = torch.from_numpy(features[name].values)
        assert torch.equal(bank.rows(name), values)
        assert torch.equal(bank.rows(name, items), values[items])
        assert torch.equal(bank.present(name, items), torch.from_numpy(features[name].present)[items])


def test_a_bank_keeps_the_order_it_is_asked_for():
    for order in (["image", "audio", "text"], ["text", "image", "audio"]):
        assert list(FeatureBank(make_features(), order).dims) == order


def test_rows_of_items_without_the_modality_are_zero():
    bank = FeatureBank(make_features(), ["text", "image"])
    assert not bank.rows("text")[3].any()
    assert not bank.rows("image", torch.tensor([5])).any()
    assert bank.rows("image")[3].any()
    assert bank.present("text", torch.tensor([2, 3, 4])).tolist() == [True, False, True]


def test_a_modality_without_dense_rows_is_refused_or_left_out_on_demand():
    with pytest.raises(ConfigError, match=r"'graph' is given as an item graph only.*'modalities'"):
        FeatureBank(make_features(), ["text", "graph"])
    bank = FeatureBank(make_features(), ["graph", "text"], required=False)
    assert bank.dims == {"text": 3}
    assert bank.rows("text").shape == (N_ITEMS, 3)
    assert FeatureBank(make_features(), ["graph"], required=False).dims == {}


def test_frozen_features_are_no_part_of_the_state():
    bank = FeatureBank(make_features(), DIMS)
    assert not list(bank.parameters())
    assert bank.state_dict() == {}
    assert not any(bank.rows(modality).requires_grad for modality in DIMS)
    assert {buffer.device.type for buffer in bank.to("meta").buffers()} == {"meta"}  # but they move along


def test_autocast_rounds_frozen_rows_once():
    bank = FeatureBank(make_features(), DIMS)
    exact = bank.rows("image")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = bank.rows("image")
        assert bank.rows("image") is rounded
        assert bank.rows("image", torch.tensor([3, 3])).equal(rounded[[3, 3]])
    assert rounded.equal(exact.bfloat16())
    assert bank.rows("image") is exact
    assert bank.to(torch.float64).rows("image").dtype == torch.float64
    learned = FeatureBank(make_features(), DIMS, training="all")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert learned.rows("image").dtype == torch.float32


def test_trainable_features_start_from_the_given_values_and_leave_these_alone():
    features = make_features()
    before = {name: features[name].values.copy() for name in DIMS}
    bank = FeatureBank(features, DIMS, training="all")
    assert len(list(bank.parameters())) == len(bank.state_dict()) == 3
    for name in DIMS:
        assert torch.equal(bank.rows(name), torch.from_numpy(before[name]))
    optimizer = torch.optim.SGD(bank.parameters(), lr=1.0)
    bank.rows("image", torch.tensor([1, 1])).sum().backward()
    optimizer.step()
    moved = bank.rows("image").detach() - torch.from_numpy(before["image"])
    torch.testing.assert_close(moved, -2.0 * (torch.arange(N_ITEMS) == 1)[:, None].float().expand(-1, 5))
    for name in DIMS:
        assert features[name].values.tolist() == before[name].tolist()


def test_features_that_learn_by_rows_have_gradients_of_the_rows_read_alone():
    bank = FeatureBank(make_features(), DIMS, training="rows")
    assert len(bank.by_row) == 3
    bank.rows("image", torch.tensor([4, 1, 4])).sum().backward()
    gradient = bank.of_image.grad
    assert gradient.is_sparse
    assert gradient.coalesce().indices().tolist() == [[1, 4]]
    assert gradient.to_dense()[4].tolist() == [2.0] * 5
    assert FeatureBank(make_features(), DIMS, training="all").by_row == []


@pytest.mark.parametrize("name", ["items", "rows", "maps", "forward", "dims", "present", "type"])
def test_a_modality_may_have_any_name(name):
    features = {name: make_features()["text"]}
    bank = FeatureBank(features, [name])
    project = Projector(bank.dims, 4)
    assert project(name, bank.rows(name)).shape == (N_ITEMS, 4)


def test_a_projector_maps_each_modality_to_one_width():
    project = Projector(DIMS, 6)
    for name, dim in DIMS.items():
        rows = torch.randn(4, dim)
        assert project(name, rows).shape == (4, 6)
        # linear, with an offset of its own
        offset = project(name, torch.zeros(1, dim))
        torch.testing.assert_close(project(name, 2 * rows) - offset, 2 * (project(name, rows) - offset))
    assert sum(parameter.numel() for parameter in project.parameters()) == sum(
        6 * dim + 6 for dim in DIMS.values()
    )
    assert all(isinstance(part, nn.Linear) for part in project.maps.values())


def test_modalities_are_projected_apart():
    project = Projector({"image": 3, "text": 3}, 2)
    rows = torch.randn(5, 3)
    assert not torch.equal(project("image", rows), project("text", rows))
    project("image", rows).sum().backward()
    assert sum(parameter.grad is not None for parameter in project.parameters()) == 2


def test_the_order_of_projection_layers_is_that_of_the_modalities():
    assert [layer.in_features for layer in Projector(DIMS, 2).maps.values()] == [3, 5, 2]
