"""Item graphs that are learned: each item's nearest neighbours by vectors that have a gradient.

The dense form takes all (I, I) cosines, keeps the K largest of each row and lets the gradient pass through
those. Here the K neighbours are found block by block without a gradient, and only their cosines are
computed once more with one: the same values and the same gradient, in O(I K) memory.

Letters: I items, D width, K neighbours, E stored entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from triptych.graph.neighbors import nearest_neighbors
from triptych.graph.sparse import SparseGraph
from triptych.graph.weighted import edge_dots, spmm_weighted
from triptych.unit import unit_rows


class LearnedGraph(NamedTuple):
    """An (I, I) graph whose values may have a gradient.

    Args:
        pattern: where entries are; the values it holds itself play no part.
        values: (E,).
    """

    pattern: SparseGraph
    values: Tensor

    def multiply(self, x: Tensor) -> Tensor:
        """Compute A x, with gradients to the values and to x: (I, D) -> (I, D)."""
        return spmm_weighted(self.pattern, self.values, x)

    def row_sums(self) -> Tensor:
        """Add up each row: (I,)."""
        return self.multiply(self.values.new_ones(self.pattern.n_cols, 1)).squeeze(1)

    def scaled(self, rows: Tensor, cols: Tensor | None = None) -> LearnedGraph:
        """Multiply entry (i, j) by rows[i] cols[j]: (I,), (I,)."""
        cols = torch.ones_like(rows) if cols is None else cols
        return LearnedGraph(self.pattern, self.values * edge_dots(self.pattern, rows[:, None], cols[:, None]))

    def detach(self) -> LearnedGraph:
        """Make constants of the values."""
        return LearnedGraph(self.pattern, self.values.detach())


def neighbor_graph(vectors: Tensor, n_neighbors: int, known: Tensor) -> LearnedGraph:
    """Link each item to its nearest by cosine, itself included; entries are the cosines, those below 0 are 0.

    As each item counts 1 for itself, and nothing counts less than 0, the sum of a row is at least 1; that of
    an unknown item, or of one whose vector is zero, is 0.

    Source: LATTICE (arXiv:2104.09036), section on modality-aware graphs, in which negative cosines are 0.

    Args:
        vectors: (I, D), any numbers; rows that are not finite have neighbours and no finite cosines.
        n_neighbors: K.
        known: (I,) bool; the rows of other items are empty, and they are nobody's neighbour.

    Raises:
        ConfigError: some items are known, but fewer than K.

    Cost: O(I^2 D) time without, O(I K D) with a gradient; O(I (K + D)) memory beyond one block.
    """
    if not known.any():
        nobody = known.nonzero().flatten()
        graph = SparseGraph.from_edges(nobody, nobody, vectors.new_empty(0), len(known), len(known))
        return LearnedGraph(graph, vectors.new_empty(0))
    precision = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        unit = unit_rows(vectors.to(precision))
        with torch.no_grad():
            # What is not finite is to be reported as the loss it leads to.
            nearest, cosines = nearest_neighbors(unit.nan_to_num(), n_neighbors, known)
        row = known.nonzero().expand(-1, n_neighbors)
        entries = (row.flatten(), nearest[known].flatten(), cosines[known].flatten())
        pattern = SparseGraph.from_edges(*entries, len(known), len(known))
        return LearnedGraph(pattern, edge_dots(pattern, unit, unit).clamp(min=0))


def inverse_root(degree: Tensor) -> Tensor:
    """Compute d^-1/2, by which both sides of a graph are scaled: (I,) -> (I,); finite also where d is 0."""
    return degree.clamp(min=1e-7).rsqrt()


def mix_learned(
    learned: Sequence[LearnedGraph], fixed: Sequence[SparseGraph], shares: Tensor, fixed_share: float
) -> list[LearnedGraph]:
    """Mix learned graphs S_m, normalise the mixture, and mix in fixed graphs O_m, normalised already.

    With N(S) = D^-1/2 S D^-1/2, D the row sums, it is N of the mixture, not a mixture of N.

    Args:
        learned: S_m, M of them.
        fixed: O_m, as many.
        shares: b, (M, I), what the rows of each count.
        fixed_share: of the fixed ones; the learned ones have the rest.

    Returns: graphs whose sum is (1 - fixed_share) N(sum_m b_m S_m) + fixed_share sum_m b_m O_m.
    """
    degrees = [share * graph.row_sums() for share, graph in zip(shares, learned, strict=True)]
    scale = inverse_root(torch.stack(degrees).sum(dim=0))
    mixed = []
    for share, graph, given in zip(shares, learned, fixed, strict=True):
        mixed.append(graph.scaled((1 - fixed_share) * share * scale, scale))
        mixed.append(LearnedGraph(given, given.values).scaled(fixed_share * share))
    return mixed


def propagate_sum(graphs: Sequence[LearnedGraph], x: Tensor, n_layers: int) -> Tensor:
    """Send vectors through the sum of several graphs, `n_layers` times: (A_1 + A_2 + ...)^L x.

    The graphs are never merged: products add up just as well.
    """
    for _ in range(n_layers):
        x = reduce(torch.add, (graph.multiply(x) for graph in graphs))
    return x
