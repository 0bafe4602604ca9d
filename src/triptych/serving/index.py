"""Which items' vectors have the largest inner products with a query: exactly, or nearly and faster.

Letters: I items, B queries, D width of vectors, K list length.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from triptych.encode.encoder import require
from triptych.errors import ShapeError, StorageError
from triptych.evaluation.ranking import BLOCK_SIZE, check_lengths, top_k
from triptych.files import write_atomic

Kind = Literal["hnsw", "ivf"]
"""A graph of neighbours (Malkov and Yashunin, TPAMI 2020), or cells of which the nearest are searched."""

SAMPLE = 256
"""Queries by which recall and times are measured."""

FAST_ENOUGH = 0.005
"""Seconds of an exact search for one query up to which `choose_index` looks no further."""

MIN_RECALL = 0.95
"""What `choose_index` wants an approximate index to find of the exact lists."""

MIN_SPEEDUP = 3.0
"""How many times as fast as the exact one it wants it to be."""


class VectorIndex(Protocol):
    """Finds the items whose vectors have the largest inner products with a query."""

    def search(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the K best items of each query.

        Args:
            vectors: (B, D).
            k: K.

        Returns: scores (B, K) and items (B, K) int64, best first; -inf and -1 where no more are found.

        Raises:
            ConfigError: k is below 1 or above the number of items.
            ShapeError: the queries have another width than the items.
        """


