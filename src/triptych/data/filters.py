"""Which interactions are kept: by rating, time, activity; each filter is a step that a data set remembers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from triptych.data.arrays import BoolArray, FloatArray, IntArray
from triptych.data.dataset import Dataset
from triptych.data.interactions import Duplicates, Interactions, k_core
from triptych.errors import ConfigError, DataError

Step = dict[str, Any]
"""What was done to the rows and what it removed, in plain JSON values."""


@dataclass(frozen=True)
class Filters:
    """What to keep. The filters apply in the order of these fields.

    Args:
        min_rating: rows with at least this rating.
        since: rows from this time on, in seconds since 1970 (or whatever unit the timestamps have).
        until: rows before this time.
        duplicates: which row of a repeated user–item pair; see `Interactions.from_codes`.
        min_user: users with at least so many interactions, counted once.
        min_item: items with at least so many interactions, counted once, after `min_user`.
        core: the k-core, that is both of the above again and again until nothing changes.
    """

    min_rating: float | None = None
    since: float | None = None
    until: float | None = None
    duplicates: Duplicates = "first"
    min_user: int | None = None
    min_item: int | None = None
    core: int | None = None

    def __post_init__(self) -> None:
        for option in ("min_user", "min_item", "core"):
            if (least := getattr(self, option)) is not None and least < 1:
                raise ConfigError(
                    f"--{option.replace('_', '-')} {least}",
                    wanted="a whole number from 1 on",
                    fix=f"Use --{option.replace('_', '-')} 5, for example",
                )
        for option in ("min_rating", "since", "until"):
            if (bound := getattr(self, option)) is not None and not math.isfinite(bound):
                raise ConfigError(
                    f"--{option.replace('_', '-')} {bound}", wanted="a finite number", fix="Leave it out"
                )
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ConfigError(
                f"a time window from {self.since:g} to {self.until:g}",
                wanted="a beginning before the end",
                fix="Exchange --since and --until",
            )

    def rows(
        self, rating: FloatArray | None, timestamp: FloatArray | None
    ) -> Iterator[tuple[Step, BoolArray]]:
        """Give the steps that look at each row by itself, each with the mask of the rows it keeps.

        Raises:
            ConfigError: there are no ratings, or no times, to go by.
        """
        if self.min_rating is not None:
            known = _required(rating, f"a lowest rating of {self.min_rating:g}", "rating")
            yield {"step": "min_rating", "min_rating": self.min_rating}, known >= self.min_rating
        if self.since is not None or self.until is not None:
            known = _required(timestamp, "a time window", "timestamp")
            since = -np.inf if self.since is None else self.since
            until = np.inf if self.until is None else self.until
            yield (
                {"step": "time", "since": self.since, "until": self.until},
                (known >= since) & (known < until),
            )

    def pairs(self) -> Iterator[tuple[Step, Callable[[Interactions], Interactions]]]:
        """Give the steps that look at all interactions together, each with what it does."""
        if (least_user := self.min_user) is not None:
            yield (
                {"step": "min_user", "min_user": least_user},
                lambda data: _with_degree(data, data.user, least_user, "users"),
            )
        if (least_item := self.min_item) is not None:
            yield (
                {"step": "min_item", "min_item": least_item},
                lambda data: _with_degree(data, data.item, least_item, "items"),
            )
        if (least := self.core) is not None:
            yield {"step": "core", "core": least}, lambda data: k_core(data, least)


def filter_rows(
    filters: Filters, rating: FloatArray | None, timestamp: FloatArray | None, n_rows: int
) -> tuple[BoolArray, list[Step]]:
    """Apply the filters that look at each row by itself.

    Args:
        filters: what to keep.
        rating: (n,) ratings, if there are any.
        timestamp: (n,) times, if there are any.
        n_rows: n.

    Returns: (n,) bool, the rows to keep; and the steps with the number of rows each removed.
    """
    keep, steps = np.ones(n_rows, dtype=bool), []
    for step, mask in filters.rows(rating, timestamp):
        steps.append({**step, "interactions_removed": int((keep & ~mask).sum())})
        keep &= mask
    return keep, steps


def filter_pairs(filters: Filters, interactions: Interactions) -> tuple[Interactions, list[Step]]:
    """Apply the filters that look at all interactions together.

    Returns: what is left; and the steps with what each removed.

    Raises:
        DataError: nothing is left.
    """
    steps = []
    for step, apply in filters.pairs():
        left = apply(interactions)
        steps.append({**step, **_removed(interactions, left)})
        interactions = left
    return interactions, steps


def filter_dataset(data: Dataset, filters: Filters) -> Dataset:
    """Apply filters to a data set; item table and features follow, and its provenance names the steps.

    Raises:
        ConfigError: a filter by ratings or times that the data set does not have.
        DataError: nothing is left.
    """
    interactions = data.interactions
    keep, steps = filter_rows(filters, interactions.rating, interactions.timestamp, len(interactions))
    if not keep.any():
        raise DataError(
            f"none of the {len(keep):,} interactions of '{data.name}' is left",
            wanted="a filter that keeps some",
            fix="Choose a lower rating or a longer time",
        )
    interactions, more = filter_pairs(filters, interactions.take(keep))
    return data.with_interactions(interactions).with_steps([*steps, *more])


def _required(column: FloatArray | None, what: str, name: str) -> FloatArray:
    if column is None:
        raise ConfigError(
            f"{what}, but no {name} column",
            wanted=f"the column that holds the {name}s",
            fix=f"Add --{name} COLUMN when preparing the data",
        )
    return column


def _with_degree(data: Interactions, index: IntArray, least: int, kind: str) -> Interactions:
    keep = (np.bincount(index) >= least)[index]
    if not keep.any():
        raise DataError(
            f"no {kind} with at least {least} interactions",
            wanted=f"some {kind} left",
            fix="Choose a smaller number",
        )
    return data if keep.all() else data.take(keep)


def _removed(before: Interactions, after: Interactions) -> dict[str, int]:
    return {
        "users_removed": before.n_users - after.n_users,
        "items_removed": before.n_items - after.n_items,
        "interactions_removed": len(before) - len(after),
    }
