"""Commands about many trainings, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from triptych.cli.app import run
from triptych.cli.experiments import read_seeds
from triptych.data.dataset import Dataset
from triptych.errors import ConfigError
from triptych.runs import load
from triptych.testing import toy_dataset
from triptych.training.recipe import find_recipe

QUICK = ["--set", "epochs=2", "--set", "batch_size=16", "--set", "metric=recall@2", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    toy_dataset().save(folder)
    return folder


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def answer(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert call(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_compare_trains_measures_and_finds_again(data: Path, tmp_path: Path, capsys):
    command = [
        "compare",
        "mf-bpr",
        "lightgcn",
        "--data",
        data,
        "--seeds",
        2,
        "-k",
        "2,5",
        *QUICK,
        "--out",
        tmp_path / "e",
    ]
    found = answer(capsys, *command)
    assert [system["name"] for system in found["systems"]] == ["mf-bpr", "lightgcn"]
    assert [system["seeds"] for system in found["systems"]] == [[1, 2], [1, 2]]
    assert len(found["differences"]) == 1
    kept = json.loads((tmp_path / "e" / "comparison.json").read_text())
    assert kept["systems"] == found["systems"]
    for kind in ("md", "tex", "html"):
        assert "lightgcn" in (tmp_path / "e" / f"comparison.{kind}").read_text(encoding="utf-8")
    assert call(*command) == 0
    captured = capsys.readouterr()
    assert captured.err.count("was trained before") == 4
    assert "beside" in captured.out
    for folder in found["systems"][1]["runs"]:
        assert load(folder).record.test_opened


def test_compare_takes_plugins_and_recipes(data: Path, tmp_path: Path, capsys):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('model = "lightgcn"\n[settings]\nn_layers = 1\n')
    found = answer(
        capsys,
        "compare",
        recipe,
        "bm3+sand",
        "--data",
        data,
        "--seeds",
        "3,7",
        "-k",
        2,
        *QUICK,
        "--out",
        tmp_path / "e",
    )
    names = [system["name"] for system in found["systems"]]
    assert names == [str(recipe).removesuffix(".toml"), "bm3+sand"]
    assert found["systems"][1]["seeds"] == [3, 7]


def test_sweep_goes_through_all_combinations(data: Path, tmp_path: Path, capsys):
    found = answer(capsys, "sweep", "lightgcn", "n_layers=1,2", "normalisation=sym,rw_loop", "--data", data, "-k", 2, *QUICK,
                   "--out", tmp_path / "e")  # fmt: skip
    assert [system["name"] for system in found["systems"]] == [
        "n_layers=1 normalisation=sym", "n_layers=1 normalisation=rw_loop",
        "n_layers=2 normalisation=sym", "n_layers=2 normalisation=rw_loop",
    ]  # fmt: skip
    assert found["systems"][3]["settings"]["normalisation"] == "rw_loop"


def test_ablate_compares_the_variants_with_the_model(data: Path, tmp_path: Path, capsys):
    found = answer(capsys, "ablate", "sand", "--variant", "w/o Alignment", "--data", data, "--seeds", 1, "-k", 2, *QUICK,
                   "--set", "n_neighbors=2", "--out", tmp_path / "e")  # fmt: skip
    assert [system["name"] for system in found["systems"]] == ["sand", "w/o Alignment"]
    assert found["reference"] == "sand"
    assert found["systems"][1]["settings"]["use_align"] is False


def test_search_writes_a_recipe_of_the_best(data: Path, tmp_path: Path, capsys):
    found = answer(capsys, "search", "lightgcn", "--data", data, "--trials", 3, *QUICK, "--sampler", "random",
                   "--out", tmp_path / "e")["searches"][0]  # fmt: skip
    assert len(found["trials"]) == 3
    recipe = find_recipe(found["recipe"])
    assert recipe.model == "lightgcn"
    assert dict(recipe.settings) == found["best"]
    assert (
        call(
            "search",
            "lightgcn",
            "--data",
            data,
            "--trials",
            3,
            *QUICK,
            "--sampler",
            "random",
            "--out",
            tmp_path / "e",
        )
        == 0
    )
    assert "3 trials" in capsys.readouterr().out


def test_reproduce_lists_estimates_and_trains(tmp_path: Path, capsys):
    Dataset.demo().save(tmp_path / "shop")
    assert "2" in {table["table"] for table in answer(capsys, "reproduce", "sand")["tables"]}
    command = ["reproduce", "sand", 2, "--data", f"baby={tmp_path / 'shop'}", "--row", "MF-BPR", "--device", "cpu",
               "--out", tmp_path / "e"]  # fmt: skip
    (estimate,) = answer(capsys, *command, "--dry-run")["estimates"]
    assert [(row["row"], row["missing"], row["known"]) for row in estimate["rows"]] == [("MF-BPR", 1, False)]
    assert not (tmp_path / "e" / "runs").exists()
    (table,) = answer(capsys, *command)["tables"]
    cells = {figure["metric"]: figure for figure in table["figures"]}
    assert cells["recall@20"]["printed"] == 0.0575
    ours = cells["recall@20"]["ours"]["mean"]
    assert cells["recall@20"]["relative"] == pytest.approx(ours / 0.0575 - 1)
    assert load(table["comparison"]["systems"][0]["runs"][0]).record.test["recall@20"] == ours
    (again,) = answer(capsys, *command, "--dry-run")["estimates"]
    assert [(row["missing"], row["known"]) for row in again["rows"]] == [(0, True)]
    assert again["seconds"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "lightgnc"], "Did you mean 'lightgcn'"),
        (["compare", "lightgcn+snad"], "Did you mean 'sand'"),
        (["compare", "lightgcn", "--seeds", "many"], "--seeds 5"),
        (["sweep", "lightgcn", "n_layer=1,2"], "Did you mean 'n_layers'"),
        (["sweep", "lightgcn", "depth"], "no sweep of lightgcn"),
        (["ablate", "sand", "--variant", "w/o Alignmen"], "Did you mean 'w/o Alignment'"),
        (["search", "nothing.toml"], "there is no file nothing.toml"),
        (["search", "lightgcn", "--sampler", "tep"], "tpe"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(arguments: list[str], message: str, data: Path, capsys):
    assert call(*arguments, "--data", data) not in (0, 1)
    assert message in " ".join(capsys.readouterr().err.split())


def test_unknown_papers_tables_and_data_are_refused(data: Path, capsys):
    for arguments, message in (
        (["reproduce", "snad"], "Did you mean 'sand'"),
        (["reproduce", "sand", "22", "--data", f"baby={data}"], "has no table '22'"),
        (["reproduce", "sand", "2", "--data", f"babe={data}"], "Did you mean 'baby'"),
        (["reproduce", "sand", "4", "--data", f"sports={data}"], "has no figures of 'sports'"),
        (["reproduce", "sand", "2"], "no data set is named"),
        (["reproduce", "sand", "2", "--data", "baby"], "NAME=FOLDER"),
    ):
        assert call(*arguments) not in (0, 1)
        assert message in " ".join(capsys.readouterr().err.split())


def test_seeds_are_a_number_or_a_list():
    assert read_seeds("3") == [1, 2, 3]
    assert read_seeds("4,7") == [4, 7]
    for text in ("0", "-1", "a", "", "1,b"):
        with pytest.raises(ConfigError, match="how many seeds"):
            read_seeds(text)
