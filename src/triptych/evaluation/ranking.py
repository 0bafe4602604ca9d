"""Full ranking: every item is a candidate for every user, scored, masked and cut in blocks of users.

Letters: B users of a block, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import IntArray
from triptych.data.interactions import row_offsets
from triptych.data.split import Pairs, PartName, Split
from triptych.errors import ConfigError, TrainingError, nearest
from triptych.evaluation.metrics import Hits, PerUser, parse_metric, per_user
from triptych.scorer import Scorer

Masked = Literal["train", "train+valid"]
"""Whose items are no candidates: MMRec masks training items only, so that at test time validation
items still stand in the list; the other choice masks these too."""

BLOCK_SIZE = 64
"""Users ranked at once: large enough for the product, small enough for its result to stay in cache."""

_COPIES_PER_BLOCK = 3
"""Of a block of scores: one where no scores of a user are equal, five where many are and must be sorted."""

MOST_COUNTED = 10
"""Wanted items per user up to which counting the better items is quicker than sorting out the best."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a ranking was worth to each user, and the protocol that says how it was measured.

    Args:
        users: (n,) int64 index of each user with something to find.
        values: "recall@20" and so on -> (n,) float64, unrounded.
        protocol: part, list lengths, mask, candidates, and how many users were measured and left out.
    """

    users: IntArray
    values: Mapping[str, PerUser]
    protocol: Mapping[str, Any]

    def mean(self) -> dict[str, float]:
        """Average each metric over users."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    def __str__(self) -> str:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in self.mean().items())
        facts = self.protocol
        return (
            f"{facts['part']}: {figures}\n"
            f"({facts['users']:,} users, {facts['users_left_out']:,} without items left out; "
            f"all items ranked, {facts['masked']} items masked)"
        )


def evaluate_ranking(
    scorer: Scorer,
    split: Split,
    part: PartName = "test",
    k: int | Sequence[int] = (10, 20),
    *,
    masked: Masked = "train",
    block_size: int = BLOCK_SIZE,
) -> Ranking:
    """Rank all items for every user of a part and measure the lists.

    Users without items in the part are left out and counted, never scored zero.

    Args:
        scorer: scores all items for some users.
        split: what to find, and what to mask.
        part: "valid" or "test".
        k: list lengths.
        masked: which items of a user are no candidates.
        block_size: users ranked at once; changes speed and memory only.

    Raises:
        ConfigError: a list length is below 1 or above the number of items; there is no such part, or mask.
        DataError: the part is empty.
        TrainingError: a score is NaN or infinite.
    """
    lengths, hidden = check_lengths(k, split.n_items), masked_in(part, masked)
    split.require(part)
    wanted = split.pairs(part)
    n_relevant = np.bincount(wanted.user, minlength=split.n_users)
    users = np.flatnonzero(n_relevant)
    if len(wanted) > MOST_COUNTED * len(users):
        lists = rank_lists(scorer, split, users, lengths[-1], masked=hidden, block_size=block_size)
        hits = find_hits(lists, users, wanted, split.n_items)
    else:
        hits = count_hits(scorer, split, wanted, lengths[-1], masked=hidden, block_size=block_size)
    protocol = {
        "part": part,
        "k": list(lengths),
        "masked": hidden,
        "candidates": "all items",
        "users": len(users),
        "users_left_out": split.n_users - len(users),
    }
    return Ranking(users, per_user(hits, n_relevant[users], lengths), protocol)


def masked_in(part: PartName, masked: Masked) -> Masked:
    """Say whose items are no candidates in a part: what is `masked` at test time, training's in validation.

    Raises:
        ConfigError: the part is none that is measured, or nothing of that name is masked.
    """
    for name, given, known in (("part", part, ("valid", "test")), ("masked", masked, get_args(Masked))):
        if given not in known:
            raise ConfigError(
                f"{name} = {given!r}", wanted=" or ".join(map(repr, known)), fix=nearest(given, known)
            )
    return masked if part == "test" else "train"


def memory_to_rank(n_items: int, n_users: int = BLOCK_SIZE) -> int:
    """Estimate how many bytes the scores of a block of users take while they are made and sorted."""
    return _COPIES_PER_BLOCK * 4 * min(n_users, BLOCK_SIZE) * n_items


