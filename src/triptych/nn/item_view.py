"""What items are by those alike, and what users are by their items, modality by modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from triptych.graph.sparse import SparseGraph, propagate, spmm


class ItemView(nn.Module):
    """Contents c_m of items, smoothed among alike items, x_m = S_m^L c_m, and handed on to users, R x_m.

    An item that lacks a modality is zero in it, whatever a given graph says of it; so is a user
    none of whose items has it.

    Source: MGCN (arXiv:2308.03588), item–item view; CAmgr (Mathematics 2024, 12, 2353), eq. 13 and 14.

    Args:
        alike: S_m of M modalities, (I, I) each.
        present: (M, I) bool, which items have which modality.
        users: R, (U, I), of positive weights.
    """

    has: Tensor  # (U+I, M) bool, which nodes have which modality

    def __init__(self, alike: Sequence[SparseGraph], present: Tensor, users: SparseGraph) -> None:
        super().__init__()
        self.alike = nn.ModuleList(graph.share(persistent=True) for graph in alike)
        self.users = users.share(persistent=True)
        linked = torch.stack([graph.offsets.diff() > 0 for graph in alike])
        items = (present & linked).T  # (I, M)
        self.register_buffer("has", torch.cat([users.multiply(items.float()) > 0, items]), persistent=False)

    def forward(self, contents: Sequence[Tensor], n_layers: int = 1) -> Tensor:
        """Give all nodes in all modalities, users first: M tensors (I, D) -> (U+I, M, D)."""
        smooth = [
            propagate(cast(SparseGraph, graph), content, n_layers, combine="last")
            for graph, content in zip(self.alike, contents, strict=True)
        ]
        items = torch.stack(smooth, dim=1) * self.has[self.users.n_rows :, :, None]  # (I, M, D)
        users = spmm(self.users, items.flatten(1))  # (U, M D): one product for all modalities
        return torch.cat([users.unflatten(1, items.shape[1:]), items])
