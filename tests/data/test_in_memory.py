"""Data sets of what a notebook holds, and the guide that makes one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data.dataset import Dataset
from triptych.errors import DataError, ShapeError

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "from-python.md"
PAIRS = {"user_id": ["u", "u", "v"], "item_id": ["b", "a", "a"]}


class Frame(dict):
    """Has its names in an array, as a frame of pandas has, and goes through them."""

    @property
    def columns(self) -> np.ndarray:
        return np.array(list(self))


def test_rows_go_to_their_items_whatever_their_order():
    items = {"item_id": ["z", "b", "a"], "title": ["unsold", "B", "A"]}
    pictures = np.array([[9.0, 9.0], [1.0, 2.0], [np.nan, np.nan]])
    for kind in (dict, pl.DataFrame, Frame):
        data = Dataset.from_tables("d", kind(PAIRS), kind(items), {"image": pictures})
        assert data.items.ids.tolist() == data.item_table["item_id"].to_list() == ["a", "b"]
        assert data.titles == ["A", "B"]
        assert data.features["image"].present.tolist() == [False, True]
        assert data.features["image"].values.tolist() == [[0, 0], [1, 2]]


def test_all_that_is_known_of_a_pair_is_kept(tmp_path: Path):
    days = np.array(["2024-01-02", "2024-01-01", "2024-01-03"], dtype="datetime64[D]")
    table = pl.DataFrame({**PAIRS, "rating": [3, 4, 5], "timestamp": days, "label": [0, 0, 2]})
    data = Dataset.from_tables("d", table)
    assert data.interactions.rating.tolist() == [4, 3, 5]
    assert data.interactions.timestamp.tolist() == [86_400 * day for day in (19723, 19724, 19725)]
    assert data.interactions.label.tolist() == [0, 0, 2]
    data.save(tmp_path / "d")
    assert Dataset.load(tmp_path / "d").content_hash == data.content_hash


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (({"user": [1], "item_id": [1]},), "no column 'user_id'; wanted .* Did you mean 'user'"),
        (({**PAIRS, "ratings": [1, 2, 3]},), "a column 'ratings'; .* Did you mean 'rating'"),
        ((PAIRS, {"item_id": ["a", "b", "a"]}), "list 'a' twice"),
        (
            (PAIRS, {"item_id": ["a"]}),
            "1 items of the interactions are not among the items, the first being 'b'",
        ),
        ((PAIRS, {"title": ["a"]}), "the items have no column 'item_id'"),
        (("orders.csv",), "the interactions are a str; wanted a frame of polars or pandas"),
        ((PAIRS, [1, 2]), "the items are a list"),
        (
            (PAIRS, None, {"image": np.ones((3, 2))}),
            r"image features of shape \(3, 2\); wanted \(2, columns\)",
        ),
        ((PAIRS, None, {"image": np.array([[1.0, np.nan], [1.0, 1.0]])}), "NaN"),
        (({"user_id": [1, 2], "item_id": [1]},), "lengths"),
        ((PAIRS, None, {"text": np.array([["red"], ["blue"]])}), "text features hold what is no number"),
        ((PAIRS, None, {"image": np.array([[1.0], [[2.0]]], dtype=object)}), "what is no number"),
    ],
)
def test_what_does_not_fit_is_refused(given, says):
    with pytest.raises((DataError, ShapeError), match=says):
        Dataset.from_tables("d", *given)


def test_the_guide_runs_from_top_to_bottom(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    exec("\n".join(blocks), {})
    assert "<run of freedom on cups, seed 1" in capsys.readouterr().out
    assert (tmp_path / "runs" / "cups" / "run.json").is_file()
