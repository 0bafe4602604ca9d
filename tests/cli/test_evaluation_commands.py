"""What runs look like, from the command line: beside accuracy, pictures, and curves kept elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from triptych.data.dataset import Dataset
from triptych.runs import evaluate, load, rank_otherwise
from triptych.runs.beyond import measure_beyond
from triptych.testing import toy_dataset

TRAIN = ("--epochs", 2, "-k", "2,5", "--set", "metric=recall@2", "--set", "batch_size=16", "--device", "cpu")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop") / "data"
    data = toy_dataset(n_users=20, n_items=14, missing=False)
    table = data.item_table.with_columns(category=pl.Series(["mug", "lamp"] * 7))
    replace(data, item_table=table).save(folder)
    return folder


@pytest.fixture
def trained(call, shop: Path) -> Path:
    out = shop.parent / "run"
    if not out.exists():
        assert call("train", "vbpr", shop, *TRAIN, "--out", out).status == 0
    return out


def test_beyond_stands_beside_accuracy(call, shop: Path, trained: Path):
    called = call(
        "evaluate", trained, "-k", "2,5", "--beyond", "--data", shop, "--groups", "category", "--json"
    )
    assert called.status == 0, called.stdout
    found = measure_beyond(load(trained), Dataset.load(shop), (2, 5), groups="category")
    assert called.json["beyond"] == json.loads(found.model_dump_json())
    figures = called.json["beyond"]["figures"]
    assert {
        "coverage@2",
        "gini@5",
        "popularity_lift@2",
        "diversity_image@5",
        "share_image@2",
    } <= figures.keys()
    plain = call("evaluate", trained, "-k", "2,5", "--json")
    assert "beyond" not in plain.json
    assert plain.json["metrics"] == called.json["metrics"]


def test_a_run_is_measured_as_it_ranks_by_another_setting(call, shop: Path, tmp_path: Path):
    out = tmp_path / "msi"
    assert call("train", "msi", shop, *TRAIN, "--out", out).status == 0
    words = ("evaluate", out, "--data", shop, "-k", "2", "--set", "score_with=text")
    found = call(*words, "--json").json
    assert found["set"] == {"score_with": "text"}
    other = rank_otherwise(load(out), Dataset.load(shop), {"score_with": "text"})
    assert found["metrics"] == pytest.approx(evaluate(other, "test", [2]).mean())
    assert "score_with = text" in call(*words).stdout


def test_beyond_is_shown_in_tables(call, trained: Path):
    shown = call("evaluate", trained, "-k", "2,5", "--beyond").stdout
    for words in ("Beside accuracy", "coverage", "miscalibration", "By number of training items", "By popularity of",
                  "No diversity: a run keeps no features"):  # fmt: skip
        assert words in shown
    figures = measure_beyond(load(trained), k=(2, 5)).figures
    row = next(line.split() for line in shown.splitlines() if line.startswith("coverage "))
    assert row[1:] == [f"{figures[name]:.4f}" for name in ("coverage@2", "coverage@5")]


def test_a_picture_is_a_page_and_its_numbers(call, shop: Path, trained: Path, tmp_path: Path):
    arguments = ("picture", trained, shop, "--sample", 12, "--layers", 0)
    called = call(*arguments, "--out", tmp_path / "page.html", "--json")
    assert called.status == 0, called.stdout
    assert called.json["page"] == str(tmp_path / "page.html")
    assert [one["kind"] for one in called.json["maps"]] == ["modalities", "nodes", "ids", "result"]
    points = called.json["maps"][0]["panels"][0]["points"]
    assert (len(points), len(points[0])) == (12, 2)
    assert called.json["diagnosis"]["modalities"]
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "vbpr on toy" in page


def test_on_valid_train_is_masked_and_may_be_named(call, trained: Path):
    words = ("evaluate", trained, "-k", 2, "--on", "valid", "--json")
    assert call(*words, "--masked", "train").json == call(*words).json
    assert call(*words).json["protocol"]["masked"] == "train"


def test_the_largest_seed_trains_and_draws(call, shop: Path, tmp_path: Path):
    seed = 2**32 - 1
    called = call("train", "vbpr", shop, *TRAIN, "--seed", seed, "--split", "ratio", "--split-seed", seed,
                  "--out", tmp_path / "r")  # fmt: skip
    assert called.status == 0, called.stderr
    drawn = call("picture", tmp_path / "r", shop, "--sample", 12, "--layers", 0, "--seed", seed, "--out",
                 tmp_path / "p.html")  # fmt: skip
    assert drawn.status == 0, drawn.stderr


def test_training_is_tracked_where_it_is_told(call, shop: Path, tmp_path: Path):
    out = tmp_path / "runs" / "a"
    called = call("train", "mf-bpr", shop, *TRAIN, "--out", out, "--track", "jsonl", "--track",
                  f"tensorboard={tmp_path}/boards", "--json")  # fmt: skip
    assert called.status == 0, called.stdout
    lines = [json.loads(line) for line in (tmp_path / "runs/tracking/jsonl/a.jsonl").read_text().splitlines()]
    assert lines[1:-1] == load(out).record.model_dump(mode="json")["history"]
    assert called.json["tracked"] == {
        "jsonl": f"{tmp_path}/runs/tracking/jsonl/a.jsonl", "tensorboard": f"tensorboard --logdir {tmp_path}/boards",
    }  # fmt: skip
    assert list((tmp_path / "boards" / "a").iterdir())
    assert "tracked" not in call("train", "mf-bpr", shop, *TRAIN, "--out", tmp_path / "b", "--json").json


def test_a_tracker_that_fails_leaves_the_training_alone(call, shop: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    called = call(
        "train", "mf-bpr", shop, *TRAIN, "--out", tmp_path / "a", "--track", f"jsonl={tmp_path}/file/x"
    )
    assert called.status == 0
    assert called.stderr.count("jsonl tracks no further") == 1
    assert "Tracked" not in called.stdout
    assert load(tmp_path / "a").record.test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "{run}", "--data", "{data}"), "without --beyond"),
        (("evaluate", "{run}", "--groups", "category"), "without --beyond"),
        (("evaluate", "{run}", "--set", "score_with=text"), "without --data"),
        (("evaluate", "{run}", "-k", "2", "--on", "valid", "--masked", "train+valid"), "--masked without --on test"),
        (("picture", "{run}", "{data}", "--seed", str(2**32), "--out", "{out}/p.html"), "Invalid value for '--seed'"),
        (("train", "mf-bpr", "{data}", "--seed", "100000000000000000000", "--out", "{out}/r"), "Invalid value for '--seed'"),
        (("train", "mf-bpr", "{data}", "--split-seed", str(2**32), "--out", "{out}/r"), "Invalid value for '--split-seed'"),
        (("train", "mf-bpr", "{data}", "--seed", "-1", "--out", "{out}/r"), "Invalid value for '--seed'"),
        (("train", "mf-bpr", "{data}", "--checkpoint-every", "0", "--out", "{out}/r"), "Invalid value for '--checkpoint-every'"),
        (("evaluate", "{run}", "-k", "2", "--beyond", "--groups", "categry"), "Did you mean 'category'"),
        (("evaluate", "{run}", "-k", "2", "--beyond", "--data", "{run}"), "is not a data set"),
        (("picture", "{run}", "{data}", "--sample", "3", "--out", "{out}/p.html"), "from 12 to 2,000"),
        (("picture", "{run}", "{run}", "--out", "{out}/p.html"), "is not a data set"),
        (("train", "mf-bpr", "{data}", "--track", "tensorbord", "--out", "{out}/r"), "Did you mean 'tensorboard'"),
        (("train", "mf-bpr", "{data}", "-k", "99", "--track", "jsonl", "--out", "{out}/r"), "size of the catalogue"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_and_leave_nothing(call, shop, trained, tmp_path: Path, arguments, message):
    words = [word.format(run=trained, data=shop, out=tmp_path) for word in arguments]
    called = call(*words)
    assert called.status == 2
    assert message in " ".join(called.stderr.split())
    assert call(*words, "--json").json["error"]["fix"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "picture", "train"])
def test_help_has_an_example(call, command: str):
    shown = " ".join(call(command, "--help").stdout.split())
    assert f"Example: triptych {command}" in shown
