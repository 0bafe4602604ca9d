"""Lists for many users, block by block: of items that meet a condition, and as diverse as wanted.

Letters: U users, I items, B users of a block, C candidates, K list length, D width of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.arrays import BoolArray, IntArray, RawId
from triptych.data.columns import existing_column
from triptych.data.frames import check_suffix, write_frames
from triptych.data.ids import IdMap, id_array, whole_ids
from triptych.data.split import Pairs, Split
from triptych.data.tables import existing_file, read_table
from triptych.errors import ConfigError, DataError, UnknownIdError, nearest
from triptych.evaluation.ranking import (
    BLOCK_SIZE,
    SeenItems,
    check_lengths,
    memory_to_rank,
    rank_unseen,
    top_k,
)
from triptych.memory import free_bytes, require_memory
from triptych.runs.run import Excluded, Recommendation, Run, ScoredItem
from triptych.scorer import EmbeddingScorer

CANDIDATES = 5
"""A diverse list is chosen from so many times its length of the best items."""

_COPIES_OF_VECTORS = 3
"""Of the candidates' vectors: as they are, of length 1, and their products."""
_BYTES_PER_PAIR = 40
"""Of an interaction that keeps an item off a list: it is sorted by user."""
_BYTES_PER_ROW, _ROWS_HELD = 350, 250_000
"""Of a table of lists, and how many of them `write_frames` holds at most."""
_RUNTIME = 24 << 20
"""What libraries take for themselves once they compute."""


class Lists(NamedTuple):
    """The lists of a block of users, by index."""

    users: IntArray  # (B,)
    by_model: BoolArray  # (B,) false for users without training interactions: the most popular items
    scores: Tensor  # (B, K) on the CPU; of a popular item its number of training interactions
    items: Tensor  # (B, K) int64, in the order of the list, -1 where there are no more