class ExactIndex:
    """Compares each query with all items; of equal scores the lower index comes first.

    Args:
        items: (I, D).
    """

    def __init__(self, items: Tensor) -> None:
        self._items = items.detach().float().contiguous()

    def search(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the K best items of each query, block by block; see `VectorIndex`."""
        _check(vectors, k, *self._items.shape)
        blocks = [top_k(block @ self._items.T, k) for block in vectors.float().split(BLOCK_SIZE)]
        scores, items = zip(*blocks, strict=True)
        return torch.cat(scores), torch.cat(items)


class FaissIndex:
    """Finds most of the best items without comparing all, by FAISS (the extra `index`), in one thread.

    Args:
        index: FAISS's own.
        recall: share of the exact lists that it found when it was measured; None if it was not.
    """

    def __init__(self, index: Any, recall: float | None = None) -> None:
        self.index, self.recall = index, recall

    @classmethod
    def build(
        cls,
        items: Tensor,
        queries: Tensor,
        k: int = 20,
        *,
        kind: Kind = "hnsw",
        effort: int | None = None,
        seed: int = 0,
    ) -> FaissIndex:
        """Build an index of items, and measure its recall@K on a sample of queries.

        Args:
            items: (I, D).
            queries: (n, D) such as will come: users' vectors.
            k: K of the measure.
            kind: how it searches.
            effort: how much it searches: candidates it keeps ("hnsw", by default 64), or cells of the about
                root of I ("ivf", by default an eighth of them).
            seed: of the sample, and of the cells.

        Raises:
            ConfigError: FAISS is missing, or k is below 1 or above the number of items.
            ShapeError: the queries have another width than the items.
        """
        faiss = _faiss()
        rows = _rows(items)
        n_items, dim = rows.shape
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)  # 32 links an item
            index.hnsw.efConstruction = 80
            index.hnsw.efSearch = effort or 64
        else:
            n_cells = max(1, int(n_items**0.5))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_cells, faiss.METRIC_INNER_PRODUCT)
            index.cp.seed = seed
            index.cp.min_points_per_centroid = 1  # it would warn of small catalogues past the program's back
            index.nprobe = effort or max(8, n_cells // 8)
            index.train(rows)
        index.add(rows)
        recall = measure_recall(cls(index), ExactIndex(items), _sample(queries, seed), k)
        return cls(index, recall)

    @classmethod
    def load(cls, path: str | Path) -> FaissIndex:
        """Read an index that `save` wrote.

        Raises:
            ConfigError: FAISS is missing.
            StorageError: the file is missing, or FAISS cannot read it.
        """
        try:
            return cls(_faiss().read_index(str(path)))
        except RuntimeError as error:
            raise StorageError(
                f"{path} cannot be read: {str(error).splitlines()[0]}",
                wanted="an index that FAISS wrote",
                fix="Export it again with: triptych export RUN --to faiss",
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the index as FAISS keeps it."""
        write_atomic(Path(path), lambda file: _faiss().write_index(self.index, str(file)))

    def search(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find K of the best items of each query; see `VectorIndex`."""
        _check(vectors, k, self.index.ntotal, self.index.d)
        faiss = _faiss()
        more = None
        if isinstance(self.index, faiss.IndexHNSW):  # it finds no more than it keeps
            more = faiss.SearchParametersHNSW(efSearch=max(self.index.hnsw.efSearch, 2 * k))
        found, items = self.index.search(_rows(vectors), k, params=more)
        scores = torch.from_numpy(found)
        places = torch.from_numpy(items)
        return scores.masked_fill_(places < 0, -torch.inf), places


@dataclass(frozen=True)
class ChosenIndex:
    """An index, and why it is this one.

    Args:
        index: the index.
        reason: in words, with what was measured.
    """

    index: VectorIndex
    reason: str


def choose_index(
    items: Tensor,
    queries: Tensor,
    k: int = 20,
    *,
    fast_enough: float = FAST_ENOUGH,
    min_recall: float = MIN_RECALL,
    min_speedup: float = MIN_SPEEDUP,
    seed: int = 0,
) -> ChosenIndex:
    """Take the approximate index only where it is measured to pay: for catalogues that are slow to search.

    Both answer a sample of the queries one by one, as a service is asked.

    Args:
        items: (I, D).
        queries: (n, D) such as will come: users' vectors.
        k: length of the lists that will be asked for.
        fast_enough: seconds of an exact search up to which no other index is built.
        min_recall: share of the exact lists that must be found.
        min_speedup: how many times as fast it must be.
        seed: of the sample.

    Raises:
        ConfigError: k is below 1 or above the number of items.
        ShapeError: the queries have another width than the items.
    """
    exact, sample = ExactIndex(items), _sample(queries, seed)
    of_exact = _seconds(exact, sample, k)
    takes = f"an exact search of {len(items):,} items takes {1e3 * of_exact:.2f} ms"
    if of_exact <= fast_enough:
        return ChosenIndex(exact, f"exact: {takes}, which is fast enough")
    if find_spec("faiss") is None:
        return ChosenIndex(exact, f"exact: {takes}, but FAISS, the extra 'index', is not installed")
    near = FaissIndex.build(items, queries, k, kind="ivf", seed=seed)  # far quicker to build than a graph
    assert near.recall is not None
    speedup = of_exact / _seconds(near, sample, k)
    measured = f"{takes}; the approximate one finds {near.recall:.1%} of it {speedup:.1f} times as fast"
    if near.recall >= min_recall and speedup >= min_speedup:
        return ChosenIndex(near, f"approximate: {measured}")
    return ChosenIndex(exact, f"exact: {measured}, but {min_recall:.0%} and {min_speedup:.1f} were wanted")


def measure_recall(index: VectorIndex, exact: VectorIndex, queries: Tensor, k: int) -> float:
    """Measure which share of the exact lists of K an index finds, on average over queries (B, D)."""
    wanted, found = (one.search(queries, k)[1] for one in (exact, index))
    return float((wanted[:, :, None] == found[:, None, :]).any(dim=2).double().mean())


def _seconds(index: VectorIndex, queries: Tensor, k: int) -> float:
    """Take the median time of one query."""
    times = []
    for query in queries.split(1):
        begun = time.perf_counter()
        index.search(query, k)
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def _sample(queries: Tensor, seed: int) -> Tensor:
    if len(queries) <= SAMPLE:
        return queries
    rows = np.random.default_rng(seed).choice(len(queries), SAMPLE, replace=False)
    return queries[torch.from_numpy(np.sort(rows)).to(queries.device)]


def _check(vectors: Tensor, k: int, n_items: int, dim: int) -> None:
    check_lengths([k], n_items)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ShapeError(
            f"queries of shape {tuple(vectors.shape)}",
            wanted=f"rows of {dim} columns, as the items have",
            fix="Ask with the users' vectors of the same run",
        )


def _rows(vectors: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(vectors.detach().cpu().numpy(), dtype=np.float32)


def _faiss() -> ModuleType:
    """Load FAISS, in one thread: its OpenMP is not torch's, and the two would stand in each other's way.

    Raises:
        ConfigError: it is missing.
    """
    require("index", "faiss")
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss
