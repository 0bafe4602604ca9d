"""`triptych search` and `reproduce`: all that is asked for is looked at before the first of it is worked on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from triptych.cli.app import run
from triptych.testing import toy_dataset
from triptych.training.recipe import find_recipe


@pytest.fixture
def data(tmp_path: Path) -> Path:
    toy_dataset().save(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("ranges.toml", "no grid can go through"),
        ("lightgcn", "two spaces of lightgcn among lightgcn, lightgcn"),
    ],
)
def test_a_mistake_in_the_second_space_is_told_before_the_first_is_searched(
    data: Path, tmp_path: Path, monkeypatch, capsys, second: str, message: str
):
    monkeypatch.chdir(tmp_path)
    Path("ranges.toml").write_text(
        'model = "mf-bpr"\nsource = "here"\n[space]\nlearning_rate = {low = 0.1, high = 0.2}\n'
    )
    words = ["search", "lightgcn", second, "--data", str(data), "--sampler", "grid", "--out", "found"]
    assert run(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("found").exists()


def test_a_recipe_with_a_plugin_is_searched_and_its_best_can_be_compared(data: Path, tmp_path: Path, capsys):
    """What the recipe sets stays, the values of its plug-in are searched, and the recipe found has both."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'model = "vbpr"\nsource = "me"\n[settings]\nreg_weight = 0.25\nmetric = "recall@2"\nepochs = 2\n'
    )
    out = tmp_path / "found"
    options = ["--data", str(data), "--out", str(out), "--json"]
    assert run(["search", f"{recipe}+sand", "--trials", "3", "--sampler", "random", *options]) == 0
    (found,) = json.loads(capsys.readouterr().out)["searches"]
    assert (found["model"], found["plugins"], found["recipe"]) == (
        "vbpr",
        ["sand"],
        str(out / "vbpr-sand-toy.toml"),
    )
    assert [trial["state"] for trial in found["trials"]] == ["done"] * 3
    assert found["trials"][0]["settings"] == {}
    searched = {"sand.align_weight", "sand.distance_weight", "sand.temperature"}
    assert all(trial["settings"].keys() == searched for trial in found["trials"][1:])
    assert "vbpr+sand on toy: 3 trials" in Path(found["page"]).read_text()
    best = find_recipe(found["recipe"])
    assert best.name == "vbpr+sand"
    assert best.settings == found["best"]
    assert best.settings["reg_weight"] == 0.25
    assert run(["compare", found["recipe"], "--seeds", "1", "-k", "2", *options]) == 0
    (system,) = json.loads(capsys.readouterr().out)["systems"]
    assert system["valid"]["recall@2"]["mean"] == pytest.approx(found["best_value"])


def test_a_damaged_journal_is_an_error_in_json(data: Path, tmp_path: Path, capsys):
    journal = tmp_path / "found" / "search" / "lightgcn.journal"
    journal.parent.mkdir(parents=True)
    journal.write_text("garbage{\n")
    words = ["search", "lightgcn", "--data", str(data), "--out", str(tmp_path / "found"), "--json"]
    assert run([*words, "--trials", "1", "--set", "metric=recall@2"]) == 2
    assert str(journal) in json.loads(capsys.readouterr().out)["error"]["found"]


def test_a_data_set_that_is_missing_is_told_before_the_first_table_is_made(
    data: Path, tmp_path: Path, capsys
):
    out = tmp_path / "found"
    words = ["reproduce", "MSI", "2", "--data", f"baby={data}", "--data", f"sports={tmp_path / 'nowhere'}"]
    assert run([*words, "--out", str(out)]) == 2
    assert "nowhere is not a data set" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
