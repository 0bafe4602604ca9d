from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from triptych.training.sampler import KnownPairs, TripletSampler


def pairs_of(table):
    """The pairs of a (U, I) table of booleans, sorted by user and then item."""
    user, item = np.asarray(table).nonzero()
    return torch.from_numpy(user), torch.from_numpy(item)


def random_table(seed, n_users=30, n_items=40, density=0.2):
    """Pairs that leave users 4 and 5 and items 0, 7 and the last one alone."""
    table = np.random.default_rng(seed).random((n_users, n_items)) < density
    table[[4, 5]] = False
    table[:, [0, 7, n_items - 1]] = False
    return table


def sampler_of(table, **options):
    return TripletSampler(*pairs_of(table), *table.shape, **options)


def listed(batch):
    return [part.tolist() for part in batch]


def chi_square(counts, expected):
    counts = np.asarray(counts)
    return float((((counts - expected) ** 2) / expected).sum())


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_every_pair_comes_exactly_once_an_epoch(batch_size):
    table = random_table(0)
    sampler = sampler_of(table, batch_size=batch_size, seed=3)
    for _ in range(2):
        batches = list(sampler.epoch())
        assert len(batches) == sampler.n_batches == -(-table.sum() // batch_size)
        assert all(len(batch.user) == batch_size for batch in batches[:-1])
        assert all(len(batch.user) == len(batch.pos) == len(batch.neg) for batch in batches)
        drawn = Counter(
            pair for batch in batches for pair in zip(batch.user.tolist(), batch.pos.tolist(), strict=True)
        )
        assert drawn == Counter(zip(*listed(pairs_of(table)), strict=True))


def test_pairs_are_shuffled_anew_each_epoch():
    sampler = sampler_of(random_table(0), batch_size=50)
    first, second = (torch.cat([batch.user for batch in sampler.epoch()]) for _ in range(2))
    assert not torch.equal(first, first.sort().values)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mode", ["pairs", "users"])
@pytest.mark.parametrize("density", [0.1, 0.6, 0.95])
def test_negatives_are_never_known(mode, density):
    table = random_table(1, density=density)
    table[0, 10:36] = False
    if mode == "pairs":
        table[:, 20] = False
    degree, pool = table.sum(axis=1), table.any(axis=0).sum() if mode == "pairs" else table.shape[1]
    sampler = sampler_of(table, batch_size=64, mode=mode)
    for _ in range(3):
        for batch in sampler.epoch():
            free = torch.from_numpy(degree < pool)[batch.user]
            known = torch.from_numpy(table)[batch.user, batch.neg]
            assert not bool((known & free).any())


def test_negatives_occur_in_training_when_pairs_are_visited():
    table = random_table(2)
    occurring = set(table.any(axis=0).nonzero()[0].tolist())
    assert len(occurring) == 37
    sampler = sampler_of(table, batch_size=64)
    drawn = {item for _ in range(10) for batch in sampler.epoch() for item in batch.neg.tolist()}
    assert drawn == occurring


def test_negatives_are_any_items_when_users_are_drawn():
    table = random_table(2)
    sampler = sampler_of(table, batch_size=16, mode="users")
    drawn = {item for _ in range(10) for batch in sampler.epoch() for item in batch.neg.tolist()}
    assert drawn == set(range(40))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_a_user_who_chose_everything_does_not_stop_the_epoch(mode):
    table = np.zeros((3, 5), dtype=bool)
    table[0] = True  # all there is
    table[1, :4] = True  # all but one
    table[2, 2] = True
    sampler = sampler_of(table, batch_size=4, mode=mode)
    for _ in range(20):
        for batch in sampler.epoch():
            assert bool(((batch.neg >= 0) & (batch.neg < 5)).all())
            assert set(batch.neg[batch.user == 1].tolist()) <= {4}
            assert 2 not in batch.neg[batch.user == 2].tolist()


@pytest.mark.timeout(30)
def test_all_items_that_occur_are_everything_there_is_to_draw():
    table = np.zeros((2, 6), dtype=bool)
    table[:, [1, 3]] = True  # both users chose all that occurs, though the catalogue holds more
    for batch in sampler_of(table, batch_size=3).epoch():
        assert set(batch.neg.tolist()) <= {1, 3}


@pytest.mark.timeout(30)
def test_one_free_item_among_many_is_found():
    table = np.zeros((2, 200), dtype=bool)
    table[0, :199] = True
    table[1, 199] = True
    for batch in sampler_of(table, batch_size=1000).epoch():
        assert batch.neg[batch.user == 0].unique().tolist() == [199]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.floats(0.05, 1.0), st.integers(0, 10**6))
def test_known_pairs_are_found_however_small_the_table(n_users, n_items, density, seed):
    table = np.random.default_rng(seed).random((n_users, n_items)) < density
    table[seed % n_users, seed % n_items] = True  # at least one pair
    user, item = pairs_of(table)
    all_users = torch.arange(n_users).repeat_interleave(n_items)
    all_items = torch.arange(n_items).repeat(n_users)
    for size in (1, 8, 1 << 24):  # with one place in the table every pair is a suspect
        known = KnownPairs(user, item, n_items, table_size=size)
        assert known.find(all_users, all_items).tolist() == np.flatnonzero(table).tolist()
        assert known.find(all_users[:0], all_items[:0]).tolist() == []


def test_without_pairs_nothing_is_known():
    nothing = torch.empty(0, dtype=torch.int64)
    assert KnownPairs(nothing, nothing, 5).find(torch.tensor([0]), torch.tensor([3])).tolist() == []


