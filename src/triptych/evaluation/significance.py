"""What a comparison of systems on the same users may claim.

The user is the unit: each system has one value for each user, and users are what another sample would
replace. Differences are taken user by user, so that easy and hard users weigh on neither side.

A claim needs three things beside the difference: how far it might be off (an interval), how surprising it
would be without a cause (a p-value, corrected for all that were looked at), and, where nothing was found, how
large a difference would have been needed to be found.

Letters: n users, S systems, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from triptych.data.arrays import FloatArray
from triptych.data.split import Rng
from triptych.errors import ConfigError, DataError, ShapeError, nearest

N_RESAMPLES = 9_999
"""One less than a round number: then R + 1 divides into equal parts, and the interval ends on one."""
_GRID_BITS = 34
"""Values are counted in steps of 2^-34 of the largest: sums over 2^18 users stay whole numbers below 2^53."""
_FEW = 13
"""Users that differ, up to which all choices of signs are gone through."""
_BLOCK_ENTRIES = 1 << 21
"""Counts of resampled users held at once: 2 million, 16 MiB."""


@dataclass(frozen=True)
class Comparison:
    """One system beside another on the same users, in plain JSON values (`dataclasses.asdict`).

    Args:
        metric: what was measured, as in "recall@20".
        baseline: one system.
        system: the other.
        n_users: how many users both were measured on.
        n_differing: for how many of them the two differ; of a few, nothing can be said.
        mean_baseline: mean over users and seeds.
        mean_system: the same of the other.
        spread_baseline: standard deviation over seeds of the mean over users; None of a single seed.
        spread_system: the same of the other.
        difference: mean_system - mean_baseline.
        interval: from where to where the difference may lie at level 1 - alpha: bootstrap percentiles.
        p_bootstrap: two-sided, of no difference in mean; at most alpha only where the interval leaves out 0.
        p_wilcoxon: two-sided, of differences that lie as much above 0 as below: a second opinion, which a few
            users with large differences cannot sway. Not corrected.
        p_corrected: p_bootstrap after Holm's correction for the family.
        detectable: the smallest difference that these users would have shown with the asked-for power.
    """

    metric: str
    baseline: str
    system: str
    n_users: int
    n_differing: int
    mean_baseline: float
    mean_system: float
    spread_baseline: float | None
    spread_system: float | None
    difference: float
    interval: tuple[float, float]
    p_bootstrap: float
    p_wilcoxon: float
    p_corrected: float
    detectable: float


class Bootstrap(NamedTuple):
    """An interval of a mean difference, and how surprising the difference is if there is none."""

    interval: tuple[float, float]
    p: float


def compare_systems(
    values: Mapping[str, FloatArray],
    *,
    metric: str,
    baseline: str | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
    n_resamples: int = N_RESAMPLES,
    rng: Rng = 0,
) -> list[Comparison]:
    """Compare systems by their values for the same users; the comparisons made are one family for Holm.

    Each user's values are averaged over seeds first. Trainings of one system on one split see the same users
    and the same test items: counted as users of their own they would pretend to more data than there is.
    What is compared is then the expected training of each system, and what of a seed's luck differs from
    user to user is part of the error. What luck all users of a seed share is not: the interval speaks of
    other users, not of other seeds, so that a difference below the spread over seeds proves little.

    All pairs share their resamples, which depend on nothing but `rng` and n: what is said of two systems does
    not change with who else takes part.

    Args:
        values: system -> (seeds, n) or (n,) float64, users in the same order everywhere; systems may differ
            in how many seeds they have.
        metric: what the values are, as in "recall@20".
        baseline: the system that each other is compared with; None compares all pairs, where the one named
            first is the baseline.
        alpha: level of the interval and of the detectable difference.
        power: of the detectable difference.
        n_resamples: R.
        rng: a seed or generator for the resamples.

    Raises:
        ConfigError: the baseline is none of the systems, there are fewer than two systems, or R is too small
            for alpha.
        DataError: there are fewer than two users, or a value is NaN or infinite.
        ShapeError: systems have values for different numbers of users.
    """
    by_seed = {name: np.atleast_2d(np.asarray(of_system, np.float64)) for name, of_system in values.items()}
    pairs = _pairs(list(values), baseline)
    per_user = _aligned([of_system.mean(axis=0) for of_system in by_seed.values()])  # (n, S)
    place = {name: s for s, name in enumerate(values)}
    spread = {
        name: float(of_system.mean(axis=1).std(ddof=1)) if len(of_system) > 1 else None
        for name, of_system in by_seed.items()
    }
    steps, step = _on_grid(per_user)
    resampled = _resampled_means(steps, n_resamples, rng)  # (R, S)
    compared = []
    for first, second in pairs:
        a, b = place[first], place[second]
        steps_apart = _apart(per_user[:, a], per_user[:, b], step)
        bootstrap = _read_off(resampled[:, b] - resampled[:, a], alpha, step, steps_apart)
        means = float(per_user[:, a].mean()), float(per_user[:, b].mean())
        comparison = Comparison(
            metric=metric,
            baseline=first,
            system=second,
            n_users=len(per_user),
            n_differing=int(np.count_nonzero(steps_apart)),
            mean_baseline=means[0],
            mean_system=means[1],
            spread_baseline=spread[first],
            spread_system=spread[second],
            difference=means[1] - means[0],
            interval=bootstrap.interval,
            p_bootstrap=bootstrap.p,
            p_wilcoxon=_signed_ranks(steps_apart),
            p_corrected=bootstrap.p,
            detectable=detectable_difference(per_user[:, a], per_user[:, b], alpha=alpha, power=power),
        )
        compared.append(comparison)
    return correct_family(compared)


def correct_family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the bootstrap's p-values for all comparisons that were looked at together.

    `compare_systems` does so for its own; a table of several metrics or data sets is one larger family.
    """
    corrected = holm([comparison.p_bootstrap for comparison in comparisons]).tolist()
    return [replace(one, p_corrected=p) for one, p in zip(comparisons, corrected, strict=True)]


