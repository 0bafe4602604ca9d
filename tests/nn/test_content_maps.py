"""Maps of features: one product for several, and the filter made of two."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.nn.content import FeatureBank
from triptych.nn.content_filter import ContentFilter
from triptych.nn.content_maps import ContentMaps, xavier_matrices

N_ITEMS, DIM = 7, 3


@pytest.fixture
def bank() -> FeatureBank:
    rng = np.random.default_rng(0)
    features = {
        "image": ItemFeatures.dense(rng.normal(size=(N_ITEMS, 5)), np.arange(N_ITEMS) != 2),
        "forward": ItemFeatures.dense(rng.normal(size=(N_ITEMS, 4))),
    }
    return FeatureBank(features, ("image", "forward"))


def test_one_product_is_both_in_value_and_gradient(bank: FeatureBank):
    maps = ContentMaps(bank, DIM)
    others = xavier_matrices(2, bank.dims.values())
    contents, seen = maps(list(others))
    assert contents.shape == (N_ITEMS, 2, DIM)
    assert seen.shape == (N_ITEMS, 2, 2)
    parameters = [*maps.weights, *others]
    found = torch.autograd.grad(contents.pow(2).sum() + seen.sin().sum(), parameters)
    plain, plain_seen = (
        torch.stack([bank.rows(m) @ w.T for m, w in zip(bank.dims, weights, strict=True)], dim=1)
        for weights in (maps.weights, others)
    )
    torch.testing.assert_close(contents, plain)
    torch.testing.assert_close(seen, plain_seen)
    expected = torch.autograd.grad(plain.pow(2).sum() + plain_seen.sin().sum(), parameters)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_alone_and_by_modality(bank: FeatureBank):
    maps = ContentMaps(bank, DIM)
    contents, nothing = maps()
    assert nothing.shape == (N_ITEMS, 2, 0)
    by_modality = maps.by_modality()
    assert list(by_modality) == ["image", "forward"]
    torch.testing.assert_close(torch.stack(list(by_modality.values()), dim=1), contents)
    assert not contents[2, 0].any()  # lacks an image, and no bias stands in for it
    assert contents[2, 1].any()


def test_matrices_start_xavier_uniform_each_by_its_own_width():
    for matrix, width in zip(xavier_matrices(100, [50, 300]), (50, 300), strict=True):
        bound = (6 / (100 + width)) ** 0.5
        assert matrix.shape == (100, width)
        assert 0.98 * bound < matrix.abs().max().item() <= bound


@pytest.mark.parametrize("linear", [True, False])
def test_filter_equals_its_two_maps_one_after_the_other_in_value_and_gradient(linear: bool):
    torch.manual_seed(0)
    part = ContentFilter(9, DIM, linear=linear).double()
    with torch.no_grad():
        part.inner.bias.normal_()
        part.outer.bias.normal_()
    rows, towards = torch.randn(N_ITEMS, 9).double(), torch.randn(N_ITEMS, DIM).double()
    ours = part(F.linear(rows, part.first))
    hidden = rows @ part.inner.weight.T + part.inner.bias
    hidden = hidden if linear else torch.where(hidden > 0, hidden, 0.01 * hidden)
    plain = torch.sigmoid(hidden @ part.outer.weight.T + part.outer.bias)
    torch.testing.assert_close(ours, plain)
    parameters = list(part.parameters())
    found = torch.autograd.grad((ours * towards).sum(), parameters)
    for mine, theirs in zip(found, torch.autograd.grad((plain * towards).sum(), parameters), strict=True):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(mine, theirs)


def test_filter_multiplies_features_with_few_columns_where_it_can():
    assert ContentFilter(9, DIM, linear=True).first.shape == (DIM, 9)
    assert ContentFilter(9, DIM, linear=False).first.shape == (4 * DIM, 9)


def test_filter_starts_xavier_uniform_and_half_open():
    part = ContentFilter(50, 20, linear=True)
    assert part.inner.weight.abs().max().item() <= (6 / 130) ** 0.5
    assert not part.inner.bias.any()
    assert not part.outer.bias.any()
    assert (part(torch.zeros(1, 20)) == 0.5).all()
