"""The same systems under several splits: does the order of systems depend on how test items were picked?

Random test items let a model learn from what came after them; a cut in time does not. Which system is
best may depend on it: Ji, Sun, Zhang and Li, "A Critical Study on Data Leakage in Recommender System Offline
Evaluation" (ACM TOIS 2023); Meng, McCreadie, Macdonald and Ounis, "Exploring Data Splitting Strategies for
the Evaluation of Recommendation Models" (RecSys 2020), who compare orders by Kendall's tau.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.evaluation.ranking import Masked
from triptych.experiments.comparison import compare
from triptych.experiments.jobs import Job, Outcome, Workshop
from triptych.experiments.result import ComparisonResult
from triptych.training.observer import Observer
from triptych.training.recipe import Recipe


class Agreement(BaseModel):
    """How alike two splits order the systems."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    systems: int
    """How many have figures under both."""
    tau: float | None
    """Kendall's tau-b of their mean test figures: 1 the same order, -1 the reverse; None where there is no
    order, as all systems are equal under one of the splits."""


class SplitsResult(BaseModel):
    """What was found under each split, in JSON values."""

    model_config = ConfigDict(frozen=True)

    data: str
    metric: str
    comparisons: dict[str, ComparisonResult]
    """Name of the split -> what the comparison on it found."""
    orders: dict[str, list[str]]
    """Name of the split -> systems, the best on test first."""
    agreements: list[Agreement]
    """Of all pairs of splits."""


def compare_splits(
    systems: Mapping[str, Recipe],
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    workshop: Workshop,
    *,
    k: Sequence[int] = (10, 20),
    masked: Masked = "train",
    reference: str | None = None,
    legacy: bool = False,
    beyond: bool = False,
    observe: Callable[[Job], Observer] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> SplitsResult:
    """Compare systems under each of some splits, and the orders that come of it.

    Args:
        systems: name -> what to train, at least two.
        splits: name -> one of several splits of the same data, at least two.
        seeds: of each system.
        workshop: where and how.
        k: list lengths of the figures.
        masked: whose items are no candidates at test time.
        reference: as in `compare`.
        legacy: as in `compare`.
        beyond: as in `compare`.
        observe: makes an observer for a training in this process.
        on_outcome: is told of each training that is found, done or failed.

    Raises:
        ConfigError: fewer than two systems or splits, or splits of different data; and as `compare` does.
        TrainingError: as `compare` does.
    """
    hashes = {split.data.content_hash for split in splits.values()}
    if len(systems) < 2 or len(splits) < 2 or len(hashes) > 1:
        raise ConfigError(
            f"{len(systems)} systems, {len(splits)} splits of {len(hashes)} data sets",
            wanted="at least two systems, whose order is looked at, and two splits of one data set",
            fix="Name more of them",
        )
    comparisons = {
        name: compare(
            systems,
            split,
            seeds,
            workshop,
            k=k,
            masked=masked,
            reference=reference,
            legacy=legacy,
            beyond=beyond,
            observe=observe,
            on_outcome=on_outcome,
        )
        for name, split in splits.items()
    }
    first = next(iter(comparisons.values()))
    means = {name: mean_figures(result) for name, result in comparisons.items()}
    return SplitsResult(
        data=first.data,
        metric=first.metric,
        comparisons=comparisons,
        orders={name: sorted(of, key=lambda system: -of[system]) for name, of in means.items()},
        agreements=[agreement(one, other, means[one], means[other]) for one, other in combinations(means, 2)],
    )


def mean_figures(result: ComparisonResult) -> dict[str, float]:
    """Give each system's mean test figure by the metric of the comparison."""
    return {system.name: system.test[result.metric].mean for system in result.systems}


def agreement(first: str, second: str, ones: Mapping[str, float], others: Mapping[str, float]) -> Agreement:
    """Compare the orders that two splits give to the systems that have figures under both.

    Source: Kendall (1945), tau-b; `scipy.stats.kendalltau`.
    """
    both = [name for name in ones if name in others]
    tau = np.nan
    if len(both) > 1:
        tau = stats.kendalltau([ones[name] for name in both], [others[name] for name in both]).statistic
    return Agreement(first=first, second=second, systems=len(both), tau=None if np.isnan(tau) else float(tau))
