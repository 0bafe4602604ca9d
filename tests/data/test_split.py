from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.dataset import Dataset
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions
from triptych.data.split import PARTS, Split, read_label_meaning
from triptych.errors import ConfigError, DataError, ShapeError

seeds = st.integers(0, 10**6)


def dataset(degrees, *, seed=0, n_times=None, label=None):
    """Users with the given numbers of interactions, at random items and times."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(degrees)), degrees)
    item = np.concatenate([rng.permutation(60)[:degree] for degree in degrees])
    time = None if n_times is None else rng.integers(0, n_times, len(user)).astype(float)
    return Dataset.from_interactions("toy", Interactions.from_ids(user, item, timestamp=time, label=label))


def parts_by_user(split):
    counts = defaultdict(lambda: defaultdict(int))
    for user, part in zip(split.data.interactions.user.tolist(), split.part.tolist(), strict=True):
        counts[user][part] += 1
    return counts


def assert_partition(split):
    pieces = [set(zip(*(end.tolist() for end in split.pairs(part)), strict=True)) for part in PARTS]
    left_out = int((split.part == LEFT_OUT).sum())
    everything = split.data.interactions
    assert sum(map(len, pieces)) + left_out == len(everything)
    assert len(set.union(*pieces)) == sum(map(len, pieces))
    assert {part: len(piece) for part, piece in zip(PARTS, pieces, strict=True)} == {
        part: split.protocol[part] for part in PARTS
    }
    trained = set(split.train.user.tolist())
    assert set(split.valid.user.tolist()) | set(split.test.user.tolist()) <= trained


@given(st.lists(st.integers(1, 55), min_size=1, max_size=8), seeds)
def test_by_ratio_follows_the_rule_for_every_user(degrees, seed):
    split = Split.by_ratio(dataset(degrees, seed=seed), rng=seed)
    assert_partition(split)
    for user, parts in parts_by_user(split).items():
        n = degrees[user]
        held = 0 if n < 3 else 2 if n < 10 else int(0.2 * n)
        assert dict(parts) == {
            part: count
            for part, count in ((TRAIN, n - held), (VALID, held // 2), (TEST, held - held // 2))
            if count
        }


def test_by_ratio_depends_on_the_seed_alone():
    data = dataset([30, 20, 12])
    assert Split.by_ratio(data, 5).content_hash == Split.by_ratio(data, np.random.default_rng(5)).content_hash
    assert Split.by_ratio(data, 5).content_hash != Split.by_ratio(data, 6).content_hash


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), seeds)
def test_leave_one_out_takes_the_latest(degrees, seed):
    data = dataset(degrees, seed=seed, n_times=6)
    split = Split.leave_one_out(data, rng=seed)
    assert_partition(split)
    time, user = data.interactions.timestamp, data.interactions.user
    for who, degree in enumerate(degrees):
        mine = user == who
        held = [time[mine & (split.part == part)].tolist() for part in (VALID, TEST)]
        if degree < 3:
            assert held == [[], []]
        else:
            assert held == [[value] for value in sorted(time[mine])[-2:]]


def test_leave_one_out_breaks_ties_by_the_seed():
    data = dataset([10] * 5)
    assert Split.leave_one_out(data, 1).protocol["order"] == "random"
    assert not np.array_equal(Split.leave_one_out(data, 1).part, Split.leave_one_out(data, 2).part)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), seeds, st.integers(2, 40))
def test_by_time_never_trains_on_the_future(degrees, seed, n_times):
    data = dataset(degrees, seed=seed, n_times=n_times)
    time = data.interactions.timestamp
    cut = np.sort(time)[int(0.8 * len(time))]
    if cut == time.min():
        with pytest.raises(DataError, match="left for training"):
            Split.by_time(data)
        return
    split = Split.by_time(data)
    assert_partition(split)
    train, valid, test = (time[split.part == part] for part in (TRAIN, VALID, TEST))
    assert train.max() < cut
    assert np.concatenate([valid, test]).min(initial=np.inf) > train.max()
    assert test.min(initial=np.inf) > valid.max(initial=-np.inf)
    untrained = ~np.isin(data.interactions.user, data.interactions.user[split.part == TRAIN])
    assert ((split.part == LEFT_OUT) == untrained).all()


def test_by_time_needs_times_and_room_for_test():
    with pytest.raises(DataError, match="no timestamps"):
        Split.by_time(dataset([5]))
    with pytest.raises(ConfigError, match=r"shares train 0\.9 and valid 0\.1"):
        Split.by_time(dataset([5], n_times=9), train=0.9)


def test_by_label_uses_the_given_parts_and_leaves_out_users_without_training():
    label = np.array([0, 1, 2, 1, 2, 0, -1], dtype=np.int8)
    split = Split.by_label(dataset([3, 2, 2], label=label))
    assert split.protocol["left_out"] == 3
    assert split.protocol["users_without_training"] == 1
    assert sorted(split.part.tolist()) == [-1, -1, -1, 0, 0, 1, 2]
    with pytest.raises(DataError, match="no split column"):
        Split.by_label(dataset([3]))
    with pytest.raises(DataError, match="left for training"):
        Split.by_label(dataset([2], label=np.array([1, 2], dtype=np.int8)))


def test_train_offsets_find_each_users_items():
    split = Split.by_ratio(dataset([4, 15, 2]))
    for user in range(3):
        mine = split.train.item[split.train_offsets[user] : split.train_offsets[user + 1]]
        assert mine.tolist() == split.train.item[split.train.user == user].tolist()


def test_label_meaning():
    assert read_label_meaning("0=train, 2=valid,1=test") == {"0": TRAIN, "2": VALID, "1": TEST}
    for wrong in ("0", "0=learn", "=train", "0=train,0=test", "", "1=test"):
        with pytest.raises(ConfigError, match="label meaning"):
            read_label_meaning(wrong)


def test_parts_of_ones_own_are_checked_and_leave_out_whom_nothing_trains():
    data = Dataset.from_interactions("d", Interactions.from_ids([1, 1, 2], [1, 2, 3]))
    split = Split.from_parts(data, [TRAIN, VALID, TEST], by="hand")
    assert split.part.tolist() == [TRAIN, VALID, LEFT_OUT]
    assert (split.protocol["kind"], split.protocol["by"], split.protocol["left_out"]) == ("given", "hand", 1)
    for part in ([TRAIN], [TRAIN, VALID, 7], ["train", "valid", "test"]):
        with pytest.raises(ShapeError, match=r"for 3 interactions; wanted one of 0 \(train\)"):
            Split(data, np.array(part))


def test_a_drawn_split_says_with_which_seed():
    data = Dataset.from_interactions("d", Interactions.from_ids([1] * 12, list(range(12))))
    assert Split.by_ratio(data, 5).protocol["seed"] == 5
    assert Split.leave_one_out(data, np.int64(6)).protocol["seed"] == 6
    assert "seed" not in Split.by_ratio(data, np.random.default_rng(5)).protocol
