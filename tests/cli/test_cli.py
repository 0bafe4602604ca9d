"""The command line from raw files to recommendations, for people and for machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from triptych.cli.app import run
from triptych.cli.base import app, folder_name
from triptych.cli.menu import PANELS
from triptych.cli.output import print_facts
from triptych.cli.progress import sparkline
from triptych.data.dataset import Dataset
from triptych.testing import toy_dataset


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A shop's export: sales, products, vectors."""
    folder = tmp_path_factory.mktemp("export")
    data = toy_dataset()
    pairs = data.interactions
    lines = ["customer,sku,stars,when"]
    for n, (u, i) in enumerate(zip(data.users.ids[pairs.user], data.items.ids[pairs.item], strict=True)):
        lines.append(f"{u},{i},{1 + n % 5},2024-01-{1 + n % 28:02d}")
    (folder / "sales.csv").write_text("\n".join(lines) + "\n")
    titles = "\n".join(f"{item},Thing {item}" for item in data.items.ids)
    (folder / "products.csv").write_text(f"sku,name\n{titles}\n")
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def prepared(files: Path) -> Path:
    status = run(
        ["prepare", str(files / "sales.csv"), "--user", "customer", "--item", "sku", "--rating", "stars",
         "--timestamp", "when", "--items", str(files / "products.csv"), "--title", "name",
         "--features", f"image={files / 'vectors.npy'}", "--out", str(files / "shop")]
    )  # fmt: skip
    assert status == 0
    return files / "shop"


@pytest.fixture(scope="module")
def trained(prepared: Path) -> Path:
    out = prepared.parent / "run"
    arguments = ["train", "freedom", prepared, "--set", "n_neighbors=2", "--set", "batch_size=16", "--epochs", 3,
                 "--seed", 5, "-k", "2,5", "--set", "metric=recall@5", "--out", out, "--device", "cpu"]  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    return out


def test_prepare_reads_everything(prepared: Path):
    data = Dataset.load(prepared)
    assert (data.name, data.n_users, data.n_items) == ("shop", 12, 10)
    assert data.titles is not None
    assert data.titles[3] == "Thing i003"
    assert data.features["image"].dim == 6
    assert data.interactions.timestamp is not None


def test_every_command_prints_one_json_object(call, prepared: Path, trained: Path, tmp_path: Path):
    for arguments, keys in [
        (("describe", prepared), {"users", "items", "interactions", "modalities", "provenance"}),
        (("models",), {"models"}),
        (("doctor", trained), {"torch", "checked"}),
        (("evaluate", trained, "-k", "2"), {"metrics", "protocol"}),
        (("recommend", trained, "u001", "u002", "-k", "2"), {"recommendations", "excluded"}),
        (("similar", trained, "i001", "-k", "2"), {"items"}),
        (("diagnose", trained, prepared), {"run", "model", "layers", "modalities", "pairs"}),
        (("train", "mf-bpr", prepared, "--epochs", 1, "-k", "2", "--set", "metric=recall@2", "--out", tmp_path / "r"),
         {"model", "data", "seed", "best_epoch", "epochs", "valid", "test", "seconds_per_epoch", "seconds_per_evaluation",
          "peak_memory_bytes", "n_parameters", "run"}),
        (("prepare", prepared.parent / "sales.csv", "--user", "customer", "--item", "sku", "--out", tmp_path / "d"),
         {"users", "items", "provenance"}),
    ]:  # fmt: skip
        called = call(*arguments, "--json")
        assert called.status == 0, called.stderr
        assert keys <= called.json.keys()
        text = call(*arguments, *(["--overwrite"] if arguments[0] in ("train", "prepare") else []))
        assert text.status == 0
        assert text.stdout.strip()
        assert not text.stdout.lstrip().startswith("{")


def test_models_json_names_what_there_is(call):
    listed = {entry["name"]: entry for entry in call("models", "--json").json["models"]}
    assert {"mf-bpr", "lightgcn", "vbpr", "freedom"} <= listed.keys()
    assert listed["vbpr"] == {
        "name": "vbpr", "paper": listed["vbpr"]["paper"], "year": 2016, "kind": "content", "modalities": ["any"],
        "needs": "dense features",
    }  # fmt: skip
    assert listed["lightgcn"]["modalities"] == []
    assert listed["lightgcn"]["needs"] == "interactions"
    assert listed["freedom"]["needs"] == "features or item graphs"


