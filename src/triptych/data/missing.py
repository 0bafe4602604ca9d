"""What to put where an item lacks a modality: a choice that is made when the split is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import scipy.sparse

from triptych.data.arrays import BoolArray
from triptych.data.features import ItemFeatures, Matrix
from triptych.data.split import Split
from triptych.errors import ConfigError, nearest

Filling = Literal["leave", "zero", "mean", "neighbors"]
FILLINGS: tuple[str, ...] = get_args(Filling)
ROUNDS = 2  # how far content travels from item to item: to neighbours of neighbours


def fill_missing(split: Split, filling: Filling) -> Split:
    """Fill the dense rows of items that lack a modality.

    - "leave": rows stay zero and the items marked as missing; each model does what its paper says.
    - "zero": the same rows, but the items count as present.
    - "mean": the mean of all present rows.
    - "neighbors": the weighted mean of present neighbours in the item–item graph of common users,
      weights c_ij / sqrt(d_i d_j) with c_ij common users in **training**, d interactions; then, in a second
      round, of neighbours filled in the first; items that are still out of reach get the mean.

    Nothing here looks at validation or test interactions, which is why it belongs to the split and not to
    the data set. Present rows and given item graphs stay as they are.

    Source: the neighbour mean of Malitesta et al., "Do We Really Need to Drop Items with Missing Modalities
    in Multimodal Recommendation?" (arXiv:2408.11767), on the item–item graph R^T R. The weights and the
    second round are ours, and so is the restriction to training interactions.

    Returns: a split of the same interactions into the same parts.

    Raises:
        ConfigError: there is no such filling.
    """
    if filling not in FILLINGS:
        raise ConfigError(
            f"--missing {filling}", wanted=" or ".join(FILLINGS), fix=nearest(filling, FILLINGS)
        )
    if filling == "leave":
        return split
    features = {name: _fill(one, split, filling) for name, one in split.data.features.items()}
    data = replace(split.data, features=features)
    return Split(data, split.part, {**split.protocol, "missing": filling})


def _fill(features: ItemFeatures, split: Split, filling: Filling) -> ItemFeatures:
    values, present = features.values, features.present
    if values is None or present.all() or not present.any():
        return features
    filled = values.copy()
    if filling != "zero":
        filled[~present] = values[present].mean(axis=0, dtype=np.float64)
    if filling == "neighbors":
        _propagate(filled, present, split)
    note = f"{features.source}; {int((~present).sum()):,} missing rows filled: {filling}"
    return ItemFeatures(np.ones_like(present), filled, features.graph, note)


def _propagate(rows: Matrix, present: BoolArray, split: Split) -> None:
    """Write the weighted mean of known neighbours into the rows that are unknown."""
    pairs = split.train
    shape = (split.n_users, split.n_items)
    chosen = scipy.sparse.csr_matrix((np.ones(len(pairs), np.float32), (pairs.user, pairs.item)), shape=shape)
    degree = np.bincount(pairs.item, minlength=split.n_items)
    weight = np.divide(1.0, np.sqrt(degree), out=np.zeros(len(degree)), where=degree > 0)
    known = present.copy()
    for _ in range(ROUNDS):
        unknown = np.flatnonzero(~known)
        common = chosen[:, unknown].T @ chosen[:, known]  # (unknown, known), common users
        near = common.multiply(weight[known]).tocsr()
        total = np.asarray(near.sum(axis=1)).ravel()
        reached = total > 0
        rows[unknown[reached]] = (near[reached] @ rows[known]) / total[reached, None]
        known[unknown[reached]] = True