def rank_lists(
    scorer: Scorer,
    split: Split,
    users: IntArray,
    k: int,
    *,
    masked: Masked = "train",
    block_size: int = BLOCK_SIZE,
) -> IntArray:
    """List the best items for some users, block by block.

    Args:
        scorer: scores all items for some users.
        split: what to mask.
        users: (n,) int64.
        k: list length K.
        masked: which items of a user are no candidates.
        block_size: users ranked at once; changes speed and memory only.

    Returns: (n, K) int64, best first; -1 where a user has fewer than K candidates.

    Raises:
        ConfigError: k is below 1 or above the number of items.
        TrainingError: a score is NaN or infinite.
    """
    check_lengths([k], split.n_items)
    seen = SeenItems.of(split, masked)
    lists = np.empty((len(users), k), dtype=np.int64)
    for start in range(0, len(users), block_size):
        block = torch.from_numpy(users[start : start + block_size])
        lists[start : start + block_size] = rank_unseen(scorer, block, seen, k)[1].cpu().numpy()
    return lists


def find_hits(lists: IntArray, users: IntArray, wanted: Pairs, n_items: int) -> Hits:
    """Mark the places of lists (n, K) at which an item stands that the list's user wants.

    Args:
        lists: (n, K) items, -1 where there is none.
        users: (n,) whose lists they are.
        wanted: what there is to find, at least one pair.
        n_items: I.
    """
    wanted_keys = torch.from_numpy(wanted.user * n_items + wanted.item)  # ascending, as pairs are sorted
    keys = torch.from_numpy(users[:, None] * n_items + lists)
    place = torch.searchsorted(wanted_keys, keys).clamp_(max=len(wanted_keys) - 1)
    found: Hits = (wanted_keys[place] == keys).numpy() & (lists >= 0)
    return found


def count_hits(
    scorer: Scorer, split: Split, wanted: Pairs, k: int, *, masked: Masked, block_size: int = BLOCK_SIZE
) -> Hits:
    """Mark the places at which wanted items stand in the users' lists, without making the lists.

    An item's place is the number of candidates that are better: what `rank_lists` and `find_hits` say of
    it, in a fraction of the time, as long as few items are wanted of each user.

    Args:
        scorer: scores all items for some users.
        split: what to mask.
        wanted: what there is to find.
        k: list length K.
        masked: which items of a user are no candidates.
        block_size: users ranked at once; changes speed and memory only.

    Returns: (n, K) for the users of `wanted`, ascending.

    Raises:
        TrainingError: a score is NaN or infinite.
    """
    seen = SeenItems.of(split, masked)
    users, first, row = np.unique(wanted.user, return_index=True, return_inverse=True)
    hits: Hits = np.zeros((len(users), k), dtype=np.bool_)
    turn = np.arange(len(row)) - first[row]  # 0 for a user's first wanted item, 1 for the second
    for start in range(0, len(users), block_size):
        stop = min(start + block_size, len(users))
        scores = score_unseen(scorer, torch.from_numpy(users[start:stop]), seen)
        pairs = np.arange(first[start], first[stop] if stop < len(users) else len(row))
        for now in range(turn[pairs].max() + 1):
            at = pairs[turn[pairs] == now]
            here = torch.from_numpy(row[at] - start).to(scores.device)
            item = torch.from_numpy(wanted.item[at]).to(scores.device)
            place = _places(scores if len(at) == len(scores) else scores[here], item).cpu().numpy()
            listed = place < k
            hits[row[at][listed], place[listed]] = True
    return hits


def _places(scores: Tensor, item: Tensor) -> Tensor:
    """Count how many items of each row come before one: (B, I), (B,) -> (B,) int64, I for no candidate."""
    value = scores.gather(1, item[:, None])  # (B, 1)
    marks = torch.empty_like(scores)  # as numbers, comparisons add up several times faster than as bits
    place = torch.gt(scores, value, out=marks).sum(dim=1).long()
    tied = torch.eq(scores, value, out=marks).sum(dim=1) > 1
    if bool(tied.any()):  # the lower index comes first
        lower = torch.arange(scores.shape[1], device=scores.device) < item[tied, None]
        place[tied] += ((scores[tied] == value[tied]) & lower).sum(dim=1)
    return place.masked_fill_(value[:, 0] == -torch.inf, scores.shape[1])


