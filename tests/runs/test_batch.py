"""Lists for many users: as `Run.recommend` gives them, filtered before the cut, diverse as a plain loop says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import triptych as tt
from triptych.data.interactions import TRAIN, VALID
from triptych.errors import ConfigError, DataError, TrainingError, UnknownIdError
from triptych.evaluation.ranking import BLOCK_SIZE
from triptych.runs import Run
from triptych.runs.batch import diversify, read_users, recommend_all, write_recommendations
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.testing import toy_dataset

PRICES = [5.0, 60.0, None, 20.0, 80.0, 30.0, 10.0, 90.0, 40.0, 70.0]


@pytest.fixture(scope="module")
def run() -> Run:
    """Three hundred users, of whom one has no training interaction, on 40 items with prices."""
    data = toy_dataset(300, 40)
    data = replace(data, item_table=data.item_table.with_columns(price=pl.Series(PRICES * 4)))
    split = tt.Split.by_ratio(data, rng=0)
    part = np.where((data.interactions.user == 7) & (split.part == TRAIN), VALID, split.part)
    quick = tt.TrainConfig(epochs=1, batch_size=256, metric="recall@5")
    settings = {"embedding_dim": 6}
    return tt.train(
        "lightgcn", replace(split, part=part.astype(np.int8)), seed=1, settings=settings, config=quick, k=(5,)
    )


def expected(run: Run, user: int, k: int, exclude: str, allowed: np.ndarray) -> list[tuple[int, float]]:
    """Rank a user's items by a plain sort."""
    data, part = run.split.data.interactions, run.split.part
    of_user = data.user == user
    parts = {"none": [], "train": [0], "train+valid": [0, 1], "all": [-1, 0, 1, 2]}[exclude]
    known = set(data.item[of_user & np.isin(part, parts)].tolist())
    scores = run.scorer.score(torch.tensor([user]))[0]
    if not (of_user & (part == TRAIN)).any():
        scores = torch.from_numpy(np.bincount(run.split.train.item, minlength=run.split.n_items)).float()
    order = scores.argsort(descending=True, stable=True).tolist()
    return [(i, float(scores[i])) for i in order if i not in known and allowed[i]][:k]


@pytest.mark.parametrize("exclude", ["none", "train", "train+valid", "all"])
@pytest.mark.parametrize("where", [None, "price < 50"])
def test_lists_are_those_of_a_plain_sort(run: Run, exclude: str, where: str | None):
    allowed = np.ones(40, dtype=bool) if where is None else np.array([(p or 99) < 50 for p in PRICES * 4])
    ids = run.split.data.items.ids
    lists = list(recommend_all(run, None, 9, exclude=exclude, where=where))
    assert [entry.user_id for entry in lists] == run.split.data.users.ids.tolist()
    assert [entry.user_id for entry in lists if entry.basis == "popular"] == ["u007"]
    for user, entry in enumerate(lists):
        wanted = expected(run, user, 9, exclude, allowed)
        assert len(wanted) == 9, "filters act before the cut"
        assert [item.item_id for item in entry.items] == [ids[i] for i, _ in wanted]
        assert [item.score for item in entry.items] == pytest.approx([score for _, score in wanted], abs=1e-6)


