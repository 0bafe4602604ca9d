import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import ndcg_score

from triptych.errors import ConfigError
from triptych.evaluation.metrics import (
    METRICS,
    average_precision,
    hit,
    ndcg,
    parse_metric,
    per_user,
    precision,
    recall,
    reciprocal_rank,
)


def lists(*rows):
    return np.array([[char == "x" for char in row] for row in rows])


def log2(place):
    """The discount of a place, counted from 1."""
    return 1 / np.log2(place + 1)


HITS = lists("x.x..", ".....", "xxxxx", "....x", ".xx..")
N_RELEVANT = np.array([3, 2, 9, 1, 2])


def test_recall_by_hand():
    assert recall(HITS, N_RELEVANT).tolist() == [2 / 3, 0, 5 / 9, 1, 1]


def test_precision_by_hand():
    assert precision(HITS, N_RELEVANT).tolist() == [0.4, 0, 1, 0.2, 0.4]


def test_hit_by_hand():
    assert hit(HITS, N_RELEVANT).tolist() == [1, 0, 1, 1, 1]


def test_reciprocal_rank_by_hand():
    assert reciprocal_rank(HITS, N_RELEVANT).tolist() == [1, 0, 1, 1 / 5, 1 / 2]


def test_ndcg_by_hand():
    expected = [
        (log2(1) + log2(3)) / (log2(1) + log2(2) + log2(3)),  # three could have been found
        0,
        1,  # five of nine: no list of five could hold more
        log2(5) / log2(1),
        (log2(2) + log2(3)) / (log2(1) + log2(2)),
    ]
    np.testing.assert_allclose(ndcg(HITS, N_RELEVANT), expected, rtol=1e-14)


def test_average_precision_by_hand():
    expected = [(1 / 1 + 2 / 3) / 3, 0, 1, (1 / 5) / 1, (1 / 2 + 2 / 3) / 2]
    np.testing.assert_allclose(average_precision(HITS, N_RELEVANT), expected, rtol=1e-14)


def test_every_metric_at_every_length():
    values = per_user(HITS, N_RELEVANT, (1, 3, 5))
    assert set(values) == {f"{name}@{k}" for name in METRICS for k in (1, 3, 5)}
    assert values["recall@3"].tolist() == [2 / 3, 0, 3 / 9, 0, 1]
    assert values["precision@1"].tolist() == [1, 0, 1, 0, 0]
    assert values["mrr@3"].tolist() == [1, 0, 1, 0, 1 / 2]
    for k in (1, 3, 5):
        for name, metric in METRICS.items():
            assert values[f"{name}@{k}"].tolist() == metric(HITS[:, :k], N_RELEVANT).tolist()
    assert all(part.dtype == np.float64 and part.shape == (5,) for part in values.values())


