"""Measures of what a model does with content, on data whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.evaluation.mechanism import alignment, information_bound, uniformity, variance_kept


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_alignment_is_zero_for_one_direction_two_at_right_angles_four_for_opposites():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert alignment(rows, 5 * rows) == pytest.approx(0.0, abs=1e-12)
    assert alignment(rows, rows.flip(0)) == pytest.approx(2.0)
    assert alignment(rows, -rows) == pytest.approx(4.0)


def test_uniformity_is_the_log_mean_over_all_pairs():
    rows = torch.randn(30, 5)
    unit = torch.nn.functional.normalize(rows.double())
    apart = torch.cdist(unit, unit)[~torch.eye(30, dtype=torch.bool)]
    assert uniformity(rows) == pytest.approx(apart.pow(2).mul(-2).exp().mean().log().item())
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0.0)


def test_variance_kept_by_a_linear_map_is_all_and_by_noise_the_share_of_its_columns():
    raw = torch.randn(2000, 20)
    assert variance_kept(raw, raw @ torch.randn(20, 20) + 3) == pytest.approx(1.0)
    assert variance_kept(raw, raw[:, :5] * 7) == pytest.approx(0.25, abs=0.02)
    assert variance_kept(raw, torch.randn(2000, 10)) == pytest.approx(10 / 2000, abs=0.005)
    assert variance_kept(raw, torch.zeros(2000, 3)) == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_information_of_gaussians_is_bounded_closely(correlation):
    a = torch.randn(6000, 3)
    b = correlation * a + math.sqrt(1 - correlation**2) * torch.randn(6000, 3)
    mixed = torch.cat([b @ torch.randn(3, 3), torch.randn(6000, 7)], dim=1)  # turned, beside noise
    truth = -1.5 * math.log(1 - correlation**2)
    found = information_bound(a, mixed)
    assert 0.9 * truth - 0.02 < found < truth + 0.05


def test_information_of_shuffled_partners_is_none():
    a = torch.randn(2000, 8)
    assert information_bound(a, a[torch.randperm(2000)]) < 0.01
    assert information_bound(a, a) > 4  # of log 1,000 = 6.9 at most
