"""What evaluation and serving see of a model: something that scores all items for some users."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Embeddings(NamedTuple):
    """One matrix of users and one of items; their inner products are the scores."""

    users: Tensor  # (U, D)
    items: Tensor  # (I, D)


class Scorer(Protocol):
    """Scores every item for a block of users."""

    @property
    def n_users(self) -> int:
        """Number of users."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    def score(self, users: Tensor) -> Tensor:
        """Score all items for the given users: (B,) int64 -> (B, I) float32, a new tensor."""


class EmbeddingScorer:
    """Scores by the inner product of frozen embeddings, as all models of the library do.

    Args:
        embeddings: users (U, D) and items (I, D); they are detached and turned to float32.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = Embeddings(*(part.detach().float().contiguous() for part in embeddings))

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.embeddings.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.embeddings.items)

    def score(self, users: Tensor) -> Tensor:
        """Score all items for the given users: (B,) int64 -> (B, I) float32, a new tensor."""
        users = users.to(self.embeddings.users.device)
        return self.embeddings.users[users] @ self.embeddings.items.T  # (B, D) @ (D, I) -> (B, I)
