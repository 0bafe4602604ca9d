import pytest
import torch

from triptych.nn.views import Predictor


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
