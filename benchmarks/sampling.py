"""An epoch of (user, chosen, sampled) batches, against the Python loop of the usual toolboxes.

Reference, as MMRec describes and many others do it: shuffle the pairs; for each pair of a batch
draw an item of the list of training items, again while it is in the set of the user's items;
make three tensors of the batch. Drawn with `random.sample(items, 1)[0]`, as MMRec does, with
`random.choice(items)`, and as lean as Python gets, with `items[int(random() * n)]`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import SEED, Sized, sized_splits
from benchmarks.options import Options
from benchmarks.report import Case
from benchmarks.timing import interleave, ratio
from triptych.training.sampler import TripletSampler

BATCH_SIZE = 2_048
TARGET = 50.0

OURS, SAMPLE, CHOICE, LEAN = (
    "triptych",
    "loop, random.sample",
    "loop, random.choice",
    "loop, int(random() * n)",
)


def run(options: Options) -> Iterator[Case]:
    """Measure all sizes."""
    for sized in sized_splits():
        yield measure(sized, options.rounds)


def measure(sized: Sized, rounds: int) -> Case:
    """Time whole epochs: drawing, shuffling, and building every batch's tensors."""
    split = sized.split
    sampler = TripletSampler(
        torch.from_numpy(split.train.user),
        torch.from_numpy(split.train.item),
        split.n_users,
        split.n_items,
        batch_size=BATCH_SIZE,
        seed=SEED,
    )
    loop = PythonSampler(split.train.user, split.train.item, split.n_users)
    items, n_items = loop.items, len(loop.items)
    draws: dict[str, Callable[[], int]] = {
        SAMPLE: lambda: random.sample(items, 1)[0],
        CHOICE: lambda: random.choice(items),
        LEAN: lambda: items[int(random.random() * n_items)],
    }
    _check(sampler.epoch(), loop, len(split.train))
    _check(loop.epoch(draws[LEAN]), loop, len(split.train))
    random.seed(SEED)
    forms: dict[str, Callable[[], object]] = {OURS: lambda: _exhaust(sampler.epoch())}
    forms |= {name: partial(_exhaust_loop, loop, draw) for name, draw in draws.items()}
    timings = interleave(forms, rounds)
    return Case(
        "sampling",
        sized.size,
        {**sized.facts(), "batch size": BATCH_SIZE},
        timings,
        [
            ratio(timings, SAMPLE, OURS, at_least=TARGET),
            *(ratio(timings, name, OURS) for name in (CHOICE, LEAN)),
        ],
    )


class PythonSampler:
    """The loop that the library's sampler replaces.

    Args:
        user: (E,) int64 users of the training pairs.
        item: (E,) int64 items of the training pairs.
        n_users: U.
    """

    def __init__(self, user: np.ndarray, item: np.ndarray, n_users: int) -> None:
        self._rng = np.random.default_rng(SEED)
        self._user, self._item = user, item
        self.items: list[int] = np.unique(item).tolist()
        self.chosen: list[set[int]] = [set() for _ in range(n_users)]
        for u, i in zip(user.tolist(), item.tolist(), strict=True):
            self.chosen[u].add(i)

    def epoch(self, draw: Callable[[], int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give the batches of one epoch: users, chosen and sampled items, (B,) int64 each."""
        order = self._rng.permutation(len(self._user))
        user, item = self._user[order], self._item[order]
        chosen = self.chosen
        for start in range(0, len(order), BATCH_SIZE):
            users = user[start : start + BATCH_SIZE]
            sampled = []
            for u in users.tolist():
                i = draw()
                while i in chosen[u]:
                    i = draw()
                sampled.append(i)
            yield (
                torch.from_numpy(users),
                torch.from_numpy(item[start : start + BATCH_SIZE]),
                torch.tensor(sampled),
            )


def _exhaust(batches: Iterator[object]) -> None:
    deque(batches, maxlen=0)


def _exhaust_loop(loop: PythonSampler, draw: Callable[[], int]) -> None:
    _exhaust(loop.epoch(draw))


def _check(batches: Iterator[tuple[Tensor, Tensor, Tensor]], loop: PythonSampler, n_pairs: int) -> None:
    """See that an epoch has every pair once and no chosen item as a sampled one."""
    user, pos, neg = (torch.cat(parts).tolist() for parts in zip(*batches, strict=True))
    if len(set(zip(user, pos, strict=True))) != n_pairs or any(
        i in loop.chosen[u] for u, i in zip(user, neg, strict=True)
    ):
        raise AssertionError("an epoch lacks a pair, or a sampled item was chosen")
