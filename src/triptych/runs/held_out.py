"""How well items and users are served that a model was not trained on: held out, added again, measured.

A share of the items, or of the users, is taken out of the data with all their interactions. What is left is
split and trained on as ever. Then they come back, items by their content, users by some of their items, and
the lists are measured by what was held out with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import BoolArray, FloatArray, IntArray
from triptych.data.dataset import Dataset
from triptych.data.interactions import stable_order
from triptych.data.split import Pairs, Split
from triptych.errors import ConfigError
from triptych.evaluation.metrics import per_user
from triptych.evaluation.ranking import SeenItems, check_lengths, find_hits, top_k
from triptych.models.base import ModelConfig
from triptych.runs.cold_start import ItemMaker
from triptych.runs.fold_in import UserFolder, history_graph
from triptych.runs.run import Run
from triptych.runs.train import train
from triptych.training.config import TrainConfig

Figures = dict[str, dict[str, float]]
"""Way of scoring -> metric -> mean over users."""

_NEAREST = 20
"""Known items that speak for a new one in the comparison by content alone."""
_FOUND_SHARE = 0.2
"""Of a held-out user's items, those that are to be found; the others are told."""


@dataclass(frozen=True)
class HeldOut:
    """What was measured.

    Args:
        figures: way of scoring -> metric -> mean over users.
        n_candidates: items on which lists are made.
        n_users: users measured, each with something to find.
        basis: of the model's scores, in a sentence.
        run: that was trained on the rest.
    """

    figures: Figures
    n_candidates: int
    n_users: int
    basis: str
    run: Run


def measure_new_items(
    model: str | ModelConfig,
    data: Dataset,
    *,
    share: float = 0.1,
    k: Sequence[int] = (10, 20),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    config: TrainConfig | None = None,
    device: str = "auto",
) -> HeldOut:
    """Hold out items, and find them for users by their content alone.

    Candidates are the held-out items that have any content; users are those of the rest who chose some of
    them. Ways of scoring: "model", as `ItemMaker` comes to new items; "neighbors", known items that stand for
    new ones; "content", the sum of a new item's cosines with what a user has, over the 20 known items nearest
    to it; "random", what chance is expected to find.

    Args:
        model: a registry name, or the settings object of a model.
        data: with dense features.
        share: of the items that are held out, in (0, 1).
        k: list lengths.
        seed: of what is held out, of the split, and of the training.
        settings: fields of the model's settings, if `model` is a name.
        config: how to train.
        device: where to train.

    Raises:
        ConfigError: the share leaves no item on one of the sides, or a list length is above the candidates.
    """
    gone = _drawn(data.n_items, share, seed, "items")
    rest, user, item = _taken_out(data, gone[data.interactions.item])
    split = Split.by_ratio(rest, rng=seed)
    dense = {name: (one.present, one.values) for name, one in data.features.items() if one.values is not None}
    new = np.flatnonzero(gone & np.any([present for present, _ in dense.values()], axis=0))
    lengths = check_lengths(k, len(new))
    features: dict[str, FloatArray] = {
        name: np.where(present[new, None], values[new], np.nan) for name, (present, values) in dense.items()
    }
    run = train(model, split, seed=seed, settings=settings, config=config, device=device)
    place = np.full(data.n_items, -1, dtype=np.int64)
    place[new] = np.arange(len(new))
    user, item = rest.users.find(data.users.ids[user].tolist()), place[item]
    known = (user >= 0) & (item >= 0)
    known[known] = np.diff(split.train_offsets)[user[known]] > 0
    wanted = _sorted(user[known], item[known], len(new))
    users = np.unique(wanted.user)
    maker = ItemMaker(run, rest)
    made = maker.embed(features)
    stood_for = ItemMaker(run, rest, by="neighbors").embed(features)
    cosines = maker.content.similarities(made.content)  # (n, I)
    nearest = torch.zeros_like(cosines).scatter_(1, *_best(cosines))
    history = history_graph(np.split(split.train.item, split.train_offsets[1:-1]), split.n_items)
    scores = {
        "model": made.scores(users),
        "neighbors": stood_for.scores(users),
        "content": history.select_rows(torch.from_numpy(users)).multiply(nearest.T.contiguous()),
    }
    figures = {name: _measure(part, users, wanted, lengths) for name, part in scores.items()}
    figures["random"] = {f"recall@{length}": length / len(new) for length in lengths}
    return HeldOut(figures, len(new), len(users), made.basis, run)


