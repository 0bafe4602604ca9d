"""Search: the best on validation is found, the defaults come first, and dead workers' trials are tried again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError, TrainingError
from triptych.experiments import search as search_module
from triptych.experiments.jobs import Workshop
from triptych.experiments.search import SearchResult, SearchTrial, search
from triptych.experiments.study import Points, SearchPlan
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.registry import make_config
from triptych.runs import train
from triptych.testing import toy_dataset
from triptych.training.observer import EpochRecord, Observer
from triptych.training.space import Range, SearchSpace

QUICK = {"epochs": 3, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def space(**values: Any) -> SearchSpace:
    return SearchSpace(
        "lightgcn", values or {"n_layers": (1, 2, 3), "learning_rate": (0.1, 0.01)}, "these tests"
    )


def plan(n_trials: int = 5, searched: SearchSpace | None = None, **options: Any) -> SearchPlan:
    return SearchPlan(space() if searched is None else searched, n_trials, fixed=QUICK, **options)


def shop(folder: Path, workers: int = 1) -> Workshop:
    return Workshop(folder, device="cpu", threads=1, workers=workers, checkpoint_every=1, k=(2,))


def test_the_best_on_validation_is_found_and_the_defaults_come_first(split: Split, tmp_path: Path):
    told: list[SearchTrial] = []
    result = search(plan(), split, shop(tmp_path), on_trial=told.append)
    assert told == result.trials
    assert len(told) == 5
    assert told[0].settings == {}
    assert all(set(trial.settings) == {"n_layers", "learning_rate"} for trial in told[1:])
    best = max(result.trials, key=lambda trial: trial.value or 0)
    assert result.best_value == best.value
    assert result.best == {**QUICK, **best.settings}
    assert (result.model, result.data, result.metric, result.seed) == ("lightgcn", "toy", "recall@2", 1)
    assert SearchResult.model_validate(json.loads(result.model_dump_json())) == result


def test_a_trials_value_is_that_of_the_training(split: Split, tmp_path: Path):
    result = search(plan(2), split, shop(tmp_path))
    trial = result.trials[1]
    config = search_module.Job(
        search_module.Recipe("lightgcn", {**QUICK, **trial.settings}), 1
    ).recipe.configs()
    run = train(config.model, split, seed=1, config=config.training, device="cpu", k=(2,))
    assert trial.value == run.record.valid["recall@2"]
    assert (trial.best_epoch, trial.epochs) == (run.record.best_epoch, 3)


def test_a_later_call_goes_on_where_the_first_ended(split: Split, tmp_path: Path):
    first = search(plan(2), split, shop(tmp_path))
    more = search(plan(4), split, shop(tmp_path))
    assert more.trials[:2] == first.trials
    assert len(more.trials) == 4
    assert search(plan(4), split, shop(tmp_path)) == more


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_point_is_trained_twice_and_a_space_has_an_end(split: Split, tmp_path: Path, sampler):
    """Six points, of which one is the defaults."""
    searched = space(n_layers=(1, 2, 3), learning_rate=(0.001, 0.01))
    assert make_config(LightGCNConfig, {}).n_layers in (1, 2, 3)
    result = search(plan(20, searched, sampler=sampler), split, shop(tmp_path))
    trained = {json.dumps(plan(1, searched).job(trial.settings).settings()) for trial in result.trials}
    assert len(result.trials) == len(trained) == 6
    assert search(plan(20, searched, sampler=sampler), split, shop(tmp_path)) == result


def take_all(points: Points) -> list[dict[str, Any]]:
    """Take points until there are enough, and hold them."""
    taken = list(iter(points.take, None))
    return [trial.user_attrs["point"] for trial, _ in taken]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_range_of_whole_numbers_has_an_end(split: Split, tmp_path: Path, sampler: Any):
    asked = plan(20, space(n_layers=Range(1, 3), learning_rate=(0.001, 0.01)), sampler=sampler)
    trained = [asked.key(point) for point in take_all(Points(asked, split.without_test(), tmp_path))]
    assert len(trained) == len(set(trained)) == 6


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
@pytest.mark.parametrize("each", [30, 300], ids=["shuffled", "drawn"])
def test_the_points_of_a_large_space_are_not_listed(
    split: Split, tmp_path: Path, monkeypatch, sampler: Any, each: int
):
    """How many are looked at grows with those that were tried, not with the space."""
    rates = tuple(0.001 * n for n in range(1, each + 1))
    asked = plan(6, space(learning_rate=rates, reg_weight=rates, lr_decay=rates), sampler=sampler)
    points, named, name = Points(asked, split.without_test(), tmp_path), [], SearchPlan.key
    monkeypatch.setattr(SearchPlan, "key", lambda *given: named.append(given) or name(*given))
    assert len({json.dumps(point) for point in take_all(points)}) == 6
    assert len(named) < 60


def test_what_failed_for_a_passing_reason_is_tried_again(split: Split, tmp_path: Path, monkeypatch):
    """A full disk passes; a loss that becomes NaN is the settings' own."""
    whole = search_module.training_of
    searched = space(learning_rate=(1e30, 0.01))

    def full(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(search_module, "training_of", full)
    with pytest.raises(TrainingError, match="none of 3 trials of lightgcn ended: OSError"):
        search(plan(3, searched, sampler="grid"), split, shop(tmp_path))
    monkeypatch.setattr(search_module, "training_of", whole)
    again = search(plan(3, searched, sampler="grid"), split, shop(tmp_path))
    assert sorted(trial.state for trial in again.trials) == ["done", "done", "failed"]
    assert search(plan(3, searched, sampler="grid"), split, shop(tmp_path)) == again


def test_a_device_that_is_not_there_costs_no_trial(tmp_path: Path):
    with pytest.raises(ConfigError, match="cuda:77"):
        Workshop(tmp_path, device="cuda:77")


def test_a_grid_is_tried_once_each(split: Split, tmp_path: Path):
    result = search(plan(50, sampler="grid"), split, shop(tmp_path))
    points = [tuple(trial.settings.values()) for trial in result.trials[1:]]
    assert len(points) == len(set(points)) == 6
    assert result.importance.keys() == {"n_layers", "learning_rate"}
    assert sum(result.importance.values()) == pytest.approx(1)


def test_ranges_and_values_that_are_no_scalars(split: Split, tmp_path: Path):
    values = {"modalities": (["image"], ["text"]), "learning_rate": Range(1e-3, 1e-1, log=True)}
    searched = SearchSpace("freedom", {**values, "n_neighbors": Range(1, 3)}, "these tests")
    result = search(SearchPlan(searched, 4, "random", fixed=QUICK), split, shop(tmp_path))
    for trial in result.trials[1:]:
        assert trial.settings["modalities"] in (["image"], ["text"])
        assert 1e-3 <= trial.settings["learning_rate"] <= 1e-1
        assert trial.settings["n_neighbors"] in (1, 2, 3)


def test_a_crashed_trial_is_recorded_and_the_search_goes_on(split: Split, tmp_path: Path):
    result = search(plan(5, space(learning_rate=(1e30, 0.01)), sampler="grid"), split, shop(tmp_path))
    states = {trial.settings.get("learning_rate"): trial for trial in result.trials}
    assert states[1e30].state == "failed"
    assert "TrainingError" in str(states[1e30].error)
    assert states[0.01].state == "done"
    assert result.best.get("learning_rate") != 1e30


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_values_that_do_not_go_together_cost_their_trial_alone(split: Split, tmp_path: Path, sampler: Any):
    searched = SearchSpace("l3ae", {"reg_weight": (-100, 0), "content_pull": (50, 150)}, "these tests")
    asked = SearchPlan(searched, 5, sampler, fixed={"metric": "recall@2"})
    for _ in range(2):  # a later call neither stumbles over it nor tries it again
        result = search(asked, split, shop(tmp_path))
        states = {(t.settings.get("reg_weight"), t.settings.get("content_pull")): t for t in result.trials}
        assert len(result.trials) == len(states) == 4  # the defaults are one of the points
        assert "ConfigError" in str(states[-100, 50].error)
        assert sum(trial.state == "done" for trial in result.trials) >= 3


def test_processes_begun_at_once_draw_other_points(split: Split, tmp_path: Path):
    searched = space(learning_rate=Range(0.001, 0.1, log=True))
    asked = SearchPlan(searched, 9, "random", fixed=QUICK)
    pair = [Points(asked, split.without_test(), tmp_path) for _ in range(2)]
    taken = [points.take() for points in (*pair, *pair)]
    drawn = [trial.user_attrs["point"].get("learning_rate") for trial, _ in filter(None, taken)]
    assert len(set(drawn)) == len(drawn) == 4


def test_no_finished_trial_is_an_error(split: Split, tmp_path: Path):
    broken = SearchPlan(space(n_layers=(1, 2)), 3, fixed={**QUICK, "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"none of 2 trials of lightgcn ended: TrainingError"):
        search(broken, split, shop(tmp_path))


def test_a_pruned_trial_is_stopped_and_never_the_best(split: Split, tmp_path: Path):
    fixed = {**QUICK, "epochs": 12, "patience": 12, "eval_every": 2}
    searched = space(learning_rate=(0.05, 1e-9, 2e-9, 3e-9), n_layers=(1, 2, 3))
    workshop = shop(tmp_path)
    result = search(SearchPlan(searched, 13, "grid", "median", fixed=fixed), split, workshop)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.epochs < 12 and trial.value is not None for trial in pruned)
    assert not list((tmp_path / "runs").glob("*"))
    assert not [path for path in (workshop.folder / "unfinished").iterdir() if path.is_dir()]


@pytest.mark.parametrize("pruner", ["median", "halving"])
@pytest.mark.parametrize(
    ("training", "first"),
    [({}, 10), ({"eval_every": 5}, 50), ({"epochs": 12, "eval_every": 2}, 6), ({"epochs": 1}, 1)],
)
def test_a_pruner_lets_a_trial_begin(tmp_path: Path, split: Split, pruner: Any, training: Any, first: int):
    """However far behind it is; behind all that ended, it is stopped once it had ten evaluations."""
    asked = SearchPlan(space(learning_rate=Range(0.001, 0.1)), 20, "random", pruner, fixed=training)
    points = Points(asked, split.without_test(), tmp_path)
    step = training.get("eval_every", 1)
    until = first + step
    for _ in range(5):
        trial, _ = points.take() or pytest.fail("there are more")
        for epoch in range(step, until, step):
            trial.report(0.5, epoch)
            assert not trial.should_prune()
        points.study.tell(trial, 0.5)
    late, _ = points.take() or pytest.fail("there are more")
    for epoch in range(step, until, step):
        late.report(0.1, epoch)
        assert late.should_prune() == (epoch >= first)


def test_bad_plans_are_refused_before_training(split: Split, tmp_path: Path):
    with pytest.raises(ConfigError, match="both set and searched"):
        search(SearchPlan(space(), 3, fixed={"n_layers": 1}), split, shop(tmp_path))
    with pytest.raises(ConfigError, match="0 trials"):
        search(plan(0), split, shop(tmp_path))
    with pytest.raises(ConfigError, match="no grid can go through"):
        search(plan(3, space(learning_rate=Range(0.1, 0.2)), sampler="grid"), split, shop(tmp_path))
    with pytest.raises(ConfigError, match="no setting 'n_layerz'"):
        search(SearchPlan(space(), 3, fixed={"n_layerz": 1}), split, shop(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_another_space_seed_or_split_does_not_mix_with_what_is_there(split: Split, tmp_path: Path):
    search(plan(1), split, shop(tmp_path))
    for other, what in (
        (plan(1, space(n_layers=(1,))), "another space;"),
        (plan(1, seed=2), r"another seed \(--seed\);"),
        (
            SearchPlan(space(), 1, fixed={**QUICK, "epochs": 4}),
            r"other settings \(--set, or of the recipe\);",
        ),
    ):
        with pytest.raises(ConfigError, match=f"holds a search with {what}"):
            search(other, split, shop(tmp_path))
    with pytest.raises(ConfigError, match="other data or another split"):
        search(plan(1), Split.by_ratio(split.data, rng=1), shop(tmp_path))


@pytest.mark.parametrize(
    "damage", [b"garbage{\n", b"\xff\xfe\n", b"[1]\n", b'{"op_code": 5, "trial_id": 77}\n', b"\n"]
)
def test_a_damaged_journal_is_named(split: Split, tmp_path: Path, damage: bytes):
    points = Points(plan(), split.without_test(), tmp_path)
    points.take()
    journal = tmp_path / "search" / "lightgcn.journal"
    with journal.open("ab") as file:
        file.write(damage)
    whole = journal.read_bytes()
    with pytest.raises(StorageError, match=r"lightgcn\.journal is damaged.*delete it, to begin the search"):
        Points(plan(), split.without_test(), tmp_path)
    assert journal.read_bytes() == whole


def test_two_processes_share_the_trials(split: Split, tmp_path: Path):
    told: list[SearchTrial] = []
    result = search(plan(6, sampler="grid"), split, shop(tmp_path, workers=2), on_trial=told.append)
    assert len(result.trials) == 6
    assert sorted(told, key=lambda trial: trial.number) == result.trials
    points = [tuple(trial.settings.values()) for trial in result.trials]
    assert len(set(points)) >= 5
    assert points.count(()) == 1


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_search import QUICK, SearchPlan, Split, search, shop, space, toy_dataset
if __name__ == "__main__":
    split = Split.by_ratio(toy_dataset(), rng=0)
    fixed = {{**QUICK, "epochs": 60, "patience": 60}}
    search(SearchPlan(space(), 3, fixed=fixed), split, shop(Path({folder!r})))
"""


def test_the_trial_of_a_killed_process_is_tried_again_from_its_checkpoint(split: Split, tmp_path: Path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path / "a")))
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not list((tmp_path / "a" / "unfinished").glob("*/checkpoint.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fixed = {**QUICK, "epochs": 60, "patience": 60}
    result = search(SearchPlan(space(), 3, fixed=fixed), split, shop(tmp_path / "a"))
    whole = search(SearchPlan(space(), 1, fixed=fixed), split, shop(tmp_path / "b"))
    assert len(result.trials) == 3
    assert all(trial.state == "done" for trial in result.trials)
    defaults = [trial for trial in result.trials if trial.settings == {}]
    assert [trial.value for trial in defaults] == [whole.best_value]


def test_the_trial_of_an_interrupted_call_is_tried_again_in_the_same_process(split: Split, tmp_path: Path):
    class Impatient(Observer):
        def on_epoch(self, record: EpochRecord) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:  # a notebook keeps the last error, and all that it holds
        search(plan(2), split, shop(tmp_path), observe=lambda job: Impatient())
    result = search(plan(2), split, shop(tmp_path))
    assert [trial.state for trial in result.trials] == ["done", "done"]
    assert kept.value.__traceback__ is not None


def test_a_trial_taken_up_again_knows_its_best_value(split: Split, tmp_path: Path):
    """A pruner judges it by all its epochs, not by those since the checkpoint."""
    config = search_module.Job(search_module.Recipe("lightgcn", {**QUICK, "epochs": 6}), 1).recipe.configs()
    reported: list[float] = []

    class Trial:
        def report(self, value: float, step: int) -> None:
            reported.append(value)

        def set_user_attr(self, name: str, value: object) -> None:
            pass

        def should_prune(self) -> bool:
            return len(reported) == 3

    def go_on(resume: bool):
        watcher = search_module._Watcher(Trial(), "recall@2", None)  # type: ignore[arg-type]
        return train(config.model, split, seed=1, config=config.training, device="cpu", k=(2,),
                     checkpoint_dir=tmp_path / "c", checkpoint_every=1, resume=resume, observer=watcher)  # fmt: skip

    with pytest.raises(optuna.TrialPruned):
        go_on(resume=False)
    history = go_on(resume=True).record.history
    values = [record.valid["recall@2"] for record in history if record.valid]
    best_so_far = [max(values[: n + 1]) for n in range(6)]
    assert reported[:3] == best_so_far[:3]
    assert reported[3:] == best_so_far[2:]
