"""Graphs with some edges left out, drawn anew as training goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from triptych.graph.bipartite import bipartite_graph
from triptych.graph.sparse import SparseGraph


def thinned_bipartite(
    user: Tensor, item: Tensor, n_users: int, n_items: int, dropout: float, *, by_degree: bool
) -> SparseGraph:
    """Draw a user–item graph that lacks some edges, normalised symmetrically by the degrees that are left.

    Args:
        user: (E,) int64.
        item: (E,) int64.
        n_users: U.
        n_items: I.
        dropout: the share of edges left out, in [0, 1); at least one edge stays.
        by_degree: keep an edge the less likely, the higher the degrees of its ends (`degree_weights`);
            otherwise all are alike.

    Returns: (U + I, U + I).
    """
    weight = (
        degree_weights(user, item, n_users, n_items)
        if by_degree
        else torch.ones(len(user), device=user.device)
    )
    kept = sample_edges(weight, max(1, int((1 - dropout) * len(user))))
    return bipartite_graph(user[kept], item[kept], n_users, n_items, "sym")


def sample_edges(weight: Tensor, n_keep: int) -> Tensor:
    """Draw `n_keep` edges without replacement, each next one with probability proportional to its weight.

    The n smallest of independent Exp(1) / weight have exactly the distribution of n successive
    weighted draws (an exponential race), so one pass does. Randomness is torch's default generator.

    Args:
        weight: (E,) positive.
        n_keep: how many to keep, at most E.

    Returns: (n_keep,) int64 edge numbers, ascending.
    """
    arrival = torch.empty_like(weight).exponential_().div_(weight)
    kept = arrival.topk(n_keep, largest=False, sorted=False).indices
    return kept.sort().values


def degree_weights(user: Tensor, item: Tensor, n_users: int, n_items: int) -> Tensor:
    """Weigh each pair by 1 / sqrt(d_user d_item): what popular nodes do says less.

    Source: FREEDOM (arXiv:2211.06924), section on denoising the user–item graph.

    Args:
        user: (E,) int64.
        item: (E,) int64.
        n_users: U.
        n_items: I.

    Returns: (E,) float32.
    """
    user_degree = torch.bincount(user, minlength=n_users)
    item_degree = torch.bincount(item, minlength=n_items)
    return (user_degree[user] * item_degree[item]).float().rsqrt()


def drop_entries(graph: SparseGraph, rate: float | Tensor) -> SparseGraph:
    """Set each entry to zero with probability `rate`, and divide the others by 1 - rate.

    Entries are dropped each by itself: (r, c) may go and (c, r) stay, so the result is not symmetric. The
    pattern stays as it is, which is far quicker than building a smaller graph.

    Args:
        graph: with E entries and a symmetric pattern.
        rate: in [0, 1).
    """
    kept = torch.rand_like(graph.values) >= rate
    values = graph.values * kept / (1 - rate)
    return graph.with_values(values)
