"""What a comparison may claim, on data whose answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from triptych.errors import ConfigError, DataError, ShapeError
from triptych.evaluation import significance
from triptych.evaluation.significance import (
    compare_systems,
    correct_family,
    detectable_difference,
    holm,
    paired_bootstrap,
    wilcoxon,
)


def metric_values(rng, n, shift=0.0):
    """Values such as recalls: many zeros, few others, and a shift of some."""
    found = rng.binomial(1, 0.3 + shift, size=n) * rng.integers(1, 4, size=n) / 3
    return found.astype(np.float64)


def slow_bootstrap(baseline, system, alpha, n_resamples, seed):
    """Resample by index, one mean after the other."""
    rng = np.random.default_rng(seed)
    differences = system - baseline
    n = len(differences)
    means = sorted(
        math.fsum(differences[user] for user in rng.integers(n, size=n, dtype=np.int32)) / n
        for _ in range(n_resamples)
    )
    place = int(alpha * (n_resamples + 1) / 2 + 1e-9)
    below, above = sum(mean <= 1e-12 for mean in means), sum(mean >= -1e-12 for mean in means)
    p = min(1.0, 2 * (1 + min(below, above)) / (n_resamples + 1))
    return (means[place - 1], means[len(means) - place]), p


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_bootstrap_agrees_with_a_slow_one(alpha, shift):
    rng = np.random.default_rng(1)
    baseline, system = metric_values(rng, 40), metric_values(rng, 40, shift)
    found = paired_bootstrap(baseline, system, alpha=alpha, n_resamples=199, rng=5)
    interval, p = slow_bootstrap(baseline, system, alpha, 199, 5)
    assert found.interval == pytest.approx(interval, abs=1e-9)
    assert found.p == pytest.approx(p)


def test_the_bootstrap_by_hand():
    # Two users, one better by 2 and one worse by 1: the mean is -1, 1/2, 1/2 or 2, each with chance 1/4.
    interval, p = paired_bootstrap(np.array([0.0, 1.0]), np.array([2.0, 0.0]), alpha=0.4)
    assert interval == (-1.0, 2.0)
    assert p == pytest.approx(0.5, abs=0.02)


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    baseline, system = metric_values(rng, 30), metric_values(rng, 30, 0.1)
    whole = paired_bootstrap(baseline, system, n_resamples=99)
    for entries in (1, 70, 1000):  # below a resample, two of them, a few
        monkeypatch.setattr(significance, "_BLOCK_ENTRIES", entries)
        assert paired_bootstrap(baseline, system, n_resamples=99) == whole


def test_systems_that_agree_on_every_user_do_not_differ():
    values = metric_values(np.random.default_rng(0), 50)
    assert paired_bootstrap(values, values, n_resamples=199) == ((0.0, 0.0), 1.0)
    assert wilcoxon(values, values) == 1.0
    assert detectable_difference(values, values) == 0.0


def test_seeds_that_average_to_the_same_do_not_differ_in_the_last_bit():
    one = np.array([[0.1, 0.7, 0.3], [0.2, 0.1, 0.3], [0.3, 0.4, 0.6]])
    other = one[[1, 2, 0]]
    assert (one.mean(axis=0) != other.mean(axis=0)).any()
    (found,) = compare_systems({"one": one, "other": other}, metric="m", n_resamples=99)
    assert found.interval == (0.0, 0.0)
    assert (found.p_bootstrap, found.p_wilcoxon, found.p_corrected) == (1.0, 1.0, 1.0)


def test_the_p_value_is_calibrated_without_a_difference():
    """About alpha of all comparisons of equals are found to differ, and the interval covers 0 in the rest."""
    rng = np.random.default_rng(3)
    found = [
        paired_bootstrap(metric_values(rng, 60), metric_values(rng, 60), n_resamples=199, rng=rng)
        for _ in range(600)
    ]
    p = np.array([bootstrap.p for bootstrap in found])
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        error = math.sqrt(level * (1 - level) / len(p))
        assert abs((p <= level).mean() - level) < 0.02 + 3 * error
    outside = np.array([low > 0 or high < 0 for (low, high), _ in found])
    np.testing.assert_array_equal(outside, p <= 0.05)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(4)
    truth = 0.1 * 2 / 3  # a tenth more finds, worth 1/3, 2/3 or 1 each
    covered = []
    for _ in range(500):
        (low, high), _ = paired_bootstrap(
            metric_values(rng, 80), metric_values(rng, 80, 0.1), alpha=0.2, n_resamples=99, rng=rng
        )
        covered.append(low <= truth <= high)
    assert np.mean(covered) == pytest.approx(0.8, abs=0.06)


def test_a_planted_difference_is_found():
    rng = np.random.default_rng(5)
    baseline = metric_values(rng, 800)
    system = np.where(rng.random(800) < 0.1, 1.0, baseline)
    interval, p = paired_bootstrap(baseline, system, n_resamples=999)
    assert p == 2 / 1000  # no resample comes near 0
    assert 0 < interval[0] < (system - baseline).mean() < interval[1]
    assert wilcoxon(baseline, system) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(14, 40), st.just(2)), elements=st.floats(0, 1)),
    st.integers(0, 1000),
)
def test_exchanging_the_systems_turns_the_interval_round_and_no_more(values, seed):
    one, other = values.T
    forth = paired_bootstrap(one, other, n_resamples=99, rng=seed)
    back = paired_bootstrap(other, one, n_resamples=99, rng=seed)
    assert forth.interval == (-back.interval[1], -back.interval[0])
    assert forth.p == back.p
    assert 0 < forth.p <= 1
    outside, n_differing = not forth.interval[0] <= 0 <= forth.interval[1], np.sum(np.abs(one - other) > 1e-9)
    assert (forth.p <= 0.05) == (outside and 2.0 ** (1 - n_differing) <= 0.05)
    assert wilcoxon(one, other) == pytest.approx(wilcoxon(other, one), abs=1e-12)
    assert 0 <= wilcoxon(one, other) <= 1
    assert detectable_difference(one, other) == detectable_difference(other, one) >= 0


def test_the_order_of_users_changes_nothing_but_noise():
    rng = np.random.default_rng(6)
    baseline, system = metric_values(rng, 300), metric_values(rng, 300, 0.08)
    order = rng.permutation(300)
    here = paired_bootstrap(baseline, system)
    there = paired_bootstrap(baseline[order], system[order])
    assert here.p == pytest.approx(there.p, abs=0.01)
    assert here.interval == pytest.approx(there.interval, abs=0.01)
    assert wilcoxon(baseline, system) == pytest.approx(wilcoxon(baseline[order], system[order]), rel=1e-12)


def test_wilcoxon_by_hand():
    # Differences 1, -2, 3, 4, 5, 6: rank sum 2 below 0, which 3 of 64 choices of signs do not exceed.
    differences = np.array([1.0, -2.0, 3.0, 4.0, 5.0, 6.0])
    assert wilcoxon(np.zeros(6), differences) == pytest.approx(2 * 3 / 64)


@pytest.mark.parametrize(
    "differences",
    [[1.0, -1, 2, 2, -3], [0.0, 1, -2, 2, 0, 4], [0.0, 5.0], [0.0, 0, 3, -3], [1.0, 2, 3, 4, 5, -6, 7]],
)
def test_where_few_users_differ_wilcoxon_is_what_going_through_all_signs_gives(differences):
    ours = wilcoxon(np.zeros(len(differences)), np.array(differences))
    theirs = stats.wilcoxon(differences, zero_method="pratt", method=stats.PermutationMethod())
    assert ours == pytest.approx(theirs.pvalue, rel=1e-12)


def test_users_without_a_difference_leave_few_that_differ_exact():
    differences = np.array([0.0] * 60 + [1.0, 2.0, 2.0])  # all three above: one choice of signs in eight
    assert wilcoxon(np.zeros(63), differences) == pytest.approx(2 / 8)


def test_wilcoxon_ranks_users_without_a_difference_and_drops_them_after():
    rng = np.random.default_rng(7)
    differences = np.concatenate([np.zeros(60), rng.choice([-2.0, -1.0, 1.0, 2.0, 3.0], size=40)])
    ranks = stats.rankdata(np.abs(differences))
    up, down = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    # each rank falls to either side with the chance 1/2
    z = (up - down) / math.sqrt((ranks[differences != 0] ** 2).sum())
    assert wilcoxon(np.zeros(100), differences) == pytest.approx(2 * NormalDist().cdf(-abs(z)), rel=1e-9)


def test_holm_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    # in order: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which is raised to the one before
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.7, 0.2]).tolist() == pytest.approx([1.0, 1.0, 0.6])
    assert holm([0.03]).tolist() == [0.03]
    assert holm([]).tolist() == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_lies_between_the_raw_value_and_bonferroni_and_keeps_the_order(p, random):
    corrected = holm(p)
    m = len(p)
    for raw, found in zip(p, corrected, strict=True):
        assert raw <= found <= min(1.0, m * raw)
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    assert corrected[order[0]] == min(1.0, m * p[order[0]])
    # rejected at a level: those before the first that fails its own share of it
    for level in (0.05, 0.3):
        kept = 0
        while kept < m and p[order[kept]] * (m - kept) <= level:
            kept += 1
        assert set(np.flatnonzero(corrected <= level)) == set(order[:kept])
    shuffled = list(range(m))
    random.shuffle(shuffled)
    np.testing.assert_array_equal(holm([p[at] for at in shuffled]), corrected[shuffled])


def test_the_detectable_difference_by_hand():
    baseline, system = np.zeros(4), np.array([1.0, 0.0, 1.0, 0.0])  # deviation sqrt(1/3)
    expected = (1.959964 + 0.841621) * math.sqrt(1 / 3) / 2
    assert detectable_difference(baseline, system) == pytest.approx(expected, rel=1e-6)
    assert detectable_difference(baseline, system, alpha=0.01, power=0.9) > expected


def test_the_detectable_difference_is_found_as_often_as_asked_for():
    rng = np.random.default_rng(8)
    n, found, power = 100, [], 0.8
    planned = (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)) * math.sqrt(2) / math.sqrt(n)
    sizes = []
    for _ in range(400):
        baseline, noise = rng.normal(size=(2, n))
        sizes.append(detectable_difference(baseline, noise, power=power))
        found.append(paired_bootstrap(baseline, noise + planned, n_resamples=199, rng=rng).p <= 0.05)
    assert np.mean(sizes) == pytest.approx(planned, rel=0.02)
    assert np.mean(found) == pytest.approx(power, abs=0.06)


def three_systems(n=120):
    rng = np.random.default_rng(9)
    easy = metric_values(rng, n)
    return {
        "pop": np.stack([easy * rng.binomial(1, 0.7, n) for _ in range(2)]),
        "old": np.stack([easy, *(metric_values(rng, n) for _ in range(2))]),
        "new": np.minimum(easy + 0.2, 1.0),  # one seed, as a plain vector
    }


def test_all_pairs_are_compared_or_all_with_the_baseline():
    values = three_systems()
    pairs = [(c.baseline, c.system) for c in compare_systems(values, metric="recall@20", n_resamples=99)]
    assert pairs == [("pop", "old"), ("pop", "new"), ("old", "new")]
    against = compare_systems(values, metric="recall@20", baseline="old", n_resamples=99)
    assert [(c.baseline, c.system) for c in against] == [("old", "pop"), ("old", "new")]
    assert {c.metric for c in against} == {"recall@20"}


def test_a_comparison_says_what_its_parts_say():
    values = three_systems()
    found = compare_systems(values, metric="m", n_resamples=399, rng=3, alpha=0.1, power=0.9)
    mean = {name: np.atleast_2d(v).mean(axis=0) for name, v in values.items()}
    for one in found:
        baseline, system = mean[one.baseline], mean[one.system]
        bootstrap = paired_bootstrap(baseline, system, n_resamples=399, rng=3, alpha=0.1)
        assert one.p_bootstrap == bootstrap.p  # whoever else takes part
        assert one.interval == pytest.approx(bootstrap.interval, abs=1e-9)
        assert one.p_wilcoxon == pytest.approx(wilcoxon(baseline, system))
        assert one.detectable == detectable_difference(baseline, system, alpha=0.1, power=0.9)
        assert one.mean_baseline == pytest.approx(values[one.baseline].mean())
        assert one.mean_system == pytest.approx(values[one.system].mean())
        assert one.difference == one.mean_system - one.mean_baseline
        assert one.n_users == 120
    assert [one.p_corrected for one in found] == holm([one.p_bootstrap for one in found]).tolist()
    spread = float(np.std(values["pop"].mean(axis=1), ddof=1))
    assert found[0].spread_baseline == pytest.approx(spread)
    assert found[1].spread_system is None
    again = compare_systems(values, metric="m", n_resamples=399, rng=3, alpha=0.1, power=0.9)
    assert again == found
    assert json.loads(json.dumps([asdict(one) for one in found]))[0]["p_corrected"] == found[0].p_corrected


def test_more_seeds_do_not_pretend_to_more_users():
    values = three_systems()
    many = {name: np.tile(np.atleast_2d(v), (4, 1)) for name, v in values.items()}
    for few, more in zip(
        compare_systems(values, metric="m", n_resamples=199),
        compare_systems(many, metric="m", n_resamples=199),
        strict=True,
    ):
        assert (more.p_bootstrap, more.n_users) == (few.p_bootstrap, few.n_users)
        assert more.interval == pytest.approx(few.interval, abs=1e-9)


def test_a_larger_family_is_corrected_as_one():
    values = three_systems()
    tables = [compare_systems(values, metric=m, n_resamples=199, rng=s) for s, m in enumerate("ab")]
    joint = correct_family([one for table in tables for one in table])
    raw = [one.p_bootstrap for table in tables for one in table]
    assert [one.p_corrected for one in joint] == holm(raw).tolist()
    assert [one.p_bootstrap for one in joint] == raw
    assert all(j.p_corrected >= one.p_corrected for j, one in zip(joint[:3], tables[0], strict=True))


def test_what_cannot_be_compared_is_refused():
    values = three_systems()
    with pytest.raises(ConfigError, match="Did you mean 'old'"):
        compare_systems(values, metric="m", baseline="odl")
    with pytest.raises(ConfigError, match="1 systems"):
        compare_systems({"one": values["new"]}, metric="m")
    with pytest.raises(ShapeError, match="119 and 120 users"):
        compare_systems({**values, "new": values["new"][1:]}, metric="m")
    with pytest.raises(ConfigError, match="at least 39"):
        paired_bootstrap(values["new"], values["new"], n_resamples=38)
    assert paired_bootstrap(values["new"], values["new"], n_resamples=39).p == 1.0
    unknown = values["new"].copy()
    unknown[3] = np.nan
    with pytest.raises(DataError, match="120 users, 119 of them with finite values"):
        compare_systems({**values, "new": unknown}, metric="m")
    with pytest.raises(DataError, match="at least two users"):
        wilcoxon(np.ones(1), np.zeros(1))


@pytest.mark.parametrize("n_differing", [1, 2, 3, 5, 8])
def test_p_claims_no_more_than_the_flip_of_a_coin_for_each_user_that_differs(n_differing: int):
    baseline, system = np.zeros(1000), np.zeros(1000)
    system[:n_differing] = 0.5
    least = 2 * 0.5**n_differing
    assert paired_bootstrap(baseline, system, n_resamples=999).p >= least
    (found,) = compare_systems({"a": baseline, "b": system}, metric="m", n_resamples=999)
    assert found.p_bootstrap == paired_bootstrap(baseline, system, n_resamples=999).p
    assert found.n_differing == n_differing
    assert found.p_wilcoxon >= least
    assert found.n_users == 1000


def test_a_handful_of_users_proves_nothing():
    (found,) = compare_systems({"a": np.zeros(3), "b": np.array([0.1, 0.4, 0.2])}, metric="m")
    assert found.interval[0] > 0
    assert found.p_bootstrap == found.p_corrected == 0.25


def test_equal_differences_of_thirds_share_a_rank():
    """Three seeds and one test item a user give thirds, which no grid of halves holds: 2/3 - 1/3 is 1/3."""
    third = 1 / 3
    assert wilcoxon(np.full(13, third), np.array([2 * third] * 9 + [0.0] * 4)) == pytest.approx(
        2 * sum(math.comb(13, k) for k in range(5)) / 2**13
    )
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 4, 400) / 3 for _ in range(2))
    whole = wilcoxon(np.rint(3 * a), np.rint(3 * b))
    assert wilcoxon(a, b) == pytest.approx(whole)
    other = rng.integers(0, 4, 400) * 100.0
    (alone,), among = (
        compare_systems(values, metric="recall@20")
        for values in ({"a": a, "b": b}, {"a": a, "b": b, "c": other})
    )
    assert alone.p_wilcoxon == pytest.approx(whole)
    assert among[0].p_wilcoxon == pytest.approx(whole)