def test_train_json_has_metrics_by_name(call, prepared: Path, tmp_path: Path):
    answer = call("train", "lightgcn", prepared, "--epochs", 2, "--set", "metric=recall@2", "-k", "2,4", "--out",
                  tmp_path / "r", "--json").json  # fmt: skip
    assert answer["epochs"] == 2
    assert 0 <= answer["test"]["recall@4"] <= 1
    assert set(answer["valid"]) == set(answer["test"])
    assert Path(answer["run"]) == tmp_path / "r"


def test_recommend_and_similar_show_titles(call, trained: Path):
    shown = call("recommend", trained, "u001", "-k", "2").stdout
    assert "Thing i0" in shown
    assert "User u001" in shown
    assert "Thing i0" in call("similar", trained, "i001", "-k", "2").stdout


def test_evaluate_writes_every_user(call, trained: Path, tmp_path: Path):
    called = call("evaluate", trained, "-k", "2", "--per-user", tmp_path / "users.csv", "--json")
    lines = (tmp_path / "users.csv").read_text().splitlines()
    assert lines[0].startswith("user_id,recall@2,")
    assert len(lines) - 1 == called.json["protocol"]["users"]
    values = [float(line.split(",")[1]) for line in lines[1:]]
    assert sum(values) / len(values) == pytest.approx(called.json["metrics"]["recall@2"])


def test_a_run_can_be_called_from_within(call, trained: Path, monkeypatch):
    monkeypatch.chdir(trained)
    asked = ("recommend", "u001", "-k", "2", "--json")
    found = [call(asked[0], folder, *asked[1:]) for folder in (trained, ".", f"../{trained.name}")]
    assert [called.status for called in found] == [0, 0, 0]
    assert (
        found[0].json["recommendations"]
        == found[1].json["recommendations"]
        == found[2].json["recommendations"]
    )


def test_lasts_that_are_any_are_said_to_be(call, files: Path, tmp_path: Path):
    lines = (files / "sales.csv").read_text().splitlines()
    (tmp_path / "timeless.csv").write_text("".join(",".join(line.split(",")[:2]) + "\n" for line in lines))
    prepared = call("prepare", tmp_path / "timeless.csv", "--out", tmp_path / "d")
    assert prepared.status == 0
    called = call("train", "popularity", tmp_path / "d", "--split", "leave-one-out", "-k", 2, "--set", "metric=recall@2",
                  "--out", tmp_path / "r")  # fmt: skip
    assert "at random for want of times" in " ".join(called.stdout.split())


def test_settings_that_a_solved_model_does_not_read_are_named(call, prepared: Path, tmp_path: Path):
    arguments = ("train", "ease", prepared, "-k", 2, "--set", "metric=recall@2", "--epochs", 3, "--out")
    assert "Not read, as ease is solved: epochs." in call(*arguments, tmp_path / "a").stdout
    assert call(*arguments, tmp_path / "b", "--json").json["settings_not_read"] == ["epochs"]


def test_popularity_likens_no_items(call, prepared: Path, tmp_path: Path):
    arguments = (
        "train",
        "popularity",
        prepared,
        "-k",
        2,
        "--set",
        "metric=recall@2",
        "--out",
        tmp_path / "r",
    )
    assert call(*arguments).status == 0
    assert call("similar", tmp_path / "r", "i001", "-k", 2, "--json").json["items"] == []


def test_names_of_files_and_long_values_are_shown_as_they_are(capsys):
    print_facts({"i_id_mapping.csv": 3, "left_out": 0, "out": "deep/" * 40})
    shown = capsys.readouterr().out
    assert "i_id_mapping.csv" in shown
    assert "left out" in shown
    assert "".join(shown.split()).count("deep/") == 40


@pytest.mark.parametrize(
    ("parts", "name"),
    [(("run", "my shop"), "run-my shop"), (("../../esc",), "-..-esc"), (("..",), "data"), (("a\\b",), "a-b")],
)
def test_folders_named_after_data_lie_where_they_should(parts: tuple[str, ...], name: str):
    assert folder_name(*parts) == name


