import math

import pytest
import torch
from torch.nn import functional as F

from triptych.losses import bpr_loss, embedding_norm


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_bpr_by_hand():
    positive, negative = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 5.0])
    expected = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + math.exp(3))) / 3
    assert bpr_loss(positive, negative).item() == pytest.approx(expected, rel=1e-6)
    assert bpr_loss(positive, negative).shape == ()


def test_bpr_is_the_negated_log_sigmoid_of_the_difference():
    positive, negative = normal(40).requires_grad_(), normal(40, seed=1).requires_grad_()
    ours = bpr_loss(positive, negative)
    theirs = -F.logsigmoid(positive - negative).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(ours, [positive, negative]),
        torch.autograd.grad(theirs, [positive, negative]),
        rtol=1e-12,
        atol=1e-15,
    )
    assert torch.autograd.gradcheck(bpr_loss, (positive, negative))


def test_bpr_stays_finite_far_from_zero():
    positive = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = bpr_loss(positive, torch.zeros(2))
    assert loss.item() == 5000.0
    loss.backward()
    assert positive.grad.tolist() == [-0.5, 0.0]


def test_embedding_norm_by_hand():
    first = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    second = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    assert embedding_norm(first).item() == 2.5
    assert embedding_norm(first, second).item() == 7.5  # (5 + 10) / 2 rows
    assert embedding_norm(first, second).shape == ()


def test_embedding_norm_counts_the_rows_of_the_last():
    long, short = torch.ones(4, 1), torch.ones(1, 1)
    assert embedding_norm(long, short).item() == 3.0
    assert embedding_norm(short, long).item() == 0.75


def test_embedding_norm_pulls_with_the_same_strength_at_any_length():
    for scale in (1e-3, 1.0, 1e3):
        rows = (normal(8, 5) * scale).requires_grad_()
        embedding_norm(rows).backward()
        assert rows.grad.norm().item() == pytest.approx(1 / 8)


def test_embedding_norm_of_zeros_has_a_gradient_of_zero():
    rows = torch.zeros(3, 2, requires_grad=True)
    embedding_norm(rows).backward()
    assert rows.grad.tolist() == [[0, 0]] * 3


def test_embedding_norm_passes_the_numerical_gradient_check():
    rows = [normal(4, 3, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(embedding_norm, rows)
