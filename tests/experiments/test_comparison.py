"""Comparisons: figures as the evaluator gives them, the test part opened last, and nothing learned from it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import triptych as tt
from triptych.data.interactions import TEST, TRAIN
from triptych.data.split import PARTS, Split
from triptych.errors import ConfigError, DataError, TrainingError
from triptych.evaluation.ranking import evaluate_ranking
from triptych.experiments import comparison, legacy, measuring
from triptych.experiments.comparison import compare
from triptych.experiments.jobs import Job, Outcome, Workshop
from triptych.experiments.result import ComparisonResult
from triptych.experiments.systems import n_trainings
from triptych.runs import load
from triptych.testing import toy_dataset
from triptych.training.recipe import Recipe

QUICK = {"epochs": 3, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}
SYSTEMS = {"factors": Recipe("mf-bpr", QUICK), "graph": Recipe("lightgcn", QUICK)}


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def shop(folder: Path) -> Workshop:
    return Workshop(folder, device="cpu", threads=1, k=(2,))


@pytest.fixture(scope="module")
def compared(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonResult, Path]:
    folder = tmp_path_factory.mktemp("compared")
    return compare(SYSTEMS, split, [1, 2], shop(folder), k=(2, 4)), folder


def test_figures_are_those_of_single_trainings(compared: tuple[ComparisonResult, Path], split: Split):
    result, _ = compared
    runs = [
        tt.train("lightgcn", split, seed=seed, settings={"embedding_dim": 4}, device="cpu", k=(2, 4),
                 config=tt.TrainConfig(epochs=3, batch_size=16, metric="recall@2"))
        for seed in (1, 2)
    ]  # fmt: skip
    graph = result.systems[1]
    assert (graph.name, graph.seeds, graph.epochs) == ("graph", [1, 2], [3, 3])
    values = [run.record.test["recall@4"] for run in runs]
    assert graph.test["recall@4"].mean == pytest.approx(np.mean(values))
    assert graph.test["recall@4"].sd == pytest.approx(np.std(values, ddof=1))
    assert graph.valid["recall@2"].mean == pytest.approx(
        np.mean([run.record.valid["recall@2"] for run in runs])
    )
    assert graph.n_parameters == 4 * (split.n_users + split.n_items)
    assert result.split_hash == split.content_hash
    assert result.data_hash == split.data.content_hash


def test_differences_are_of_means_over_seeds_by_user(compared: tuple[ComparisonResult, Path], split: Split):
    result, _ = compared
    means = {}
    for system in result.systems:
        per_user = [
            evaluate_ranking(load(run).scorer, split, "test", (2,)).values["recall@2"] for run in system.runs
        ]
        means[system.name] = np.mean(per_user, axis=0)
    (difference,) = result.differences
    other = "graph" if result.reference == "factors" else "factors"
    assert (difference.baseline, difference.system) == (result.reference, other)
    assert difference.difference == pytest.approx((means[other] - means[result.reference]).mean())
    assert difference.n_users == len(means[other])


def test_the_reference_is_chosen_on_validation(compared: tuple[ComparisonResult, Path]):
    result, _ = compared
    best = max(result.systems, key=lambda system: system.valid["recall@2"].mean)
    assert result.reference == best.name
    assert result.reference_chosen


def test_another_reference_another_system_another_seed_train_only_what_is_new(
    compared: tuple[ComparisonResult, Path], split: Split
):
    result, folder = compared
    told: list[Outcome] = []
    systems = {**SYSTEMS, "third": Recipe("lightgcn", {**QUICK, "n_layers": 1})}
    again = compare(
        systems, split, [1, 2, 3], shop(folder), k=(2, 4), reference="factors", on_outcome=told.append
    )
    assert [outcome.done for outcome in told].count("now") == 3 + 2
    assert again.reference == "factors"
    assert not again.reference_chosen
    assert [difference.system for difference in again.differences] == ["graph", "third"]
    assert len(result.systems) == 2


def test_a_single_system_has_figures_and_no_differences(split: Split, tmp_path: Path):
    result = compare({"graph": SYSTEMS["graph"]}, split, [1], shop(tmp_path), k=(2,))
    assert result.differences == []
    assert result.systems[0].test["recall@2"].sd is None
    assert ComparisonResult.model_validate(json.loads(result.model_dump_json())) == result


def test_the_test_part_is_opened_when_all_trainings_have_ended(split: Split, tmp_path: Path, monkeypatch):
    events: list[str] = []
    real = measuring.open_test
    monkeypatch.setattr(measuring, "open_test", lambda *a, **k: (events.append("opened"), real(*a, **k))[1])
    compare(SYSTEMS, split, [1], shop(tmp_path), k=(2,), on_outcome=lambda _: events.append("trained"))
    assert events == ["trained", "trained", "opened", "opened"]
    for run in (tmp_path / "runs").iterdir():
        assert load(run).record.test_opened is not None


def test_other_test_pairs_change_no_training(split: Split, tmp_path: Path):
    gone = np.zeros(len(split.part), dtype=bool)
    gone[np.flatnonzero(split.part == TEST)[::2]] = True
    fewer = Split(replace(split.data, interactions=split.data.interactions.drop(gone)), split.part[~gone])
    first = compare(SYSTEMS, split, [1], shop(tmp_path / "a"), k=(2,))
    second = compare(SYSTEMS, fewer, [1], shop(tmp_path / "b"), k=(2,))
    assert first.reference == second.reference
    for one, other in zip(first.systems, second.systems, strict=True):
        assert one.valid == other.valid
        assert Path(one.runs[0]).name == Path(other.runs[0]).name
        weights, others = load(one.runs[0]).weights, load(other.runs[0]).weights
        assert all(weights[name].equal(others[name]) for name in weights)


def test_a_seed_that_fails_is_reported_and_a_system_without_any_left_out(
    split: Split, tmp_path: Path, monkeypatch
):
    real = comparison.run_jobs

    def one_fails(jobs, *args, **kwargs):
        for outcome in real(jobs, *args, **kwargs):
            lost = outcome.job.seed == 2 and outcome.job.recipe.model == "lightgcn"
            yield replace(outcome, folder=None, error="no power") if lost else outcome

    monkeypatch.setattr(comparison, "run_jobs", one_fails)
    result = compare(SYSTEMS, split, [1, 2], shop(tmp_path), k=(2,))
    assert [(failure.name, failure.seed, failure.error) for failure in result.failures] == [
        ("graph", 2, "no power")
    ]
    assert [system.seeds for system in result.systems] == [[1, 2], [1]]
    lost = compare(SYSTEMS, split, [2], shop(tmp_path), k=(2,))
    assert [system.name for system in lost.systems] == ["factors"]
    assert [failure.name for failure in lost.failures] == ["graph"]
    for needed in ({"systems": {"graph": SYSTEMS["graph"]}}, {"systems": SYSTEMS, "reference": "graph"}):
        with pytest.raises(TrainingError, match="no training of graph ended: no power"):
            compare(**needed, split=split, seeds=[2], workshop=shop(tmp_path), k=(2,))


def test_what_cannot_be_compared_is_refused_before_training(split: Split, tmp_path: Path):
    with pytest.raises(ConfigError, match="watch different metrics: factors recall@2, graph ndcg@2"):
        compare(
            {**SYSTEMS, "graph": Recipe("lightgcn", {**QUICK, "metric": "ndcg@2"})},
            split,
            [1],
            shop(tmp_path),
        )
    with pytest.raises(ConfigError, match="Did you mean 'graph'"):
        compare(SYSTEMS, split, [1], shop(tmp_path), k=(2,), reference="grap")
    for systems, seeds in (({}, [1]), (SYSTEMS, [])):
        with pytest.raises(ConfigError, match="at least one of each"):
            compare(systems, split, seeds, shop(tmp_path), k=(2,))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_split_without_what_is_to_be_found_is_refused_before_training(split: Split, tmp_path: Path, part):
    lacking = replace(split, part=np.where(split.part == PARTS[part], TRAIN, split.part))
    with pytest.raises(DataError, match=f"the {part} part of 'toy' is empty"):
        compare(SYSTEMS, lacking, [1], shop(tmp_path), k=(2,))
    assert not list(tmp_path.iterdir())


def test_one_user_to_test_is_too_few_to_compare_before_training(split: Split, tmp_path: Path):
    part = split.part.copy()
    part[(part == TEST) & (split.data.interactions.user != split.test.user[0])] = TRAIN
    alone = replace(split, part=part)
    with pytest.raises(DataError, match="one user of 'toy' has test items"):
        compare(SYSTEMS, alone, [1], shop(tmp_path), k=(2,))
    assert not list(tmp_path.iterdir())


def test_legacy_shows_what_choosing_by_test_would_print(split: Split, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(comparison, "spare_training", lambda job, clean: None)
    result = compare(SYSTEMS, split, [1, 2, 3], shop(tmp_path), k=(2,), legacy=True)
    runs = [load(path).record for path in (tmp_path / "runs").iterdir()]
    for system, model in zip(result.systems, ("mf-bpr", "lightgcn"), strict=True):
        rounded = [run for run in runs if run.model == model and run.train_settings["metric_decimals"] == 4]
        assert len(rounded) == 3
        assert system.legacy is not None
        assert system.legacy["recall@2"] == max(run.test["recall@2"] for run in rounded)
        assert load(system.legacy_run or "").record.test == pytest.approx(system.legacy)
    best = max(result.systems, key=lambda system: (system.legacy or {})["recall@2"])
    assert result.legacy_choice == best.name


@pytest.mark.parametrize("rounds", [None, 1], ids=["to 4 places", "to 1 place"])
def test_sparing_trainings_changes_no_legacy_figure(split: Split, tmp_path: Path, monkeypatch, rounds):
    if rounds is not None:  # so that another epoch is kept
        monkeypatch.setattr(legacy, "_DECIMALS", rounds)
    longer = {"epochs": 12, "metric": "ndcg@4"}
    systems = {name: recipe.with_settings(longer) for name, recipe in SYSTEMS.items()}
    told: list[Outcome] = []
    quick = compare(
        systems, split, [1, 2], shop(tmp_path / "quick"), k=(2,), legacy=True, on_outcome=told.append
    )
    done = Counter(outcome.done for outcome in told)
    assert len(told) == 8
    assert done == {"now": 4, "spared": 4} if rounds is None else 4 < done["now"] < 8
    again: list[Outcome] = []
    compare(systems, split, [1, 2], shop(tmp_path / "quick"), k=(2,), legacy=True, on_outcome=again.append)
    assert [outcome.folder for outcome in again] == [outcome.folder for outcome in told]
    assert not any(outcome.done == "now" for outcome in again)
    monkeypatch.setattr(comparison, "spare_training", lambda job, clean: None)
    whole = compare(systems, split, [1, 2], shop(tmp_path / "whole"), k=(2,), legacy=True)
    assert len(list((tmp_path / "whole" / "runs").iterdir())) == 8
    assert [one.legacy for one in quick.systems] == [one.legacy for one in whole.systems]


def test_legacy_trainings_that_fail_are_reported(split: Split, tmp_path: Path, monkeypatch):
    real = comparison.run_jobs

    def legacy_fails(jobs, *args, **kwargs):
        for outcome in real(jobs, *args, **kwargs):
            lost = outcome.job.seed == 2 and outcome.job.called.endswith("legacy")
            yield replace(outcome, folder=None, error="no power") if lost else outcome

    monkeypatch.setattr(comparison, "run_jobs", legacy_fails)
    monkeypatch.setattr(comparison, "spare_training", lambda job, clean: None)
    result = compare({"graph": SYSTEMS["graph"]}, split, [1, 2], shop(tmp_path), k=(2,), legacy=True)
    assert [(failure.name, failure.seed) for failure in result.failures] == [("graph, legacy", 2)]
    assert result.systems[0].seeds == [1, 2]


def test_a_comparison_gives_threads_back(split: Split, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compare({"graph": SYSTEMS["graph"]}, split, [1], replace(shop(tmp_path), threads=1), k=(2,))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_legacy_training_is_not_spared_by_one_that_failed(split: Split):
    job = legacy.legacy_job(Job(SYSTEMS["graph"], 1, called="graph"))
    assert (job.title, job.recipe.settings["metric_decimals"]) == ("graph, legacy, seed 1", 4)
    assert legacy.legacy_job(job) == job
    assert legacy.spare_training(job, Outcome(job, None, "no power")) is None


def test_the_clean_figures_beside_legacy_ones_are_those_of_a_clean_comparison(split: Split, tmp_path: Path):
    systems = {"graph": SYSTEMS["graph"], "popular": Recipe("popularity", {"metric": "recall@2"})}
    told: list[Outcome] = []
    beside = compare(systems, split, [1, 2], shop(tmp_path), k=(2,), legacy=True, on_outcome=told.append)
    assert [outcome.job.title for outcome in told] == [
        "graph, seed 1", "graph, seed 2", "popular, seed 1", "popular, seed 2", "graph, legacy, seed 1",
        "graph, legacy, seed 2",
    ]  # fmt: skip
    assert n_trainings(systems, [1, 2], legacy=True) == len(told)
    clean = compare(systems, split, [1, 2], shop(tmp_path), k=(2,), on_outcome=told.append)
    assert {outcome.done for outcome in told[6:]} == {"before"}
    assert clean.legacy_choice is None
    for one, other in zip(beside.systems, clean.systems, strict=True):
        assert one.model_copy(update={"legacy": None, "legacy_run": None}) == other
    assert beside.systems[1].legacy_run in beside.systems[1].runs


def test_the_legacy_protocol_has_one_mask(split: Split, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"legacy protocol with train\+valid items masked"):
        compare(SYSTEMS, split, [1], shop(tmp_path), k=(2,), masked="train+valid", legacy=True)
    assert not list(tmp_path.iterdir())
