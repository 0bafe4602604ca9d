"""Rows of interactions chosen by their own columns: in every format, counted, and refused where there is no sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych.data.filters import Filters
from triptych.errors import ConfigError, DataError
from triptych.files import read_json
from triptych.preparation import prepare

EVENTS = pl.DataFrame(
    {
        "user": ["a", "a", "b", "b", "c", "c", "c"],
        "item": [1, 2, 1, None, 3, 2, 4],
        "event": ["purchase", "page_view", "purchase", "search", "purchase", "add_to_cart", "purchase"],
        "quantity": [1, None, 2, None, -1, 1, 3],
        "refunded": [False, False, True, False, False, None, False],
    }
)


def pairs(data) -> set[tuple[str, int]]:
    found = data.interactions
    return set(zip(data.users.ids[found.user].tolist(), data.items.ids[found.item].tolist(), strict=True))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_rows_are_chosen_in_every_format(tmp_path: Path, suffix: str):
    file = tmp_path / f"events.{suffix}"
    match suffix:
        case "csv" | "tsv":
            EVENTS.write_csv(file, separator="," if suffix == "csv" else "\t")
        case "parquet":
            EVENTS.write_parquet(file)
        case "jsonl":
            EVENTS.write_ndjson(file)
        case "json":
            EVENTS.write_json(file)
    bought = prepare(file, name="shop", rows=["event = 'purchase'", "quantity > 0"])
    assert pairs(bought) == {("a", 1), ("b", 1), ("c", 4)}
    assert bought.items.ids.tolist() == [1, 4], "what is only looked at is no item of the data set"
    assert bought.provenance["steps"] == [
        {"step": "read", "rows": 7},
        {"step": "rows", "where": "event = 'purchase'", "of": 7, "kept": 4, "interactions_removed": 3},
        {"step": "rows", "where": "quantity > 0", "of": 4, "kept": 3, "interactions_removed": 1},
        {"step": "duplicates", "kept": "first", "interactions_removed": 0},
    ]
    assert bought.provenance["unusable"] == {}, "that a search has no item is no fault of the purchases"
    assert bought.provenance["columns_not_read"] == {file.name: ["refunded"]}
    bought.save(tmp_path / "data")
    assert read_json(tmp_path / "data" / "manifest.json")["provenance"]["steps"][1]["kept"] == 4


def test_rows_that_are_meant_are_checked_and_named_by_their_place_in_the_file(tmp_path: Path):
    EVENTS.write_csv(tmp_path / "events.csv")
    meant = ["event in ('purchase', 'search')"]
    with pytest.raises(DataError, match="column 'item' holds None in data row 4"):
        prepare(tmp_path / "events.csv", name="shop", rows=meant)
    data = prepare(tmp_path / "events.csv", name="shop", rows=meant, max_bad=0.5, filters=Filters(min_user=2))
    assert [step["step"] for step in data.provenance["steps"]] == [
        "read",
        "rows",
        "unusable",
        "duplicates",
        "min_user",
    ]
    removed = sum(step.get("interactions_removed", 0) for step in data.provenance["steps"])
    assert 7 - removed == len(data.interactions)


def test_features_without_ids_follow_all_items_of_the_file(tmp_path: Path):
    """As they do with every other filter."""
    EVENTS.write_csv(tmp_path / "events.csv")
    np.save(tmp_path / "image.npy", np.arange(5.0)[:, None])
    image = [("image", tmp_path / "image.npy")]
    data = prepare(
        tmp_path / "events.csv", name="shop", rows=["refunded = 'false' and quantity = 1"], features=image
    )
    assert data.items.ids.tolist() == [1]
    assert data.features["image"].values.tolist() == [[1.0]]


def test_parts_of_a_table_and_folders_are_chosen_from_alike(tmp_path: Path):
    EVENTS[:3].write_csv(tmp_path / "events-1.csv")
    EVENTS[3:].write_csv(tmp_path / "events-2.csv")
    data = prepare(tmp_path, name="shop", rows=["event = 'purchase'"])
    assert pairs(data) == {("a", 1), ("b", 1), ("c", 3), ("c", 4)}


@pytest.mark.parametrize(
    ("condition", "found", "wanted"),
    [
        (
            "evnt = 'purchase'",
            "the column 'evnt', which is not among those read of events.csv",
            "user, item, event",
        ),
        ("event = ", "cannot be read: it meets its end", "a number, or a text"),
        ("event > 3", "compares the column 'event' of String values with 3", "a column of numbers"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(tmp_path: Path, condition: str, found: str, wanted: str):
    EVENTS.write_csv(tmp_path / "events.csv")
    with pytest.raises(ConfigError) as refused:
        prepare(tmp_path / "events.csv", name="shop", rows=["user = 'a'", condition])
    assert found in refused.value.found
    assert wanted in refused.value.wanted


def test_a_condition_that_no_row_meets_says_what_there_is(tmp_path: Path):
    EVENTS.write_csv(tmp_path / "events.csv")
    with pytest.raises(DataError) as refused:
        prepare(tmp_path / "events.csv", name="shop", rows=["event = 'Purchase'"])
    assert refused.value.found == "events.csv: none of 7 rows is left where event = 'Purchase'"
    assert "'event' holds 'purchase', 'page_view', 'search', 'add_to_cart'" in refused.value.fix


def test_layouts_with_fixed_columns_say_which_they_are(tmp_path: Path):
    reviews = pl.DataFrame(
        {
            "reviewerID": ["a", "b"],
            "asin": ["x", "x"],
            "overall": [5.0, 1.0],
            "unixReviewTime": [1, 2],
            "verified": [True, False],
        }
    )
    file = tmp_path / "Baby_5.json"
    reviews.write_ndjson(file)
    kept = prepare(file, name="baby", rows=["overall >= 4"])
    assert kept.users.ids.tolist() == ["a"]
    assert kept.provenance["layout"].startswith("amazon")
    with pytest.raises(ConfigError) as refused:
        prepare(file, name="baby", rows=["verified = true"])
    assert "'verified'" in refused.value.found
    assert "reviewerID, asin, overall, unixReviewTime; of Amazon" in refused.value.wanted
    assert "--layout tables" in refused.value.fix
    assert prepare(file, name="baby", layout="tables", rows=["verified = true"]).users.ids.tolist() == ["a"]
