"""Attention over the edges of a graph, and between two modalities of the same nodes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.graph.sparse import SparseGraph
from triptych.graph.weighted import segment_softmax, spmm_weighted
from triptych.nn.composed import mapped_products
from triptych.nn.embedding import take_rows

AttentionAxis = Literal["channel", "nodes"]

AttentionScale = Literal["contracted", "width"]


class GraphAttention(nn.Module):
    """One layer of graph attention with one head: h_n = ReLU(sum_j a_nj x_j) over the neighbours j of n.

    x = W h, a_nj = softmax over j of LeakyReLU(w . [x_n | x_j]). The score of an edge is that of its ends,
    w1 . x_n + w2 . x_j, so that nothing of shape (E, D) is made. A node without neighbours is zero.

    Source: GAT (arXiv:1710.10903), eq. 1–4; CAmgr (Mathematics 2024, 12, 2353), eq. 7 and 8.

    Args:
        dim: D.
        negative_slope: of LeakyReLU.
    """

    def __init__(self, dim: int, negative_slope: float = 0.2) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.project = nn.Linear(dim, dim, bias=False)
        self.score = nn.Linear(2 * dim, 1, bias=False)

    def forward(self, graph: SparseGraph, nodes: Tensor) -> Tensor:
        """Attend to neighbours: (N, D) -> (N, D), in O(N D^2 + E D) time."""
        x = self.project(nodes).to(nodes.dtype)  # autocast projects in bfloat16
        ends = x @ self.score.weight.view(2, -1).T  # (N, 2)
        at_row, at_col = ends.to(nodes.dtype).unbind(dim=1)
        at_row = torch.repeat_interleave(at_row, graph.offsets.diff(), output_size=graph.n_entries)
        scores = F.leaky_relu(at_row + take_rows(at_col, graph.indices), self.negative_slope)  # (E,)
        return spmm_weighted(graph, segment_softmax(graph, scores), x).relu()


class CrossAttention(nn.Module):
    """What two modalities of the same nodes have in common, and what sets them apart.

    Q comes of the modality that asks, K and V of the one that answers, by linear maps. The attended values A
    are V softmax(Q^T K)^T where channels attend to channels, by products summed over all nodes, whose Q and K
    are never made (`mapped_products`), and softmax(Q K^T) V where nodes attend to nodes (`node_attention`);
    products are scaled, and softmax is by rows. With these,

        common = C + MLP(LN(C)), C = Lin(A) + Q;  distinct = D + MLP(LN(D)), D = Lin'(V - A) + Q.

    No bias stands in for what a node lacks: without the one Q is zero, without the other V and Lin' are,
    without either nothing is common, A and Lin are zero, and without both so are the results.

    Source: CAmgr (Mathematics 2024, 12, 2353), eq. 15–23. Eq. 18 and 21 are printed without V, but only
        with it do eq. 19 and 22 fit; the two are the same, so that A is computed once.

    Args:
        dim: D.
        axis: what attends, and to what.
        scale: products are divided by the root of the length of the axis they sum over ("contracted"),
            or by that of D ("width"); for nodes that is the same.
        normalise: whether LN comes before the MLP.
    """

    def __init__(
        self,
        dim: int,
        axis: AttentionAxis = "channel",
        scale: AttentionScale = "contracted",
        *,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.axis, self.scale = axis, scale
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.map_common, self.map_distinct = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.refine_common, self.refine_distinct = (_refinement(dim, normalise) for _ in range(2))

    def forward(self, asking: Tensor, answering: Tensor, has: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Compare two modalities: common and distinct of some nodes, (n, D) each.

        Args:
            asking: (N, D), all nodes in the modality that asks.
            answering: (N, D), all nodes in the one that answers.
            has: (N, 2) bool, which nodes have the one and the other.
            rows: (n,) int64, of which nodes results are wanted; the others only take part.
        """
        asks, answers = has[rows].split(1, dim=1)  # (n, 1) each
        both, either = asks & answers, asks | answers
        q = self.query(take_rows(asking, rows)) * asks
        v = self.value(take_rows(answering, rows)) * answers
        if self.axis == "channel":
            products = mapped_products(asking, self.query, answering, self.key, has.all(dim=1))  # (D, D)
            length = len(asking) if self.scale == "contracted" else q.shape[1]
            attended = v @ (length**-0.5 * products).softmax(dim=1).T.to(v.dtype)
        else:
            known = take_rows(answering, has[:, 1].nonzero().squeeze(1))
            attended = node_attention(q, self.key(known), self.value(known), q.shape[1] ** -0.5)
        attended = attended * both
        common = self.map_common(attended) * both + q
        distinct = self.map_distinct(v - attended) * answers + q
        common, distinct = common + self.refine_common(common), distinct + self.refine_distinct(distinct)
        return common * either, distinct * either


def node_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Let each node attend to nodes: softmax(scale query key^T) value, by blocks, without the (n, K) matrix.

    Cost: O(n K D) time, O(n + K) D memory, as torch's fused kernels do it; on a GPU those ask for a D that
    is a multiple of 8.

    Args:
        query: (n, D).
        key: (K, D).
        value: (K, D).
        scale: what products are multiplied by.
    """
    # Of more or fewer axes torch would make the whole matrix.
    q, k, v = (part[None, None] for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[0, 0]


def _refinement(dim: int, normalise: bool) -> nn.Sequential:
    """Make LN, if it is wanted, and an MLP of one hidden layer as wide as its ends."""
    first = nn.LayerNorm(dim) if normalise else nn.Identity()
    return nn.Sequential(first, nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
