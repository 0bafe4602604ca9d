"""R1: killed with SIGKILL at any moment and taken up again, a training ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from orders import Laboratory, leftovers

from triptych import Dataset, load
from triptych.runs import Run
from triptych.training.checkpoint import load_checkpoint
from triptych.training.trainer import CHECKPOINT

FAMILIES = {
    "lightgcn": "ids alone",
    "freedom": "a graph of nearest neighbours, thinned in each epoch",
    "lattice": "a graph learned anew",
    "mmssl": "another optimiser",
    "sand": "another optimiser, in phases",
    "diffmm": "a phase of diffusion",
    "bm3": "no sampled items",
    "ials": "sweeps, no gradient",
    "ease": "a closed form",
}


def outcome(folder: Path) -> dict[str, Any]:
    """Gather all that must be the same: weights, moments, generators, curves, scores and lists; no times."""
    run: Run = load(folder / "run")
    tensors, facts = load_checkpoint(folder / "checkpoints", CHECKPOINT)
    del facts["progress"]["peak_memory_bytes"]
    for record in facts["progress"]["history"]:
        del record["train_seconds"], record["eval_seconds"]
    users = run.split.data.users.ids.tolist()
    return {
        "checkpoint": {
            name: (str(tensor.dtype), tensor.numpy().tobytes()) for name, tensor in tensors.items()
        },
        "facts": facts,
        "weights": {name: tensor.numpy().tobytes() for name, tensor in run.weights.items()},
        "scores": run.scorer.score(torch.arange(len(users))).numpy().tobytes(),
        "curve": [(record.epoch, record.losses, record.valid, record.best) for record in run.record.history],
        "test": run.record.test,
        "lists": run.recommend(users, k=3),
    }


@pytest.fixture(scope="module")
def whole(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory):
    """Train without a kill, once a model, and count the steps."""
    known: dict[str, tuple[dict[str, Any], dict[str, int]]] = {}

    def give(model: str) -> tuple[dict[str, Any], dict[str, int]]:
        if model not in known:
            folder = tmp_path_factory.mktemp("whole") / model
            report = laboratory.do("training", folder, model)
            assert report.status == 0, report.said
            known[model] = outcome(folder), report.steps
        return known[model]

    return give


def kill_and_resume(laboratory: Laboratory, folder: Path, model: str, moments: list[int]) -> int:
    """Kill a training at one moment after the other, let it end, and count the kills that hit."""
    hit = 0
    for at in moments:
        report = laboratory.do("training", folder, model, fault="kill", at=at)
        if not report.killed:
            assert report.status == 0, report.said
            break
        hit += 1
        if (folder / "run").exists():
            load(folder / "run")  # whole, whenever it is there
    report = laboratory.do("training", folder, model)
    assert report.status == 0, report.said
    assert leftovers(folder) == []
    return hit


@pytest.mark.parametrize("model", ["lightgcn", "mmssl"])
def test_killed_now_and_then(laboratory: Laboratory, whole, tmp_path: Path, model: str):
    expected, steps = whole(model)
    assert {"batch", "evaluation", "os.rename", "fsync", "write"} <= steps.keys()
    total = sum(steps.values())
    rng = random.Random(model)
    for series in range(3):
        folder = tmp_path / str(series)
        assert (
            kill_and_resume(laboratory, folder, model, [rng.randint(1, total), rng.randint(1, total // 2)])
            >= 1
        )
        assert outcome(folder) == expected


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", FAMILIES)
def test_killed_at_many_moments(
    laboratory: Laboratory, whole, tmp_path: Path, model: str, record_property, capsys
):
    expected, steps = whole(model)
    total, kills, rng = sum(steps.values()), 0, random.Random(model)
    for series in range(6):
        folder = tmp_path / str(series)
        kills += kill_and_resume(laboratory, folder, model, [rng.randint(1, total) for _ in range(3)])
        assert outcome(folder) == expected, series
    record_property("kills", kills)
    with capsys.disabled():
        print(f"\n{model} ({FAMILIES[model]}): {kills} kills among {json.dumps(dict(Counter(steps)))}")
    assert kills >= 6


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_at_every_step_of_saving(laboratory: Laboratory, whole, tmp_path: Path):
    """Of a model that is trained at once nearly all steps are those of files: every single one is tried."""
    expected, steps = whole("ease")
    for at in range(1, sum(steps.values()) + 1):
        assert kill_and_resume(laboratory, tmp_path / str(at), "ease", [at]) == 1
        assert outcome(tmp_path / str(at)) == expected, at


def replaced_at(laboratory: Laboratory, place: Path, moments: slice) -> Counter[str]:
    """Kill the replacing of a data set at its steps, and count which of the two was there afterwards."""
    for n in (8, 10):
        assert laboratory.do("saving", place / str(n), n).status == 0
    names = {Dataset.load(place / str(n) / "data").content_hash: f"of {n}" for n in (8, 10)}
    shutil.copytree(place / "8", place / "count")
    total = sum(laboratory.do("saving", place / "count", 10).steps.values())
    found: Counter[str] = Counter()
    for at in range(1, total + 1)[moments]:
        folder = place / f"at {at}"
        shutil.copytree(place / "8", folder)
        assert laboratory.do("saving", folder, 10, fault="kill", at=at).killed
        found[names[Dataset.load(folder / "data").content_hash]] += 1
        assert laboratory.do("saving", folder, 10).status == 0
        assert names[Dataset.load(folder / "data").content_hash] == "of 10"
        assert leftovers(folder) == []
    assert found.keys() == {"of 8", "of 10"}
    return found


def test_killed_while_a_data_set_is_replaced_leaves_the_old_or_the_new(
    laboratory: Laboratory, tmp_path: Path
):
    replaced_at(laboratory, tmp_path, slice(-12, None, 3))  # the last steps put the new one in its place


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_at_every_step_of_replacing_a_data_set(laboratory: Laboratory, tmp_path: Path, capsys):
    found = replaced_at(laboratory, tmp_path, slice(None))
    with capsys.disabled():
        print(f"\nreplacing a data set: {found.total()} kills, {dict(found)}")


TRAIN = ("train", "mf-bpr", "{}/board", "--epochs", "3", "--checkpoint-every", "1", "-k", "2", "--device", "cpu",
         "--set", "metric=recall@2", "--set", "embedding_dim=4", "--out", "{}/run")  # fmt: skip


def test_no_checkpoint_stays_for_good(laboratory: Laboratory, tmp_path: Path):
    """Killed between saving the run and removing its checkpoints, whoever reads the run removes them."""
    assert laboratory.do("material", tmp_path / "material").status == 0

    def begin(name: str, at: int, *options: str, of: str = "material") -> Path:
        shutil.copytree(tmp_path / of, tmp_path / name)
        assert laboratory.do("commands", tmp_path / name, *TRAIN, *options, fault="kill", at=at).killed
        return tmp_path / name

    shutil.copytree(tmp_path / "material", tmp_path / "whole")
    total = sum(laboratory.do("commands", tmp_path / "whole", *TRAIN).steps.values())
    left: set[str] = set()
    for at in range(total, 0, -1):  # from the end, until they are all there
        folder = begin(str(at), at)
        left = {path.name for path in (folder / "run.checkpoint").glob("checkpoint*")}
        for gone in left:  # killed while it was removing them
            shutil.copytree(folder, tmp_path / f"{at} {gone}")
            (tmp_path / f"{at} {gone}" / "run.checkpoint" / gone).unlink()
        for place in (folder, *tmp_path.glob(f"{at} *")):
            load(place / "run")
            assert not (place / "run.checkpoint").exists(), place
        if left:
            break
    assert left == {"checkpoint.json", "checkpoint-3.safetensors"}

    folder = begin("anew", total // 2, "--overwrite", of="whole")
    kept = {path.name for path in (folder / "run.checkpoint").glob("checkpoint*")}
    assert "checkpoint.json" in kept
    load(folder / "run")
    assert {path.name for path in (folder / "run.checkpoint").iterdir()} == kept, "those of another training"
    assert laboratory.do("commands", folder, *TRAIN, "--resume", "--overwrite").status == 0
    assert not (folder / "run.checkpoint").exists()
