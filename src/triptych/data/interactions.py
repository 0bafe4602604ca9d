"""Who did something with what: interactions by index, and the raw ids behind the indices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray, FloatArray, IntArray, LabelArray
from triptych.data.ids import IdMap
from triptych.errors import ConfigError, DataError, ShapeError
from triptych.files import hash_arrays

Duplicates = Literal["first", "last", "highest"]
"""Which row of a repeated pair is kept."""
Scalar = TypeVar("Scalar", bound=np.generic)

TRAIN, VALID, TEST, LEFT_OUT = 0, 1, 2, -1
"""The parts of a split, as an int8 label on each interaction."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """A set of (user, item) pairs, sorted by user and then item, each pair once.

    Args:
        users: raw user ids; every user has at least one interaction, unless `drop` took it.
        items: raw item ids; every item likewise.
        user: (n,) int64 user index of each interaction.
        item: (n,) int64 item index of each interaction.
        rating: (n,) float64 as given in the file, if given.
        timestamp: (n,) float64, any unit that grows with time, if given.
        label: (n,) int8, TRAIN, VALID, TEST or LEFT_OUT, if the file says how it is split.
    """

    users: IdMap
    items: IdMap
    user: IntArray
    item: IntArray
    rating: FloatArray | None = None
    timestamp: FloatArray | None = None
    label: LabelArray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def density(self) -> float:
        """Share of all user–item pairs that interacted, in [0, 1]."""
        return len(self) / (self.n_users * self.n_items)

    @cached_property
    def content_hash(self) -> str:
        """Name of the content: equal for equal ids, pairs, ratings, times and labels."""
        optional = [self.rating, self.timestamp, self.label]
        return hash_arrays(self.users.ids, self.items.ids, self.user, self.item, *optional)

    @classmethod
    def from_ids(
        cls,
        user_ids: np.ndarray[Any, Any],
        item_ids: np.ndarray[Any, Any],
        *,
        rating: FloatArray | None = None,
        timestamp: FloatArray | None = None,
        label: LabelArray | None = None,
        duplicates: Duplicates = "first",
    ) -> Interactions:
        """Index raw ids and merge repeated pairs; see `from_codes`.

        Args:
            user_ids: (n,) int64 or str raw ids.
            item_ids: (n,) int64 or str raw ids.
            rating: (n,) ratings.
            timestamp: (n,) times, as numbers or as datetime64, which become seconds since 1970.
            label: (n,) parts of a given split.
            duplicates: which row of a repeated pair is kept.

        Raises:
            DataError: there are no rows, ids are neither integers nor strings, a time is missing, or a
                repeated pair carries two different labels.
            ShapeError: the columns differ in length.
        """
        users, user = np.unique(_as_ids(user_ids, "user"), return_inverse=True)
        items, item = np.unique(_as_ids(item_ids, "item"), return_inverse=True)
        return cls.from_codes(
            IdMap(users, "user"), IdMap(items, "item"), user, item,
            rating=rating, timestamp=timestamp, label=label, duplicates=duplicates,
        )  # fmt: skip

    @classmethod
    def from_codes(
        cls,
        users: IdMap,
        items: IdMap,
        user: IntArray,
        item: IntArray,
        *,
        rating: FloatArray | None = None,
        timestamp: FloatArray | None = None,
        label: LabelArray | None = None,
        duplicates: Duplicates = "first",
    ) -> Interactions:
        """Sort pairs, merge those that repeat, and drop ids that have none.

        Args:
            users: raw user ids, some perhaps without a pair.
            items: raw item ids, likewise.
            user: (n,) int64 user index of each row.
            item: (n,) int64 item index of each row.
            rating: (n,) ratings.
            timestamp: (n,) times, as numbers or as datetime64, which become seconds since 1970.
            label: (n,) parts of a given split.
            duplicates: which row of a repeated pair is kept: the "first" or the "last" by time (without
                times, by place in the file), or the one with the "highest" rating (the first of these).
                How many rows were merged is `len(user) - len(result)`.

        Raises:
            DataError: there are no rows, a time is missing, or a repeated pair carries two different labels.
            ShapeError: the columns differ in length.
        """
        rating = None if rating is None else np.asarray(rating, dtype=np.float64)
        timestamp = None if timestamp is None else _as_seconds(timestamp)
        label = None if label is None else np.asarray(label, dtype=np.int8)
        columns = [column for column in (user, item, rating, timestamp, label) if column is not None]
        if len({len(column) for column in columns}) > 1:
            raise ShapeError(
                f"columns of interactions with lengths {sorted({len(column) for column in columns})}",
                wanted="one length",
                fix="Give one value per interaction in each",
            )
        if len(user) == 0:
            raise DataError(
                "there are no interactions",
                wanted="at least one row",
                fix="Check the file, the rating threshold and the filters",
            )
        users, user = _used(users, user)
        items, item = _used(items, item)
        keys = user * len(items) + item
        order = stable_order(keys)
        ordered = keys[order]
        first = np.ones(len(keys), dtype=bool)
        first[1:] = ordered[1:] != ordered[:-1]
        if not first.all():
            order = _order_within_pairs(order, first, keys, rating, timestamp, duplicates)
            if label is not None:
                _refuse_two_labels(label[order], first, users.ids[user[order]], items.ids[item[order]])
        kept = order[_last_of(first) if duplicates == "last" else first]
        return cls(
            users=users,
            items=items,
            user=user[kept],
            item=item[kept],
            rating=_at(rating, kept),
            timestamp=_at(timestamp, kept),
            label=_at(label, kept),
        )

    def take(self, keep: BoolArray) -> Interactions:
        """Keep the interactions where a mask is true; users and items left with none are dropped."""
        users, user = _used(self.users, self.user[keep])
        items, item = _used(self.items, self.item[keep])
        return Interactions(
            users=users,
            items=items,
            user=user,
            item=item,
            rating=_at(self.rating, keep),
            timestamp=_at(self.timestamp, keep),
            label=_at(self.label, keep),
        )

    def drop(self, gone: BoolArray) -> Interactions:
        """Leave out the interactions where a mask is true; users and items keep their numbers."""
        return replace(
            self,
            user=self.user[~gone],
            item=self.item[~gone],
            rating=_at(self.rating, ~gone),
            timestamp=_at(self.timestamp, ~gone),
            label=_at(self.label, ~gone),
        )

    def with_label(self, label: LabelArray) -> Interactions:
        """Say anew which part of a split each interaction belongs to."""
        return replace(self, label=label)


def k_core(interactions: Interactions, k: int) -> Interactions:
    """Drop users and items with fewer than `k` interactions, again and again until none is left to drop.

    Raises:
        DataError: nothing is left.
    """
    left = np.arange(len(interactions))
    user, item = interactions.user, interactions.item
    while True:
        user_degree = np.bincount(user, minlength=interactions.n_users)
        item_degree = np.bincount(item, minlength=interactions.n_items)
        enough = (user_degree >= k)[user] & (item_degree >= k)[item]
        if enough.all():
            break
        left, user, item = left[enough], user[enough], item[enough]
    if not len(left):
        raise DataError(
            f"the {k}-core of these {len(interactions):,} interactions is empty",
            wanted=f"users and items with at least {k} interactions with each other",
            fix="Choose a smaller --core",
        )
    keep = np.zeros(len(interactions), dtype=bool)
    keep[left] = True
    return interactions if keep.all() else interactions.take(keep)


def stable_order(keys: IntArray) -> IntArray:
    """Say in which order to take keys of 0 or more so that they ascend, equal ones as they stand.

    Where key and place fit one 63-bit number together, these numbers are sorted, which takes a third of
    the time of a stable argsort.

    Args:
        keys: (n,) int64.

    Returns: (n,) int64 places.
    """
    place_bits = len(keys).bit_length()
    if len(keys) == 0 or int(keys.max()).bit_length() + place_bits > 63:
        return np.argsort(keys, kind="stable")
    packed = (keys << place_bits) | np.arange(len(keys))
    places: IntArray = pl.Series(packed).sort().to_numpy() & ((1 << place_bits) - 1)
    return places


def row_offsets(rows: IntArray, n_rows: int) -> IntArray:
    """Say where each row begins in sorted `rows`: row r is `[offsets[r], offsets[r + 1])`.

    Args:
        rows: (n,) ascending row numbers.
        n_rows: how many rows there are.

    Returns: (n_rows + 1,) int64.
    """
    offsets = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
    return offsets


def _as_ids(raw_ids: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Bring raw ids to int64 or str, so that equal ids have equal bytes wherever they came from."""
    ids = np.asarray(raw_ids)
    if ids.dtype.kind in "iu":
        if ids.dtype == np.uint64 and len(ids) and ids.max() > np.iinfo(np.int64).max:
            raise DataError(
                f"the {kind} id {ids.max()}",
                wanted="integers of at most 63 bits, or strings",
                fix="Turn the ids into strings",
            )
        return ids.astype(np.int64)
    if ids.dtype.kind == "U" or (ids.dtype == object and all(isinstance(raw, str) for raw in ids)):
        return ids.astype(np.str_)
    raise DataError(f"{kind} ids of type {ids.dtype}", wanted="integers or strings", fix="Convert the ids")


