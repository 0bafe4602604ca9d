"""The graph of users who chose the same items. No user–user matrix is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import IntArray
from triptych.graph.sparse import SparseGraph

_BLOCK_PRODUCTS = 1 << 23
"""Pairs (user, other user) met at once while items in common are counted: about 400 MiB."""


def cooccurring_users(
    user: Tensor,
    item: Tensor,
    n_users: int,
    n_items: int,
    n_neighbors: int,
    block_products: int = _BLOCK_PRODUCTS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find for each user the K other users with the most items in common; of equals, those of lower index.

    Counts are the entries of R R^T off its diagonal, R being the (U, I) matrix of pairs. Blocks of
    its rows are cut by work, not by number: users of popular items meet nearly everyone.

    Source: DualGNN (TMM 2021), section on the user co-occurrence graph.

    Args:
        user: (E,) int64 user of each pair, on the CPU.
        item: (E,) int64 item of each pair; a pair appears once.
        n_users: U.
        n_items: I.
        n_neighbors: K; a user who shares items with fewer has fewer.
        block_products: how much work to do at once, sum over a block's pairs of the item's degree; a
            single user may need more. Changes memory and speed only.

    Returns: row (E',), col (E',) and count (E',), all int64: rows ascending, in each row the most in
        common first. E' is at most U K.

    Cost: O(P log P) time for P = sum of squared item degrees, O(U K + I) memory beyond a block.
    """
    from scipy.sparse import csr_array

    ones = np.ones(len(user), dtype=np.int32)
    chosen = csr_array((ones, (user.numpy(), item.numpy())), shape=(n_users, n_items))
    chosen_by = chosen.T.tocsr()  # (I, U)
    work = (chosen @ np.diff(chosen_by.indptr).astype(np.int64)).cumsum()
    parts = [np.empty((3, 0), dtype=np.int64)]
    for start, stop in _blocks(work, block_products):
        parts.append(_strongest(chosen[start:stop] @ chosen_by, start, n_neighbors))
    row, col, count = (torch.from_numpy(column) for column in np.concatenate(parts, axis=1))
    return row, col, count


def resampled_graph(edges: tuple[Tensor, Tensor, Tensor], n_users: int, n_neighbors: int) -> SparseGraph:
    """Give each user K slots of neighbours, weighted by the softmax of their counts, and draw who fills them.

    Every neighbour has one slot; those that are left over go to a copy of a slot already filled, one
    after the other, each equally likely. After such draws all ways to part K slots among n neighbours,
    one at least for each, are equally likely, so all of them are drawn at once as n - 1 cuts.
    A neighbour in several slots weighs their sum. Randomness is torch's default generator.

    Source: DualGNN (TMM 2021), authors' code, which draws anew in each epoch.

    Args:
        edges: row, col and count as `cooccurring_users` gives them, at most K in each row.
        n_users: U.
        n_neighbors: K.

    Returns: (U, U) graph of the same entries; each row that has any sums to 1.
    """
    row, col, count = edges
    found = torch.bincount(row, minlength=n_users)
    found = found[found > 0]
    filled = _first_slots(found, n_neighbors).flatten()  # (R K,) where each neighbour's slots begin
    first = filled.nonzero().flatten()  # (E,)
    times = first.diff(append=first.new_tensor([len(filled)]))
    slots = count[filled.cumsum(0) - 1].view(-1, n_neighbors)  # (R, K) a count for every slot
    weight = slots.float().softmax(dim=1).flatten()[first] * times
    return SparseGraph.from_edges(row, col, weight, n_users, n_users)


def _first_slots(found: Tensor, n_slots: int) -> Tensor:
    """Draw for each of (R,) numbers n that many slots, the first always among them: (R, K) bool."""
    first = torch.ones(len(found), n_slots, dtype=torch.bool, device=found.device)
    order = torch.rand(len(found), n_slots - 1, device=found.device).argsort(dim=1)
    place = torch.arange(n_slots - 1, device=found.device)
    first[:, 1:].scatter_(1, order, place < found[:, None] - 1)
    return first


def _blocks(work: IntArray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges whose work is at most `limit`, one row at least; `work` (U,) is cumulated."""
    start = 0
    while start < len(work):
        done = work[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(work, done + limit, side="right")))
        yield start, stop
        start = stop


def _strongest(common: Any, first_row: int, n_neighbors: int) -> IntArray:
    """Take the K largest entries in each row of a (b, U) block of counts: row, col and count, (3, E').

    Sorting one number made of row, falling count and column does all at once.
    """
    n_rows, n_users = common.shape
    found = np.diff(common.indptr)
    row = np.repeat(np.arange(n_rows), found)
    col = common.indices.astype(np.int64)
    levels = int(common.data.max(initial=0)) + 1
    keys = (row * levels + (levels - 1 - common.data)) * n_users + col
    keys = np.sort(keys[col != row + first_row])
    found = np.maximum(found - 1, 0)  # a row that has entries had its own user among them
    taken = np.minimum(found, n_neighbors)
    shift = (found.cumsum() - found) - (taken.cumsum() - taken)
    kept = keys[np.arange(taken.sum()) + np.repeat(shift, taken)]
    falling, col = np.divmod(kept, n_users)
    return np.stack([kept // (levels * n_users) + first_row, col, levels - 1 - falling % levels])
