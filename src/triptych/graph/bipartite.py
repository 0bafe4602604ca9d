"""Graphs of users and items.

Of both together, users are nodes 0 .. U-1 and items are nodes U .. U+I-1; or of one side alone, rows
of users over columns of items or the other way round.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from triptych.graph.sparse import SparseGraph

Normalisation = Literal["sym", "sym_loop", "rw_loop", "mean", "root_row"]

SideNormalisation = Literal["sum", "mean", "sym", "root_row"]

# An edge from row r to column c weighs degree_r^a * degree_c^b; (a, b, with self-loops).
_EXPONENTS: dict[Normalisation, tuple[float, float, bool]] = {
    "sym": (-0.5, -0.5, False),  # D^-1/2 A D^-1/2: LightGCN and most others
    "sym_loop": (-0.5, -0.5, True),  # (D+I)^-1/2 (A+I) (D+I)^-1/2: DiffMM
    "rw_loop": (-1.0, 0.0, True),  # (D+I)^-1 (A+I): NGCF, LATTICE, MICRO
    "mean": (-1.0, 0.0, False),  # D^-1 A: MMGCN
    "root_row": (-0.5, 0.0, False),  # D^-1/2 A: MMSSL
}


def bipartite_graph(
    user: Tensor, item: Tensor, n_users: int, n_items: int, normalisation: Normalisation = "sym"
) -> SparseGraph:
    """Link users and items that interacted, in both directions.

    Args:
        user: (E,) int64 user index of each pair.
        item: (E,) int64 item index of each pair; a pair appears once.
        n_users: U.
        n_items: I.
        normalisation: the weight of an edge, from the degrees in these pairs.

    Returns: (U+I, U+I) graph with 2E entries, U+I more with self-loops; a node without pairs has an
        empty row (with self-loops: only itself).
    """
    n_nodes = n_users + n_items
    a, b, with_loops = _EXPONENTS[normalisation]
    row = torch.cat([user, item + n_users])
    col = torch.cat([item + n_users, user])
    if with_loops:
        every = torch.arange(n_nodes, device=user.device)
        row, col = torch.cat([row, every]), torch.cat([col, every])
    degree = torch.bincount(row, minlength=n_nodes).double().clamp_(min=1)
    value = (degree.pow(a)[row] * degree.pow(b)[col]).float()
    return SparseGraph.from_edges(row, col, value, n_nodes, n_nodes, symmetric=a == b)


def side_graph(
    row: Tensor, col: Tensor, n_rows: int, n_cols: int, normalisation: SideNormalisation
) -> SparseGraph:
    """Let one side receive from the other: users from their items, or items from their users.

    Args:
        row: (E,) int64, who receives.
        col: (E,) int64, from whom; a pair appears once.
        n_rows: R, users or items.
        n_cols: C, the others.
        normalisation: "sum" adds up, "mean" divides by the receiver's degree, "root_row" by its root, "sym"
            by the roots of both degrees, as the matching part of `bipartite_graph` does.

    Returns: (R, C) graph of E entries; a row without pairs is empty.
    """
    a, b = (0.0, 0.0) if normalisation == "sum" else _EXPONENTS[normalisation][:2]
    row_degree = torch.bincount(row, minlength=n_rows).double()
    col_degree = torch.bincount(col, minlength=n_cols).double()
    value = (row_degree[row].pow(a) * col_degree[col].pow(b)).float()
    return SparseGraph.from_edges(row, col, value, n_rows, n_cols)