def _used(ids: IdMap, index: IntArray) -> tuple[IdMap, IntArray]:
    """Drop the ids that no index points to, and number the others anew."""
    used = np.bincount(index, minlength=len(ids)) > 0
    if used.all():
        return ids, index.astype(np.int64, copy=False)
    return ids.take(used), (np.cumsum(used) - 1)[index]


def _last_of(first: BoolArray) -> BoolArray:
    """Turn marks at the first row of each pair into marks at its last."""
    last = np.ones_like(first)
    last[:-1] = first[1:]
    return last


def _order_within_pairs(
    order: IntArray,
    first: BoolArray,
    keys: IntArray,
    rating: FloatArray | None,
    timestamp: FloatArray | None,
    duplicates: Duplicates,
) -> IntArray:
    """Bring the rows of each repeated pair into order: by rating for "highest", then by time."""
    repeated = ~first | ~_last_of(first)
    rows = order[repeated]
    by: list[np.ndarray[Any, Any]] = [keys[rows]]
    if duplicates == "highest":
        if rating is None:
            raise ConfigError(
                "the highest rating of repeated pairs is to be kept, but there are no ratings",
                wanted="a rating column",
                fix="Add --rating COLUMN, or use --duplicates first",
            )
        by.insert(0, -rating[rows])
    if timestamp is not None:
        by.insert(0, timestamp[rows])
    order = order.copy()
    order[repeated] = rows[np.lexsort(by)]  # the last key counts most; stable otherwise
    return order


