"""A contrast that LGMRec and MGNM share: each node as one modality's hyperedges and as another's show it."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from triptych.losses import info_nce
from triptych.nn.embedding import take_rows
from triptych.nn.hypergraph import HyperView

Candidates = Literal["all", "batch"]


def contrast_modalities(
    view: HyperView,
    n_users: int,
    user: Tensor,
    item: Tensor,
    temperature: float,
    candidates: Candidates = "all",
) -> Tensor:
    """Tell users, and chosen items, from others by their vectors in another modality.

    Of two modalities: the sum over the batch of -log softmax(cos / temperature) at the node itself, its
    vector in the first compared with all nodes' in the second; users among users, items among items. Of
    more: the mean over all pairs. A node that lacks one of a pair takes no part in it.

    Source: LGMRec (arXiv:2312.16400), section on cross-modal hypergraph contrast, authors' code.

    Args:
        view: of all nodes, of two modalities or more.
        n_users: U.
        user: (B,) int64, the batch's users, compared as often as they are in it.
        item: (B,) int64, its chosen items.
        temperature: what cosines are divided by, above 0.
        candidates: what a node is told from: all of its side, or those in the batch.
    """
    users, items = view.split(n_users)
    terms = [
        _contrast(side, a, b, nodes, temperature, candidates)
        for side, nodes in ((users, user), (items, item))
        for a, b in combinations(range(len(view.edges)), 2)
    ]
    return 2 * torch.stack(terms).mean()  # both sides count in full


def _contrast(
    view: HyperView, a: int, b: int, nodes: Tensor, temperature: float, candidates: Candidates
) -> Tensor:
    """Compare modality a with b, summed over nodes (B,).

    Vectors are H E, with few hyperedges in E, so a product of two is (H_a E_a E_b^T) . H_b, over A columns
    instead of D.
    """
    both = view.has[a] & view.has[b]
    nodes = nodes[both[nodes]]
    if not len(nodes):
        return view.vectors.sum() * 0.0  # nothing to compare in this batch
    anchors = take_rows(_unit(view, a), nodes) @ (view.edges[a] @ view.edges[b].T)
    if candidates == "batch":
        mean = info_nce(anchors, take_rows(_unit(view, b), nodes), temperature, cosine=False)
    else:
        place = both.cumsum(dim=0) - 1  # among the candidates
        mean = info_nce(anchors, _unit(view, b)[both], temperature, partner=place[nodes], cosine=False)
    return len(nodes) * mean


def _unit(view: HyperView, m: int) -> Tensor:
    """Give the memberships of vectors of length 1: (n, A)."""
    lengths: Tensor = torch.linalg.vector_norm(view.vectors[m], dim=1, keepdim=True)
    return view.members[m] / lengths.clamp(min=1e-12)