def paired_bootstrap(
    baseline: FloatArray,
    system: FloatArray,
    *,
    alpha: float = 0.05,
    n_resamples: int = N_RESAMPLES,
    rng: Rng = 0,
) -> Bootstrap:
    """Draw n users with replacement, R times, and see where the mean difference of the drawn ones lies.

    With the R mean differences in order and h = alpha (R + 1) / 2, the interval goes from the h-th to the
    h-th from the end. p = 2 (1 + c) / (R + 1), where c counts the mean differences on the rarer side of 0 and
    those at 0: the level at which the interval would just reach 0. So p is at most alpha only where the
    interval leaves 0 out; it is never below 2 / (R + 1). Of m users that differ no paired test can say less
    than 2^(1 - m), the chance that all differ in one direction by the flip of coins: p is never below that
    either. The interval takes some tens of users that differ to be trusted.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 15; Davison and
    Hinkley, Bootstrap Methods and their Application (1997), for R + 1.

    Args:
        baseline: (n,) value of each user.
        system: (n,) of the same users.
        alpha: 1 - alpha is the level of the interval.
        n_resamples: R.
        rng: a seed or generator.

    Cost: n R draws, 2,000,000,000 for 200,000 users, and 16 MiB, or 8 n bytes where that is more.
    """
    steps, step = _on_grid(_aligned([baseline, system]))
    steps_apart = steps[:, 1:] - steps[:, :1]
    return _read_off(_resampled_means(steps_apart, n_resamples, rng)[:, 0], alpha, step, steps_apart)


def wilcoxon(baseline: FloatArray, system: FloatArray) -> float:
    """Give the two-sided p-value of the signed-rank test: 1 if no user differs.

    Users without a difference count when ranks are given and drop out after: most users find nothing with
    either system, and say so.

    Source: Wilcoxon (1945); Pratt (1959) on zeros. Exact where up to 13 users differ; else as
    `scipy.stats.wilcoxon` has it, exact up to 50 users without ties, and by a normal distribution beyond.

    Args:
        baseline: (n,) value of each user.
        system: (n,) of the same users.
    """
    per_user = _aligned([baseline, system])
    return _signed_ranks(_apart(per_user[:, 0], per_user[:, 1], _on_grid(per_user)[1]))


def holm(p_values: ArrayLike) -> FloatArray:
    """Correct p-values so that the chance of any false claim in the family stays below the level.

    The i-th smallest of m is multiplied by m - i + 1 and is at least what the one before became.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).

    Args:
        p_values: (m,) in [0, 1].

    Returns: (m,) in the given order.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return corrected


def detectable_difference(
    baseline: FloatArray, system: FloatArray, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Say how large a true difference must be to be found with the given power at the given level.

    (z(1 - alpha / 2) + z(power)) s / sqrt(n), where z are quantiles of the normal distribution and s is the
    standard deviation of the users' differences. A "no difference" only speaks against larger ones.
    One test alone: a family's correction asks for more.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.

    Args:
        baseline: (n,) value of each user.
        system: (n,) of the same users.
        alpha: two-sided level.
        power: chance of finding it.
    """
    aligned = _aligned([baseline, system])
    deviation = float((aligned[:, 1] - aligned[:, 0]).std(ddof=1))
    quantiles: FloatArray = stats.norm.ppf([1 - alpha / 2, power])
    return float(quantiles.sum()) * deviation / math.sqrt(len(aligned))


