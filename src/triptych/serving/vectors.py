"""The vectors of a run, by raw ids, for what searches them elsewhere: a vector database, FAISS.

Letters: U users, I items, D width of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl

from triptych.data.ids import IdMap
from triptych.errors import ConfigError
from triptych.files import checksums, hash_arrays, new_folder, write_json
from triptych.runs import Run
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.serving.index import FaissIndex, Kind

MARKER = "triptych-vectors.json"
"""The file that says what was exported; only folders that hold it are ever replaced."""

KIND = "vectors"
SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class RunVectors:
    """One vector for each user and item of a run, whose inner products are the model's scores.

    Args:
        run: the run.
        embeddings: users (U, D) and items (I, D), on the CPU.
    """

    run: Run
    embeddings: Embeddings

    @classmethod
    def of(cls, run: Run) -> Self:
        """Take the vectors out of a run.

        Raises:
            ConfigError: it has none.
        """
        if not isinstance(run.scorer, EmbeddingScorer):
            how = {"history": "adds up weights between items", "fused": "mixes the scores of other runs"}
            raise ConfigError(
                f"'{run.record.name}' {how[run.scorer.kind]}: it has no vectors for export",
                wanted="a model that scores by embeddings, such as lightgcn or freedom",
                fix="Export another run; lists of this one can be written with 'triptych recommend --out'",
            )
        return cls(run, Embeddings(*(part.cpu() for part in run.scorer.embeddings)))

    @property
    def facts(self) -> dict[str, Any]:
        """What there is to know of them, in plain JSON values."""
        users, items = self.embeddings
        return {
            "model": self.run.record.name,
            "data": self.run.record.data,
            "data_hash": self.run.record.data_hash,
            "content_hash": hash_arrays(users.numpy(), items.numpy()),
            "similarity": "inner product",
            "dim": items.shape[1],
            "counts": {"users": len(users), "items": len(items)},
        }

    def frame(self, side: Literal["users", "items"]) -> pl.DataFrame:
        """Give the vectors of one side as rows: user_id or item_id, and vector (list of float32)."""
        data = self.run.split.data
        ids: IdMap = getattr(data, side)
        vectors = pl.Series("vector", getattr(self.embeddings, side).numpy()).cast(pl.List(pl.Float32))
        return pl.DataFrame({f"{ids.kind}_id": ids.ids, "vector": vectors})


def export_vectors(run: Run, folder: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a run's vectors as tables: `users.parquet` and `items.parquet`, with id and vector in each row.

    Args:
        run: the run.
        folder: a folder still to be made.
        overwrite: replace a folder that was exported before.

    Returns: the facts that `triptych-vectors.json` holds: model, hashes, similarity, width, counts and files.

    Raises:
        ConfigError: the run has no vectors.
        StorageError: something is in the folder's place.
    """
    vectors = RunVectors.of(run)
    with new_folder(Path(folder), marker=MARKER, overwrite=overwrite) as new:
        vectors.frame("users").write_parquet(new / "users.parquet")
        vectors.frame("items").write_parquet(new / "items.parquet")
        return _describe(new, vectors, {})


def export_faiss(
    run: Run, folder: str | Path, *, kind: Kind = "hnsw", k: int = 20, overwrite: bool = False
) -> dict[str, Any]:
    """Write a FAISS index of a run's items, and what is needed to ask it.

    `items.faiss` finds places by inner product; `items.parquet` holds the item_id of each place, and
    `users.parquet` the users' vectors, to ask by.

    Args:
        run: the run.
        folder: a folder still to be made.
        kind: how the index searches.
        k: length of the lists by which its recall is measured; at most the number of items.
        overwrite: replace a folder that was exported before.

    Returns: the facts that `triptych-vectors.json` holds: those of `export_vectors`, the kind of index, and
        its recall on a sample of the users.

    Raises:
        ConfigError: the run has no vectors, or FAISS is missing.
        StorageError: something is in the folder's place.
    """
    vectors = RunVectors.of(run)
    users, items = vectors.embeddings
    k = min(k, len(items))
    with new_folder(Path(folder), marker=MARKER, overwrite=overwrite) as new:
        index = FaissIndex.build(items, users, k, kind=kind)
        index.save(new / "items.faiss")
        vectors.frame("items").select("item_id").write_parquet(new / "items.parquet")
        vectors.frame("users").write_parquet(new / "users.parquet")
        return _describe(new, vectors, {"index": kind, f"recall@{k}": index.recall})


def _describe(folder: Path, vectors: RunVectors, more: dict[str, Any]) -> dict[str, Any]:
    facts = {"kind": KIND, "schema_version": SCHEMA_VERSION, **vectors.facts, **more}
    facts["files"] = checksums(folder)
    write_json(folder / MARKER, facts)
    return facts
