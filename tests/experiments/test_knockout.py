"""Knock-outs: what is planned and refused, planted answers found, and data that differ never mixed up."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.evaluation.significance import correct_family
from triptych.experiments.comparison import compare
from triptych.experiments.content import Change
from triptych.experiments.jobs import Job, Workshop, run_jobs
from triptych.experiments.knockout import (
    KNOCKOUTS,
    KnockoutPlan,
    curves,
    knockout_systems,
    used_modalities,
)
from triptych.experiments.result import ComparisonResult
from triptych.experiments.systems import Variant
from triptych.runs import load, open_test
from triptych.testing import checkerboard, toy_dataset
from triptych.training.recipe import Recipe, find_recipe

QUICK = {"epochs": 2, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}
KNN = Recipe("item-knn", {"metric": "recall@1", "n_neighbors": 5})


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def shop(folder: Path, **how: int) -> Workshop:
    return Workshop(folder, device="cpu", threads=1, checkpoint_every=1, k=(2,), **how)


# What is planned


def test_each_modality_is_knocked_out_alone_and_all_together(split: Split):
    found, left_out = knockout_systems({"vbpr": Recipe("vbpr")}, split.data, KnockoutPlan())
    targets = ("image", "text", "image+text")
    names = [f"vbpr: {target} {kind}" for target in targets for kind in KNOCKOUTS]
    assert list(found) == ["vbpr", *(name for name in names if name != "vbpr: image+text absent")]
    assert [(one.name, one.reason) for one in left_out] == [
        ("vbpr: image+text absent", "it, or a part of it, has no other content to learn from")
    ]
    absent = found["vbpr: image absent"]
    assert isinstance(absent, Variant)
    assert absent.recipe.settings == {"modalities": ["text"]}
    assert found["vbpr: image zeros"] == Variant(
        "vbpr", Recipe("vbpr"), Change(kind="zeros", modalities=("image",))
    )


def test_settings_by_modality_follow_and_plugins_too(split: Split):
    recipes = {
        "weighted": Recipe("freedom", {"modality_weights": {"image": 0.3, "text": 0.7}}),
        "plugged": find_recipe("lightgcn+ksi"),
    }
    found, _ = knockout_systems(recipes, split.data, KnockoutPlan(["absent"]))
    assert found["weighted: image absent"].recipe.settings == {
        "modalities": ["text"], "modality_weights": {"text": 1.0},
    }  # fmt: skip
    assert found["plugged: text absent"].recipe.settings == {"ksi.modalities": ["image"]}
    assert found["plugged: text absent"].recipe.configs().plugins["ksi"].modalities == ("image",)


def test_a_part_that_would_have_no_content_is_left_out_and_not_the_whole(split: Split):
    system = find_recipe("vbpr+ksi").with_settings({"modalities": ["image"]})
    found, left_out = knockout_systems({"both": system}, split.data, KnockoutPlan(["absent"]))
    assert list(found) == ["both", "both: text absent"]
    assert [one.name for one in left_out] == ["both: image absent", "both: image+text absent"]


def test_shares_given_by_modality_keep_their_sum(split: Split):
    system = Recipe("freedom", {"modality_weights": {"image": 0.1, "text": 0.9}})
    found, _ = knockout_systems({"f": system}, split.data, KnockoutPlan(["absent"]))
    assert found["f: text absent"].recipe.settings["modality_weights"] == {"image": 1.0}


def test_only_what_a_system_uses_is_knocked_out(split: Split):
    one = Recipe("vbpr", {"modalities": ["text"]})
    assert used_modalities(one, split.data) == ("text",)
    assert used_modalities(Recipe("lightgcn"), split.data) == ()
    systems = {"one": one, "none": Recipe("lightgcn")}
    found, left_out = knockout_systems(systems, split.data, KnockoutPlan(["absent", "zeros"]))
    assert list(found) == ["one", "one: text zeros", "none"]
    assert [one.name for one in left_out] == ["one: text absent", "none: changed content"]


def test_item_graphs_are_shuffled_or_absent_and_the_rest_is_refused(split: Split):
    graph = ItemGraph.from_edges(np.array([0, 1]), np.array([1, 0]), np.ones(2), 10)
    features = {**split.data.features, "links": ItemFeatures(np.ones(10, bool), graph=graph)}
    data = replace(split.data, features=features)
    plan = KnockoutPlan(noisy=[1], missing=[10], modalities=["links"])
    found, left_out = knockout_systems({"freedom": Recipe("freedom")}, data, plan)
    assert list(found)[1:] == [
        "freedom: links absent", "freedom: links shuffled", "freedom: links missing 10 %",
    ]  # fmt: skip
    assert {one.name.split()[2] for one in left_out} == {"zeros", "constant", "noise", "noisy"}


def test_curves_are_of_all_together_unless_modalities_are_named(split: Split):
    plan = KnockoutPlan([], [0, 10, 90], [0, 0.5, 0.5])
    found, _ = knockout_systems({"vbpr": Recipe("vbpr")}, split.data, plan)
    assert list(found) == [
        "vbpr", "vbpr: image+text missing 10 %", "vbpr: image+text missing 90 %",
        "vbpr: image+text noisy 0.5 sd",
    ]  # fmt: skip
    named = KnockoutPlan([], [50], [], ["text"])
    assert list(knockout_systems({"vbpr": Recipe("vbpr")}, split.data, named)[0]) == [
        "vbpr", "vbpr: text missing 50 %",
    ]  # fmt: skip


def test_what_cannot_be_knocked_out_is_refused(split: Split):
    with pytest.raises(ConfigError, match=r"nothing to knock out: .*it uses no content"):
        knockout_systems({"lightgcn": Recipe("lightgcn")}, split.data, KnockoutPlan())
    with pytest.raises(ConfigError, match="Did you mean 'image'"):
        knockout_systems({"vbpr": Recipe("vbpr")}, split.data, KnockoutPlan(modalities=["imgae"]))
    for wrong in (
        {"missing": [100]},
        {"missing": [-1]},
        {"noisy": [-0.1]},
        {"noisy": [math.inf]},
        {"noisy": [math.nan]},
    ):
        with pytest.raises(ConfigError, match="shares from 0 to below 100"):
            KnockoutPlan([], **wrong)


def test_what_changes_nothing_is_refused_with_the_reason(split: Split):
    with pytest.raises(ConfigError, match=r"vbpr: changed content, 0 leaves the data as they are"):
        knockout_systems({"vbpr": Recipe("vbpr")}, split.data, KnockoutPlan([], [0]))
    one = Recipe("vbpr", {"modalities": ["image"]})
    with pytest.raises(ConfigError, match=r"one: changed content, it uses image alone"):
        knockout_systems({"one": one}, split.data, KnockoutPlan(modalities=["text"]))


# What is found


@pytest.fixture(scope="module")
def knocked(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    """Items of the checkerboard are alike if, and only if, their content is; the model knows content alone."""
    board = checkerboard()
    plan = KnockoutPlan(["absent", "constant", "noise", "shuffled"], [50, 80])
    systems, left_out = knockout_systems({"knn": KNN}, board.data, plan)
    folder = tmp_path_factory.mktemp("knocked")
    return compare(systems, board, [1, 2], shop(folder), k=(1,), left_out=left_out)


def test_a_model_of_content_alone_lives_by_it(knocked: ComparisonResult):
    means = {system.name: system.test["recall@1"].mean for system in knocked.systems}
    held = {one.system: one.p_corrected < 0.05 for one in knocked.differences}
    assert not knocked.failures
    for name in ("image+text noise", "image+text shuffled"):
        assert means[f"knn: {name}"] < 0.6 * means["knn"]
        assert held[f"knn: {name}"]
    for name in ("image absent", "text absent"):  # either says it all
        assert means[f"knn: {name}"] > 0.5 * means["knn"]


def test_each_variant_is_tested_against_its_own_intact_system(knocked: ComparisonResult):
    assert knocked.reference is None
    assert not knocked.reference_chosen
    assert {one.baseline for one in knocked.differences} == {"knn"}
    assert [one.system for one in knocked.differences] == [system.name for system in knocked.systems[1:]]
    assert knocked.differences == correct_family(knocked.differences)  # Holm, over all of them
    assert all(system.base == "knn" for system in knocked.systems[1:])
    assert (knocked.systems[0].base, knocked.systems[0].change) == (None, None)
    assert [one.name for one in knocked.left_out] == ["knn: image+text absent"]
    assert ComparisonResult.model_validate_json(knocked.model_dump_json()) == knocked


def test_curves_start_at_the_intact_system(knocked: ComparisonResult):
    (curve,) = curves(knocked)
    assert (curve.kind, curve.target) == ("missing", "image+text")
    points = curve.points["knn"]
    assert list(points) == [0, 50, 80]
    assert points[0] == knocked.systems[0].test["recall@1"]
    by_name = {system.name: system.test["recall@1"] for system in knocked.systems}
    assert points[80] == by_name["knn: image+text missing 80 %"]
    assert points[80].mean < points[0].mean


def test_two_systems_are_one_family_and_not_tested_against_each_other(split: Split, tmp_path: Path):
    recipes = {"vbpr": Recipe("vbpr", QUICK), "graph": Recipe("lightgcn", QUICK), "bm3": Recipe("bm3", QUICK)}
    systems, left_out = knockout_systems(recipes, split.data, KnockoutPlan(["shuffled"], modalities=["text"]))
    result = compare(systems, split, [1], shop(tmp_path), k=(2,), left_out=left_out)
    pairs = [(one.baseline, one.system) for one in result.differences]
    assert pairs == [("vbpr", "vbpr: text shuffled"), ("bm3", "bm3: text shuffled")]
    assert result.differences == correct_family(result.differences)


def test_runs_on_changed_content_are_kept_apart_and_not_opened_on_the_data_as_they_are(
    split: Split, tmp_path: Path
):
    change = Change(kind="shuffled", modalities=("image",))
    job = Job(Recipe("vbpr", QUICK), 1, change)
    (outcome,) = run_jobs([job], split, shop(tmp_path))
    assert outcome.folder is not None
    run = load(outcome.folder)
    with pytest.raises(ConfigError, match="another split"):
        open_test(run, split, (2,))
    opened = open_test(run, job.split(split), (2,))
    assert opened.record.split["content"]["kind"] == "shuffled"
    assert opened.record.data_hash != split.data.content_hash
    (intact,) = run_jobs([Job(job.recipe, 1)], split, shop(tmp_path))
    assert intact.folder is not None
    assert intact.done == "now"
    assert not torch.equal(load(intact.folder).scorer.embeddings.items, run.scorer.embeddings.items)


def test_a_second_call_trains_nothing_and_says_the_same(split: Split, tmp_path: Path):
    systems, _ = knockout_systems({"vbpr": Recipe("vbpr", QUICK)}, split.data, KnockoutPlan(["noise"], [50]))
    told = []
    first, second = (
        compare(systems, split, [1], shop(tmp_path), k=(2,), on_outcome=told.append) for _ in range(2)
    )
    assert [outcome.done for outcome in told] == ["now"] * len(systems) + ["before"] * len(systems)
    assert first == second


# Killed


COMMAND = ["knockout", "vbpr", "--seeds", "2", "--kind", "shuffled", "--modality", "text", "-k", "2", "--set", "epochs=60",
           "--set", "patience=60", "--set", "batch_size=16", "--set", "metric=recall@2", "--device", "cpu",
           "--threads", "1"]  # fmt: skip


@pytest.mark.long  # kills of other experiments are in test_jobs.py
def test_killed_with_two_workers_nothing_is_lost_or_done_twice(split: Split, tmp_path: Path):
    split.data.save(tmp_path / "toy")
    folder = tmp_path / "e"
    command = [str(Path(sys.executable).with_name("triptych")), *COMMAND, "--data", str(tmp_path / "toy")]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--out", str(folder)],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((folder / "runs").glob("*/run.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # its workers with it
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/model.safetensors")}
    assert 1 <= len(done) < 4
    recipe = Recipe("vbpr", {"epochs": 60, "patience": 60, "batch_size": 16, "metric": "recall@2"})
    systems, _ = knockout_systems(
        {"vbpr": recipe}, split.data, KnockoutPlan(["shuffled"], modalities=["text"])
    )
    again = Split.by_ratio(split.data, rng=999)
    told = []
    resumed = compare(systems, again, [1, 2], shop(folder), k=(2,), on_outcome=told.append)
    assert [outcome.done for outcome in told].count("before") == len(done)
    whole = compare(systems, again, [1, 2], shop(tmp_path / "whole"), k=(2,))
    for one, other in zip(resumed.systems, whole.systems, strict=True):
        assert (one.name, one.test, one.valid, one.epochs) == (
            other.name, other.test, other.valid, other.epochs,
        )  # fmt: skip
    assert not list((folder / "unfinished").glob("*/checkpoint.json"))