def _as_seconds(timestamp: np.ndarray[Any, Any]) -> FloatArray:
    """Turn times into numbers, and refuse those that are missing: they have no place in an order."""
    given = np.asarray(timestamp)
    if given.dtype.kind == "M":
        missing = np.isnat(given)
        seconds = given.astype("datetime64[ns]").astype(np.int64) / 1e9
    else:
        seconds = given.astype(np.float64)
        missing = np.isnan(seconds)
    if missing.any():
        raise DataError(
            f"{int(missing.sum()):,} of {len(given):,} interactions have no time",
            wanted="a time for each, or none at all",
            fix="Leave these rows out, or give no times",
        )
    return seconds


def _at(
    values: np.ndarray[Any, np.dtype[Scalar]] | None, index: IntArray | BoolArray
) -> np.ndarray[Any, np.dtype[Scalar]] | None:
    return None if values is None else values[index]


def _refuse_two_labels(
    label: LabelArray, first: BoolArray, user_ids: np.ndarray[Any, Any], item_ids: np.ndarray[Any, Any]
) -> None:
    """Refuse labels (sorted by pair, `first` marking each pair's first row) that differ within a pair."""
    label_of_pair = label[first][np.cumsum(first) - 1]
    clash = np.flatnonzero(label != label_of_pair)
    if len(clash):
        at = clash[0]
        raise DataError(
            f"user {user_ids[at].item()!r} and item {item_ids[at].item()!r} are listed in two parts "
            f"of the split ({len(clash):,} such rows)",
            wanted="each pair in one of train, valid and test",
            fix="Remove the repeated rows, or leave the label column out and let Triptych split",
        )