@pytest.mark.parametrize("kind", ["ratio", "leave-one-out", "time"])
def test_train_splits_as_told(call, prepared: Path, tmp_path: Path, kind: str):
    out = tmp_path / "r"
    arguments = (
        "train",
        "mf-bpr",
        prepared,
        "--split",
        kind,
        "--epochs",
        1,
        "-k",
        2,
        "--set",
        "metric=recall@2",
    )
    called = call(*arguments, "--out", out, "--json")
    assert called.status == 0, called.stdout
    assert json.loads((out / "run.json").read_text())["split"]["kind"] == kind


def test_resume_goes_on(call, prepared: Path, tmp_path: Path, monkeypatch):
    from triptych.cli.progress import TrainingProgress

    arguments = (
        "train",
        "mf-bpr",
        prepared,
        "--epochs",
        4,
        "-k",
        2,
        "--set",
        "metric=recall@2",
        "--checkpoint-every",
        1,
    )
    assert call(*arguments, "--out", tmp_path / "whole").status == 0
    tell = TrainingProgress.on_batch

    def stop(self, epoch, done, n_batches):
        tell(self, epoch, done, n_batches)
        if epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "on_batch", stop)
    assert call(*arguments, "--out", tmp_path / "cut").status == 130
    monkeypatch.undo()
    assert not (tmp_path / "cut").exists()
    undecided = call(*arguments, "--out", tmp_path / "cut")
    assert undecided.status == 2
    assert "--resume" in undecided.stderr
    assert call(*arguments, "--out", tmp_path / "cut", "--resume").status == 0
    late = call(*arguments, "--out", tmp_path / "late", "--resume")  # as a supervisor calls it every time
    assert (late.status, "begun anew" in late.stderr) == (0, True)
    whole, *others = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut", "late")
    )
    assert others == [whole, whole]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "late", "whole"]


