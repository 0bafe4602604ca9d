"""The graphs of one split, each built once and remembered by the content it was built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from triptych.data.features import ItemFeatures
from triptych.errors import StorageError
from triptych.files import hash_arrays, read_arrays, write_arrays
from triptych.graph.bipartite import Normalisation, SideNormalisation, bipartite_graph, side_graph
from triptych.graph.cooccurrence import cooccurring_users
from triptych.graph.neighbors import (
    ItemNormalisation,
    Weighting,
    item_graph,
    knn_edges,
    mix_graphs,
    modality_shares,
)
from triptych.graph.sparse import SparseGraph

Edges = tuple[Tensor, Tensor, Tensor]
Parts = tuple[str, str, str]
"""What the three are called in a file."""


class GraphStore:
    """Builds graphs on demand and hands out the same tensors to all who ask for the same graph.

    Neighbours take minutes on large catalogues, so they can also be kept on disk. The file's name
    is the hash of the features and of K: other features never meet an old graph.

    Args:
        user: (E,) int64 users of the training pairs.
        item: (E,) int64 items of the training pairs.
        n_users: U.
        n_items: I.
        features: modality -> features.
        cache_dir: where neighbours are kept between processes; None keeps them in memory only.
    """

    def __init__(
        self,
        user: Tensor,
        item: Tensor,
        n_users: int,
        n_items: int,
        features: Mapping[str, ItemFeatures],
        cache_dir: Path | None = None,
    ) -> None:
        self._user, self._item = user, item
        self._n_users, self._n_items = n_users, n_items
        self._features = features
        self._cache_dir = cache_dir
        self._memo: dict[tuple[object, ...], SparseGraph] = {}
        self._edges: dict[tuple[object, ...], Edges] = {}

    def bipartite(self, normalisation: Normalisation = "sym") -> SparseGraph:
        """Give the user–item graph of the training pairs, (U+I, U+I)."""
        build = lambda: bipartite_graph(self._user, self._item, self._n_users, self._n_items, normalisation)  # noqa: E731
        return self._remember(("bipartite", normalisation), build)

    def users_from_items(self, normalisation: SideNormalisation) -> SparseGraph:
        """Give the (U, I) graph by which users receive from their training items; see `side_graph`."""
        build = lambda: side_graph(self._user, self._item, self._n_users, self._n_items, normalisation)  # noqa: E731
        return self._remember(("users", normalisation), build)

    def items_from_users(self, normalisation: SideNormalisation) -> SparseGraph:
        """Give the (I, U) graph by which items receive from their training users; see `side_graph`."""
        build = lambda: side_graph(self._item, self._user, self._n_items, self._n_users, normalisation)  # noqa: E731
        return self._remember(("items from users", normalisation), build)

    def items(
        self,
        modality: str,
        n_neighbors: int,
        weighting: Weighting = "binary",
        normalisation: ItemNormalisation = "sym",
    ) -> SparseGraph:
        """Give the graph of each item's nearest neighbours in one modality, (I, I); see `item_graph`."""

        def build() -> SparseGraph:
            edges = self.neighbors(modality, n_neighbors)
            return item_graph(edges, self._n_items, weighting, normalisation)

        return self._remember(("items", modality, n_neighbors, weighting, normalisation), build)

    def mixed_items(
        self, weights: Mapping[str, float], n_neighbors: int, weighting: Weighting = "binary"
    ) -> SparseGraph:
        """Give the weighted sum of several modalities' item graphs, (I, I); see `modality_shares`."""

        def build() -> SparseGraph:
            graphs = [self.items(modality, n_neighbors, weighting) for modality in weights]
            has = [graph.offsets.diff() > 0 for graph in graphs]  # also a zero row has no neighbours
            return mix_graphs(graphs, modality_shares(list(weights.values()), has))

        return self._remember(("mixed", *weights.items(), n_neighbors, weighting), build)

    def similar_users(self, n_neighbors: int) -> Edges:
        """Give each user's K others with the most training items in common; see `cooccurring_users`."""
        pairs = (self._user, self._item, self._n_users, self._n_items, n_neighbors)
        return self._find_edges(
            ("users", n_neighbors),
            ("row", "col", "count"),
            lambda: hash_arrays("users", *(x.numpy() if isinstance(x, Tensor) else x for x in pairs)),
            lambda: cooccurring_users(*pairs),
        )

    def _remember(self, key: tuple[object, ...], build: Callable[[], SparseGraph]) -> SparseGraph:
        if key not in self._memo:
            self._memo[key] = build()
        return self._memo[key].share()

    def neighbors(self, modality: str, n_neighbors: int) -> Edges:
        """List the edges that graphs of one modality are made of; see `knn_edges`."""
        features = self._features[modality]
        if features.graph is not None:
            return knn_edges(features, n_neighbors)
        return self._find_edges(
            ("neighbors", modality, n_neighbors),
            ("row", "col", "cosine"),
            lambda: hash_arrays("neighbors", features.content_hash, n_neighbors),
            lambda: knn_edges(features, n_neighbors),
        )

    def _find_edges(
        self, key: tuple[object, ...], parts: Parts, content: Callable[[], str], build: Callable[[], Edges]
    ) -> Edges:
        """Remember edges, read them from the folder of kept ones, or build them and keep them there."""
        if key not in self._edges:
            if self._cache_dir is None:
                self._edges[key] = build()
            else:
                path = self._cache_dir / f"{key[0]}-{content()}.safetensors"
                self._edges[key] = _read_kept(path, parts) or _keep(path, parts, build())
        return self._edges[key]


def _read_kept(path: Path, parts: Parts) -> Edges | None:
    if not path.is_file():
        return None
    try:
        stored = read_arrays(path)
        row, col, value = (torch.from_numpy(stored[part]) for part in parts)
    except (StorageError, KeyError):
        path.unlink(missing_ok=True)  # a damaged cache entry is built again
        return None
    return row, col, value


def _keep(path: Path, parts: Parts, edges: Edges) -> Edges:
    write_arrays(path, {part: edge.numpy() for part, edge in zip(parts, edges, strict=True)})
    return edges
