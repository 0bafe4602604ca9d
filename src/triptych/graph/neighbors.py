"""Graphs among items: who looks, reads or sounds alike. No item–item matrix is ever in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.errors import ConfigError, DataError
from triptych.graph.sparse import SparseGraph

Weighting = Literal["binary", "cosine", "positive"]

ItemNormalisation = Literal["sym", "rw"]

_BLOCK_ENTRIES = 1 << 24
"""Similarities held at once: 16 million float32, 64 MiB."""

_LEAST_BLOCKS = 8
"""Of so many, or more, nearly half are left out by symmetry."""


def nearest_neighbors(
    features: Tensor, n_neighbors: int, present: Tensor | None = None, block_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find each item's most similar items by cosine, itself always included.

    Args:
        features: (I, F) float32.
        n_neighbors: K.
        present: (I,) bool; items without features are nobody's neighbour.
        block_size: rows compared at once; by default what 64 MiB of similarities allow.

    Returns: indices (I, K) int64 and cosines (I, K), most similar first. Rows of absent items mean nothing.

    Raises:
        DataError: features hold NaN or infinity.
        ConfigError: K is larger than the number of items that have features.

    Cost: O(I^2 F) time, O(I K) memory beyond one block.
    """
    finite = features.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise DataError(
            f"features hold NaN or infinity, the first in row {int((~finite).int().argmax())}",
            wanted="finite numbers",
            fix="Repair the features",
        )
    n_items = len(features)
    n_present = n_items if present is None else int(present.sum())
    if not 0 < n_neighbors <= n_present:
        raise ConfigError(
            f"n_neighbors = {n_neighbors}, but only {n_present:,} items have features",
            wanted=f"a number from 1 to {n_present:,}",
            fix="Set a smaller n_neighbors",
        )
    block_size = block_size or max(1, min(_BLOCK_ENTRIES // n_items, -(-n_items // _LEAST_BLOCKS)))
    unit = F.normalize(features, dim=1)
    indices = torch.zeros(n_items, n_neighbors, dtype=torch.int64, device=features.device)
    cosines = features.new_full((n_items, n_neighbors), -torch.inf)
    block = features.new_empty(min(block_size, n_items) * n_items)
    for start in range(0, n_items, block_size):
        stop = min(start + block_size, n_items)
        # Cosines are symmetric: what a row has with those before it stands in their blocks.
        similar = block[: (stop - start) * (n_items - start)].view(stop - start, n_items - start)
        torch.mm(unit[start:stop], unit[start:].T, out=similar)  # (b, F) @ (F, n) -> (b, n)
        if present is not None:
            similar.masked_fill_(~present[start:], -torch.inf)
        similar.fill_diagonal_(2.0)  # before all others, even those that are its equals
        _keep_best(indices[start:stop], cosines[start:stop], similar, start)
        if stop < n_items:
            later = similar[:, stop - start :]
            if present is not None:
                later.masked_fill_(~present[start:stop, None], -torch.inf)
            _keep_best(indices[stop:], cosines[stop:], later.T, start)
    cosines[:, 0] = 1.0
    return indices, cosines


def _keep_best(indices: Tensor, cosines: Tensor, found: Tensor, first: int) -> None:
    """Put what was found, (n, m) with items from `first` on, in the place of what is worse, (n, K)."""
    n_neighbors = cosines.shape[1]
    best, place = found.topk(min(n_neighbors, found.shape[1]), dim=1)
    both, at = torch.cat([best, cosines], dim=1).topk(n_neighbors, dim=1)
    indices.copy_(torch.cat([place + first, indices], dim=1).gather(1, at))
    cosines.copy_(both)


def knn_edges(features: ItemFeatures, n_neighbors: int) -> tuple[Tensor, Tensor, Tensor]:
    """List each item's nearest neighbours as edges: row (E,), col (E,), cosine (E,).

    A given item graph is used as it is, except that each row keeps at most its `n_neighbors`
    heaviest edges. Items without the modality, or with a row of zeros, have no edges.
    """
    if features.graph is not None:
        graph = features.graph.strongest(n_neighbors, features.n_items)
        return torch.from_numpy(graph.row), torch.from_numpy(graph.col), torch.from_numpy(graph.weight)
    assert features.values is not None  # one of the two is there, ItemFeatures makes sure
    values = torch.from_numpy(features.values)
    present = torch.from_numpy(features.present) & values.any(dim=1)  # a row of zeros points nowhere
    if not bool(present.any()):
        nobody = torch.empty(0, dtype=torch.int64)
        return nobody, nobody, torch.empty(0)
    indices, cosines = nearest_neighbors(values, n_neighbors, present)
    row = torch.arange(features.n_items).repeat_interleave(n_neighbors)
    keep = present[row]
    return row[keep], indices.flatten()[keep], cosines.flatten()[keep]


def item_graph(
    edges: tuple[Tensor, Tensor, Tensor],
    n_items: int,
    weighting: Weighting = "binary",
    normalisation: ItemNormalisation = "sym",
) -> SparseGraph:
    """Normalise an item graph by its row sums s_i = sum_j s_ij.

    "sym" divides on both sides, s_ij / sqrt(s_i s_j). The columns' sums play no part, and the graph is
    not symmetric; so do the authors' codes. "rw" divides each row by its own, s_ij / s_i, so that it sums
    to one. With binary weights and K neighbours everywhere, every entry is 1/K either way.

    Source: LATTICE (arXiv:2104.09036), eq. 4–6 with cosine weights; FREEDOM (arXiv:2211.06924),
        section on the frozen item–item graph, with binary ones; CAmgr (Mathematics 2024, 12, 2353),
        eq. 12 for "rw"; KSI (arXiv:2305.07419), eq. 1-3 for "positive".

    Args:
        edges: row (E,), col (E,) and cosine (E,).
        n_items: I.
        weighting: an edge counts 1, or its cosine; "positive" leaves out edges whose cosine is not.
        normalisation: what an edge's weight is divided by.

    Returns: (I, I) graph of E entries; rows whose sum is not positive hold zeros, and under "sym" so do the
        columns of their items.
    """
    row, col, cosine = edges
    if weighting == "positive":
        row, col, cosine = (part[cosine > 0] for part in edges)
    weight = torch.ones_like(cosine) if weighting == "binary" else cosine
    row_sum = torch.zeros(n_items).index_add_(0, row, weight)
    positive = row_sum > 0  # cosines may cancel out, or sum to less
    if normalisation == "rw":
        value = torch.where(positive[row], weight / row_sum.clamp(min=1e-7)[row], 0.0)
    else:
        scale = row_sum.clamp(min=1e-7).rsqrt()
        value = torch.where(positive[row] & positive[col], weight * scale[row] * scale[col], 0.0)
    return SparseGraph.from_edges(row, col, value, n_items, n_items)


def mix_graphs(graphs: Sequence[SparseGraph], shares: Tensor) -> SparseGraph:
    """Add graphs over the same items, row by row in the given shares.

    Args:
        graphs: M graphs, each (I, I).
        shares: (M, I), the weight of each graph in each row.

    Returns: (I, I) graph; an edge that several graphs have weighs their weighted sum.
    """
    edges = [graph.edges() for graph in graphs]
    row, col = (torch.cat([edge[place] for edge in edges]) for place in (0, 1))
    value = torch.cat([value * shares[m][row] for m, (row, _, value) in enumerate(edges)])
    return SparseGraph.from_edges(row, col, value, graphs[0].n_rows, graphs[0].n_cols)


def modality_shares(weights: Sequence[float], present: Sequence[Tensor]) -> Tensor:
    """Share out each item's weight among the modalities it has.

    An item with all modalities gets `weights` as they are; one that lacks some spreads their total
    over those it has, so that its row counts as much as any other.

    Args:
        weights: M weights, not all zero.
        present: M masks (I,) bool.

    Returns: (M, I) float32; zero for an item without any of them.
    """
    have = torch.stack(list(present)).float() * torch.tensor(weights, dtype=torch.float32)[:, None]  # (M, I)
    total = have.sum(dim=0)
    return have * torch.where(total > 0, sum(weights) / total.clamp(min=1e-12), 0.0)