def measure_new_users(
    model: str | ModelConfig,
    data: Dataset,
    *,
    share: float = 0.1,
    k: Sequence[int] = (10, 20),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    config: TrainConfig | None = None,
    device: str = "auto",
) -> HeldOut:
    """Hold out users, tell four fifths of their items, and find the others among all items.

    Ways of scoring: "model", as `fold_in` does; "popular", the number of training pairs of an item.

    Args:
        model: a registry name, or the settings object of a model.
        data: to hold out of.
        share: of the users that are held out, in (0, 1).
        k: list lengths.
        seed: of what is held out, of the split, and of the training.
        settings: fields of the model's settings, if `model` is a name.
        config: how to train.
        device: where to train.

    Raises:
        ConfigError: the share leaves no user on one of the sides, or a list length is above the items.
    """
    gone = _drawn(data.n_users, share, seed, "users")
    rest, user, item = _taken_out(data, gone[data.interactions.user])
    split = Split.by_ratio(rest, rng=seed)
    lengths = check_lengths(k, split.n_items)
    run = train(model, split, seed=seed, settings=settings, config=config, device=device)
    item = rest.items.find(data.items.ids[item].tolist())
    _, user, counts = np.unique(user[item >= 0], return_inverse=True, return_counts=True)
    item = item[item >= 0]
    order = np.random.default_rng(seed).permutation(len(user))
    order = order[stable_order(user[order])]
    user, item = user[order], item[order]
    within = np.arange(len(user)) - (counts.cumsum() - counts)[user]
    n_found = np.where(counts > 1, np.maximum(1, (_FOUND_SHARE * counts).astype(np.int64)), 0)
    found = within < n_found[user]
    wanted = _sorted(user[found], item[found], split.n_items)
    told = _sorted(user[~found], item[~found], split.n_items)
    users = np.unique(wanted.user)
    histories = np.split(told.item, np.searchsorted(told.user, np.arange(1, len(counts))))
    popularity = torch.from_numpy(np.bincount(split.train.item, minlength=split.n_items)).float()
    scores = {
        "model": UserFolder(run.scorer, split).score(history_graph(histories, split.n_items)),
        "popular": popularity.repeat(len(counts), 1),
    }
    seen = SeenItems([told], len(counts))
    index = torch.from_numpy(users)
    figures = {
        name: _measure(seen.mask(part[index], index), users, wanted, lengths) for name, part in scores.items()
    }
    basis = "Vectors or scores made of a user's items, without training."
    return HeldOut(figures, split.n_items, len(users), basis, run)


def _drawn(n: int, share: float, seed: int, what: str) -> BoolArray:
    """Draw a share of n: (n,) bool."""
    n_drawn = int(share * n)
    if not 0 < n_drawn < n:
        raise ConfigError(
            f"{share} of {n:,} {what} is {n_drawn:,}",
            wanted=f"some {what} to hold out, and some to learn from",
            fix="Choose a share between 0 and 1, such as 0.1",
        )
    drawn = np.zeros(n, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(n)[:n_drawn]] = True
    return drawn


def _taken_out(data: Dataset, taken: BoolArray) -> tuple[Dataset, IntArray, IntArray]:
    """Take interactions out: the data without them, and their users and items by index in the whole data."""
    whole = data.interactions
    return data.with_interactions(whole.take(~taken)), whole.user[taken], whole.item[taken]


def _sorted(user: IntArray, item: IntArray, n_items: int) -> Pairs:
    order = stable_order(user * n_items + item)
    return Pairs(user[order], item[order])


def _best(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Give places and values of the largest cosines of each row, none below zero: (n, K) each."""
    values, places = cosines.topk(min(_NEAREST, cosines.shape[1]), dim=1)
    return places, values.clamp(min=0)


def _measure(scores: Tensor, users: IntArray, wanted: Pairs, lengths: Sequence[int]) -> dict[str, float]:
    """Measure the lists of some users, of whom each has something to find: (n, I) scores."""
    lists: IntArray = top_k(scores, lengths[-1])[1].numpy()
    hits = find_hits(lists, users, wanted, scores.shape[1])
    n_relevant = np.bincount(wanted.user)[users]
    return {name: float(values.mean()) for name, values in per_user(hits, n_relevant, lengths).items()}
