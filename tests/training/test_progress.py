"""Which epoch is kept: by hand, and told beforehand for a training that compares and waits otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord
from triptych.training.progress import Progress, epoch_kept

METRIC = "recall@20"


def run_epochs(values: list[float | None], config: TrainConfig) -> Progress:
    """Let the rule of the loop take values, None where an epoch is not evaluated, until it ends."""
    progress = Progress()
    for epoch, value in enumerate(values, start=1):
        best = value is not None and progress.take(epoch, value, config)
        valid = None if value is None else {METRIC: value}
        progress.history.append(EpochRecord(epoch, {}, valid, best, 0.0, 0.0))
        if progress.out_of_patience(config):
            break
    return progress


def test_the_first_of_equal_epochs_is_the_best():
    config = TrainConfig(epochs=5, patience=5)
    progress = run_epochs([0.1, 0.3, 0.2, 0.3, 0.1], config)
    assert (progress.best_epoch, progress.best_value, progress.evaluations_without_gain) == (2, 0.3, 3)
    assert [record.best for record in progress.history] == [True, True, False, False, False]


def test_patience_counts_evaluations_not_epochs():
    values = [None, 0.3, None, 0.2, None, 0.2, None, 0.4]
    assert len(run_epochs(values, TrainConfig(patience=1)).history) == 6  # the second without gain
    assert run_epochs(values, TrainConfig(patience=2)).best_epoch == 8


def test_rounding_keeps_an_earlier_epoch():
    config = TrainConfig(epochs=4, patience=9)
    history = run_epochs([0.1234, 0.12344, 0.1233, 0.12341], config).history
    assert epoch_kept(history, config) == 2
    assert epoch_kept(history, config.model_copy(update={"metric_decimals": 4})) == 1


def test_what_would_go_on_beyond_the_history_is_not_known():
    config = TrainConfig(epochs=50, patience=1)
    history = run_epochs([0.3, 0.2, 0.1, 0.4], config).history
    assert len(history) == 3
    assert epoch_kept(history, config) == 1
    assert epoch_kept(history, config.model_copy(update={"patience": 2})) is None
    assert epoch_kept(history, config.model_copy(update={"epochs": 3, "patience": 2})) == 1


@given(
    values=st.lists(st.none() | st.floats(0, 0.01), min_size=1, max_size=40),
    patience=st.integers(0, 6),
    decimals=st.integers(2, 6),
)
@settings(deadline=None)
def test_rounding_ends_no_later_so_that_it_is_always_told_right(values, patience, decimals):
    if values[-1] is None:  # the last epoch is always evaluated
        values[-1] = 0.005
    clean = TrainConfig(epochs=len(values), patience=patience)
    rounded = clean.model_copy(update={"metric_decimals": decimals})
    history = run_epochs(values, clean).history
    assert epoch_kept(history, clean) == run_epochs(values, clean).best_epoch
    assert epoch_kept(history, rounded) == run_epochs(values, rounded).best_epoch


@pytest.mark.parametrize("decimals", [None, 3])
def test_nothing_is_kept_of_nothing(decimals):
    config = TrainConfig(epochs=3, metric_decimals=decimals)
    assert epoch_kept([], config) is None
    assert Progress().best_epoch == 0
