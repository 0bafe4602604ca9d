"""What evaluation and serving see of a model: something that scores all items for some users.

Letters: U users, I items, B users of a block, D embedding width, R rank, P parts of a fusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.errors import ModelError, kind_of
from triptych.graph.product import sparse_product
from triptych.graph.sparse import SparseGraph

Arrays = Mapping[str, Tensor]

Normalisation = Literal["zscore", "minmax", "rank"]
"""How one user's scores are made comparable between models; see `normalise`."""


class Embeddings(NamedTuple):
    """One matrix of users and one of items; their inner products are the scores."""

    users: Tensor  # (U, D)
    items: Tensor  # (I, D)


class Scorer(Protocol):
    """Scores every item for a block of users. All that it holds are tensors, so that it can be kept."""

    kind: ClassVar[str]
    """What the class is called in files."""

    @property
    def n_users(self) -> int:
        """Number of users."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    def score(self, users: Tensor) -> Tensor:
        """Score all items for the given users: (B,) int64 -> (B, I) float32, a new tensor."""

    def item_similarities(self, item: int) -> Tensor:
        """Say how near every item is to one: (I,) float32, a new tensor; its own place means nothing."""

    def arrays(self) -> dict[str, Tensor]:
        """Name the tensors that it consists of, as they are stored."""

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read back what `arrays` gave."""


class EmbeddingScorer:
    """Scores by the inner product of frozen embeddings, as most models of the library do.

    Args:
        embeddings: users (U, D) and items (I, D); they are detached and turned to float32.

    Raises:
        ModelError: they are something else, or their widths differ.
    """

    kind: ClassVar[str] = "embeddings"

    def __init__(self, embeddings: Embeddings) -> None:
        _check_embeddings(embeddings)
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
        chosen = self.embeddings.users[users]
        # Items first: a narrow product stays in the cache and takes two thirds of the time of a wide one.
        return (self.embeddings.items @ chosen.T).T  # (I, D) @ (D, B) -> (I, B), seen as (B, I)

    def item_similarities(self, item: int) -> Tensor:
        """Give the cosine of every item's vector with one item's, (I,); of single numbers, 0."""
        items, lengths = self.embeddings.items, self._lengths
        if items.shape[1] == 1:
            return torch.zeros_like(lengths)
        return items @ (items[item] / lengths[item]) / lengths

    @cached_property
    def _lengths(self) -> Tensor:
        """(I,), found once: a service asks for likeness many times."""
        lengths: Tensor = torch.linalg.vector_norm(self.embeddings.items, dim=1)
        return lengths.clamp(min=1e-12)

    def arrays(self) -> dict[str, Tensor]:
        """Name the two matrices."""
        return self.embeddings._asdict()

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read back what `arrays` gave."""
        return cls(Embeddings(arrays["users"], arrays["items"]))


class ItemWeights(Protocol):
    """An item-to-item matrix (I, I): what having the item of a row adds to the score of each column's."""

    @property
    def n_items(self) -> int:
        """I."""

    def sums(self, history: SparseGraph) -> Tensor:
        """Add up the rows of the items that users have: (B, I) -> (B, I) float32, a new tensor."""

    def arrays(self) -> dict[str, Tensor]:
        """Name the tensors that it consists of."""


@dataclass(frozen=True, eq=False)
class DenseWeights:
    """All weights spelled out.

    Args:
        matrix: (I, I) float32.
    """

    matrix: Tensor

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.matrix)

    def sums(self, history: SparseGraph) -> Tensor:
        """Add up the rows of the items that users have: (B, I) -> (B, I)."""
        return history.multiply(self.matrix)

    def arrays(self) -> dict[str, Tensor]:
        """Name the matrix."""
        return {"weights": self.matrix}


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """The few weights that are not zero.

    Args:
        graph: (I, I); of its transpose no use is made.
    """

    graph: SparseGraph

    @property
    def n_items(self) -> int:
        """I."""
        return self.graph.n_cols

    def sums(self, history: SparseGraph) -> Tensor:
        """Add up the rows of the items that users have: (B, I) -> (B, I)."""
        return sparse_product(history, self.graph)

    def arrays(self) -> dict[str, Tensor]:
        """Name the rows' offsets, the columns and the values."""
        graph = self.graph
        return {"row_offsets": graph.offsets, "columns": graph.indices, "values": graph.values}


