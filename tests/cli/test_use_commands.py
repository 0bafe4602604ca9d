"""Commands that put a run to use: lists for many users, exports, and a database's tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from triptych.cli.app import run
from triptych.data.dataset import Dataset
from triptych.files import read_json
from triptych.runs import load
from triptych.testing import toy_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set of 30 users and 20 items with prices, and runs with and without vectors."""
    folder = tmp_path_factory.mktemp("use")
    data = toy_dataset(30, 20)
    table = data.item_table.with_columns(price=pl.Series(range(20)))
    Dataset("toy", data.interactions, table, data.features).save(folder / "data")
    for model in ("lightgcn", "ease"):
        words = [
            "train",
            model,
            folder / "data",
            "-k",
            "5",
            "--set",
            "metric=recall@5",
            "--out",
            folder / model,
        ]
        words += ["--epochs", 1, "--device", "cpu"] if model == "lightgcn" else []
        assert run([str(word) for word in words]) == 0
    return folder


@pytest.fixture(autouse=True)
def _no_address(monkeypatch):
    monkeypatch.delenv("TRIPTYCH_DATABASE", raising=False)


def test_lists_that_need_too_much_memory_are_refused_before_anything_is_written(
    call, folder: Path, tmp_path: Path
):
    words = ["recommend", folder / "lightgcn", "--all", "-k", 4, "--memory-limit", "1MB"]
    for more in ([], ["--out", tmp_path / "lists.parquet"]):
        called = call(*words, *more)
        assert called.status == 2
        assert "needs about" in called.stderr
    assert list(tmp_path.iterdir()) == []


def test_lists_of_all_users_become_one_table(call, folder: Path, tmp_path: Path):
    called = call(
        "recommend", folder / "lightgcn", "--all", "-k", 4, "--out", tmp_path / "lists.parquet", "--json"
    )
    assert called.status == 0, called.stderr
    assert called.json == {
        "run": str(folder / "lightgcn"), "model": "lightgcn", "excluded": "all", "where": None, "diversity": 0.0,
        "users": 30, "rows": 120, "items_that_match": None, "popular_lists": 0, "short_lists": 0,
        "out": str(tmp_path / "lists.parquet"),
    }  # fmt: skip
    table = pl.read_parquet(tmp_path / "lists.parquet")
    for entry in load(folder / "lightgcn").recommend(table["user_id"].unique(), 4):
        rows = table.filter(pl.col("user_id") == entry.user_id)
        assert rows["item_id"].to_list() == [item.item_id for item in entry.items]
        assert rows["place"].to_list() == [1, 2, 3, 4]


def test_users_of_a_file_conditions_and_titles(call, folder: Path, tmp_path: Path):
    (tmp_path / "users.csv").write_text("n,who\n1,u003\n2,u001\n3,u003\n")
    words = (
        "recommend",
        folder / "lightgcn",
        "--users",
        tmp_path / "users.csv",
        "--user-column",
        "who",
        "-k",
        5,
    )
    words += ("--where", "price >= 17", "--exclude", "none", "--titles", "--out", tmp_path / "lists.csv")
    shown = call(*words)
    assert shown.status == 0, shown.stderr
    assert "short lists" in shown.stdout
    table = pl.read_csv(tmp_path / "lists.csv")
    assert table["user_id"].to_list() == ["u003"] * 3 + ["u001"] * 3
    assert set(table["item_id"]) == {"i017", "i018", "i019"}
    assert set(table["title"]) == {"Thing 17", "Thing 18", "Thing 19"}


def test_lists_are_shown_as_well(call, folder: Path):
    shown = call(
        "recommend", folder / "lightgcn", "u003", "-k", 5, "--where", "price = 4 or price = 7"
    ).stdout
    assert "(no more than" in shown
    none = call("recommend", folder / "lightgcn", "u003", "u004", "-k", 9, "--exclude", "none", "--json").json
    every = call(
        "recommend", folder / "lightgcn", "u003", "-k", 9, "--exclude", "none", "--diversity", 1, "--json"
    ).json
    assert [len(entry["items"]) for entry in none["recommendations"]] == [9, 9]
    plain, diverse = (
        [item["item_id"] for item in answer["recommendations"][0]["items"]] for answer in (none, every)
    )
    assert plain[0] == diverse[0]
    assert plain != diverse


