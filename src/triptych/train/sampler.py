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

_BITMAP_BYTES = 256 << 20
"""The largest table of bits, one per user and item, that a sampler keeps."""


class KnownPairs:
    """Answers whether users chose items: from a table of bits where it is small, else from sorted keys.

    Args:
        user: (E,) int64, ascending.
        item: (E,) int64, ascending within a user.
        n_users: U.
        n_items: I.
        bitmap_bytes: the largest table to keep.
    """

    def __init__(
        self, user: Tensor, item: Tensor, n_users: int, n_items: int, bitmap_bytes: int = _BITMAP_BYTES
    ) -> None:
        self._n_items = n_items
        self._row_bytes = (n_items + 7) // 8
        self._bits: Tensor | None = None
        self._keys = user * n_items + item
        if n_users * self._row_bytes <= bitmap_bytes:
            # Each bit is set once, so adding sets it.
            self._bits = torch.zeros(n_users * self._row_bytes, dtype=torch.uint8)
            self._bits.index_add_(0, self._byte(user, item), _bit(item))

    def contain(self, user: Tensor, item: Tensor) -> Tensor:
        """Say for each (user, item) of two (n,) int64 tensors whether it is a known pair: (n,) bool."""
        if self._bits is not None:
            return self._bits[self._byte(user, item)].bitwise_and_(_bit(item)) != 0
        keys = user * self._n_items + item
        place = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        return self._keys[place] == keys

    def _byte(self, user: Tensor, item: Tensor) -> Tensor:
        return user * self._row_bytes + (item >> 3)


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
        self._known = KnownPairs(user, item, n_users, n_items)
        self._pool = item.unique() if mode == "pairs" else torch.arange(n_items)
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
        # Negatives are drawn in the order of the pairs, whose users ascend: look-ups stay in cache.
        neg = self._draw_negatives(self._user)
        order = torch.randperm(len(self._user), generator=self.generator)
        user, pos = self._user[order], self._item[order]
        neg = neg[order] if self._negatives else neg
        for start in range(0, len(order), self._batch_size):
            stop = start + self._batch_size
            yield Triplets(user[start:stop], pos[start:stop], neg[start:stop])

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
        wrong = self._known.contain(user, neg).nonzero().flatten()
        wrong = wrong[~self._saturated[user[wrong]]]
        while len(wrong):
            neg[wrong] = self._draw(len(wrong))
            wrong = wrong[self._known.contain(user[wrong], neg[wrong])]
        return neg

    def _draw(self, n: int) -> Tensor:
        return self._pool[torch.randint(len(self._pool), (n,), generator=self.generator)]


def _bit(item: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.uint8) << (item & 7).to(torch.uint8)
