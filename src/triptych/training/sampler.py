"""Batches of training pairs with sampled negatives, drawn without a Python loop.

Letters: E training pairs, U users, I items, B batch size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from triptych.data.interactions import row_offsets
from triptych.models.base import Triplets

_PATIENCE = 64
"""Rounds of drawing again before a user's few remaining items are listed instead."""


class KnownPairs:
    """Finds the pairs among many that users chose.

    Nearly all drawn pairs are unknown. A table of 16 MiB, which many keys share a place in, rules
    most of them out; the rest are looked up in the sorted keys.

    Args:
        user: (E,) int64, ascending.
        item: (E,) int64, ascending within a user.
        n_items: I.
        table_size: places in the table, a power of two; changes speed only.
    """

    def __init__(self, user: Tensor, item: Tensor, n_items: int, table_size: int = 1 << 24) -> None:
        self._n_items = n_items
        self._keys = user * n_items + item
        self._mask = table_size - 1
        self._maybe = torch.zeros(table_size, dtype=torch.bool)
        self._maybe[self._keys & self._mask] = True

    def find(self, user: Tensor, item: Tensor) -> Tensor:
        """List the places of known pairs among two (n,) int64 tensors, ascending."""
        keys = torch.add(item, user, alpha=self._n_items)
        suspects = self._maybe.index_select(0, keys & self._mask).nonzero().flatten()
        if not len(self._keys):
            return suspects
        keys = keys[suspects]
        place = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        return suspects[self._keys[place] == keys]


class TripletSampler:
    """Draws the batches of an epoch: users, chosen items, and items not chosen in training.

    "pairs" (MMRec): every training pair once an epoch, shuffled, each with one negative drawn
    uniformly from the items that occur in training. "users" (LATTICE, arXiv:2104.09036, authors'
    code): each batch is B users drawn without repetition (with, if there are fewer than B), one of
    their pairs each, negatives from all items, and floor(E / B) + 1 batches.

    A drawn item that the user chose in training is drawn again. Users who chose every item there
    is to draw keep what was drawn: they have no negative, and such a draw pushes both ways equally.

    Args:
        user: (E,) int64 users of the training pairs, ascending.
        item: (E,) int64 items of the training pairs, ascending within a user.
        n_users: U.
        n_items: I.
        batch_size: B.
        negatives: items drawn for each pair, 0 or 1.
        mode: "pairs" or "users".
        seed: of the sampler's own generator, so that all models of a seed see the same batches.
    """

    def __init__(
        self,
        user: Tensor,
        item: Tensor,
        n_users: int,
        n_items: int,
        *,
        batch_size: int = 2048,
        negatives: int = 1,
        mode: Literal["pairs", "users"] = "pairs",
        seed: int = 0,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._user, self._item = user, item
        self._batch_size, self._negatives, self._mode = batch_size, negatives, mode
        self._known = KnownPairs(user, item, n_items)
        self._pool = item.unique() if mode == "pairs" else torch.arange(n_items)
        self._pool_is_all = len(self._pool) == n_items
        degree = torch.bincount(user, minlength=n_users)
        self._saturated = degree >= len(self._pool)
        self._active = degree.nonzero().flatten()  # users with training pairs
        self._degree = degree
        self._offsets = torch.from_numpy(row_offsets(user.numpy(), n_users))

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        n_pairs = len(self._user)
        return -(-n_pairs // self._batch_size) if self._mode == "pairs" else n_pairs // self._batch_size + 1

    def epoch(self) -> Iterator[Triplets]:
        """Draw the batches of one epoch, on the CPU."""
        return self._epoch_of_pairs() if self._mode == "pairs" else self._epoch_of_users()

    def _epoch_of_pairs(self) -> Iterator[Triplets]:
        columns = [self._user, self._item]
        if self._negatives:  # drawn in the order of the pairs, whose users ascend: look-ups stay in cache
            columns.append(self._draw_negatives(self._user))
        order = torch.randperm(len(self._user), generator=self.generator, dtype=torch.int32)
        batches = zip(
            *(column.index_select(0, order).split(self._batch_size) for column in columns), strict=True
        )
        for user, pos, *neg in batches:
            yield Triplets(user, pos, neg[0] if neg else user[:0])

    def _epoch_of_users(self) -> Iterator[Triplets]:
        for _ in range(self.n_batches):
            if len(self._active) >= self._batch_size:
                chosen = torch.randperm(len(self._active), generator=self.generator)[: self._batch_size]
            else:
                chosen = torch.randint(len(self._active), (self._batch_size,), generator=self.generator)
            user = self._active[chosen]
            place = (torch.rand(len(user), generator=self.generator) * self._degree[user]).long()
            pos = self._item[self._offsets[user] + place.clamp_(max=self._degree[user] - 1)]
            yield Triplets(user, pos, self._draw_negatives(user))

    def _draw_negatives(self, user: Tensor) -> Tensor:
        """Draw for each user an item the user did not choose, (n,) -> (n,); nothing if none are asked for."""
        if not self._negatives:
            return torch.empty(0, dtype=torch.int64)
        neg = self._draw(len(user))
        wrong = self._known.find(user, neg)
        wrong = wrong[~self._saturated[user[wrong]]]
        for _ in range(_PATIENCE):
            if not len(wrong):
                return neg
            again = self._draw(len(wrong))
            neg[wrong] = again
            wrong = wrong[self._known.find(user[wrong], again)]
        for place in wrong.tolist():
            neg[place] = self._draw_from_the_rest(int(user[place]))
        return neg

    def _draw_from_the_rest(self, user: int) -> Tensor:
        """Draw among the items a user did not choose, for users who chose nearly all."""
        chosen = self._item[self._offsets[user] : self._offsets[user + 1]]
        rest = self._pool[~torch.isin(self._pool, chosen)]
        return rest[torch.randint(len(rest), (), generator=self.generator)]

    def _draw(self, n: int) -> Tensor:
        drawn = torch.randint(len(self._pool), (n,), generator=self.generator)
        return drawn if self._pool_is_all else self._pool.index_select(0, drawn)