class ListMaker:
    """Makes lists by a run, with what they all need made ready once; threads may share it.

    Args:
        run: what scores the items.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        split = run.split
        popularity = np.bincount(split.train.item, minlength=split.n_items)
        self._popularity = torch.from_numpy(popularity.astype(np.float32))
        self._trained = np.diff(split.train_offsets) > 0
        self._seen = cache(partial(_seen_items, split))
        self._user_ids = pl.Series(split.data.users.ids)
        self._item_ids = pl.Series(split.data.items.ids)

    def make(
        self,
        users: IntArray,
        k: int,
        *,
        exclude: Excluded = "all",
        allowed: BoolArray | None = None,
        diversity: float = 0.0,
    ) -> Lists:
        """List the best items of a block of users.

        Args:
            users: (B,) indices.
            k: list length K.
            exclude: which of a user's interactions keep an item off the list.
            allowed: (I,) the items that may be listed; None for all.
            diversity: what unlikeness counts beside the score, from 0, nothing, to 1; see `diversify`.

        Raises:
            ConfigError: `diversity` is not from 0 to 1, or the run has no vectors to tell it by.
            TrainingError: a score is NaN or infinite.
        """
        if not 0 <= diversity <= 1:
            raise ConfigError(
                f"diversity {diversity}", wanted="a number from 0 to 1", fix="Choose for example 0.3"
            )
        vectors = _item_vectors(self.run) if diversity else None
        seen: SeenItems = self._seen(exclude)
        if allowed is not None:
            seen = _Barred(seen, allowed)
        n_candidates = k if vectors is None else min(CANDIDATES * k, self.run.split.n_items)
        by_model = self._trained[users]
        scores = torch.empty(len(users), n_candidates)
        items = torch.empty(len(users), n_candidates, dtype=torch.int64)
        for rows, rank in ((by_model, self._rank), (~by_model, self._rank_popular)):
            if rows.any():
                ranked = rank(torch.from_numpy(users[rows]), seen, n_candidates)
                scores[rows], items[rows] = (part.cpu() for part in ranked)
        if vectors is not None:
            scores, items = diversify(scores, items, vectors, k, diversity)
        return Lists(users, by_model, scores, items)

    def frame(self, lists: Lists, *, titles: bool = False) -> pl.DataFrame:
        """Give lists as rows: user_id, place (from 1), item_id, score, basis, and title if wanted."""
        items = lists.items.numpy()
        row, place = np.nonzero(items >= 0)
        listed = items[row, place]
        columns = {
            "user_id": self._user_ids.gather(lists.users[row]),
            "place": (place + 1).astype(np.int32),
            "item_id": self._item_ids.gather(listed),
            "score": lists.scores.numpy()[row, place],
            "basis": pl.Series(np.where(lists.by_model, "model", "popular")[row], dtype=pl.String),
        }
        if titles:
            known = self.run.split.data.titles
            of_listed = [known[item] if known else None for item in listed.tolist()]
            columns["title"] = pl.Series(of_listed, dtype=pl.String)
        return pl.DataFrame(columns)

    def recommendations(self, lists: Lists) -> Iterator[Recommendation]:
        """Give lists as objects."""
        titles = self.run.split.data.titles
        parts = (lists.users, lists.by_model, lists.scores, lists.items)
        for user, by_model, scores, items in zip(*(part.tolist() for part in parts), strict=True):
            listed = [
                ScoredItem(self._item_ids[item], score, titles[item] if titles else None)
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
            yield Recommendation(self._user_ids[user], "model" if by_model else "popular", listed)

    def _rank(self, users: Tensor, seen: SeenItems, k: int) -> tuple[Tensor, Tensor]:
        return rank_unseen(self.run.scorer, users, seen, k)

    def _rank_popular(self, users: Tensor, seen: SeenItems, k: int) -> tuple[Tensor, Tensor]:
        return top_k(seen.mask(self._popularity.repeat(len(users), 1), users), k)


def recommend_all(
    run: Run,
    user_ids: Iterable[RawId] | None = None,
    k: int = 10,
    *,
    exclude: Excluded = "all",
    where: str | None = None,
    diversity: float = 0.0,
) -> Iterator[Recommendation]:
    """List the best items of each user; one block of users is worked on at a time.

    What a condition leaves out is no candidate, so that a list is full as long as enough items match.

    Args:
        run: what scores the items.
        user_ids: raw ids; None for all users.
        k: list length.
        exclude: which of a user's interactions keep an item off the list.
        where: a condition on the run's item table (`triptych.data.conditions`).
        diversity: what unlikeness counts beside the score, from 0, nothing, to 1; see `diversify`.

    Raises:
        UnknownIdError: some users are not in the data set.
        ConfigError: k is below 1 or above the number of items; the condition cannot be read, or does not fit
            the item table; `diversity` is not from 0 to 1, or the run has no vectors to tell it by; or the
            lists of a block of users need more memory than is free.
    """
    batch = _Batch(run, user_ids, k, exclude, where, diversity)
    return (entry for lists in batch for entry in batch.maker.recommendations(lists))


def write_recommendations(
    run: Run,
    path: str | Path,
    user_ids: Iterable[RawId] | None = None,
    k: int = 10,
    *,
    exclude: Excluded = "all",
    where: str | None = None,
    diversity: float = 0.0,
    titles: bool = False,
    observer: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the lists of `recommend_all` as one table, .parquet, .csv or .jsonl.

    Its columns are those of `ListMaker.frame`. A file that is there is replaced when all lists are made.

    Args:
        run: what scores the items.
        path: the file.
        user_ids: raw ids; None for all users.
        k: list length.
        exclude: which of a user's interactions keep an item off the list.
        where: a condition on the run's item table.
        diversity: see `diversify`.
        titles: add the items' titles.
        observer: is told how many users are done, and of how many.

    Returns: `users`, `rows`, `items_that_match` (None without a condition), `popular_lists` (of users without
        training interactions) and `short_lists` (of fewer than k items).

    Raises:
        UnknownIdError: as `recommend_all`.
        ConfigError: as `recommend_all`; also for a suffix that names no format.
    """
    path = Path(path)
    check_suffix(path)
    batch = _Batch(run, user_ids, k, exclude, where, diversity, rows_held=_ROWS_HELD)
    counts = {"popular_lists": 0, "short_lists": 0}

    def frames() -> Iterator[pl.DataFrame]:
        done = 0
        for lists in batch:
            counts["popular_lists"] += int((~lists.by_model).sum())
            counts["short_lists"] += int((lists.items[:, -1] < 0).sum())
            yield batch.maker.frame(lists, titles=titles)
            done += len(lists.users)
            observer(done, len(batch.users))

    schema = batch.maker.frame(batch.make(batch.users[:0]), titles=titles).schema
    n_rows = write_frames(path, frames(), schema)
    matching = None if batch.allowed is None else int(batch.allowed.sum())
    return {"users": len(batch.users), "rows": n_rows, "items_that_match": matching, **counts}


