"""Gaussian codes against torch's own distributions, and bounds against what they bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.nn.content import FeatureBank
from triptych.nn.gaussian import (
    Bottleneck,
    Gaussian,
    GaussianEncoder,
    GaussianEncoders,
    InfoNCEBound,
    JensenShannonBound,
    average_kl,
)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def some(n: int = 7, dim: int = 5) -> Gaussian:
    mean, scale = torch.randn(2, n, dim, dtype=torch.float64)
    return Gaussian(mean.requires_grad_(), F.softplus(scale).requires_grad_())


def spread(code: Gaussian) -> Independent:
    return Independent(Normal(*code), 1)


def test_an_encoder_has_a_map_for_means_and_one_for_scales():
    encoder = GaussianEncoder(3, 2).double()
    rows = torch.randn(6, 3, dtype=torch.float64)
    code = encoder(rows)
    means, scales = encoder.mean_map, encoder.scale_map
    assert torch.allclose(code.mean, rows @ means.weight.T + means.bias)
    assert torch.allclose(code.scale, (1 + (rows @ scales.weight.T + scales.bias).exp()).log() + 1e-7)
    with torch.no_grad():
        scales.bias.fill_(-1e4)
    assert (encoder(rows).scale == 1e-7).all()


def test_a_unit_encoder_has_scales_of_one_and_nothing_to_learn_them():
    encoder = GaussianEncoder(3, 2, None)
    code = encoder(torch.randn(6, 3))
    assert torch.equal(code.scale, torch.ones(6, 2))
    assert [name for name, _ in encoder.named_parameters()] == ["mean_map.weight", "mean_map.bias"]


@pytest.mark.parametrize("scale", [0.01, 0.69, 3.0])
def test_scales_begin_as_asked(scale):
    assert GaussianEncoder(3, 2, scale)(torch.zeros(1, 3)).scale.tolist()[0] == pytest.approx(
        [scale] * 2, rel=1e-3
    )


def test_codes_stay_in_full_precision_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        code = GaussianEncoder(3, 2)(torch.randn(6, 3))
    assert code.mean.dtype == code.scale.dtype == torch.float32


def test_what_is_drawn_has_the_mean_and_the_scale_and_passes_the_gradient():
    code = Gaussian(torch.tensor([[2.0, -1.0]]).requires_grad_(), torch.tensor([[0.5, 3.0]]).requires_grad_())
    drawn = torch.cat([code.draw() for _ in range(4000)])
    assert drawn.mean(0).tolist() == pytest.approx([2.0, -1.0], abs=0.15)
    assert drawn.std(0).tolist() == pytest.approx([0.5, 3.0], rel=0.05)
    one = code.draw()
    to_mean, to_scale = torch.autograd.grad(one.sum(), list(code))
    assert torch.equal(to_mean, torch.ones(1, 2))
    assert torch.allclose(to_scale, (one - code.mean) / code.scale)


def test_rows_can_be_taken():
    code = some()
    taken = code.take(torch.tensor([4, 0]))
    assert torch.equal(taken.mean, code.mean[[4, 0]])
    assert torch.equal(taken.scale, code.scale[[4, 0]])


def test_average_kl_is_torchs_in_value_and_gradient():
    a, b = some(), some()
    expected = (kl_divergence(spread(a), spread(b)) + kl_divergence(spread(b), spread(a))) / 2
    found = average_kl(a, b)
    assert found.shape == (7,)
    assert torch.allclose(found, expected)
    assert torch.allclose(found, average_kl(b, a))
    leaves, weights = [*a, *b], torch.randn(7, dtype=torch.float64)
    fast = torch.autograd.grad((found * weights).sum(), leaves)
    slow = torch.autograd.grad((expected * weights).sum(), leaves)
    assert all(torch.allclose(x, y) for x, y in zip(fast, slow, strict=True))


def test_average_kl_by_hand():
    a, b = some(), some()
    same = Gaussian(a.mean, a.scale)
    assert average_kl(a, same).tolist() == [0.0] * 7
    ones = torch.ones_like(a.scale)
    distance = (a.mean - b.mean).square().sum(1)
    assert torch.allclose(average_kl(Gaussian(a.mean, ones), Gaussian(b.mean, ones)), distance / 2)
    narrow, wide = (Gaussian(torch.zeros(1, 1), torch.tensor([[s]])) for s in (1.0, 2.0))
    assert average_kl(narrow, wide).item() == pytest.approx((4 + 1 / 4 - 2) / 4)


def test_average_kl_of_the_narrowest_codes_is_finite():
    a = Gaussian(torch.zeros(2, 3).requires_grad_(), torch.full((2, 3), 1e-7).requires_grad_())
    b = Gaussian(torch.ones(2, 3), torch.full((2, 3), 1e-7))
    found = average_kl(a, b).sum()
    assert found.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(found, list(a)))


def test_jensen_shannon_bound_row_by_row():
    bound = JensenShannonBound(3, width=8).double()
    a, b = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.manual_seed(4)
    found = bound(a, b)
    torch.manual_seed(4)
    shift = int(torch.randint(1, 5, ()))

    def critic(x, y):
        return bound.critic(torch.cat([x, y])).item()

    together = [critic(a[n], b[n]) for n in range(5)]
    strangers = [critic(a[n - shift], b[n]) for n in range(5)]
    expected = sum(-math.log(1 + math.exp(-t)) for t in together) / 5
    expected -= sum(math.log(1 + math.exp(t)) for t in strangers) / 5
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_strangers_are_all_others_in_turn_and_never_the_partner():
    calls = []

    class Clueless(torch.nn.Module):
        def forward(self, pairs):
            calls.append({tuple(pair) for pair in pairs.tolist()})
            return torch.zeros(len(pairs), 1)

    bound = JensenShannonBound(1)
    bound.critic = Clueless()
    numbers = torch.arange(4.0)[:, None]
    for _ in range(40):
        assert bound(numbers, numbers).item() == pytest.approx(-math.log(4))
    together, strangers = calls[::2], calls[1::2]
    assert all(met == {(n, n) for n in range(4)} for met in together)
    assert all(len(met) == 4 for met in strangers)
    assert set().union(*strangers) == {(a, b) for a in range(4) for b in range(4) if a != b}


@pytest.mark.parametrize("bound", [JensenShannonBound(2, width=16), InfoNCEBound(0.2)])
def test_bounds_learn_to_tell_what_is_shared(bound):
    n = 32
    encoder = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam([*bound.parameters(), *encoder.parameters()], lr=0.02)
    values = {}
    for shared in (1.0, 0.0):
        for _ in range(100):
            a = torch.randn(n, 2)
            value = bound(a, encoder(shared * a + 0.1 * torch.randn(n, 2)))
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()
        values[shared] = value.item()
    nothing, most = (-math.log(4), 0.0) if isinstance(bound, JensenShannonBound) else (0.0, math.log(n))
    assert nothing + 0.3 * (most - nothing) < values[1.0] < most
    assert values[0.0] < nothing + 0.15


def test_info_nce_bound_row_by_row():
    bound = InfoNCEBound(0.3)
    a, b = torch.randn(2, 6, 3, dtype=torch.float64)
    cosines = F.cosine_similarity(a[:, None], b[None], dim=2) / 0.3
    shares = cosines.exp()
    there = -(shares.diag() / shares.sum(1)).log().mean()
    back = -(shares.diag() / shares.sum(0)).log().mean()
    assert bound(a, b).item() == pytest.approx(math.log(6) - (there + back).item() / 2)
    assert list(bound.parameters()) == []


def test_info_nce_bound_is_nothing_where_all_are_alike_and_log_n_where_partners_are_clear():
    assert InfoNCEBound(0.2)(torch.ones(8, 3), torch.ones(8, 3)).item() == pytest.approx(0.0, abs=1e-6)
    assert InfoNCEBound(0.01)(torch.eye(8), torch.eye(8)).item() == pytest.approx(math.log(8))


def test_encoders_are_one_for_each_modality_in_the_banks_order():
    values = {name: torch.randn(5, width).numpy() for name, width in (("forward", 3), ("text", 2))}
    bank = FeatureBank({name: ItemFeatures.dense(rows) for name, rows in values.items()}, ["text", "forward"])
    encode = GaussianEncoders(bank.dims, 4, None)
    codes = encode(bank)
    assert [code.mean.shape for code in codes] == [(5, 4), (5, 4)]
    assert [encoder.mean_map.in_features for encoder in encode.encoders] == [2, 3]
    some = encode(bank, torch.tensor([3, 0]))
    assert all(torch.allclose(few.mean, code.mean[[3, 0]]) for few, code in zip(some, codes, strict=True))


def test_means_begin_xavier_normal():
    weight = GaussianEncoder(300, 500).mean_map.weight
    assert weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)


def test_a_bottleneck_compares_every_pair_where_both_are_known():
    codes = [some(n=6), some(n=6), some(n=6)]
    drawn = [code.draw() for code in codes]
    at = [torch.tensor(rows) for rows in ([0, 5, 1, 1, 2], [2, 1, 0, 4], [4, 5])]
    bottleneck = Bottleneck(("a", "b", "c"), lambda: InfoNCEBound(0.5))
    found = list(bottleneck(codes, drawn, at))
    assert [shared.names for shared in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(bottleneck.bounds) == 3
    both = torch.tensor([0, 1, 2])
    expected = InfoNCEBound(0.5)(drawn[0][both], drawn[1][both])
    assert found[0].information.item() == pytest.approx(expected.item())
    divergence = average_kl(codes[0], codes[1])[both].mean()
    assert found[0].divergence.item() == pytest.approx(divergence.item())
    for alone in found[1:]:  # one thing has no stranger
        assert alone.information.item() == alone.divergence.item() == 0.0
        assert torch.autograd.grad(alone.information, codes[2].mean)[0].abs().sum() == 0
    assert list(Bottleneck(("a",), lambda: InfoNCEBound(0.5))(codes[:1], drawn[:1], at[:1])) == []