def test_a_run_that_cannot_be_saved_is_not_lost(call, prepared: Path, tmp_path: Path, monkeypatch):
    from triptych.runs import Run

    arguments = (
        "train",
        "mf-bpr",
        prepared,
        "--epochs",
        2,
        "-k",
        2,
        "--set",
        "metric=recall@2",
        "--checkpoint-every",
        1,
    )

    def full(self, path, *, overwrite=False):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "save", full)
    called = call(*arguments, "--out", tmp_path / "r")
    assert called.status == 2
    assert "No space left" in called.stderr
    assert "Traceback" not in called.stderr
    monkeypatch.undo()
    resumed = call(*arguments, "--out", tmp_path / "r", "--resume", "--json")
    assert resumed.status == 0, resumed.stdout
    assert resumed.json["epochs"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


MISTAKES = [
    (("train", "lightgnc", "{data}"), "Did you mean 'lightgcn'"),
    (("train", "lightgcn", "{data}", "--set", "n_layer=2"), "Did you mean 'n_layers'"),
    (("train", "lightgcn", "{data}", "--set", "n_layers=two"), "n_layers = 'two'"),
    (("train", "lightgcn", "{data}", "--set", "n_layers"), "FIELD=VALUE"),
    (("train", "lightgcn", "{data}", "--split", "label"), "has no split column"),
    (("train", "lightgcn", "{data}", "--split", "tim"), "Did you mean 'time'"),
    (("train", "lightgcn", "{data}", "--device", "cuda:77"), "--device cpu"),
    (("train", "lightgcn", "{data}", "--set", "metric=recal@20"), "recal@20"),
    (("train", "lightgcn", "{data}", "-k", "99"), "the size of the catalogue"),
    (("train", "lightgcn", "{data}", "-k", "5"), "Set another metric, such as recall@5"),
    (("train", "lightgcn", "{data}", "--epochs", "3", "--set", "epochs=1"), "epochs is set twice"),
    (("train", "lightgcn", "{data}", "--set", "n_layers=1", "--set", "n_layers=2"), "n_layers is set twice"),
    (("train", "lightgcn", "{data}", "--memory-limit", "1MB", "-k", "2", "--set", "metric=recall@2"), "loading"),
    (("encode", "{data}", "--encoder", "text=tfidf", "--encoder", "text=none", "--out", "{out}"),
     "--encoder text more than once"),
    (("train", "lightgcn", "{data}", "-k", "ten"), "list lengths 'ten'"),
    (("train", "lightgcn", "{run}"), "is not a data set"),
    (("train", "no.toml", "{data}"), "no recipe"),
    (("evaluate", "{data}"), "is not a run"),
    (("evaluate", "{run}", "--on", "tst"), "Did you mean 'test'"),
    (("evaluate", "{run}", "--masked", "none"), "train or train+valid"),
    (("recommend", "{run}", "u9999"), "user id 'u9999' is not in the data set"),
    (("recommend", "{run}", "u001", "-k", "11"), "from 1 to 10"),
    (("recommend", "{run}", "u001", "-k", "0"), "from 1 to 10"),
    (("similar", "{run}", "i999", "-k", "2"), "item id 'i999'"),
    (("doctor", "{empty}"), "neither"),
    (("prepare", "{files}/none.csv", "--out", "{out}"), "none.csv"),
    (("prepare", "{files}/sales.csv", "--user", "who", "--out", "{out}"), "customer, sku, stars, when"),
    (("prepare", "{files}/sales.csv", "--core", "0", "--out", "{out}"), "--core 0"),
    (("prepare", "{files}/sales.csv", "--since", "spring", "--out", "{out}"), "the time 'spring'"),
    (("prepare", "{files}/sales.csv", "--user", "customer", "--item", "sku", "--core", "99", "--out", "{out}"), "99-core"),
    (("prepare", "{files}/sales.csv", "--user", "customer", "--item", "sku", "--features", "image", "--out", "{out}"),
     "MODALITY=FILE"),
    (("prepare", "{files}/sales.csv", "--user", "customer", "--item", "sku", "--rating", "when", "--out", "{out}"), "when"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES]
)
def test_mistakes_are_answered_not_traced(
    call, prepared, trained, files, tmp_path: Path, arguments, message: str
):
    (tmp_path / "empty").mkdir()
    places = {
        "data": prepared,
        "run": trained,
        "files": files,
        "out": tmp_path / "out",
        "empty": tmp_path / "empty",
    }
    words = [word.format(**places) for word in arguments]
    if words[0] == "train":
        words += ["--out", str(tmp_path / "out")]
    called = call(*words)
    assert called.status == 2
    assert message in " ".join(called.stderr.split())
    assert "Traceback" not in called.stderr
    assert called.stdout == ""
    as_json = call(*words, "--json")
    assert as_json.status == 2
    assert {"type", "found", "wanted", "fix"} <= as_json.json["error"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"], "nothing half-written"


def test_unknown_options_exit_with_2(call):
    assert call("train", "--no-such-option").status == 2
    assert "error" in call("train", "--no-such-option", "--json").json


def test_divergence_is_a_failure_with_its_own_status(call, prepared: Path, tmp_path: Path):
    called = call("train", "lightgcn", prepared, "--set", "learning_rate=1e30", "--set", "metric=recall@2", "-k", 2,
                  "--out", tmp_path / "r")  # fmt: skip
    assert called.status == 3
    assert "NaN" in called.stderr  # the only step of epoch 1 was finite, its outcome was not
    assert not (tmp_path / "r").exists()


def test_help_names_every_command_under_one_heading(call):
    known = [app_command.name or app_command.callback.__name__ for app_command in app.registered_commands]
    known += [group.name for group in app.registered_groups]
    named = [name for names in PANELS.values() for name in names]
    assert sorted(named) == sorted(known)
    shown = call("--help").stdout
    places = []
    for heading, names in PANELS.items():
        places += [shown.index(f"─ {heading} ─"), *(shown.index(f"│ {name} ") for name in names)]
    assert places == sorted(places)


@pytest.mark.parametrize("command", [name for names in PANELS.values() for name in names if name != "data"])
def test_every_command_has_help_with_an_example(call, command: str):
    shown = call(command, "--help")
    assert shown.status == 0
    assert f"Example: triptych {command}" in " ".join(shown.stdout.split())
    assert "--json" in shown.stdout


def test_as_a_program_threads_are_set_before_torch_is_loaded():
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
    }
    program = "import sys; sys.argv = ['triptych', 'doctor', '--json']; from triptych.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    settings = json.loads(done.stdout)["environment"]
    assert settings["OMP_WAIT_POLICY"] == "PASSIVE"
    assert settings["THP_MEM_ALLOC_ENABLE"] == "1"


def test_version(call):
    shown = call("--version")
    assert shown.status == 0
    assert shown.stdout.startswith("triptych 0.")


def test_sparkline():
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
