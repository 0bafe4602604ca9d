"""Which interactions are for training, which for choosing, which for the final figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from triptych.data.arrays import FloatArray, IntArray, LabelArray
from triptych.data.dataset import Dataset
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions, row_offsets, stable_order
from triptych.errors import ConfigError, DataError, ShapeError
from triptych.files import hash_arrays

PartName = Literal["train", "valid", "test"]
PARTS: dict[str, int] = {"train": TRAIN, "valid": VALID, "test": TEST}

Rng = int | np.random.Generator
"""A seed, or a numpy generator that is used and moved on."""


class Pairs(NamedTuple):
    """User–item pairs by index, sorted by user and then item."""

    user: IntArray
    item: IntArray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A data set whose every interaction belongs to exactly one part: train, valid, test, or left out.

    An interaction is left out where no honest use of it is possible: its user has no training
    interaction. `protocol["left_out"]` counts them.

    Args:
        data: what is split.
        part: (n,) int8 with TRAIN, VALID, TEST or LEFT_OUT for each interaction.
        protocol: how it was split, in plain JSON values.
    """

    data: Dataset
    part: LabelArray
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        part = np.asarray(self.part)
        codes = sorted({*PARTS.values(), LEFT_OUT})
        if part.shape != (len(self.data.interactions),) or not np.isin(part, codes).all():
            named = ", ".join(f"{code} ({name})" for name, code in PARTS.items())
            raise ShapeError(
                f"parts {part.dtype} {part.shape} for {len(self.data.interactions):,} interactions",
                wanted=f"one of {named} for each",
                fix="Give them in the order of data.interactions",
            )
        object.__setattr__(self, "part", part.astype(np.int8, copy=False))

    def __repr__(self) -> str:
        """Say in a line what it is."""
        parts = ", ".join(f"{int((self.part == code).sum()):,} {name}" for name, code in PARTS.items())
        return f"<{self.protocol.get('kind', 'given')} split of {self.data.name}: {parts}>"

    @classmethod
    def from_parts(cls, data: Dataset, part: LabelArray, **protocol: Any) -> Split:
        """Split as somebody else has.

        Interactions of users without any for training are left out, as in all splits.

        Args:
            data: what is split.
            part: (n,) of `TRAIN`, `VALID` and `TEST`, in the order of `data.interactions`.
            protocol: what to say of it in records.

        Raises:
            ShapeError: they are not one such number for each interaction.
            DataError: nothing is left for training.
        """
        return cls._checked(data, cls(data, part).part, {"kind": "given", **protocol})

    @classmethod
    def by_ratio(cls, data: Dataset, rng: Rng = 999) -> Split:
        """Split each user's interactions at random by MMRec's rule, about 8:1:1.

        A user with n interactions gets: n < 10, one valid and one test; otherwise h = int(0.2 n),
        floor(h / 2) valid and the rest of h test. A user with fewer than 3 keeps all for training
        (MMRec, which only reads 5-cores, has no such users).

        Source: MMRec, preprocessing/1splitting.
        """
        interactions = data.interactions
        order = np.random.default_rng(rng).permutation(len(interactions))
        place, degree = _place_in_user(interactions, order)
        held = np.where(degree < 10, 2, (0.2 * degree).astype(np.int64))
        held[degree < 3] = 0
        part = _held_out(place, held, n_valid=held // 2)
        rule = "8:1:1 per user, MMRec's rounding"
        return cls._checked(data, part, {"kind": "ratio", "rule": rule, **_seed(rng)})

    @classmethod
    def leave_one_out(cls, data: Dataset, rng: Rng = 999) -> Split:
        """Give each user's last interaction to test and the one before to valid.

        The order is that of the timestamps, ties and a lack of timestamps broken at random. A user
        with fewer than 3 keeps all for training.
        """
        interactions = data.interactions
        order = np.random.default_rng(rng).permutation(len(interactions))
        if interactions.timestamp is not None:
            order = order[np.argsort(-interactions.timestamp[order], kind="stable")]
        place, degree = _place_in_user(interactions, order)
        held = np.where(degree < 3, 0, 2)
        part = np.full(len(interactions), TRAIN, dtype=np.int8)
        part[(place == 0) & (held > 0)] = TEST
        part[(place == 1) & (held > 0)] = VALID
        by = "time" if interactions.timestamp is not None else "random"
        return cls._checked(data, part, {"kind": "leave-one-out", "order": by, **_seed(rng)})

    @classmethod
    def by_time(cls, data: Dataset, *, train: float = 0.8, valid: float = 0.1) -> Split:
        """Cut the one time line of all users: the past trains, the next stretch chooses, the last is tested.

        Args:
            data: a data set with timestamps.
            train: share of interactions before the first cut, in (0, 1).
            valid: share between the cuts. Interactions of one moment are never separated, and those
                of users without a past are left out.

        Raises:
            DataError: there are no timestamps.
            ConfigError: the shares leave nothing for test.
        """
        time = _timestamps(data)
        if not (0 < train < 1 and 0 < valid < 1 and train + valid < 1):
            raise ConfigError(
                f"shares train {train} and valid {valid}",
                wanted="two positive shares with a sum below 1",
                fix="Use 0.8 and 0.1, for example",
            )
        ascending = np.sort(time)
        cut_valid = ascending[int(train * len(time))]
        cut_test = ascending[int((train + valid) * len(time))]
        part = np.where(time < cut_valid, TRAIN, np.where(time < cut_test, VALID, TEST)).astype(np.int8)
        cuts = {"valid_from": float(cut_valid), "test_from": float(cut_test)}
        return cls._checked(data, part, {"kind": "time", **cuts})

    @classmethod
    def by_label(cls, data: Dataset) -> Split:
        """Use the split the data set came with (`triptych prepare --label` says what its labels mean).

        Raises:
            DataError: the data set has no labels.
        """
        label = data.interactions.label
        if label is None:
            raise DataError(
                f"'{data.name}' has no split column",
                wanted="a data set prepared with --label",
                fix="Split it another way, for example --split ratio",
            )
        return cls._checked(data, label.astype(np.int8), {"kind": "label"})

    @classmethod
    def _checked(cls, data: Dataset, part: LabelArray, protocol: dict[str, Any]) -> Split:
        """Leave out what users without training interactions hold, and refuse a split without training."""
        user = data.interactions.user
        n_train = np.bincount(user[part == TRAIN], minlength=data.n_users)
        part = np.where((n_train == 0)[user], LEFT_OUT, part).astype(np.int8)
        if not (part == TRAIN).any():
            raise DataError(
                f"no interaction of '{data.name}' is left for training",
                wanted="users with at least one training interaction",
                fix="Check the labels' meaning, or whether times differ at all, or split another way",
            )
        counts = {name: int((part == code).sum()) for name, code in PARTS.items()}
        left_out = {
            "left_out": int((part == LEFT_OUT).sum()),
            "users_without_training": int((n_train == 0).sum()),
        }
        return cls(data, part, {**protocol, **counts, **left_out})

    def labelled(self) -> Dataset:
        """Give the data set with this split as its labels, and with the step in its provenance."""
        labelled = replace(self.data, interactions=self.data.interactions.with_label(self.part))
        return labelled.with_steps([{"step": "split", **self.protocol}])

    def without_test(self) -> Split:
        """Give what choosing may see: the same split, in whose data no test pair is left.

        Users, items and features stay as they are, and so does what a model learns from it.
        """
        gone = self.part == TEST
        data = replace(self.data, interactions=self.data.interactions.drop(gone))
        return Split(data, self.part[~gone], {**self.protocol, "test": 0})

    @cached_property
    def train(self) -> Pairs:
        """The pairs models learn from."""
        return self.pairs("train")

    @cached_property
    def valid(self) -> Pairs:
        """The pairs that choose epochs and settings."""
        return self.pairs("valid")

    @cached_property
    def test(self) -> Pairs:
        """The pairs of the final figure, used for nothing else."""
        return self.pairs("test")

    def require(self, *parts: PartName) -> None:
        """Refuse a split in which one of these parts is empty.

        Raises:
            DataError: one is.
        """
        for part in parts:
            if not len(self.pairs(part)):
                raise DataError(
                    f"the {part} part of '{self.data.name}' is empty",
                    wanted="at least one pair to find",
                    fix="Split the data another way",
                )

    def pairs(self, part: PartName) -> Pairs:
        """Select the pairs of one part."""
        inside = self.part == PARTS[part]
        return Pairs(self.data.interactions.user[inside], self.data.interactions.item[inside])

    @cached_property
    def train_offsets(self) -> IntArray:
        """(U + 1,) where each user's training items begin in `train.item`."""
        return row_offsets(self.train.user, self.n_users)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.data.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.data.n_items

    @cached_property
    def content_hash(self) -> str:
        """Name of the data and the way it is split."""
        return hash_arrays(self.data.content_hash, self.part)


def _seed(rng: Rng) -> dict[str, int]:
    return {"seed": int(rng)} if isinstance(rng, int | np.integer) else {}


def read_label_meaning(text: str) -> dict[str, int]:
    """Read "0=train,2=valid,1=test" into label -> part.

    Raises:
        ConfigError: a piece is not LABEL=PART, a part is unknown, or train is not named.
    """
    meaning: dict[str, int] = {}
    for piece in text.split(","):
        label, _, part = (word.strip() for word in piece.partition("="))
        if part not in PARTS or not label or label in meaning:
            raise ConfigError(
                f"the label meaning {text!r}",
                wanted="pieces LABEL=PART with PART one of train, valid, test, each label once",
                fix='Write for example --label-meaning "0=train,1=valid,2=test"',
            )
        meaning[label] = PARTS[part]
    if TRAIN not in meaning.values():
        raise ConfigError(
            f"the label meaning {text!r} names no train label",
            wanted="a label for train",
            fix="Add LABEL=train",
        )
    return meaning


def _timestamps(data: Dataset) -> FloatArray:
    if data.interactions.timestamp is None:
        raise DataError(
            f"'{data.name}' has no timestamps",
            wanted="a time for each interaction",
            fix="Prepare it with --timestamp COLUMN, or split another way",
        )
    return data.interactions.timestamp


def _place_in_user(interactions: Interactions, order: IntArray) -> tuple[IntArray, IntArray]:
    """Say for each interaction its place among its user's, in the given order, and how many these are."""
    by_user = order[stable_order(interactions.user[order])]
    offsets = row_offsets(interactions.user[by_user], interactions.n_users)
    place = np.empty(len(order), dtype=np.int64)
    place[by_user] = np.arange(len(order)) - offsets[interactions.user[by_user]]
    return place, np.diff(offsets)[interactions.user]


def _held_out(place: IntArray, held: IntArray, n_valid: IntArray) -> LabelArray:
    """Give each user's first `n_valid` places to valid, the next up to `held` to test, the rest to train."""
    part = np.full(len(place), TRAIN, dtype=np.int8)
    part[place < held] = TEST
    part[place < n_valid] = VALID
    return part