def _pairs(systems: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is not None and baseline not in systems:
        raise ConfigError(
            f"the baseline {baseline!r}",
            wanted="one of the compared systems",
            fix=nearest(baseline, systems),
        )
    if len(systems) < 2:
        raise ConfigError(
            f"{len(systems)} systems to compare", wanted="at least two", fix="Give the values of another one"
        )
    if baseline is None:
        return list(combinations(systems, 2))
    return [(baseline, system) for system in systems if system != baseline]


def _aligned(columns: Sequence[FloatArray]) -> FloatArray:
    """Put the values of systems beside each other: (n, S)."""
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ShapeError(
            f"systems with values for {' and '.join(f'{n:,}' for n in sorted(lengths))} users",
            wanted="the same users everywhere",
            fix="Measure all systems on the same part of the same split",
        )
    per_user = np.stack(columns, axis=1).astype(np.float64)
    if len(per_user) < 2 or not np.isfinite(per_user).all():
        n_known = int(np.isfinite(per_user).all(axis=1).sum())
        raise DataError(
            f"{len(per_user):,} users, {n_known:,} of them with finite values of all systems",
            wanted="at least two users, and a finite value of each",
            fix="Leave out users whom a system has no value for",
        )
    return per_user


def _on_grid(values: FloatArray) -> tuple[FloatArray, float]:
    """Count values in whole steps, so that equal ones are equal however they were added up.

    Means over seeds that should agree differ in the last bits, and a test by ranks would take that for a
    difference. Sums of steps are exact in any order; a mean difference is known to within one step.
    """
    exponent = max(math.frexp(float(np.abs(values).max()))[1], -900)  # no step of 0
    step = 2.0 ** (exponent - _GRID_BITS)
    return np.rint(values / step), step


def _apart(baseline: FloatArray, system: FloatArray, step: float) -> FloatArray:
    """Count differences in whole steps, so that equal ones share a rank.

    Were values counted first, of thirds 2/3 - 1/3 and 1/3 - 0 would be a step apart.
    """
    return np.rint((system - baseline) / step)


def _resampled_means(values: FloatArray, n_resamples: int, rng: Rng) -> FloatArray:
    """Average values (n, S) over n users drawn with replacement: (R, S)."""
    generator, n = np.random.default_rng(rng), len(values)
    sums = np.empty((n_resamples, values.shape[1]))
    for block in np.array_split(sums, math.ceil(n_resamples * n / _BLOCK_ENTRIES)):
        counts = np.empty((len(block), n))
        for row in counts:
            row[:] = np.bincount(generator.integers(n, size=n, dtype=np.int32), minlength=n)
        np.matmul(counts, values, out=block)
    return sums / n


def _read_off(means: FloatArray, alpha: float, step: float, differences: FloatArray) -> Bootstrap:
    """Find the interval and p in resampled means (R,) of differences (n,), all of them counted in steps."""
    n_places = len(means) + 1
    place = math.floor(alpha / 2 * n_places * (1 + 1e-12))  # 0.025 * 10,000 is 250, whatever floats say
    if place < 1:
        raise ConfigError(
            f"{len(means):,} resamples for an interval at level {1 - alpha:g}",
            wanted=f"at least {math.ceil(2 / alpha) - 1:,}",
            fix="Draw more",
        )
    ordered = np.sort(np.where(np.abs(means) <= 1, 0.0, means))  # the grid tells no smaller ones from none
    rarer = min(int(np.count_nonzero(ordered <= 0)), int(np.count_nonzero(ordered >= 0)))
    return Bootstrap(
        interval=(float(ordered[place - 1]) * step, float(ordered[-place]) * step),
        p=min(1.0, max(2 * (1 + rarer) / n_places, _least_p(differences))),
    )


def _signed_ranks(differences: FloatArray) -> float:
    n_different = int(np.count_nonzero(differences))
    if n_different > _FEW:
        return max(float(stats.wilcoxon(differences, zero_method="pratt").pvalue), _least_p(differences))
    ranks = stats.rankdata(np.abs(differences))
    above = float(ranks[differences > 0].sum())
    signs = np.arange(1 << n_different)[:, None] >> np.arange(n_different) & 1  # all there are
    sums = signs @ ranks[differences != 0]
    return min(1.0, 2.0 * float(min((sums >= above).mean(), (sums <= above).mean())))


def _least_p(differences: FloatArray) -> float:
    """Say the least that any paired test can say of so many users that differ."""
    return min(1.0, 2.0 ** (1 - int(np.count_nonzero(differences))))
