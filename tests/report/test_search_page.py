"""The page of a search: all trials in words and drawn, the recipe as it is, and nothing from elsewhere."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from triptych.errors import ConfigError
from triptych.experiments.search import SearchResult, SearchTrial
from triptych.report import page as pages
from triptych.report.search import trials_table, write_search_page

HOSTILE = """<script>alert("x")</script> & 'q' $x_1$ {{ 7 * 7 }}"""


def trial(number: int, value: float | None, state: str = "done", error: str | None = None) -> SearchTrial:
    settings = {} if number == 0 else {"n_layers": number, "sand.align_weight": 0.1 * number}
    return SearchTrial.model_validate(
        {"number": number, "settings": settings, "state": state, "value": value, "best_epoch": 3 if value else None,
         "epochs": 5, "seconds": 1.25, "error": error}
    )  # fmt: skip


def result(**changed: object) -> SearchResult:
    found = {
        "model": "vbpr", "plugins": ("sand",), "data": "toy", "metric": "recall@2", "seed": 1,
        "best": {"n_layers": 2, "sand.align_weight": 0.2}, "best_value": 0.3,
        "importance": {"sand.align_weight": 0.75, "n_layers": 0.25},
        "trials": [trial(0, 0.2), trial(1, 0.1, "pruned"), trial(2, 0.3), trial(3, 0.9, "failed", HOSTILE)],
    }  # fmt: skip
    return SearchResult.model_validate(found | changed)


def written(found: SearchResult, path: Path) -> str:
    write_search_page(found, path)
    page = path.read_text(encoding="utf-8")
    HTMLParser().feed(page)
    return page


def test_the_page_draws_trials_and_importance_and_has_the_recipe(tmp_path: Path):
    pytest.importorskip("matplotlib")
    page = written(result(), tmp_path / "search.html")
    assert page.count('<svg class="chart"') == 2
    assert "trial 0: 0.2000; trial 1: 0.1000; trial 2: 0.3000</desc>" in page
    assert "sand.align_weight: 75%; n_layers: 25%</desc>" in page
    assert html.escape(result().recipe.to_toml()) in page.replace("&#34;", "&quot;")
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?:|<script|<link|url\((?!#)", page)
    assert html.escape("<script>") in page
    assert written(result(), tmp_path / "again.html") == page


def test_the_table_says_what_became_of_each_trial():
    table = trials_table(result())
    assert table.columns == [
        "trial", "recall@2", "n_layers", "sand.align_weight", "best epoch", "epochs", "seconds", "ending",
    ]  # fmt: skip
    assert table.rows == [
        ["0", "0.2000", "as it is", "as it is", "3", "5", "1.25", "done"],
        ["1", "0.1000", "1", "0.1", "3", "5", "1.25", "stopped early"],
        ["2", "0.3000", "2", "0.2", "3", "5", "1.25", "done"],
        ["3", "0.9000", "3", "0.3", "3", "5", "1.25", HOSTILE],
    ]


@pytest.mark.parametrize("values", [[0.0], [None, 0.3], [0.2, 0.2]])
def test_few_trials_are_drawn_too(tmp_path: Path, values: list[float | None]):
    pytest.importorskip("matplotlib")
    trials = [trial(at, value, "failed" if value is None else "done") for at, value in enumerate(values)]
    page = written(result(trials=trials, importance={}), tmp_path / "search.html")
    assert page.count('<svg class="chart"') == 1
    assert "is not said of fewer than four finished trials" in page


def test_without_matplotlib_the_page_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(extra: str, *modules: str) -> None:
        raise ConfigError("no matplotlib", wanted="it", fix=f"Install {extra}")

    monkeypatch.setattr(pages, "require", missing)
    page = written(result(), tmp_path / "search.html")
    assert "The figures are left out: no matplotlib. Install report" in page
    assert '<svg class="chart"' not in page
    assert "All trials" in page