class SeenItems:
    """The items a user already knows, which are no candidates.

    Args:
        parts: pairs to mask.
        n_users: U.
    """

    def __init__(self, parts: Sequence[Pairs], n_users: int) -> None:
        user = np.concatenate([pairs.user for pairs in parts])
        item = np.concatenate([pairs.item for pairs in parts])
        order = np.argsort(user, kind="stable")
        self._items = torch.from_numpy(item[order])
        self._offsets = torch.from_numpy(row_offsets(user[order], n_users))

    @classmethod
    def of(cls, split: Split, masked: Masked) -> SeenItems:
        """Take the items of the parts that are masked."""
        return cls([split.train, split.valid] if masked == "train+valid" else [split.train], split.n_users)

    def mask(self, scores: Tensor, users: Tensor) -> Tensor:
        """Set the scores (B, I) of seen items to -inf, in place: float16 could not hold a large negative."""
        starts, ends = self._offsets[users], self._offsets[users + 1]
        counts = ends - starts
        row = torch.repeat_interleave(torch.arange(len(users)), counts)
        within = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        item = self._items[starts[row] + within]
        return scores.index_put_(
            (row.to(scores.device), item.to(scores.device)), scores.new_tensor(-torch.inf)
        )


def rank_unseen(scorer: Scorer, users: Tensor, seen: SeenItems, k: int) -> tuple[Tensor, Tensor]:
    """List the best unseen items for some users.

    Args:
        scorer: scores all items.
        users: (B,) int64 on the CPU.
        seen: what to leave out.
        k: list length K.

    Returns: scores (B, K) and items (B, K) int64, best first; item -1 and score -inf where fewer than
        K items are unseen.

    Raises:
        TrainingError: a score is NaN or infinite.
    """
    return top_k(score_unseen(scorer, users, seen), k)


def score_unseen(scorer: Scorer, users: Tensor, seen: SeenItems) -> Tensor:
    """Score all items for some users, and seen ones with -inf: (B,) int64 on the CPU -> (B, I).

    Raises:
        TrainingError: a score is NaN or infinite.
    """
    scores = scorer.score(users)
    if not bool(scores.sum().isfinite()) and not bool(scores.isfinite().all()):
        raise TrainingError(
            "the model scores some items with NaN or infinity",
            wanted="finite embeddings",
            fix="Train again with a smaller learning_rate, or check the features",
        )
    return seen.mask(scores, users)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sort out the K best items of each row; among equal scores the lower index comes first.

    `torch.topk` leaves the order of equal scores open, so rows in which it met any are sorted whole.

    Args:
        scores: (B, I); -inf marks items that are no candidates.
        k: K, at most I.

    Returns: scores (B, K) and items (B, K), item -1 where a row has fewer than K candidates.
    """
    one_more = min(k + 1, scores.shape[1])  # to see whether the K-th is as good as the next
    values, items = scores.topk(one_more, dim=1)
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(dim=1)
    values, items = values[:, :k], items[:, :k]
    if bool(tied.any()):
        ordered, order = scores[tied].sort(dim=1, descending=True, stable=True)
        values, items = values.clone(), items.clone()
        values[tied], items[tied] = ordered[:, :k], order[:, :k]
    return values, items.masked_fill(values == -torch.inf, -1)


def check_lengths(
    k: int | Sequence[int], n_items: int, limit: str = "the size of the catalogue"
) -> tuple[int, ...]:
    """Sort list lengths, of which there may be one, and refuse impossible ones.

    Args:
        k: one length, or several.
        n_items: the most that a list can hold.
        limit: what that is.

    Raises:
        ConfigError: none is given, one is no whole number or below 1, or one is above the limit.
    """
    try:
        lengths = tuple(sorted({index(length) for length in (k if isinstance(k, Iterable) else [k])}))
    except TypeError:
        raise ConfigError(
            f"list lengths k = {k!r}", wanted="whole numbers", fix="Give k=10, or several, k=(10, 20)"
        ) from None
    if not lengths or lengths[0] < 1 or lengths[-1] > n_items:
        raise ConfigError(
            f"list lengths k = {', '.join(map(str, lengths)) or 'none'}",
            wanted=f"numbers from 1 to {n_items:,}, {limit}",
            fix=f"Choose from 1 to {n_items:,}",
        )
    return lengths


def check_metric(metric: str, n_items: int) -> int:
    """Give the list length of a metric such as "recall@20", and refuse an impossible one.

    Raises:
        ConfigError: there is no such metric, or the catalogue is smaller than its lists.
    """
    _, length = parse_metric(metric)
    if length > n_items:
        raise ConfigError(
            f"the metric {metric} on {n_items:,} items",
            wanted=f"a list length from 1 to {n_items:,}, the size of the catalogue",
            fix=f"Set another metric, such as {metric.partition('@')[0]}@{max(1, n_items // 2)}",
        )
    return length
