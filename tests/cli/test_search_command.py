"""`triptych search` and `reproduce`: all that is asked for is looked at before the first of it is worked on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from triptych.cli.app import run
from triptych.testing import toy_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    toy_dataset().save(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("ranges.toml", "no grid can go through"),
        ("lightgcn", "two spaces of one model among lightgcn, lightgcn"),
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