def test_it_is_what_the_run_itself_recommends(run: Run):
    users = ["u200", "u007", "u001", "u200"]
    for exclude in ("none", "all"):
        for ours, wanted in zip(
            recommend_all(run, users, 5, exclude=exclude),
            run.recommend(users, 5, exclude=exclude),
            strict=True,
        ):
            assert replace(ours, items=[]) == replace(wanted, items=[])
            for item, its in zip(ours.items, wanted.items, strict=True):
                assert item == replace(its, score=pytest.approx(its.score, abs=1e-6))
    assert list(recommend_all(run, [])) == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_table_holds_the_same_lists(run: Run, tmp_path: Path, suffix: str):
    path, seen = tmp_path / f"lists{suffix}", []
    facts = write_recommendations(
        run, path, k=7, where="price >= 60 and price is not missing", diversity=0.4, titles=True,
        observer=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[suffix]
    table = read(path)
    assert table.columns == ["user_id", "place", "item_id", "score", "basis", "title"]
    wanted = list(recommend_all(run, None, 7, where="price >= 60", diversity=0.4))
    rows = [
        (entry.user_id, place, item.item_id, entry.basis, item.title)
        for entry in wanted
        for place, item in enumerate(entry.items, start=1)
    ]
    assert table.drop("score").rows() == rows
    scores = [item.score for entry in wanted for item in entry.items]
    np.testing.assert_allclose(table["score"].to_numpy(), scores, rtol=1e-6)
    short = sum(len(entry.items) < 7 for entry in wanted)
    assert facts == {
        "users": 300, "rows": len(rows), "items_that_match": 16, "popular_lists": 1, "short_lists": short,
    }  # fmt: skip
    assert seen == [(min(done, 300), 300) for done in range(BLOCK_SIZE, 300 + BLOCK_SIZE, BLOCK_SIZE)]
    assert len(seen) > 1


def test_short_and_empty_lists_are_counted(run: Run, tmp_path: Path):
    facts = write_recommendations(run, tmp_path / "a.csv", k=5, exclude="none", where="price > 85")
    assert (facts["rows"], facts["short_lists"], facts["items_that_match"]) == (300 * 4, 300, 4)
    facts = write_recommendations(run, tmp_path / "b.parquet", where="price > 1000")
    assert (facts["rows"], facts["short_lists"], facts["items_that_match"]) == (0, 300, 0)
    assert pl.read_parquet(tmp_path / "b.parquet").columns == [
        "user_id",
        "place",
        "item_id",
        "score",
        "basis",
    ]
    (entry,) = recommend_all(run, ["u001"], where="price > 1000", diversity=0.5)
    assert entry.items == []


def test_what_is_wrong_is_said_before_anything_is_written(run: Run, tmp_path: Path):
    path = tmp_path / "lists.csv"
    for wrong, error, said in [
        ({"k": 41}, ConfigError, "from 1 to 40"),
        ({"where": "price <"}, ConfigError, "its end"),
        ({"where": "prize < 3"}, ConfigError, "Did you mean 'price'"),
        ({"diversity": 1.1}, ConfigError, "a number from 0 to 1"),
        ({"diversity": float("nan")}, ConfigError, "a number from 0 to 1"),
        ({"user_ids": ["u001", "u901", "u902"]}, UnknownIdError, "2 of 3 user ids .* first being 'u901'"),
        ({"user_ids": ["u01"]}, UnknownIdError, "user id 'u01'.*Did you mean"),
    ]:
        with pytest.raises(error, match=said):
            write_recommendations(run, path, **wrong)
        with pytest.raises(error, match=said):
            recommend_all(run, **wrong)
    with pytest.raises(ConfigError, match=r"\.parquet, \.csv, \.jsonl"):
        write_recommendations(run, tmp_path / "lists.xlsx")
    path.write_text("what was there")
    weights = run.scorer.embeddings
    broken = replace(run, scorer=EmbeddingScorer(Embeddings(weights.users * torch.nan, weights.items)))
    with pytest.raises(TrainingError, match="NaN"):
        write_recommendations(broken, path)
    assert path.read_text() == "what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["lists.csv"]


def test_a_run_without_vectors_has_no_diversity(run: Run):
    closed = tt.train("item-knn", run.split, k=(5,))
    with pytest.raises(ConfigError, match="without a vector for each item"):
        recommend_all(closed, diversity=0.2)
    (entry,) = recommend_all(closed, ["u001"], 5, where="price < 50")
    assert len(entry.items) == 5


def plain_relevance(scores: list[float], items: list[int], vectors: np.ndarray, k: int, diversity: float):
    """Choose by maximal marginal relevance, one item after another."""
    left = [(s, i) for s, i in zip(scores, items, strict=True) if i >= 0]
    low, high = min(s for s, _ in left), max(s for s, _ in left)
    chosen: list[int] = []
    while left and len(chosen) < k:
        worths = []
        for score, item in left:
            relevance = (score - low) / (high - low) if high > low else 0.0
            cosines = [
                vectors[item] @ vectors[j] / np.linalg.norm(vectors[item]) / np.linalg.norm(vectors[j])
                for j in chosen
            ]
            worths.append((1 - diversity) * relevance - diversity * max(cosines, default=0.0))
        best = int(np.argmax(worths))
        chosen.append(left.pop(best)[1])
    return chosen + [-1] * (k - len(chosen))


@pytest.mark.parametrize("diversity", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_diversity_is_maximal_marginal_relevance(diversity: float):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 5))
    scores = np.sort(rng.normal(size=(20, 30)), axis=1)[:, ::-1].copy()
    items = np.stack([rng.permutation(60)[:30] for _ in range(20)])
    items[4, 25:], items[5, 3:], items[6, 1:] = -1, -1, -1
    scores[items < 0] = -np.inf
    scores[7] = 2.0
    found, listed = diversify(*map(torch.from_numpy, (scores, items, vectors)), 6, diversity)
    for row in range(20):
        wanted = plain_relevance(scores[row].tolist(), items[row].tolist(), vectors, 6, diversity)
        assert listed[row].tolist() == wanted
        score_of = dict(zip(items[row].tolist(), scores[row].tolist(), strict=True))
        assert found[row].tolist() == [score_of[i] if i >= 0 else -np.inf for i in wanted]
    if diversity == 0:
        assert np.array_equal(listed.numpy(), items[:, :6])


