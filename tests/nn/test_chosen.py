"""What users chose: sums and means over those of their items that have a modality."""

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures
from triptych.graph.bipartite import side_graph
from triptych.nn.chosen import ChosenContent
from triptych.nn.content import FeatureBank

# User 0 has items 0 and 1, user 1 has item 1, user 2 has items 0, 1 and 2, user 3 has none.
USER, ITEM = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 1, 2])
ROWS = np.ones((3, 2))
BANK = FeatureBank(
    {
        "image": ItemFeatures.dense(ROWS),
        "text": ItemFeatures.dense(ROWS, np.array([True, False, True])),
    },
    ("image", "text"),
)


@pytest.fixture
def chosen() -> ChosenContent:
    return ChosenContent(side_graph(USER, ITEM, 4, 3, "sum"), BANK)


def test_by_hand(chosen: ChosenContent):
    items = torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]], [[6.0], [60.0]]])  # (I, M, 1)
    sums, means = (chosen(items, mean=mean)[:, :, 0].tolist() for mean in (False, True))
    below = [[1, 10], [2, 0], [6, 60]]  # item 1 has no text
    assert sums == [[3, 10], [2, 0], [9, 70], [0, 0], *below]
    assert means == [[1.5, 10], [2, 0], [3, 35], [0, 0], *below]


def test_who_has_what(chosen: ChosenContent):
    assert chosen.has[:, 0].tolist() == [True, True, True, False, True, True, True]
    assert chosen.has[:, 1].tolist() == [True, False, True, False, True, False, True]


def test_gradient_reaches_items_by_their_users_and_none_that_lacks_a_modality(chosen: ChosenContent):
    items = torch.ones(3, 2, 1, requires_grad=True)
    chosen(items, mean=True)[:4].sum().backward()
    assert items.grad[:, 0, 0].tolist() == pytest.approx([0.5 + 1 / 3, 0.5 + 1 + 1 / 3, 1 / 3])
    assert items.grad[:, 1, 0].tolist() == [1.5, 0.0, 0.5]


def test_only_the_graph_is_state(chosen: ChosenContent):
    assert {name.split(".")[0] for name in chosen.state_dict()} == {"choices"}
    assert list(chosen.parameters()) == []
