"""Commands about many trainings, as a user calls them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.cli.app import run
from triptych.cli.bench import file_name, read_compared, read_seeds, read_systems
from triptych.data.dataset import Dataset
from triptych.errors import ConfigError
from triptych.experiments.saved import SavedRuns
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


def test_settings_that_make_no_difference_are_told_and_the_lengths_asked_for_shown(
    data: Path, tmp_path: Path, capsys
):
    command = ["compare", "ease", "mf-bpr", "--data", data, "--seeds", 1, "-k", "1,3", "--set", "epochs=2",
               "--set", "batch_size=16", "--set", "metric=recall@4", "--device", "cpu", "--out", tmp_path / "e"]  # fmt: skip
    assert call(*command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Not read, as these systems are solved: ease: epochs, batch_size." in said
    assert "ndcg@3" in said
    assert "ndcg@4" not in said
    page = (tmp_path / "e" / "comparison.html").read_text(encoding="utf-8")
    assert "ease: epochs, batch_size." in page


def test_progress_names_what_is_trained(data: Path, tmp_path: Path, capsys):
    common = ["--data", data, "--seeds", 1, "-k", 2, *QUICK, "--out", tmp_path / "e"]
    assert call("sweep", "lightgcn", "n_layers=1,2", *common) == 0
    assert "2/2  n_layers=2, seed 1: trained" in capsys.readouterr().err
    assert call("knockout", "vbpr", "--kind", "absent", "--modality", "image", *common) == 0
    said = capsys.readouterr().err
    assert "1/2  vbpr, seed 1: trained" in said
    assert "2/2  vbpr: image absent, seed 1: trained" in said
    assert call("compare", "lightgcn", "--protocol", "legacy", *common) == 0
    assert "2/2  lightgcn, legacy, seed 1: is the training that does not round" in capsys.readouterr().err


def test_ablate_compares_the_variants_with_the_model(data: Path, tmp_path: Path, capsys):
    found = answer(capsys, "ablate", "sand", "--variant", "w/o Alignment", "--data", data, "--seeds", 1, "-k", 2, *QUICK,
                   "--set", "n_neighbors=2", "--out", tmp_path / "e")  # fmt: skip
    assert [system["name"] for system in found["systems"]] == ["sand", "w/o Alignment"]
    assert found["reference"] == "sand"
    assert found["systems"][1]["settings"]["use_align"] is False


def test_ablate_says_which_variants_are_the_model_itself(data: Path, tmp_path: Path, capsys):
    command = ["ablate", "sand", "--variant", "w/o Alignment", "--variant", "w/o Distancing", "--data", data, "--seeds", 1,
               "-k", 2, *QUICK, "--set", "n_neighbors=2", "--set", "use_align=false", "--out", tmp_path / "e"]  # fmt: skip
    found = answer(capsys, *command)
    assert [system["name"] for system in found["systems"]] == ["sand", "w/o Distancing"]
    (same,) = found["left_out"]
    assert same == {"name": "w/o Alignment", "reason": "with these settings it is sand itself"}
    assert call(*command) == 0
    assert "Left out: w/o Alignment, as with these settings" in " ".join(capsys.readouterr().out.split())


def test_knockout_compares_with_the_intact_system_and_draws_curves(data: Path, tmp_path: Path, capsys):
    command = ["knockout", "vbpr", "lightgcn", "--data", data, "--seeds", 1, "-k", 2, *QUICK, "--kind", "shuffled",
               "--kind", "absent", "--missing", "0,50", "--noise", "0.5", "--beyond", "--out", tmp_path / "e"]  # fmt: skip
    found = answer(capsys, *command)
    assert [system["name"] for system in found["systems"]] == [
        "vbpr", "vbpr: image shuffled", "vbpr: image absent", "vbpr: text shuffled", "vbpr: text absent",
        "vbpr: image+text shuffled", "vbpr: image+text missing 50 %", "vbpr: image+text noisy 0.5 sd", "lightgcn",
    ]  # fmt: skip
    assert found["reference"] is None
    assert {one["baseline"] for one in found["differences"]} == {"vbpr"}
    assert found["systems"][6]["change"] == {
        "kind": "missing", "modalities": ["image", "text"], "amount": 50.0,
    }  # fmt: skip
    assert "coverage@2" in found["systems"][0]["beyond"]
    (path,) = (tmp_path / "e").glob("knockout-*.json")
    assert path.name.startswith("knockout-vbpr-lightgcn-shuffled-absent-missing=0,50-noise=0.5-")
    kept = json.loads(path.read_text())
    assert kept == {name: value for name, value in found.items() if name not in ("folder", "report")}
    for kind in ("md", "tex", "html"):
        text = path.with_suffix(f".{kind}").read_text(encoding="utf-8")
        assert "lack image and text" in text
        assert "coverage@2" in text
    assert call(*command) == 0
    captured = capsys.readouterr()
    assert captured.err.count("was trained before") == 9
    assert "Left out: lightgcn: changed content, as it uses no content" in " ".join(captured.out.split())


def test_compare_puts_orders_under_several_splits_beside_each_other(data: Path, tmp_path: Path, capsys):
    command = ["compare", "mf-bpr", "popularity", "--data", data, "--seeds", 1, "-k", 2, "--set", "epochs=1", "--set",
               "metric=recall@2", "--device", "cpu", "--splits", "ratio, leave-one-out,time", "--out", tmp_path / "e"]  # fmt: skip
    found = answer(capsys, *command)
    assert list(found["orders"]) == ["ratio", "leave-one-out", "time"]
    assert len(found["agreements"]) == 3
    assert found["comparisons"]["time"]["split"]["kind"] == "time"
    for name in ("", "-ratio", "-leave-one-out", "-time"):
        for kind in ("json", "html", "md", "tex"):
            assert (tmp_path / "e" / f"splits-ratio,leave-one-out,time{name}.{kind}").is_file()
    assert call(*command) == 0
    assert "Kendall's tau" in capsys.readouterr().out


def test_data_without_times_are_refused_before_anything_is_trained(tmp_path: Path, capsys):
    timed = toy_dataset()
    bare = replace(timed, interactions=replace(timed.interactions, timestamp=None))
    bare.save(tmp_path / "bare")
    for splits in ("ratio,time", "ratio,leave-one-out"):
        command = ["compare", "mf-bpr", "popularity", "--data", tmp_path / "bare", "--splits", splits, "--out", tmp_path / "e"]  # fmt: skip
        assert call(*command) not in (0, 1)
        assert "has no timestamps" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "e").exists()


def test_reproduce_draws_a_figure(shop: Dataset, tmp_path: Path, capsys):
    shop.save(tmp_path / "shop")
    listed = answer(capsys, "reproduce", "msi")["figures"]
    assert [figure["figure"] for figure in listed] == ["4", "5", "6"]
    command = ["reproduce", "msi", "--figure", 4, "--data", f"baby={tmp_path / 'shop'}", "--device", "cpu", "--dry-run",
               "--out", tmp_path / "e"]  # fmt: skip
    (estimate,) = answer(capsys, *command)["estimates"]
    assert [row["row"] for row in estimate["rows"]] == [f"n_layers={layers}" for layers in (1, 2, 3, 4)]
    assert "figure 4 on baby: n_layers" in estimate["title"]


def test_no_report_is_replaced_by_one_of_something_else(data: Path, tmp_path: Path, capsys):
    common = ["compare", "--data", data, "-k", 2, *QUICK, "--out", tmp_path / "e", "popularity"]
    questions = {
        "first": [], "more": ["mf-bpr"], "more seeds": ["mf-bpr", "--seeds", 2], "fewer": ["--seeds", 1],
        "split": ["mf-bpr", "--split", "leave-one-out"], "mask": ["mf-bpr", "--masked", "train+valid"],
        "legacy": ["mf-bpr", "--protocol", "legacy"], "settings": ["mf-bpr", "--set", "patience=3"],
        "other seed": ["mf-bpr", "--seeds", "5,6"], "reference": ["mf-bpr", "--reference", "popularity"],
    }  # fmt: skip
    reports = {}
    for name, asked in questions.items():
        seeds = [] if "--seeds" in asked else ["--seeds", 1]
        capsys.readouterr()
        assert call(*common, *asked, *seeds, "--json") == 0
        reports[name] = json.loads(capsys.readouterr().out)["report"]
    assert reports["first"] == reports["more"] == reports["more seeds"] == "comparison.json"
    assert len(set(reports.values())) == 8
    assert all((tmp_path / "e" / name).with_suffix(".html").is_file() for name in reports.values())
    kept = json.loads((tmp_path / "e" / "comparison.json").read_text())
    assert [system["name"] for system in kept["systems"]] == ["popularity", "mf-bpr"]
    assert call(*common, *questions["mask"], "--seeds", 1) == 0  # asked again, it takes its own old place
    said = " ".join(capsys.readouterr().out.split())
    assert reports["mask"] in said.replace(" ", "")
    assert "comparison.json answers another question, and stays" in said


def test_saved_runs_are_systems_beside_models(data: Path, tmp_path: Path, capsys):
    common = ["--data", data, "--seeds", 2, "-k", 2, *QUICK, "--out", tmp_path / "e"]
    parts = answer(capsys, "compare", "mf-bpr", "ease", *common)["systems"]
    fused = []
    for seed, runs in enumerate(zip(*(part["runs"] for part in parts), strict=True), start=1):
        fused.append(tmp_path / f"fused{seed}")
        assert call("fuse", *runs, "--metric", "recall@2", "-k", 2, "--out", fused[-1]) == 0
    both = "both=" + ",".join(map(str, fused))
    found = answer(capsys, "compare", both, "mf-bpr", fused[0], *common, "--reference", "mf-bpr", "--beyond")
    assert [(one["name"], one["seeds"], one["saved"]) for one in found["systems"]] == [
        ("both", [1, 2], True), ("mf-bpr", [1, 2], False), ("fused1", [1], True),
    ]  # fmt: skip
    assert [one["system"] for one in found["differences"]] == ["both", "fused1"]
    records = [load(folder).record for folder in fused]
    assert found["systems"][2]["test"]["recall@2"]["mean"] == records[0].test["recall@2"]
    assert found["systems"][0]["test"]["recall@2"]["mean"] == pytest.approx(
        sum(record.test["recall@2"] for record in records) / 2
    )
    assert found["systems"][2]["n_parameters"] == parts[0]["n_parameters"]  # of ease there are none
    page = (tmp_path / "e" / found["report"]).with_suffix(".html").read_text(encoding="utf-8")
    assert "both was not trained here but measured as it was" in page
    alone = ["compare", fused[0], "--data", data, "-k", 2, "--out", tmp_path / "e"]
    assert call(*alone) == 0
    capsys.readouterr()
    assert call(*alone, *QUICK) == 2
    assert "--set without a system that is trained" in " ".join(capsys.readouterr().err.split())
    for asked, message in (
        (["--split", "leave-one-out"], "was made on another split ("),
        (["--set", "metric=ndcg@2"], "the systems watch different metrics: mf-bpr ndcg@2, fused1 recall@2"),
        (["--splits", "ratio,time"], "which are of one split each"),
    ):
        said = [] if "--set" in asked else QUICK
        command = [
            "compare",
            "mf-bpr",
            fused[0],
            "--data",
            data,
            "-k",
            2,
            *said,
            *asked,
            "--out",
            tmp_path / "x",
        ]
        assert call(*command) not in (0, 1)
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()


def test_a_folder_called_as_a_model_is_the_model(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ease", "mine"):
        Path(name).mkdir()
        Path(name, "run.json").write_text("{}")
    found = read_compared(["ease", "mine", "./ease", "x= mine, ease"], None)
    assert {name: type(of).__name__ for name, of in found.items()} == {
        "ease": "Recipe", "mine": "SavedRuns", "./ease": "SavedRuns", "x": "SavedRuns",
    }  # fmt: skip
    assert found["x"] == SavedRuns((Path("mine"), Path("ease")))
    with pytest.raises(ConfigError, match="run of x mine more than once"):
        read_compared(["x=mine,mine"], None)


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


def test_reproduce_lists_estimates_and_trains(shop: Dataset, tmp_path: Path, capsys):
    shop.save(tmp_path / "shop")
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


def test_a_row_that_cannot_be_trained_is_told_and_the_others_go_on(shop: Dataset, tmp_path: Path, capsys):
    replace(shop, features={}).save(tmp_path / "bare")
    command = ["reproduce", "sand", 2, "--data", f"baby={tmp_path / 'bare'}", "--row", "MF-BPR", "--row", "VBPR",
               "--device", "cpu", "--out", tmp_path / "e"]  # fmt: skip
    (estimate,) = answer(capsys, *command, "--dry-run")["estimates"]
    assert [(row["row"], row["error"] is None) for row in estimate["rows"]] == [
        ("MF-BPR", True),
        ("VBPR", False),
    ]
    assert estimate["seconds"] == estimate["rows"][0]["seconds"] > 0
    assert call(*command, "--dry-run") == 0
    assert "Cannot be trained: VBPR: " in " ".join(capsys.readouterr().out.split())
    assert call(*command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Failed: VBPR, seed 1: " in said
    assert f"Ours is of {len(shop.users):,} users" in said
    assert (
        "split by ratio. These are not the paper's data, of which it prints 19,445 users, 7,050 items" in said
    )
    for kind in ("md", "tex", "html"):
        text = (tmp_path / "e" / f"sand-table-2-baby-MF-BPR-VBPR.{kind}").read_text(encoding="utf-8")
        assert "0.0575" in text  # printed
        assert "off by" in text
        assert "of which it prints 19,445 users" in text
        assert "Printed baselines are copied" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "lightgnc"], "Did you mean 'lightgcn'"),
        (["compare", "lightgcn+snad"], "Did you mean 'sand'"),
        (["compare", "lightgcn", "--seeds", "many"], "--seeds 5"),
        (["sweep", "lightgcn", "n_layer=1,2"], "Did you mean 'n_layers'"),
        (["sweep", "lightgcn", "n_layers="], "gives no values"),
        (["sweep", "lightgcn", "n_layers=1,2", "--set", "n_layers=3"], "n_layers both set and swept"),
        (["sweep", "lightgcn", "depth"], "no sweep of lightgcn"),
        (["sweep", "ease", "learning_rate=0.1,0.01"], "ease does not read learning_rate"),
        (["sweep", "ials", "reg_weight=0.1,0.01", "batch_size=1,2"], "ials does not read batch_size"),
        (["sweep", "lightgcn", "n_layers=1,2", "n_layers=3"], "values of n_layers more than once"),
        (["ablate", "sand", "--variant", "w/o Alignmen"], "Did you mean 'w/o Alignment'"),
        (["knockout", "lightgcn"], "it uses no content"),
        (["knockout", "vbpr", "--kind", "zeroes"], "Did you mean 'zeros'"),
        (["knockout", "vbpr", "--missing", "all"], "--missing 0,1,2"),
        (["knockout", "vbpr", "--missing", "100"], "below 100 per cent"),
        (["knockout", "vbpr", "--modality", "sound"], "modality 'sound' is not in"),
        (["compare", "vbpr", "lightgcn", "--splits", "ratio,tmie"], "--splits tmie"),
        (["compare", "vbpr", "lightgcn", "--splits", "ratio,tmie"], "Did you mean 'time'"),
        (["compare", "vbpr", "lightgcn", "--splits", "time, time"], "--splits time more than once"),
        (["compare", "vbpr", "lightgcn", "vbpr"], "SYSTEM vbpr more than once"),
        (["compare", "vbpr", "--seeds", "100000000000000000000"], "up to 1,000"),
        (["compare", "vbpr", "lightgcn", "--splits", "ratio,time", "--split", "time"], "one of them"),
        (["compare", "vbpr", "--splits", "ratio,time"], "at least two systems"),
        (["search", "nothing.toml"], "there is no recipe nothing.toml"),
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
        (["reproduce", "sand", "5", "--data", f"baby={data}"], "python -m benchmarks sand"),
        (["reproduce", "sand", "1", "--data", f"baby={data}"], "triptych describe DATA"),
        (["reproduce", "sand", "2", "--data", f"babe={data}"], "Did you mean 'baby'"),
        (["reproduce", "sand", "4", "--data", f"sports={data}"], "has no figures of 'sports'"),
        (["reproduce", "sand", "2"], "no data set is named"),
        (["reproduce", "sand", "--figure", "9", "--data", f"baby={data}"], "has no figure '9'"),
        (["reproduce", "sand", "--figure", "4", "--data", f"clothing={data}"], "one of: baby, sports"),
        (["reproduce", "mgnm", "--figure", "4", "--data", f"baby={data}"], "one of: none"),
        (["reproduce", "sand", "2", "--figure", "4", "--data", f"baby={data}"], "a figure, or a table"),
        (["reproduce", "sand", "2", "--data", "baby"], "NAME=FOLDER"),
        (
            ["reproduce", "sand", "2", "--data", f"baby={data}", "--data", "baby=x"],
            "--data baby more than once",
        ),
        (["reproduce", "sand", "--data", f"baby={data}", "--dry-run"], "without a table or --figure"),
        (["reproduce", "sand", "--row", "SAND"], "--row without a table or --figure"),
    ):
        assert call(*arguments) not in (0, 1)
        assert message in " ".join(capsys.readouterr().err.split())


def test_seeds_are_a_number_or_a_list():
    assert read_seeds("3") == [1, 2, 3]
    assert read_seeds("4,7") == [4, 7]
    assert read_seeds(f"0,{2**32 - 1}") == [0, 2**32 - 1]
    assert len(read_seeds("1000")) == 1000
    for text in ("0", "-1", "a", "", "1,b", "1001", f"1,{2**32}"):
        with pytest.raises(ConfigError, match="how many seeds"):
            read_seeds(text)


def test_no_system_is_lost_behind_a_name_that_it_shares(tmp_path: Path):
    recipe = tmp_path / "lightgcn.toml"
    recipe.write_text('model = "lightgcn"\n[settings]\nn_layers = 1\n')
    short = str(recipe).removesuffix(".toml")
    assert list(read_systems([f"{recipe}+sand", "lightgcn"], None)) == [f"{short}+sand", "lightgcn"]
    Path(f"{short}.toml.toml").write_text('model = "lightgcn"\n[settings]\nn_layers = 4\n')
    found = read_systems([str(recipe), f"{recipe}.toml"], ["embedding_dim=8"])
    assert [(name, of.settings["n_layers"]) for name, of in found.items()] == [
        (str(recipe), 1), (f"{recipe}.toml", 4),
    ]  # fmt: skip


def test_a_model_and_its_recipe_are_two_systems(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lightgcn.toml").write_text('model = "lightgcn"\n[settings]\nn_layers = 1\n')
    found = read_systems(["lightgcn", "lightgcn.toml"], None)
    assert {name: dict(of.settings) for name, of in found.items()} == {
        "lightgcn": {}, "lightgcn.toml": {"n_layers": 1},
    }  # fmt: skip
    assert list(read_systems(["lightgcn.toml"], None)) == ["lightgcn"]


def test_other_questions_get_other_file_names():
    assert (
        file_name("knockout", "freedom+sand", None, "missing=0,30", "")
        == "knockout-freedom+sand-missing=0,30"
    )
    assert file_name("ablation", "sand", "w/o Alignment") == "ablation-sand-w-o-Alignment"
    assert file_name("sweep", "m", "rate=0.5,1") != file_name("sweep", "m", "rate=0,5,1")
    assert file_name("sweep", "m", "bias=-1") != file_name("sweep", "m", "bias=1")
    many = ",".join(map(str, range(200)))
    long = [file_name("sweep", "m", f"n_layers={many},{last}") for last in (200, 201)]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 120
    assert all(name.startswith("sweep-m-n_layers=0,1,2,") for name in long)


def test_a_second_question_leaves_the_first_ones_answer(data: Path, tmp_path: Path):
    common = ["--data", data, "--seeds", 1, "-k", 2, *QUICK, "--out", tmp_path / "e"]
    for asked in (["sweep", "lightgcn", "n_layers=1,2"], ["sweep", "lightgcn", "n_layers=2", "normalisation=sym,rw_loop"],
                  ["knockout", "vbpr", "--noise", "0,1"], ["knockout", "vbpr", "--noise", "0,1", "--modality", "text"],
                  ["ablate", "sand", "--variant", "w/o Alignment", "--set", "n_neighbors=2"]):  # fmt: skip
        assert call(*asked, *common) == 0
    settings = "epochs=2-batch_size=16-metric=recall-2"
    assert {path.name for path in (tmp_path / "e").glob("*.json")} == {
        f"sweep-lightgcn-n_layers=1,2-{settings}.json",
        f"sweep-lightgcn-n_layers=2-normalisation=sym,rw_loop-{settings}.json",
        f"knockout-vbpr-noise=0,1-{settings}.json",
        f"knockout-vbpr-noise=0,1-text-{settings}.json",
        f"ablation-sand-w-o-Alignment-n_neighbors=2-{settings}.json",
    }
