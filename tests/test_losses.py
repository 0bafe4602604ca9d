import math

import pytest
import torch
from torch.nn import functional as F

from triptych import losses
from triptych.losses import (
    bpr_loss,
    cosine_bootstrap,
    embedding_norm,
    half_squared,
    info_nce,
    mean_log_sum_exp,
)


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


def test_half_squared_by_hand():
    assert half_squared(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 1.0])).item() == 13.5


@pytest.mark.parametrize("cosine", [True, False])
def test_info_nce_row_by_row(cosine):
    anchor, other = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    ours = info_nce(anchor, other, 0.2, cosine=cosine)
    terms = []
    for row in range(6):
        scores = []
        for column in range(6):
            score = (anchor[row] * other[column]).sum()
            if cosine:
                score = score / (anchor[row].norm() * other[column].norm())
            scores.append(score / 0.2)
        terms.append(torch.logsumexp(torch.stack(scores), 0) - scores[row])
    theirs = torch.stack(terms).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(ours, [anchor, other]),
        torch.autograd.grad(theirs, [anchor, other]),
        rtol=1e-9,
        atol=1e-12,
    )


def test_info_nce_is_zero_when_partners_are_clear_and_log_of_b_when_all_are_alike():
    assert info_nce(torch.eye(5), torch.eye(5), 0.01).item() == pytest.approx(0.0, abs=1e-6)
    assert info_nce(torch.ones(5, 3), torch.ones(5, 3), 0.5).item() == pytest.approx(math.log(5))


def test_info_nce_against_all_nodes_takes_each_anchors_partner_among_them():
    anchor, other = normal(3, 4), normal(9, 4, seed=1)
    partner = torch.tensor([7, 0, 7])
    logits = F.normalize(anchor) @ F.normalize(other).T / 0.5
    expected = F.cross_entropy(logits, partner)
    torch.testing.assert_close(info_nce(anchor, other, 0.5, partner=partner), expected)


def test_info_nce_within_has_the_other_anchors_as_negatives_too():
    anchor, other = normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    ours = info_nce(anchor, other, 0.5, within=True)
    a, b = F.normalize(anchor), F.normalize(other)
    own, cross = (a @ a.T / 0.5).exp(), (a @ b.T / 0.5).exp()
    theirs = -(cross.diagonal() / (own.sum(1) + cross.sum(1) - own.diagonal())).log().mean()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, [anchor, other]), torch.autograd.grad(theirs, [anchor, other])
    )
    alone = normal(1, 4).requires_grad_()  # has no other anchor
    loss = info_nce(alone, normal(1, 4, seed=1), 0.5, within=True)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert alone.grad.isfinite().all()


@pytest.mark.parametrize("skip", [None, 0, 2])
@pytest.mark.parametrize("block", [1, 160, 1 << 21])
@pytest.mark.parametrize("scale", [0.3, -0.3, 30.0])  # small enough to be summed as they are, and not
def test_products_in_blocks_equal_the_whole_matrix_in_value_and_gradient(monkeypatch, block, skip, scale):
    monkeypatch.setitem(losses._BLOCK, False, block)
    monkeypatch.setattr(losses, "_ROWS", {False: 1, True: 1})
    rows, others = normal(7, 4).requires_grad_(), normal(9, 4, seed=1).requires_grad_()
    assert losses._are_small(rows, others, scale) == (abs(scale) < 1)
    ours = mean_log_sum_exp(rows, others, scale, skip=skip)
    products = scale * rows @ others.T
    if skip is not None:
        left_out = torch.zeros(7, 9, dtype=torch.bool)
        left_out.diagonal(skip).fill_(True)
        products = products.masked_fill(left_out, -torch.inf)
    theirs = products.logsumexp(1).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        torch.autograd.grad(5 * ours, [rows, others]), torch.autograd.grad(5 * theirs, [rows, others])
    )
    with torch.no_grad():
        torch.testing.assert_close(mean_log_sum_exp(rows, others, scale, skip=skip), theirs)


def test_narrow_rows_are_multiplied_in_all_digits_under_bfloat16():
    rows, others = normal(5, 3).float(), normal(6, 3, seed=1).float()
    exact = mean_log_sum_exp(rows, others)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mean_log_sum_exp(rows, others).equal(exact)


def test_gradients_go_only_where_they_are_wanted():
    rows, others = normal(5, 3).requires_grad_(), normal(6, 3, seed=1)
    mean_log_sum_exp(rows, others).backward()
    assert rows.grad.abs().sum() > 0
    assert others.grad is None


def test_products_far_from_zero_neither_overflow_nor_vanish():
    others = torch.tensor([[1.0], [1.0]])
    for far in (400.0, -400.0):
        mean = mean_log_sum_exp(torch.tensor([[far]]), others)
        assert mean.item() == pytest.approx(far + math.log(2))


@pytest.mark.parametrize("skip", [None, 300])
def test_products_under_bfloat16_are_summed_in_float32(skip):
    anchors, others = (
        F.normalize(normal(n, losses._NARROW, seed=n).float(), dim=1).requires_grad_() for n in (200, 500)
    )

    def contrast() -> tuple[torch.Tensor, ...]:
        mean = mean_log_sum_exp(anchors, others, 5.0, skip=skip)
        return (mean, *torch.autograd.grad(mean, (anchors, others)))

    exact = contrast()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = contrast()
    assert all(part.dtype == torch.float32 for part in rounded)
    assert not rounded[1].equal(exact[1])
    assert rounded[0].item() == pytest.approx(exact[0].item(), rel=1e-3)
    for ours, wanted in zip(rounded[1:], exact[1:], strict=True):
        assert (ours - wanted).norm() < 0.01 * wanted.norm()


def test_cosine_bootstrap_by_hand_and_without_gradient_to_the_target():
    online = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    target = torch.tensor([[5.0, 0.0], [4.0, 0.0]], requires_grad=True)
    loss = cosine_bootstrap(online, target)
    assert loss.item() == pytest.approx((0 + 2) / 2)
    loss.backward()
    assert target.grad is None
    assert online.grad[1, 0].item() == pytest.approx(-2 / 3 / 2)  # d(2 - 2 cos) of the second row, over B


def test_a_contrast_without_anchors_is_zero_and_moves_nothing():
    anchor, other = torch.randn(0, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    loss = info_nce(anchor, other, 0.5, within=True)
    loss.backward()
    assert loss.item() == 0
    assert not other.grad.any()
