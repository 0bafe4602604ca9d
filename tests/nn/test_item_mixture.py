"""Learned shares of item graphs against dense matrices."""

from __future__ import annotations

import pytest
import torch

from triptych.errors import ConfigError
from triptych.graph.neighbors import mix_graphs, modality_shares
from triptych.graph.sparse import SparseGraph
from triptych.nn.item_mixture import ItemMixture, mixture_weights

N = 8


def graphs(n: int, lacking: dict[int, list[int]]) -> list[SparseGraph]:
    torch.manual_seed(0)
    found = []
    for m in range(n):
        row = torch.arange(N).repeat_interleave(3)
        col = torch.rand(N, N).topk(3, dim=1).indices.flatten()
        keep = torch.tensor([int(r) not in lacking.get(m, []) for r in row])
        found.append(SparseGraph.from_edges(row[keep], col[keep], torch.rand(int(keep.sum())).double(), N, N))
    return found


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_equals_the_dense_mixture_in_value_and_gradient(n_modalities: int):
    lacking = {0: [2, 5], 1: [5, 6], 2: [5]}
    parts = graphs(n_modalities, lacking)
    mixture = ItemMixture(parts, [0.2, 0.5, 0.3][:n_modalities]).double()
    with torch.no_grad():
        mixture.logits += torch.tensor([0.3, -0.7, 0.1])[:n_modalities]
    x = torch.randn(N, 4, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(N, N, dtype=torch.float64)
    for i in range(N):
        has = [m for m in range(n_modalities) if i not in lacking[m]]
        total = sum(mixture.logits[m].exp() for m in has)
        for m in has:
            dense = dense + torch.zeros_like(dense).index_fill(0, torch.tensor(i), 1) * parts[
                m
            ].to_dense() * (mixture.logits[m].exp() / total)
    found = mixture(x)
    torch.testing.assert_close(found, dense @ x)
    assert not found[5].any()
    weights = torch.randn_like(found)
    leaves = (mixture.logits, x)
    fast = torch.autograd.grad((found * weights).sum(), leaves)
    slow = torch.autograd.grad((dense @ x * weights).sum(), leaves)
    torch.testing.assert_close(fast, slow)
    assert n_modalities == 1 or fast[0].any()


def test_two_modalities_share_by_a_sigmoid_and_begin_as_given():
    parts = graphs(2, {})
    mixture = ItemMixture(parts, [1.0, 9.0]).double()
    x = torch.randn(N, 4, dtype=torch.float64)
    share = torch.sigmoid(mixture.logits[0] - mixture.logits[1])
    assert share.item() == pytest.approx(0.1)
    expected = share * parts[0].to_dense() @ x + (1 - share) * parts[1].to_dense() @ x
    torch.testing.assert_close(mixture(x), expected)


def test_begins_as_the_fixed_mixture_where_items_lack_modalities():
    lacking = {0: [2, 5], 1: [5, 6]}
    parts = graphs(2, lacking)
    present = [torch.tensor([i not in lacking[m] for i in range(N)]) for m in range(2)]
    fixed = mix_graphs(parts, modality_shares([0.1, 0.9], present)).to_dense()
    x = torch.randn(N, 4)
    torch.testing.assert_close(ItemMixture(parts, [0.1, 0.9])(x.double()).float(), fixed.float() @ x)


def test_graphs_belong_to_the_state():
    mixture = ItemMixture(graphs(2, {}), [0.5, 0.5])
    assert "graphs.1.values" in mixture.state_dict()


def test_weights_by_default_and_as_given():
    assert mixture_weights(None, ("text", "image")) == {"image": 0.1, "text": 0.9}
    assert mixture_weights(None, ("image", "audio")) == {"image": 0.5, "audio": 0.5}
    given = mixture_weights({"a": 1.0, "b": 3.0}, ("b", "a"))
    assert list(given.items()) == [("b", 3.0), ("a", 1.0)]
    with pytest.raises(ConfigError, match="modality_weights names a; the modalities are a, b"):
        mixture_weights({"a": 1.0}, ("a", "b"))
