"""What a run's lists are like beside right: measured once, for tables, pages and comparisons alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from pydantic import BaseModel, ConfigDict

from triptych.data.arrays import IntArray
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.split import PartName
from triptych.errors import ConfigError, StorageError, nearest
from triptych.evaluation.beyond import (
    Group,
    accuracy_by_degree,
    measure_lists,
    recall_by_popularity,
)
from triptych.evaluation.metrics import per_user
from triptych.evaluation.ranking import Masked, Ranking, check_lengths, find_hits, masked_in, rank_lists
from triptych.runs.explanation import BEHAVIOUR, modality_shares
from triptych.runs.run import Run

BY_POPULARITY = "popularity"
"""Groups of items that a history and a list are compared by, where no column is named."""
_MOST_GROUPS = 256
_NO_FEATURES = "a run keeps no features; give the data set that it was trained on"


class BeyondAccuracy(BaseModel):
    """All that `measure_beyond` measures."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    data: str
    seed: int
    part: PartName
    masked: Masked
    k: tuple[int, ...]
    users: int
    """Those with something to find, whose lists are looked at."""
    groups: str
    """By what histories and lists are compared: "popularity", or a column of the item table."""
    figures: dict[str, float]
    """"coverage@20" and so on, as `evaluation.beyond.measure_lists` names them; where scores are a sum by
    modality, also "share_image@20" and so on, the mean share of each in the scores of listed items."""
    by_degree: list[Group]
    """Accuracy by number of training items, rising."""
    by_popularity: list[Group]
    """Recall by the popularity of what was looked for; "cold" items have no training interaction."""
    without: dict[str, str]
    """What was not measured -> why."""


def measure_beyond(
    run: Run,
    data: Dataset | None = None,
    k: Sequence[int] = (10, 20),
    *,
    on: PartName = "test",
    masked: Masked = "train",
    groups: str = BY_POPULARITY,
) -> BeyondAccuracy:
    """Measure what a run's lists are like beside right, and for whom and for what they are right.

    All items are ranked once, at the greatest length; shorter lists are its beginnings.

    Args:
        run: of any model, also a closed form or a fusion.
        data: with the features to measure diversity and shares by, which a run does not keep; of the same
            items.
        k: list lengths.
        on: the part that says whose lists are looked at.
        masked: whose items are no candidates at test time.
        groups: a column of the item table to compare histories and lists by, such as a category; items
            without a value are a group of their own. By default popularity.

    Raises:
        ConfigError: a list length is impossible, or there is no such column.
        DataError: the part is empty.
        StorageError: `data` holds other items.
    """
    split, lengths, hidden = run.split, check_lengths(k, run.split.n_items), masked_in(on, masked)
    features = {} if data is None else _features(run, data)
    group_of_item = None if groups == BY_POPULARITY else _column(run, groups)
    split.require(on)
    wanted = split.pairs(on)
    n_relevant = np.bincount(wanted.user, minlength=split.n_users)
    users = np.flatnonzero(n_relevant)
    lists = rank_lists(run.scorer, split, users, lengths[-1], masked=hidden)
    hits = find_hits(lists, users, wanted, split.n_items)
    figures: dict[str, float] = {}
    for length in lengths:
        of_length = lists[:, :length]
        figures |= measure_lists(of_length, users, split, features=features, groups=group_of_item)
    shares, no_shares = _shares(run, data, lists, users, lengths)
    return BeyondAccuracy(
        model=run.record.name,
        data=run.record.data,
        seed=run.record.seed,
        part=on,
        masked=hidden,
        k=lengths,
        users=len(users),
        groups=groups,
        figures=figures | shares,
        by_degree=accuracy_by_degree(Ranking(users, per_user(hits, n_relevant[users], lengths), {}), split),
        by_popularity=_merged(
            recall_by_popularity(lists[:, :length], users, split, on) for length in lengths
        ),
        without=_without(data, figures) | no_shares,
    )


def _features(run: Run, data: Dataset) -> Mapping[str, ItemFeatures]:
    if np.array_equal(data.items.ids, run.split.data.items.ids):
        return data.features
    raise StorageError(
        f"the run was trained on {run.record.data} with {run.split.n_items:,} items, {data.name} holds "
        f"{data.n_items:,}, and they are not the same",
        wanted="the data set that the run was trained on",
        fix="Give its folder",
    )


def _column(run: Run, name: str) -> IntArray:
    """Number the values of a column of the item table: (I,)."""
    table = run.split.data.item_table
    if name not in table.columns:
        raise ConfigError(
            f"the item table has no column '{name}'",
            wanted=f"{BY_POPULARITY}, or one of: {', '.join(table.columns)}",
            fix=nearest(name, [BY_POPULARITY, *table.columns]),
        )
    values, group = np.unique([str(value) for value in table[name].to_list()], return_inverse=True)
    if len(values) > _MOST_GROUPS:
        raise ConfigError(
            f"the column '{name}' has {len(values):,} different values",
            wanted=f"at most {_MOST_GROUPS}, so that lists of a few items can have their shares",
            fix="Name a coarser column, such as a category",
        )
    return group


def _shares(
    run: Run, data: Dataset | None, lists: IntArray, users: IntArray, lengths: Sequence[int]
) -> tuple[dict[str, float], dict[str, str]]:
    """Give what each part has of the scores of listed items, on average, or say why that is not told."""
    figures: dict[str, float] = {}
    parts: set[str] = set()
    try:
        for length in lengths:
            row, place = np.nonzero(lists[:, :length] >= 0)
            shares = modality_shares(run, data, users[row], lists[row, place], exact=True)
            figures |= {f"share_{part}@{length}": share for part, share in shares.items()}
            parts |= shares.keys()
    except (ConfigError, StorageError) as error:
        return {}, {"share": _NO_FEATURES if data is None else error.found}
    if parts == {BEHAVIOUR}:
        return {}, {"share": f"{run.record.name} knows behaviour alone"}
    return figures, {}


def _merged(by_length: Iterable[Sequence[Group]]) -> list[Group]:
    """Put the figures of all lengths into one group of each name, from head to cold."""
    found: dict[str, Group] = {}
    for group in chain.from_iterable(by_length):
        known = found.get(group.name)
        found[group.name] = group if known is None else replace(known, mean={**known.mean, **group.mean})
    return list(found.values())


def _without(data: Dataset | None, figures: Mapping[str, float]) -> dict[str, str]:
    """Say of which modalities there is no diversity, and why."""
    if data is None:
        return {"diversity": _NO_FEATURES}
    known = {name.partition("@")[0] for name in figures}
    return {
        f"diversity_{modality}": (
            "given as an item graph alone, which has no directions"
            if of_items.values is None
            else "no list holds two items that have it"
        )
        for modality, of_items in data.features.items()
        if f"diversity_{modality}" not in known
    }
