"""A sparse matrix times a sparse matrix, with a dense result."""

from __future__ import annotations

from torch import Tensor

from triptych.graph.sparse import SparseGraph


def sparse_product(left: SparseGraph, right: SparseGraph) -> Tensor:
    """Multiply two sparse matrices and spell out the product: (R, C) (C, I) -> (R, I), without a gradient.

    Cost: time and memory in proportion to the R I places of the result and the number of meetings, which is
    the sum over the left entries of the length of the right row that they meet.
    """
    row, met, value = left.edges()
    entry, col, weight = right.select_rows(met).edges()
    product = weight.new_zeros(left.n_rows * right.n_cols)
    place = row[entry] * right.n_cols + col
    # not index_add_, whose order of sums, and with it the last digit, is open on CUDA
    product.index_put_((place,), value[entry] * weight, accumulate=True)
    return product.view(left.n_rows, right.n_cols)
