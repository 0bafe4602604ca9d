"""New users from the items they have, without training anything again.

What scores by a user's items alone, as closed forms do, scores a new user exactly as a known one: x B. Where
users have vectors, a new one is made of the items' vectors by an affine map, the least squares on the users
that the run was trained on. There are three ways to add up a user's items; taken is the one that serves best
users whom the map was not fitted to. Validation and test play no part. A fusion is asked part by part.

Letters: U users, I items, B new users, E pairs, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.arrays import BoolArray, IntArray, RawId
from triptych.data.split import Split
from triptych.evaluation.ranking import BLOCK_SIZE, check_lengths, top_k
from triptych.graph.bipartite import SideNormalisation, side_graph
from triptych.graph.sparse import SparseGraph
from triptych.runs.run import Recommendation, Run, only
from triptych.scorer import EmbeddingScorer, FusedScorer, HistoryScorer, Scorer, normalise

WEIGHTINGS: tuple[SideNormalisation, ...] = ("mean", "root_row", "sym")
"""How the vectors of a user's items are added up, as `side_graph` does."""
RIDGE = 1e-3
"""What is added to the diagonal of the least squares, as a share of its mean: a ground for directions in
which items hardly vary."""
_HELD_OUT = 5
"""Every so many users of the run are kept from the first fit, to choose by."""


def fold_in(
    run: Run,
    histories: Sequence[Sequence[RawId]],
    k: int = 10,
    *,
    where: str | BoolArray | None = None,
) -> list[Recommendation]:
    """List the best items for users that the run was not trained on, by the items they have.

    Their own items are left out. A user without any gets the most popular items, and `basis` says so.

    Args:
        run: of any model, or of a fusion.
        histories: raw item ids of each new user; an id that comes twice counts once.
        k: list length.
        where: a condition on the run's item table (`triptych.data.conditions`), or (I,) marks of the items
            that may be listed. What users have counts whether it meets the condition or not.

    Returns: a list for each, whose `user_id` is the place of the user, from 0.

    Raises:
        UnknownIdError: an item is not in the data set.
        ConfigError: k is below 1 or above the number of items; or the condition cannot be read, or does not
            fit the item table.
    """
    check_lengths([k], run.split.n_items)
    allowed = run.matching(where)
    items = [np.unique(run.split.data.items.index(history)) for history in histories]
    if run not in _FOLDERS:
        _FOLDERS[run] = UserFolder(run.scorer, run.split)
    return [
        recommendation
        for start in range(0, len(items), BLOCK_SIZE)
        for recommendation in _recommend(
            run, _FOLDERS[run], items[start : start + BLOCK_SIZE], start, k, allowed
        )
    ]