class _Batch:
    """What is asked for many users, checked: `recommend_all` says what it may be."""

    def __init__(
        self,
        run: Run,
        user_ids: Iterable[RawId] | None,
        k: int,
        exclude: Excluded,
        where: str | None,
        diversity: float,
        rows_held: int = 0,
    ) -> None:
        data = run.split.data
        check_lengths([k], data.n_items)
        self.allowed = run.matching(where)
        self.users = np.arange(data.n_users) if user_ids is None else _find(data.users, user_ids)
        needed = _memory_needed(run, len(self.users), k, diversity)
        needed += _BYTES_PER_ROW * min(k * len(self.users), rows_held)
        fix = "Make them where there is more, or for fewer users at a time"
        require_memory(needed, free_bytes(), f"making lists of {k} among {data.n_items:,} items", fix=fix)
        self.maker = ListMaker(run)
        self.make = partial(self.maker.make, k=k, exclude=exclude, allowed=self.allowed, diversity=diversity)
        self.make(self.users[:0])  # what is wrong with the rest is said before the first block

    def __iter__(self) -> Iterator[Lists]:
        for start in range(0, len(self.users), BLOCK_SIZE):
            yield self.make(self.users[start : start + BLOCK_SIZE])


def read_users(path: str | Path, column: str | None = None) -> list[RawId]:
    """Read raw user ids from a file, each once, in the order of the file.

    Args:
        path: a table, or a .txt with an id in each line.
        column: of the table; None for its first.

    Raises:
        DataError: the file cannot be read, or has no ids there.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        try:
            lines = existing_file(path).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is no UTF-8 text ({error})",
                wanted="an id in each line",
                fix="Save it as UTF-8, or give a table",
            ) from error
        ids: list[RawId] = [line.strip() for line in lines if line.strip()]
        if not ids:
            raise DataError(f"{path} holds no ids", wanted="an id in each line", fix="Check how it was made")
    else:
        frame = read_table(path)
        named = frame[existing_column(frame, column or frame.columns[0], "--user-column")]
        ids = id_array(whole_ids(named)).tolist()  # of all rows, so that a message counts as the file does
    return list(dict.fromkeys(ids))


def diversify(
    scores: Tensor, items: Tensor, vectors: Tensor, k: int, diversity: float
) -> tuple[Tensor, Tensor]:
    """Choose lists by maximal marginal relevance: good items that are unlike those chosen before.

    The next item of a list is the candidate i with the largest

        (1 - diversity) relevance(i) - diversity max_j cos(i, j),    j among the items chosen before,

    where relevance is the score brought to 0 to 1 among the user's candidates, and the maximum is 0 as
    long as none is chosen. Of equals the one with the higher score comes first.

    Source: Carbonell and Goldstein, The use of MMR, SIGIR 1998; their lambda is 1 - diversity.

    Args:
        scores: (B, C), falling.
        items: (B, C) candidates, -1 where there are no more.
        vectors: (I, D) of all items, whose cosines say how alike items are.
        k: K, at most C.
        diversity: from 0, the K best by score, to 1.

    Returns: scores (B, K) and items (B, K) in the order of choice; -inf and -1 where there are no more.
    """
    absent = items < 0
    unit = F.normalize(vectors[items.clamp(min=0)], dim=-1)  # (B, C, D)
    relevance = scores - scores.masked_fill(absent, torch.inf).amin(dim=1, keepdim=True)
    relevance /= relevance[:, :1].clamp(min=torch.finfo(scores.dtype).tiny)
    worth = ((1 - diversity) * relevance).masked_fill_(absent, -torch.inf)
    likeness = torch.zeros_like(worth)
    row = torch.arange(len(scores))
    places = []
    for place in range(k):
        best, chosen = (worth - diversity * likeness).max(dim=1)
        places.append(chosen.masked_fill(best == -torch.inf, -1))
        worth[row, chosen] = -torch.inf
        cosine = torch.einsum("bcd,bd->bc", unit, unit[row, chosen])
        likeness = torch.maximum(likeness, cosine) if place else cosine
    order = torch.stack(places, dim=1)
    none = order < 0
    order.clamp_(min=0)
    return scores.gather(1, order).masked_fill(none, -torch.inf), items.gather(1, order).masked_fill(none, -1)


def _memory_needed(run: Run, n_users: int, k: int, diversity: float) -> int:
    """Estimate how many bytes the lists of a block of users take, and what is made ready for all."""
    n_items, block = run.split.n_items, min(n_users, BLOCK_SIZE)
    scores = memory_to_rank(n_items, n_users)
    seen = _BYTES_PER_PAIR * len(run.split.data.interactions)
    if diversity and isinstance(run.scorer, EmbeddingScorer):
        candidates = min(CANDIDATES * k, n_items)
        scores += _COPIES_OF_VECTORS * 4 * block * candidates * run.scorer.embeddings.items.shape[1]
    return scores + seen + _RUNTIME


def _item_vectors(run: Run) -> Tensor:
    """Give the model's vectors of items: (I, D), on the CPU.

    Raises:
        ConfigError: the model has none.
    """
    if not isinstance(run.scorer, EmbeddingScorer):
        raise ConfigError(
            f"'{run.record.name}' scores by {run.scorer.kind}, without a vector for each item",
            wanted="a model of embeddings, whose items' cosines say how alike they are",
            fix="Leave the diversity at 0, or train another model",
        )
    return run.scorer.embeddings.items.cpu()


class _Barred(SeenItems):
    """What is no candidate: what a user has seen, and what nobody is to be shown."""

    def __init__(self, seen: SeenItems, allowed: BoolArray) -> None:
        self._seen, self._items_barred = seen, torch.from_numpy(np.flatnonzero(~allowed))

    def mask(self, scores: Tensor, users: Tensor) -> Tensor:
        """Set the scores (B, I) of what is no candidate to -inf, in place."""
        barred = self._items_barred.to(scores.device)
        return self._seen.mask(scores, users).index_fill_(1, barred, -torch.inf)


def _seen_items(split: Split, exclude: Excluded) -> SeenItems:
    interactions = split.data.interactions
    parts: dict[Excluded, list[Pairs]] = {
        "none": [Pairs(*np.empty((2, 0), dtype=np.int64))],
        "train": [split.train],
        "train+valid": [split.train, split.valid],
        "all": [Pairs(interactions.user, interactions.item)],
    }
    if exclude not in parts:
        raise ConfigError(
            f"exclude = {exclude!r}", wanted="one of: " + ", ".join(parts), fix=nearest(exclude, parts)
        )
    return SeenItems(parts[exclude], split.n_users)


def _find(known: IdMap, asked: Iterable[RawId]) -> IntArray:
    user_ids = list(known.several(asked))
    index = known.find(user_ids)
    unknown = np.flatnonzero(index < 0)
    if len(unknown) > 1:
        raise UnknownIdError(
            f"{len(unknown):,} of {len(index):,} user ids are not in the data set, the first being "
            f"{user_ids[unknown[0]]!r}",
            wanted=f"some of its {len(known):,} user ids, such as {str(known.ids[0])!r}",
            fix="Leave them out, or prepare and train with their interactions",
        )
    return known.index(user_ids) if len(unknown) else index