def test_vectors_and_an_index_are_exported(call, folder: Path, tmp_path: Path):
    vectors = call("export", folder / "lightgcn", "--to", "vectors", "--out", tmp_path / "v", "--json").json
    assert vectors == read_json(tmp_path / "v" / "triptych-vectors.json")
    index = call(
        "export", folder / "lightgcn", "--to", "faiss", "--index", "ivf", "--out", tmp_path / "f", "--json"
    ).json
    assert {"index", "recall@20"} <= index.keys()
    assert index["content_hash"] == vectors["content_hash"]
    assert sorted(file.name for file in (tmp_path / "f").iterdir()) == [
        "items.faiss", "items.parquet", "triptych-vectors.json", "users.parquet",
    ]  # fmt: skip
    again = call("export", folder / "lightgcn", "--to", "vectors", "--out", tmp_path / "v", "--overwrite")
    assert again.status == 0
    assert "inner product" in again.stdout
    assert (
        call("export", folder / "data", "--to", "recbole", "--out", tmp_path / "r", "--json").json["layout"]
        == "recbole"
    )


def test_address_and_schema_go_to_the_database(call, folder: Path, tmp_path: Path, monkeypatch):
    """What the database does with them: tests/serving/test_postgres.py."""
    from triptych.serving import postgres

    monkeypatch.setattr(postgres, "push_vectors", lambda url, run, **options: {"url": url, **options})
    monkeypatch.setenv("TRIPTYCH_DATABASE", "postgresql://here/shop")
    vectors = call("export", folder / "lightgcn", "--to", "vectors", "--out", tmp_path / "v")
    assert vectors.status == 0, "an address in the environment is no option that was written"
    pushed = call("export", folder / "lightgcn", "--to", "postgres", "--schema", "a", "--array", "--json")
    assert pushed.json == {"url": "postgresql://here/shop", "schema": "a", "array": True}

    def pull(url, out, **options):
        return {"source": url, "counts": {"interactions": 3}, "asked": {"out": str(out), **options}}

    monkeypatch.setattr(postgres, "pull", pull)
    words = ("--interactions", "select 1", "--items", "select 2", "--out", tmp_path / "export")
    pulled = call("pull", "postgresql://there/shop", *words, "--json").json
    assert pulled["source"] == "postgresql://there/shop"
    assert pulled["asked"] == {
        "out": str(tmp_path / "export"), "interactions": "select 1", "items": "select 2", "overwrite": False,
    }  # fmt: skip
    assert "Next: triptych prepare" in call("pull", *words).stdout  # by the address of the environment


