"""Ranking metrics of each user, from where the hits are in the list. Pure functions, float64.

Letters: B users, K list length, n the number of relevant items of a user. All lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from triptych.errors import ConfigError, nearest

Hits = np.ndarray[Any, np.dtype[np.bool_]]
"""(B, K): whether the item at each place of the list is relevant, best place first."""
Counts = np.ndarray[Any, np.dtype[np.int64]]
"""(B,): how many items are relevant to each user, at least 1."""
PerUser = np.ndarray[Any, np.dtype[np.float64]]
"""(B,)."""


def recall(hits: Hits, n_relevant: Counts) -> PerUser:
    """Share of the relevant items that are in the list: hits / n."""
    return np.asarray(hits.sum(axis=1) / n_relevant)


def precision(hits: Hits, n_relevant: Counts) -> PerUser:
    """Share of the list that is relevant: hits / K."""
    return np.asarray(hits.mean(axis=1))


def hit(hits: Hits, n_relevant: Counts) -> PerUser:
    """1 if any item of the list is relevant, else 0: the hit rate once averaged."""
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def ndcg(hits: Hits, n_relevant: Counts) -> PerUser:
    """Gain 1 / log2(place + 1) of the hits, over that of the best list possible, which has min(n, K) hits."""
    discount = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))  # (K,)
    ideal = np.concatenate([[0.0], discount.cumsum()])
    gain = (hits * discount).cumsum(axis=1)[
        :, -1
    ]  # added in the order of `ideal`: the best list is exactly 1
    return np.asarray(gain / ideal[np.minimum(n_relevant, hits.shape[1])])


def average_precision(hits: Hits, n_relevant: Counts) -> PerUser:
    """Precision at the place of each hit, summed, over min(n, K); its mean over users is MAP."""
    places = np.arange(1, hits.shape[1] + 1)
    at_hit = hits * hits.cumsum(axis=1) / places
    return np.asarray(at_hit.sum(axis=1) / np.minimum(n_relevant, hits.shape[1]))


def reciprocal_rank(hits: Hits, n_relevant: Counts) -> PerUser:
    """1 / place of the first hit, 0 without one; its mean over users is MRR."""
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


METRICS: dict[str, Callable[[Hits, Counts], PerUser]] = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "map": average_precision,
    "mrr": reciprocal_rank,
    "hit": hit,
}


def per_user(hits: Hits, n_relevant: Counts, k: Sequence[int]) -> dict[str, PerUser]:
    """Compute every metric at every list length, named as in "recall@20".

    Args:
        hits: (B, K) for the longest list.
        n_relevant: (B,).
        k: list lengths, none above K.
    """
    return {
        f"{name}@{length}": metric(hits[:, :length], n_relevant)
        for length in k
        for name, metric in METRICS.items()
    }


def parse_metric(text: str) -> tuple[str, int]:
    """Read "recall@20" into its name and list length.

    Raises:
        ConfigError: it is not a metric's name, "@", and a positive number.
    """
    name, _, length = text.partition("@")
    if name not in METRICS or not length.isdecimal() or int(length) == 0:
        raise ConfigError(
            f"the metric {text!r}",
            wanted="NAME@K, such as recall@20, with NAME one of " + ", ".join(METRICS),
            fix=nearest(name, METRICS),
        )
    return name, int(length)
