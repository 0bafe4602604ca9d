"""Vectors of items, sent over a graph of alike items by one of several kinds of layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.graph.sparse import SparseGraph, propagate_layers, spmm
from triptych.nn.attention import GraphAttention

ItemGNN = Literal["rgnn", "lightgcn", "gcn", "gat"]


class ItemEncoder(nn.Module):
    """Sends vectors of items over one graph.

    "rgnn" and "lightgcn" multiply with the graph, and the result is the last layer or the mean of all layers;
    "gcn" has layers of `GraphConvolution` and "gat" of `GraphAttention`, and the result is the last. An item
    without neighbours is zero in all layers but the first.

    Source: KSI (arXiv:2305.07419), eq. 4, and figure 2 for the others.

    Args:
        graph: (I, I).
        kind: as above.
        n_layers: L.
        dim: D.
    """

    graph: SparseGraph

    def __init__(self, graph: SparseGraph, kind: ItemGNN, n_layers: int, dim: int) -> None:
        super().__init__()
        self.graph, self.kind, self.n_layers = graph.share(persistent=True), kind, n_layers
        layer = {"gcn": GraphConvolution, "gat": GraphAttention}.get(kind)
        self.layers = nn.ModuleList(layer(dim) for _ in range(n_layers if layer else 0) if layer)
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter)

    def forward(self, items: Tensor) -> list[Tensor]:
        """List the layers, the given vectors first: (I, D) -> L + 1 of (I, D)."""
        if self.kind in ("rgnn", "lightgcn"):
            return propagate_layers(self.graph, items, self.n_layers)
        layers = [items]
        for layer in self.layers:
            layers.append(layer(self.graph, layers[-1]))
        return layers

    def result(self, layers: list[Tensor]) -> Tensor:
        """Make one of the layers: (I, D)."""
        return torch.stack(layers).mean(dim=0) if self.kind == "lightgcn" else layers[-1]

    def linked(self) -> Tensor:
        """Say which items have neighbours: (I,) bool."""
        return self.graph.offsets.diff() > 0


class GraphConvolution(nn.Module):
    """One layer of graph convolution: LeakyReLU(G H W).

    Source: GCN (arXiv:1609.02907), eq. 2, with a leaky ReLU.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim, bias=False)

    def forward(self, graph: SparseGraph, nodes: Tensor) -> Tensor:
        """Pass vectors along the edges: (N, D) -> (N, D)."""
        return F.leaky_relu(spmm(graph, self.project(nodes).to(nodes.dtype)))  # autocast projects in bfloat16
