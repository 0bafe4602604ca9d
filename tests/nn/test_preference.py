import pytest
import torch

from triptych.nn.preference import ModalityNodes


def nodes(**options) -> ModalityNodes:
    torch.manual_seed(0)
    return ModalityNodes(3, 2, torch.tensor([True, False, True, True]), **options)


def test_users_above_items_all_of_length_one():
    block = nodes()
    content = torch.tensor([[3.0, 4.0], [1.0, 1.0], [0.0, -2.0], [0.0, 0.0]])
    users, items = block(content).split([3, 4])
    wanted = block.preference.detach()
    assert torch.allclose(users, wanted / wanted.pow(2).sum(1, keepdim=True).sqrt())
    assert torch.allclose(items, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0], [0.0, 0.0]]))


def test_absent_items_get_no_gradient():
    content = torch.ones(4, 2, requires_grad=True)
    (nodes()(content)[:, 0]).sum().backward()
    assert content.grad[1].tolist() == [0.0, 0.0]
    assert bool(content.grad[[0, 2, 3]].any(dim=1).all())


@pytest.mark.parametrize("trainable", [True, False])
def test_preferences_are_state_whether_they_learn_or_not(trainable):
    block = nodes(trainable=trainable)
    assert [name for name, _ in block.named_parameters()] == (["preference"] if trainable else [])
    assert list(block.state_dict()) == ["preference"]  # which items are present, the data set knows


def test_users_start_xavier_normal():
    block = ModalityNodes(3000, 24, torch.ones(1, dtype=torch.bool))
    assert block.preference.std().item() == pytest.approx((2 / 3024) ** 0.5, rel=0.02)
    assert block.preference.mean().item() == pytest.approx(0.0, abs=1e-3)