class UserFolder:
    """Scores items for users by the items they have; what it learns, it learns here, once.

    Args:
        scorer: of a run.
        split: of the run; its training pairs alone are looked at.
    """

    def __init__(self, scorer: Scorer, split: Split) -> None:
        self.scorer = scorer
        self._parts = (
            [UserFolder(part, split) for part in scorer.parts] if isinstance(scorer, FusedScorer) else []
        )
        if isinstance(scorer, EmbeddingScorer):
            self._degree = np.bincount(split.train.item, minlength=split.n_items)
            self.weighting, self._map = self._fit(scorer, split)

    def score(self, history: SparseGraph) -> Tensor:
        """Score all items for new users: a (B, I) graph of ones at what they have -> (B, I) float32."""
        match self.scorer:
            case HistoryScorer():
                device = self.scorer.history.offsets.device
                return self.scorer.weights.sums(history.share().to(device)).cpu()
            case FusedScorer():
                parts = [normalise(part.score(history), self.scorer.normalisation) for part in self._parts]
                mixed: Tensor = torch.tensordot(self.scorer.weights.cpu(), torch.stack(parts), dims=1)
                return mixed
            case EmbeddingScorer():
                return self.users(history) @ self.scorer.embeddings.items.cpu().T
        raise TypeError(f"a scorer of kind '{self.scorer.kind}'")

    def users(self, history: SparseGraph) -> Tensor:
        """Make vectors of new users: a (B, I) graph -> (B, D), beside those of the run's items."""
        assert isinstance(self.scorer, EmbeddingScorer)
        row, col, _ = history.edges()
        counts = (
            history.offsets.diff().double()[row],
            torch.from_numpy(self._degree)[col].double().clamp(min=1),
        )
        value = {"mean": 1 / counts[0], "root_row": counts[0].rsqrt(), "sym": (counts[0] * counts[1]).rsqrt()}
        graph = SparseGraph(
            history.offsets, history.indices, value[self.weighting].float(), history.n_cols, None
        )
        return _affine(graph.multiply(self.scorer.embeddings.items.cpu())) @ self._map

    def _fit(self, scorer: EmbeddingScorer, split: Split) -> tuple[SideNormalisation, Tensor]:
        """Choose how items are added up, and find the map from that, (D + 1, D)."""
        user, item = (torch.from_numpy(part) for part in split.train)
        users, items = (part.cpu() for part in scorer.embeddings)
        trained = torch.from_numpy(np.flatnonzero(np.diff(split.train_offsets)))
        held = torch.arange(len(trained)) % _HELD_OUT == _HELD_OUT - 1
        centred = items - items.mean(dim=0)
        covariance = centred.T @ centred  # of scores over items, for users of vectors p and q, it is p C q
        fits: list[tuple[float, SideNormalisation, Tensor]] = []
        for weighting in WEIGHTINGS:
            graph = side_graph(user, item, split.n_users, split.n_items, weighting)
            known = _affine(graph.multiply(items)[trained])
            guess, truth = known[held] @ _solve(known[~held], users[trained[~held]]), users[trained[held]]
            products = [
                ((a @ covariance) * b).sum(dim=1) for a, b in ((guess, truth), (guess, guess), (truth, truth))
            ]
            correlation = products[0] / (products[1] * products[2]).sqrt().clamp(min=1e-12)
            fits.append((correlation.mean().nan_to_num(-1.0).item(), weighting, known))
        _, weighting, known = max(fits, key=lambda fit: fit[0])
        return weighting, _solve(known, users[trained])


_FOLDERS: WeakKeyDictionary[Run, UserFolder] = WeakKeyDictionary()


def history_graph(items: Sequence[IntArray], n_items: int) -> SparseGraph:
    """Make a (B, I) graph of ones at what each of B users has."""
    lengths = torch.tensor([0, *map(len, items)]).cumsum(0).int()
    indices = torch.from_numpy(np.concatenate(items)).int()
    return SparseGraph(lengths, indices, torch.ones(len(indices)), n_items, None)


def _recommend(
    run: Run,
    folder: UserFolder,
    items: Sequence[IntArray],
    start: int,
    k: int,
    allowed: BoolArray | None,
) -> Iterator[Recommendation]:
    """Make the lists of a few new users, numbered from `start`."""
    history = history_graph(items, run.split.n_items)
    scores = folder.score(history)
    bare = history.offsets.diff() == 0
    scores[bare] = torch.from_numpy(np.bincount(run.split.train.item, minlength=run.split.n_items)).float()
    row, col, _ = history.edges()
    scores[row, col] = -torch.inf
    for place, (best, found) in enumerate(zip(*top_k(only(scores, allowed), k), strict=True)):
        basis: Literal["popular", "fold-in"] = "popular" if bare[place] else "fold-in"
        yield Recommendation(start + place, basis, run._scored(found, best))


def _affine(x: Tensor) -> Tensor:
    """Add a column of ones: (n, D) -> (n, D + 1)."""
    return F.pad(x, (0, 1), value=1.0)


def _solve(x: Tensor, y: Tensor) -> Tensor:
    """Find the least squares W of x W = y, nearly: (n, D + 1), (n, D) -> (D + 1, D)."""
    exact = x.double()
    gram = exact.T @ exact
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-12))
    solution: Tensor = torch.linalg.solve(gram, exact.T @ y.double())
    return solution.float()