def test_users_who_chose_nearly_everything_do_not_hold_an_epoch_up():
    table = np.zeros((2, 3000), dtype=bool)
    table[0, :2998] = True
    table[1, 2998:] = True
    draws = []
    sampler = sampler_of(table, batch_size=10_000)
    draw = sampler._draw
    sampler._draw = lambda n: draws.append(n) or draw(n)
    (batch,) = sampler.epoch()
    assert len(draws) <= 65
    counts = torch.bincount(batch.neg[batch.user == 0], minlength=3000)
    assert counts[:2998].sum() == 0
    assert 1350 < counts[2998] < 1650  # 2,998 draws, half of them: sd 27


@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_negatives_are_uniform_over_what_a_user_did_not_choose(mode):
    table = np.zeros((3, 20), dtype=bool)
    table[0, 3:9] = True
    table[1] = True
    table[2, [0, 19]] = True
    sampler = sampler_of(table, batch_size=30, mode=mode, seed=1)
    counts = np.zeros((3, 20))
    for _ in range(800 if mode == "pairs" else 1600):
        for batch in sampler.epoch():
            np.add.at(counts, (batch.user.numpy(), batch.neg.numpy()), 1)
    for user in range(3):
        free = ~table[user] if not table[user].all() else table[user]
        assert counts[user][~free].sum() == 0
        n_drawn = counts[user].sum()
        assert n_drawn > 1000
        statistic = chi_square(counts[user][free], n_drawn / free.sum())
        assert statistic < chi2.ppf(1 - 1e-4, free.sum() - 1)


@pytest.mark.parametrize("mode", ["pairs", "users"])
@pytest.mark.parametrize("negatives", [0, 1])
def test_the_same_seed_draws_the_same_batches(mode, negatives):
    def epochs(seed):
        sampler = sampler_of(random_table(0), batch_size=32, mode=mode, negatives=negatives, seed=seed)
        return [listed(batch) for _ in range(3) for batch in sampler.epoch()]

    assert epochs(7) == epochs(7)
    assert epochs(7) != epochs(8)


@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_torchs_own_generator_plays_no_part(mode):
    def epoch():
        return [listed(batch) for batch in sampler_of(random_table(0), batch_size=32, mode=mode).epoch()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = epoch()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert epoch() == first


@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_a_restored_generator_goes_on_as_if_nothing_had_happened(mode):
    one = sampler_of(random_table(0), batch_size=32, mode=mode, seed=1)
    list(one.epoch())
    state = one.generator.get_state().clone()
    rest = [listed(batch) for _ in range(2) for batch in one.epoch()]
    other = sampler_of(random_table(0), batch_size=32, mode=mode, seed=99)
    other.generator.set_state(state)
    assert [listed(batch) for _ in range(2) for batch in other.epoch()] == rest


@pytest.mark.parametrize("batch_size", [5, 28])
def test_drawn_users_are_distinct_within_a_batch(batch_size):
    table = random_table(0)  # 28 users have pairs
    sampler = sampler_of(table, batch_size=batch_size, mode="users")
    batches = [batch for _ in range(3) for batch in sampler.epoch()]
    assert len(batches) == 3 * sampler.n_batches
    assert sampler.n_batches == table.sum() // batch_size + 1
    for batch in batches:
        assert len(batch.user) == batch_size == len(set(batch.user.tolist()))
        assert len(batch.pos) == len(batch.neg) == batch_size
        assert bool(torch.from_numpy(table)[batch.user, batch.pos].all())
    assert {user for batch in batches for user in batch.user.tolist()} == set(range(30)) - {4, 5}


def test_users_repeat_where_a_batch_is_larger_than_their_number():
    table = random_table(0)
    sampler = sampler_of(table, batch_size=29, mode="users")
    for batch in sampler.epoch():
        assert len(batch.user) == 29
        assert not {4, 5} & set(batch.user.tolist())
        assert bool(torch.from_numpy(table)[batch.user, batch.pos].all())


@pytest.mark.parametrize(("n_pairs", "batch_size", "n_batches"), [(10, 3, 4), (9, 3, 4), (2, 3, 1)])
def test_the_number_of_batches_of_users(n_pairs, batch_size, n_batches):
    table = np.zeros((5, 12), dtype=bool)
    table[0, :n_pairs] = True
    sampler = sampler_of(table, batch_size=batch_size, mode="users")
    assert sampler.n_batches == n_batches == len(list(sampler.epoch()))


def test_each_of_a_users_items_is_as_likely():
    table = np.zeros((2, 30), dtype=bool)
    table[0, 4:16] = True
    table[1, 29] = True
    sampler = sampler_of(table, batch_size=2, mode="users", seed=4)
    counts = np.zeros(30)
    for _ in range(500):
        for batch in sampler.epoch():
            np.add.at(counts, batch.pos[batch.user == 0].numpy(), 1)
    assert counts[4:16].sum() == counts.sum() > 3000
    assert chi_square(counts[4:16], counts.sum() / 12) < chi2.ppf(1 - 1e-4, 11)


@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_without_negatives_none_are_drawn(mode):
    table = random_table(0)
    for batch in sampler_of(table, batch_size=32, mode=mode, negatives=0).epoch():
        assert batch.neg.tolist() == []
        assert batch.neg.dtype == torch.int64
        assert bool(torch.from_numpy(table)[batch.user, batch.pos].all())


@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_the_training_pairs_stay_as_they_were(mode):
    user, item = pairs_of(random_table(0))
    before = user.clone(), item.clone()
    sampler = TripletSampler(user, item, 30, 40, batch_size=32, mode=mode)
    for batch in sampler.epoch():
        for part in batch:
            part.zero_()
    assert torch.equal(user, before[0])
    assert torch.equal(item, before[1])
