import pytest
import torch

from triptych.nn.views import Predictor, Views, mutual_losses


def test_each_vector_is_masked_once_in_training_alone_and_spread_to_its_pairs():
    torch.manual_seed(0)
    predict, rows = Predictor(4000, 0.4), torch.randn(2, 4000, requires_grad=True)
    online, target = predict.views(rows, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(online, (rows @ predict.weight.T + predict.bias)[[0, 1, 0]])
    assert torch.equal(target[0], target[2])
    kept = target != 0
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.03)
    torch.testing.assert_close(target[kept], (rows[[0, 1, 0]] / 0.6)[kept], rtol=1e-4, atol=0)
    assert not target.requires_grad
    predict.eval()
    assert torch.equal(predict.views(rows, torch.tensor([1, 1])).target, rows[[1, 1]])


def test_users_and_items_predict_each_others_target_by_hand():
    users = Views(online=torch.tensor([[1.0, 0.0]]), target=torch.tensor([[0.0, 5.0]]))
    items = Views(online=torch.tensor([[0.0, -2.0]]), target=torch.tensor([[3.0, 4.0]]))
    losses = mutual_losses(users, items)
    assert losses["user_to_item"].item() == pytest.approx(1 - 0.6)
    assert losses["item_to_user"].item() == pytest.approx(2)
