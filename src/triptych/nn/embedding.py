"""Tables of learned vectors, and the rows a batch needs of a matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from triptych.scorer import Embeddings

Initialise = Callable[[Tensor], Tensor]


class NodeEmbedding(nn.Module):
    """One learned vector for each user and each item, in one table, users first, as graphs number them.

    Args:
        n_users: U.
        n_items: I.
        dim: D.
        initialise: fills the users' (U, D) and the items' (I, D) part, each as a matrix of its own.
    """

    def __init__(
        self, n_users: int, n_items: int, dim: int, initialise: Initialise = nn.init.xavier_uniform_
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        self.weight = nn.Parameter(torch.empty(n_users + n_items, dim))  # (U+I, D)
        with torch.no_grad():
            for part in self.split(self.weight):
                initialise(part)

    def split(self, nodes: Tensor) -> Embeddings:
        """Part a (U+I, D) matrix into users and items."""
        users, items = nodes.split([self.n_users, self.n_items])
        return Embeddings(users, items)

    @property
    def ego(self) -> Embeddings:
        """The learned vectors themselves: users (U, D), items (I, D)."""
        return self.split(self.weight)


def take_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Pick rows, (N, D), (B,) -> (B, D), with a gradient far quicker than that of `matrix[index]`."""
    return matrix.index_select(0, index)