def random_world(seed, n_users=40, n_items=30):
    """A random order of the items for each user, and which of them are relevant."""
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(n_items) for _ in range(n_users)])
    relevant = np.zeros((n_users, n_items), dtype=bool)
    for user in range(n_users):
        relevant[user, rng.choice(n_items, rng.integers(1, 16), replace=False)] = True
    return ranked, relevant


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_ir_measures(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not ours to mend
        import ir_measures
        from ir_measures import AP, RR, P, R, Success, nDCG
    ranked, relevant = random_world(seed)
    n_users, n_items = ranked.shape
    n_relevant = relevant.sum(axis=1)
    hits = np.take_along_axis(relevant, ranked, axis=1)
    qrels = [
        ir_measures.Qrel(str(user), str(item), 1)
        for user in range(n_users)
        for item in np.flatnonzero(relevant[user])
    ]
    for k in (1, 5, 20):
        run = [
            ir_measures.ScoredDoc(str(user), str(ranked[user, place]), float(n_items - place))
            for user in range(n_users)
            for place in range(k)  # the list ends here, so that RR needs no cut
        ]
        theirs = {
            "ndcg": nDCG @ k,
            "recall": R @ k,
            "precision": P @ k,
            "mrr": RR,
            "map": AP @ k,
            "hit": Success @ k,
        }
        ours = per_user(hits, n_relevant, (k,))
        found = {name: np.full(n_users, np.nan) for name in theirs}
        names = {str(measure): name for name, measure in theirs.items()}
        for value in ir_measures.iter_calc(list(theirs.values()), qrels, run):
            found[names[str(value.measure)]][int(value.query_id)] = value.value
        found["map"] *= n_relevant / np.minimum(n_relevant, k)  # they divide by n, we by what K allows
        for name in METRICS:
            np.testing.assert_allclose(ours[f"{name}@{k}"], found[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("k", [1, 3, 10, 30])
def test_ndcg_agrees_with_scikit_learn(k):
    ranked, relevant = random_world(9)
    n_items = ranked.shape[1]
    scores = np.empty(ranked.shape)
    np.put_along_axis(scores, ranked, np.broadcast_to(np.arange(n_items, 0.0, -1), ranked.shape), axis=1)
    hits = np.take_along_axis(relevant, ranked, axis=1)[:, :k]
    ours = ndcg(hits, relevant.sum(axis=1)).mean()
    assert ours == pytest.approx(ndcg_score(relevant.astype(int), scores, k=k), abs=1e-12)


@st.composite
def measured_lists(draw):
    """Any hits, with at least as many relevant items as there are hits."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 25)))
    hits = draw(hnp.arrays(bool, shape))
    more = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, 30)))
    return hits, np.maximum(hits.sum(axis=1) + more, 1)


@settings(max_examples=150, deadline=None)
@given(measured_lists())
def test_all_metrics_lie_between_zero_and_one(case):
    hits, n_relevant = case
    for metric in METRICS.values():
        values = metric(hits, n_relevant)
        assert values.shape == (len(hits),)
        assert (values >= 0).all()
        assert (values <= 1 + 1e-12).all()
        assert (values[~hits.any(axis=1)] == 0).all()
        assert (values[hits.any(axis=1)] > 0).all()


@settings(max_examples=100, deadline=None)
@given(measured_lists())
def test_a_longer_list_finds_no_less(case):
    hits, n_relevant = case
    values = per_user(hits, n_relevant, range(1, hits.shape[1] + 1))
    for k in range(1, hits.shape[1]):
        for name in ("recall", "hit", "mrr"):
            assert (values[f"{name}@{k}"] <= values[f"{name}@{k + 1}"]).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 70))
def test_no_list_beats_the_one_with_all_hits_first(k, n):
    found = min(n, k)
    hits = (np.arange(k) < found)[None]
    n_relevant = np.array([n])
    for name in ("ndcg", "map", "mrr", "hit"):
        assert METRICS[name](hits, n_relevant)[0] == pytest.approx(1.0, abs=1e-12)
    assert recall(hits, n_relevant)[0] == found / n
    assert precision(hits, n_relevant)[0] == found / k


def test_the_perfect_list_is_worth_exactly_one():
    for k in (10, 20, 50, 100):
        for n in range(1, k + 2):
            assert ndcg((np.arange(k) < n)[None], np.array([n]))[0] == 1.0


@settings(max_examples=100, deadline=None)
@given(measured_lists(), st.data())
def test_a_hit_further_up_is_never_worse(case, data):
    hits, n_relevant = case
    place = data.draw(st.integers(0, hits.shape[1] - 1))
    better = hits.copy()
    better[:, : place + 1] = -np.sort(-hits[:, : place + 1].astype(int), axis=1) > 0  # hits first
    for metric in METRICS.values():
        assert (metric(better, n_relevant) >= metric(hits, n_relevant) - 1e-12).all()


def test_a_metrics_name_is_read():
    assert parse_metric("recall@20") == ("recall", 20)
    assert parse_metric("map@1") == ("map", 1)


@pytest.mark.parametrize(
    "text",
    [
        "recall",
        "recall@",
        "recall@0",
        "recall@-5",
        "recall@2.5",
        "@20",
        "recal@20",
        "Recall@20",
        "recall@²",
        "",
    ],
)
def test_what_is_no_metric_is_refused(text):
    with pytest.raises(ConfigError, match="recall@20"):
        parse_metric(text)


def test_a_misspelt_metric_is_helped():
    with pytest.raises(ConfigError, match="Did you mean 'ndcg'"):
        parse_metric("ndgc@20")
