import pytest
import torch
from torch.nn import functional as F

from triptych.unit import unit_rows


def rows(*shape: int, dtype=torch.float64) -> torch.Tensor:
    x = torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(3))
    x[0] = 0  # a vector of length 0 has no direction
    x[1] *= 1e-3
    return x.requires_grad_()


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 6), (4,), (3, 0), (2, 1)])
@pytest.mark.parametrize("eps", [1e-12, 0.01])
def test_value_and_gradient_are_those_of_torch(shape, eps):
    x = rows(*shape)
    weights = torch.randn(shape, dtype=x.dtype, generator=torch.Generator().manual_seed(4))
    found, plain = unit_rows(x, eps), F.normalize(x, dim=-1, eps=eps)
    assert torch.equal(found, plain)
    (fast,), (slow,) = (torch.autograd.grad((part * weights).sum(), x) for part in (found, plain))
    torch.testing.assert_close(fast, slow)


def test_it_can_be_differentiated_twice():
    x = rows(5, 4)[2:].detach().requires_grad_()
    assert torch.autograd.gradcheck(unit_rows, x)
    assert torch.autograd.gradgradcheck(unit_rows, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_number_formats_are_those_of_torch(dtype):
    x = rows(6, 4, dtype=dtype)[2:].detach().requires_grad_()
    weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(4))
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found, plain = unit_rows(x), F.normalize(x, dim=-1)
        assert found.dtype == plain.dtype
        assert torch.equal(found, plain)
        (fast,), (slow,) = (torch.autograd.grad((part * weights).sum(), x) for part in (found, plain))
        assert fast.dtype == slow.dtype
        torch.testing.assert_close(fast, slow, atol=0.02, rtol=0.02)