@dataclass(frozen=True, eq=False)
class LowRankWeights:
    """left right^T with zeros in place of its diagonal: no item speaks for itself.

    Args:
        left: (I, R) float32.
        right: (I, R) float32.
    """

    left: Tensor
    right: Tensor

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.left)

    def sums(self, history: SparseGraph) -> Tensor:
        """Add up the rows of the items that users have: (B, I) -> (B, I); nothing of (I, I) is made."""
        scores = history.multiply(self.left) @ self.right.T  # (B, R) @ (R, I)
        row, item, value = history.edges()
        diagonal = (self.left[item] * self.right[item]).sum(dim=1)
        return scores.index_put_((row, item), -value * diagonal, accumulate=True)

    def arrays(self) -> dict[str, Tensor]:
        """Name the two factors."""
        return {"left": self.left, "right": self.right}


class HistoryScorer:
    """Scores an item for a user by the sum of what the user's training items say of it: x B.

    Args:
        history: X, (U, I) of ones at the training pairs.
        weights: B.
    """

    kind: ClassVar[str] = "history"

    def __init__(self, history: SparseGraph, weights: ItemWeights) -> None:
        self.history, self.weights = history, weights

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.history.n_rows

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.weights.n_items

    def score(self, users: Tensor) -> Tensor:
        """Score all items for the given users: (B,) int64 -> (B, I) float32, a new tensor."""
        return self.weights.sums(self.history.select_rows(users.to(self.history.offsets.device)))

    def item_similarities(self, item: int) -> Tensor:
        """Give the item's row of B, the scores for somebody who has this item alone: (I,)."""
        device = self.history.offsets.device
        offsets, items = (torch.tensor(ends, dtype=torch.int32, device=device) for ends in ([0, 1], [item]))
        return self.weights.sums(_binary(offsets, items, self.n_items))[0]

    def arrays(self) -> dict[str, Tensor]:
        """Name the tensors of history and weights."""
        return {"offsets": self.history.offsets, "items": self.history.indices, **self.weights.arrays()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read back what `arrays` gave."""
        weights: ItemWeights
        if "weights" in arrays:
            weights = DenseWeights(arrays["weights"])
        elif "left" in arrays:
            weights = LowRankWeights(arrays["left"], arrays["right"])
        else:
            n_items = len(arrays["row_offsets"]) - 1
            offsets, columns, values = (arrays[name] for name in ("row_offsets", "columns", "values"))
            weights = SparseWeights(SparseGraph(offsets, columns, values, n_items, None))
        return cls(_binary(arrays["offsets"], arrays["items"], weights.n_items), weights)


class FusedScorer:
    """Adds up what several scorers say, each user's scores being made comparable first.

    Args:
        parts: P scorers of the same users and items.
        weights: (P,).
        normalisation: what is done to each part's scores of one user.
    """

    kind: ClassVar[str] = "fused"

    def __init__(self, parts: Sequence[Scorer], weights: Tensor, normalisation: Normalisation) -> None:
        self.parts, self.weights, self.normalisation = tuple(parts), weights.float(), normalisation

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.parts[0].n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.parts[0].n_items

    def part_scores(self, users: Tensor) -> Tensor:
        """Score with each part, normalised: (B,) int64 -> (P, B, I)."""
        return self._comparable(part.score(users) for part in self.parts)

    def score(self, users: Tensor) -> Tensor:
        """Score all items for the given users: (B,) int64 -> (B, I) float32, a new tensor."""
        mixed: Tensor = torch.tensordot(self.weights, self.part_scores(users), dims=1)
        return mixed

    def item_similarities(self, item: int) -> Tensor:
        """Mix the parts' similarities as their scores are mixed: (I,)."""
        rows = self._comparable(part.item_similarities(item)[None] for part in self.parts)
        mixed: Tensor = torch.tensordot(self.weights, rows, dims=1)
        return mixed[0]

    def arrays(self) -> dict[str, Tensor]:
        """Name the weights, by normalisation, and the parts' tensors, by place and kind."""
        arrays = {f"weights.{self.normalisation}": self.weights}
        for place, part in enumerate(self.parts):
            arrays |= {f"{place}.{part.kind}.{name}": tensor for name, tensor in part.arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read back what `arrays` gave."""
        groups = _by_first_word(arrays)
        ((normalisation, weights),) = groups.pop("weights").items()
        parts: list[Scorer] = []
        for place in range(len(weights)):
            ((kind, of_part),) = _by_first_word(groups[str(place)]).items()
            parts.append(SCORERS[kind].from_arrays(of_part))
        return cls(parts, weights, cast(Normalisation, normalisation))

    def _comparable(self, scores: Iterable[Tensor]) -> Tensor:
        device = self.weights.device
        return torch.stack([normalise(part, self.normalisation).to(device) for part in scores])


SCORERS: dict[str, type[Scorer]] = {
    scorer.kind: scorer for scorer in (EmbeddingScorer, HistoryScorer, FusedScorer)
}
"""The scorers that can be read from files, by kind."""


def normalise(scores: Tensor, how: Normalisation) -> Tensor:
    """Bring each row to one scale; a row whose values are all equal becomes zeros.

    "zscore" gives mean 0 and variance 1, "minmax" 0 to 1, "rank" the share of the other items that score
    lower, so that equal scores stay equal.

    Args:
        scores: (B, I).
        how: the scale.

    Returns: (B, I).
    """
    n_items = scores.shape[1]
    if how == "rank":
        ordered, order = scores.sort(dim=1)
        place = torch.arange(n_items, device=scores.device)
        higher = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0))  # than the one before
        lower = (place * higher).cummax(dim=1).values / max(1, n_items - 1)
        return torch.empty_like(scores).scatter_(1, order, lower).masked_fill_(scores.isnan(), torch.nan)
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    if how == "minmax":
        moved, unit = scores - low, high - low
    else:
        mean = scores.mean(dim=1, keepdim=True)
        largest = torch.maximum(high - mean, mean - low).clamp(min=torch.finfo(scores.dtype).tiny)
        moved = (scores - mean).div_(largest)  # whose squares neither vanish nor overflow
        unit = moved.norm(dim=1, keepdim=True) / math.sqrt(n_items)  # as quick as `std` is slow
    return moved.div_(unit.clamp(min=torch.finfo(scores.dtype).tiny)).masked_fill_(high == low, 0.0)


def _check_embeddings(given: object) -> None:
    wanted, fix = "Embeddings of users (U, D) and items (I, D)", "Return Embeddings(users, items)"
    if not isinstance(given, Embeddings):
        raise ModelError(f"embeddings() gives {kind_of(given)}", wanted=wanted, fix=fix)
    for part in given:
        if not isinstance(part, Tensor) or part.ndim != 2:
            found = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else kind_of(part)
            raise ModelError(f"embeddings() gives {found} for vectors", wanted=wanted, fix=fix)
    widths = [part.shape[1] for part in given]
    if widths[0] != widths[1]:
        found = f"embeddings() gives users of {widths[0]} columns and items of {widths[1]}"
        raise ModelError(found, wanted=wanted, fix="Give both the same width: scores are inner products")


def _binary(offsets: Tensor, items: Tensor, n_items: int) -> SparseGraph:
    ones = torch.ones(len(items), device=items.device)
    return SparseGraph(offsets, items, ones, n_items, None)


def _by_first_word(arrays: Arrays) -> dict[str, dict[str, Tensor]]:
    """Sort arrays by the word of their name before the first dot, and take it off."""
    groups: dict[str, dict[str, Tensor]] = {}
    for path, tensor in arrays.items():
        word, _, name = path.partition(".")
        groups.setdefault(word, {})[name] = tensor
    return groups
