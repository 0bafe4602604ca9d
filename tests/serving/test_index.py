"""Indexes of vectors: the exact one against a plain sort, the approximate one against the exact one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import triptych as tt
from triptych.errors import ConfigError, ShapeError, StorageError
from triptych.files import hash_arrays, read_json, sha256
from triptych.runs import Run, fuse
from triptych.serving.index import ExactIndex, FaissIndex, choose_index, measure_recall
from triptych.serving.vectors import MARKER, export_faiss, export_vectors
from triptych.testing import toy_dataset


def clustered(n: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, dim, generator=torch.Generator().manual_seed(9))
    return centres[torch.randint(30, (n,), generator=draw)] + 0.5 * torch.randn(n, dim, generator=draw)


@pytest.fixture(scope="module")
def run() -> Run:
    quick = tt.TrainConfig(epochs=2, batch_size=64, metric="recall@5")
    split = tt.Split.by_ratio(toy_dataset(40, 60), rng=0)
    return tt.train("lightgcn", split, seed=1, settings={"embedding_dim": 8}, config=quick, k=(5,))


def test_exact_is_a_plain_sort():
    items, queries = clustered(300), clustered(200, seed=1)
    items[17] = items[250]  # equal scores: the lower index comes first
    scores, found = ExactIndex(items).search(queries, 300)
    products = queries @ items.T
    wanted = products.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(products.gather(1, found), scores)
    assert (found == wanted).double().mean() == 1.0
    top = ExactIndex(items).search(queries, 7)
    assert torch.equal(top[1], wanted[:, :7])
    assert torch.equal(top[0], scores[:, :7])


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_faiss_finds_what_it_says(kind: str, tmp_path: Path):
    items, queries = clustered(3000), clustered(400, seed=1)
    index = FaissIndex.build(items, queries, 10, kind=kind)
    assert index.recall is not None
    assert index.recall > 0.9
    scores, found = index.search(queries, 10)
    exact = ExactIndex(items).search(queries, 10)[1]
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shares) == pytest.approx(measure_recall(index, ExactIndex(items), queries, 10))
    assert np.mean(shares) == pytest.approx(index.recall, abs=0.03), "on queries of which it saw a sample"
    products = (queries @ items.T).gather(1, found)
    torch.testing.assert_close(scores, products, rtol=1e-5, atol=1e-4)
    index.save(tmp_path / "items.faiss")
    loaded = FaissIndex.load(tmp_path / "items.faiss")
    assert torch.equal(loaded.search(queries, 10)[1], found), "how much it searches is kept"
    again = FaissIndex.build(items, queries, 10, kind=kind)
    assert torch.equal(again.search(queries, 10)[1], found), "the same again from the same vectors"


def test_more_effort_finds_more():
    items, queries = clustered(3000), clustered(200, seed=1)
    little, much = (FaissIndex.build(items, queries, 10, kind="ivf", effort=n).recall for n in (1, 54))
    assert little < 0.9
    assert much == 1.0  # all cells


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_lists_as_long_as_the_catalogue(kind: str):
    items, queries = clustered(150), clustered(20, seed=1)
    scores, found = FaissIndex.build(items, queries, 5, kind=kind).search(queries, 150)
    assert ((found >= 0) == (scores > -torch.inf)).all()
    for row in found.tolist():
        there = [item for item in row if item >= 0]
        assert len(set(there)) == len(there) >= 75  # of cells that are not searched nothing is found
    with pytest.raises(ConfigError, match="from 1 to 150"):
        FaissIndex.build(items, queries, 151, kind=kind)


def test_impossible_questions_are_refused():
    items = clustered(50)
    for index in (ExactIndex(items), FaissIndex.build(items, items, 5)):
        with pytest.raises(ConfigError, match="from 1 to 50"):
            index.search(items, 51)
        with pytest.raises(ShapeError, match="rows of 16 columns"):
            index.search(items[:, :4], 5)
        with pytest.raises(ShapeError, match="rows of 16 columns"):
            index.search(items[0], 5)


def test_the_approximate_index_has_to_pay():
    items, queries = clustered(3000), clustered(100, seed=1)
    chosen = choose_index(items, queries, 10)
    assert isinstance(chosen.index, ExactIndex)
    assert "3,000 items takes" in chosen.reason
    assert "fast enough" in chosen.reason
    easy = choose_index(items, queries, 10, fast_enough=0.0, min_recall=0.5, min_speedup=0.0)
    assert isinstance(easy.index, FaissIndex)
    assert f"finds {easy.index.recall:.1%}" in easy.reason
    for too_much in ({"min_recall": 1.01}, {"min_speedup": 1e9}):
        hard = choose_index(items, queries, 10, fast_enough=0.0, **({"min_speedup": 0.0} | too_much))
        assert isinstance(hard.index, ExactIndex)
        assert "were wanted" in hard.reason


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    items = clustered(50)
    with pytest.raises(ConfigError, match=r"triptych\[index\]"):
        FaissIndex.build(items, items, 5)
    chosen = choose_index(items, items, 5, fast_enough=0.0)
    assert isinstance(chosen.index, ExactIndex)
    assert "extra 'index'" in chosen.reason


def test_what_is_no_index_is_refused(tmp_path: Path):
    (tmp_path / "items.faiss").write_bytes(b"no index")
    for name in ("items.faiss", "nothing.faiss"):
        with pytest.raises(StorageError, match=f"{name} cannot be read"):
            FaissIndex.load(tmp_path / name)


def test_exported_vectors_give_the_scores(run: Run, tmp_path: Path):
    facts = export_vectors(run, tmp_path / "vectors")
    users, items = (pl.read_parquet(tmp_path / "vectors" / f"{side}.parquet") for side in ("users", "items"))
    assert items.schema == {"item_id": pl.String, "vector": pl.List(pl.Float32)}
    assert users["user_id"].to_list() == run.split.data.users.ids.tolist()
    ours = np.array(users["vector"].to_list()) @ np.array(items["vector"].to_list()).T
    np.testing.assert_allclose(ours, run.scorer.score(torch.arange(40)).numpy(), atol=1e-6)
    assert read_json(tmp_path / "vectors" / MARKER) == facts
    assert (facts["model"], facts["similarity"], facts["dim"]) == ("lightgcn", "inner product", 8)
    assert facts["counts"] == {"users": 40, "items": 60}
    assert facts["data_hash"] == run.split.data.content_hash
    embeddings = run.scorer.embeddings
    assert facts["content_hash"] == hash_arrays(embeddings.users.numpy(), embeddings.items.numpy())
    assert facts["files"]["items.parquet"]["sha256"] == sha256(tmp_path / "vectors" / "items.parquet")
    with pytest.raises(StorageError, match="already exists"):
        export_vectors(run, tmp_path / "vectors")
    assert export_vectors(run, tmp_path / "vectors", overwrite=True) == facts


def test_an_exported_index_answers_as_the_run(run: Run, tmp_path: Path):
    facts = export_faiss(run, tmp_path / "faiss", k=10)
    assert facts["index"] == "hnsw"
    assert facts["recall@10"] == 1.0  # so few items are all looked at
    index = FaissIndex.load(tmp_path / "faiss" / "items.faiss")
    ids = pl.read_parquet(tmp_path / "faiss" / "items.parquet")["item_id"]
    users = pl.read_parquet(tmp_path / "faiss" / "users.parquet")
    _, found = index.search(torch.tensor(users["vector"].to_list()), 5)
    for entry, row in zip(run.recommend(users["user_id"], 5, exclude="none"), found.tolist(), strict=True):
        assert [item.item_id for item in entry.items] == [ids[item] for item in row]


def test_runs_without_vectors_are_refused(run: Run, tmp_path: Path):
    closed = tt.train("item-knn", run.split, k=(5,))
    for without, how in ((closed, "adds up weights"), (fuse([run, closed], k=(5,)), "mixes the scores")):
        for export in (export_vectors, export_faiss):
            with pytest.raises(ConfigError, match=how):
                export(without, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