def test_a_twin_waits_until_something_else_has_been_listed():
    scores = torch.tensor([[1.0, 0.99, 0.5, 0.0]])
    items = torch.tensor([[0, 1, 2, 3]])
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # after item 0: its twin 1 is worth 0.5 * 0.99 - 0.5 * 1, item 2 is worth 0.25 - 0, item 3 is worth 0 + 0.5
    assert diversify(scores, items, vectors, 4, 0.5)[1].tolist() == [[0, 3, 2, 1]]
    assert diversify(scores, items, vectors, 4, 0.0)[1].tolist() == [[0, 1, 2, 3]]


def test_users_are_read_from_files(tmp_path: Path):
    (tmp_path / "ids.txt").write_text("\ufeffu1\n\n  007 \nu1\n")
    assert read_users(tmp_path / "ids.txt") == ["u1", "007"]
    (tmp_path / "sales.csv").write_text("customer,sku\nb,1\na,1\nb,2\n")
    assert read_users(tmp_path / "sales.csv") == ["b", "a"]
    assert read_users(tmp_path / "sales.csv", "sku") == [1, 2]
    pl.DataFrame({"user": ["x", "y"]}).write_parquet(tmp_path / "users.parquet")
    assert read_users(tmp_path / "users.parquet") == ["x", "y"]
    with pytest.raises(DataError, match="no column 'custommer'"):
        read_users(tmp_path / "sales.csv", "custommer")
    with pytest.raises(DataError, match="does not exist"):
        read_users(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("Zoë\n".encode("latin-1"))
    with pytest.raises(DataError, match="is no UTF-8 text"):
        read_users(tmp_path / "latin.txt")
    (tmp_path / "latin.csv").write_bytes("customer,sku\nZoë,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not utf-8: line 2") as caught:
        read_users(tmp_path / "latin.csv")
    assert "--" not in str(caught.value)  # there are no such options here
    (tmp_path / "holes.csv").write_text("customer,sku\nb,1\n,1\n")
    with pytest.raises(DataError, match="1 empty or bad ids"):
        read_users(tmp_path / "holes.csv")


def test_the_row_without_a_user_id_is_named_as_the_file_counts(tmp_path: Path):
    (tmp_path / "users.csv").write_text("user,n\nu0001,1\nu0001,2\nu0001,3\n,4\nu0002,5\n")
    with pytest.raises(DataError, match=r"column 'user' has 1 empty or bad ids, first in data row 4;"):
        read_users(tmp_path / "users.csv")


@pytest.mark.parametrize("text", ["\n", " \n\t\n", "\ufeff", "\ufeff\n\n"])
def test_a_text_without_ids_is_refused(tmp_path: Path, text: str):
    (tmp_path / "ids.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"ids\.txt holds no ids; wanted an id in each line\."):
        read_users(tmp_path / "ids.txt")


def test_what_is_no_exclusion_is_refused(run: Run):
    with pytest.raises(ConfigError, match=r"exclude = 'trian'.*Did you mean 'train'"):
        run.recommend(["u000"], 2, exclude="trian")
