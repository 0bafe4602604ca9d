"""Sparse times sparse is what dense times dense is."""

from __future__ import annotations

import pytest
import torch

from triptych.graph.product import sparse_product
from triptych.graph.sparse import SparseGraph


def random_graph(n_rows: int, n_cols: int, n_entries: int, seed: int) -> SparseGraph:
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randperm(n_rows * n_cols, generator=draw)[:n_entries]
    values = torch.randn(n_entries, generator=draw)
    return SparseGraph.from_edges(keys // n_cols, keys % n_cols, values, n_rows, n_cols)


@pytest.mark.parametrize(("n_left", "n_right"), [(20, 15), (0, 15), (20, 0), (42, 35)])
def test_it_is_the_dense_product(n_left: int, n_right: int):
    left, right = random_graph(6, 7, n_left, 1), random_graph(7, 5, n_right, 2)
    product = sparse_product(left, right)
    assert product.shape == (6, 5)
    torch.testing.assert_close(product, left.to_dense() @ right.to_dense())
