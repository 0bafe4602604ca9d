"""Attention across modalities, head by head."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.errors import ConfigError
from triptych.nn.modality_attention import ModalityAttention

M, N, D, H = 3, 5, 8, 4
WIDTH = D // H


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def parts() -> torch.Tensor:
    return torch.randn(M, N, D, dtype=torch.float64).requires_grad_()


def make(*, attend: bool = True) -> ModalityAttention:
    return ModalityAttention(D, H, attend=attend).double()


def by_hand(attention: ModalityAttention, parts: torch.Tensor) -> torch.Tensor:
    """Mean over m of z_m, for one node after the other."""
    nodes = []
    for n in range(parts.shape[1]):
        of_modalities = []
        for m in range(len(parts)):
            heads = []
            for h in range(H):
                rows = slice(h * WIDTH, (h + 1) * WIDTH)
                query = attention.query.weight[rows] @ parts[m, n]
                keys = torch.stack([attention.key.weight[rows] @ other[n] for other in parts])
                power = torch.exp(keys @ query / math.sqrt(WIDTH))
                heads.append((power / power.sum()) @ parts[:, n])
            of_modalities.append(attention.combine.weight @ torch.cat(heads))
        nodes.append(torch.stack(of_modalities).mean(0))
    return torch.stack(nodes)


def test_equals_the_equations_in_value_and_gradient(parts):
    attention = make()
    ours, theirs = attention(parts), by_hand(attention, parts)
    assert torch.allclose(ours, theirs)
    weight = torch.randn_like(ours)
    inputs = [parts, *attention.parameters()]
    found = torch.autograd.grad((ours * weight).sum(), inputs)
    expected = torch.autograd.grad((theirs * weight).sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
    assert all(grad.abs().max() > 1e-6 for grad in found)


def test_shares_of_each_head_sum_to_one(parts):
    shares = make().shares(parts)
    assert shares.shape == (M, N, H)
    assert torch.allclose(shares.sum(0), torch.ones(N, H).double())
    assert shares.std() > 0.01


def test_summing_over_the_wrong_axis_is_no_attention(parts):
    attention = make(attend=False)
    shares = torch.rand(H, M, M, N, 1, dtype=torch.float64).softmax(dim=2)
    kept = (shares * parts[:, None]).sum(dim=2)  # (H, M, N, D), the vector of the modality that asks
    expected = (torch.cat(list(kept), dim=-1) @ attention.combine.weight.T).mean(0)
    assert torch.allclose(attention(parts), expected)
    assert [name for name, _ in attention.named_parameters()] == ["combine.weight"]


def test_one_modality_has_only_itself_to_look_at(parts):
    attention, still = make(), make(attend=False)
    still.load_state_dict(attention.state_dict(), strict=False)
    assert torch.allclose(attention(parts[:1]), still(parts[:1]))
    assert not torch.allclose(attention(parts), still(parts))


def test_nothing_told_gives_nothing(parts):
    parts = parts.detach().clone()
    parts[:, 1] = 0
    for attention in (make(), make(attend=False)):
        fused = attention(parts)
        assert fused[1].abs().max() == 0
        assert fused[0].abs().max() > 0


def test_heads_share_the_width_evenly():
    with pytest.raises(ConfigError, match="3 heads for vectors of 8 entries"):
        ModalityAttention(8, 3)


def test_first_weights_are_xavier_uniform():
    wide = ModalityAttention(64, 4)
    for linear in (wide.query, wide.key, wide.combine):
        bound = math.sqrt(6 / sum(linear.weight.shape))
        assert bound * 0.98 < linear.weight.abs().max().item() <= bound