MISTAKES = [
    (("recommend", "{run}"), "named in one way"),
    (("recommend", "{run}", "u001", "--all"), "named in one way"),
    (("recommend", "{run}", "--users", "{out}"), "does not exist"),
    (("recommend", "{run}", "--all", "--out", "{out}.xlsx"), ".parquet, .csv, .jsonl"),
    (("recommend", "{run}", "--all", "--out", "{out}.csv", "--where", "prise < 3"), "Did you mean 'price'"),
    (("recommend", "{run}", "u001", "--where", "price <"), "it meets its end"),
    (("recommend", "{run}", "u001", "--diversity", "2"), "a number from 0 to 1"),
    (("recommend", "{ease}", "u001", "--diversity", "0.5"), "without a vector for each item"),
    (("recommend", "{run}", "u001", "--exclude", "valid"), "none or train"),
    (("export", "{run}", "--to", "vector", "--out", "{out}"), "Did you mean 'vectors'"),
    (("export", "{run}", "--to", "vectors"), "without --out"),
    (("export", "{run}", "--to", "postgres"), "without --url"),
    (("export", "{run}", "--to", "postgres", "--url", "postgresql://h/d", "--out", "{out}"), "Leave --out away"),
    (("export", "{run}", "--to", "vectors", "--out", "{out}", "--index", "hnsw"), "--index without --to faiss"),
    (("export", "{data}", "--to", "mmrec", "--out", "{out}", "--index", "nonsense"), "--index without --to faiss"),
    (("export", "{run}", "--to", "faiss", "--out", "{out}", "--split", "time"), "--split without --to mmrec or"),
    (("export", "{run}", "--to", "vectors", "--out", "{out}", "--split-seed", "1"), "--split-seed without --to mmrec or"),
    (("export", "{run}", "--to", "vectors", "--out", "{out}", "--schema", "a"), "--schema without --to postgres"),
    (("export", "{run}", "--to", "vectors", "--out", "{out}", "--array"), "--array without --to postgres"),
    (("export", "{run}", "--to", "vectors", "--out", "{out}", "--url", "postgresql://h/d"), "--url without --to postgres"),
    (("recommend", "{run}", "u001", "--titles"), "--titles without --out"),
    (("recommend", "{run}", "u001", "--user-column", "who"), "--user-column without a table as --users"),
    (("export", "{run}", "--to", "mmrec", "--out", "{out}"), "is not a data set"),
    (("export", "{data}", "--to", "vectors", "--out", "{out}"), "is not a run"),
    (("export", "{ease}", "--to", "vectors", "--out", "{out}"), "no vectors"),
    (("export", "{run}", "--to", "faiss", "--index", "flat", "--out", "{out}"), "hnsw or ivf"),
    (("pull", "shop", "--interactions", "select 1", "--out", "{out}"), "address of the database cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES]
)
def test_mistakes_are_answered_and_leave_nothing(call, folder: Path, tmp_path: Path, arguments, message: str):
    places = {
        "run": folder / "lightgcn", "ease": folder / "ease", "data": folder / "data", "out": tmp_path / "out",
    }  # fmt: skip
    words = [word.format(**places) for word in arguments]
    called = call(*words)
    assert called.status == 2
    assert message in " ".join(called.stderr.split())
    assert called.stdout == ""
    assert {"type", "found", "wanted", "fix"} <= call(*words, "--json").json["error"].keys()
    assert list(tmp_path.iterdir()) == []


def test_similar_items_meet_a_condition(call, folder: Path):
    words = ("similar", folder / "lightgcn", "i003", "-k", 5, "--where")
    every = call(*words[:3], "-k", 19, "--json").json
    some = call(*words, "price >= 10", "--json").json
    assert (every["where"], some["where"]) == (None, "price >= 10")
    kept = [item for item in every["items"] if int(item["item_id"][1:]) >= 10]
    assert some["items"] == kept[:5]
    assert "(no more than 2 to list)" in call(*words, "price in (3, 4, 7)").stdout
    assert (
        call(*words, "price > 99").stdout
        == "lightgcn says of no item where price > 99 that it is like i003\n"
    )
    assert "the column 'prise'" in call(*words, "prise > 9").stderr


def test_similar_names_what_it_lists_by(call, folder: Path):
    """Cosines are of vectors; closed forms have weights, of which some are above 1 or below -1 elsewhere."""
    heads = {
        model: call("similar", folder / model, "i003", "-k", 3).stdout.splitlines()[1].split()
        for model in ("lightgcn", "ease")
    }
    assert heads["lightgcn"] == ["place", "item", "title", "cosine"]
    assert heads["ease"] == ["place", "item", "title", "score"]
    assert "cosine" not in call("similar", "--help").stdout


@pytest.mark.parametrize("command", ["recommend", "similar", "export", "pull"])
def test_help_has_an_example(call, command: str):
    shown = call(command, "--help")
    assert f"Example: triptych {command}" in " ".join(shown.stdout.split())
    assert "--json" in shown.stdout
