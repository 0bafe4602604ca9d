"""What holds for any graph: the sums of its rows, its symmetry, and equality with the dense form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from triptych.data.features import ItemFeatures
from triptych.graph.bipartite import bipartite_graph, side_graph
from triptych.graph.neighbors import item_graph, knn_edges, mix_graphs, modality_shares, nearest_neighbors

EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.long)])
TABLES = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def close(found: torch.Tensor | np.ndarray, expected: torch.Tensor | np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=2e-6, atol=2e-6)


@EXAMPLES
def test_normalised_graphs_of_users_and_items(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(TABLES, st.integers(0, 10**6))
    def check(table: np.ndarray, seed: int) -> None:
        user, item = (torch.from_numpy(ends) for ends in table.nonzero())
        n_users, n_items = table.shape
        degree = np.concatenate([table.sum(axis=1), table.sum(axis=0)])
        x = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_users + n_items, 2))).float()
        dense = {}
        for how in ("sym", "sym_loop", "rw_loop", "mean", "root_row"):
            graph = bipartite_graph(user, item, n_users, n_items, how)
            dense[how] = graph.to_dense().numpy()
            assert graph.n_entries == 2 * len(user) + (len(degree) if "loop" in how else 0)
            close(graph.multiply(x), dense[how] @ x.numpy())
            close(graph.multiply_transposed(x), dense[how].T @ x.numpy())
        close(dense["mean"].sum(axis=1), (degree > 0).astype(float))
        close(dense["rw_loop"].sum(axis=1), np.ones(len(degree)))
        close(dense["root_row"].sum(axis=1), np.sqrt(degree))
        for how in ("sym", "sym_loop"):
            close(dense[how], dense[how].T)
            assert np.abs(np.linalg.eigvalsh(dense[how])).max() <= 1 + 1e-5  # so that layers never grow
        close(dense["sym"] @ np.sqrt(degree), np.sqrt(degree))  # its eigenvector of 1
        close(
            (dense["sym"] ** 2).sum(),
            sum(1 / (degree[u] * degree[n_users + i]) for u, i in zip(*table.nonzero(), strict=True)) * 2,
        )

    check()


@EXAMPLES
def test_one_side_from_the_other(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(TABLES)
    def check(table: np.ndarray) -> None:
        ends = [torch.from_numpy(end) for end in table.nonzero()]
        both = bipartite_graph(*ends, *table.shape, "sym").to_dense()[: len(table), len(table) :]
        close(side_graph(*ends, *table.shape, "sym").to_dense(), both)
        close(side_graph(*ends, *table.shape, "sum").to_dense(), table.astype(float))
        close(side_graph(*ends, *table.shape, "mean").to_dense().sum(dim=1), table.any(axis=1).astype(float))

    check()


def features(n_items: int, seed: int, coarse: bool) -> ItemFeatures:
    """Draw features, of few values if coarse so that many are alike, and leave some out."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 2, (n_items, 3)) if coarse else rng.normal(size=(n_items, 3))
    present = rng.random(n_items) < 0.8
    present[0], values[0] = True, 1
    return ItemFeatures.dense(values.astype(np.float32), present)


@EXAMPLES
def test_neighbours_are_the_nearest_whatever_the_block(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(st.integers(1, 14), st.integers(0, 10**6), st.booleans(), st.integers(1, 15), st.data())
    def check(n_items: int, seed: int, coarse: bool, block_size: int, data: st.DataObject) -> None:
        given_features = features(n_items, seed, coarse)
        values, present = torch.from_numpy(given_features.values), torch.from_numpy(given_features.present)
        n_neighbors = data.draw(st.integers(1, int(present.sum())))
        indices, cosines = nearest_neighbors(values, n_neighbors, present, block_size)
        unit = torch.nn.functional.normalize(values.double(), dim=1)
        similar = (unit @ unit.T).masked_fill(~present, -torch.inf)
        similar.fill_diagonal_(2.0)
        best = similar.topk(n_neighbors, dim=1).values
        at = present.nonzero()[:, 0]
        close(similar.gather(1, indices)[at], best[at])  # as near as the nearest; equals may change places
        close(cosines[at], best[at].clamp(max=1.0))
        assert indices[at, 0].tolist() == at.tolist()
        assert all(len(set(row)) == n_neighbors for row in indices[at].tolist())
        assert bool(present[indices[at]].all())

    check()


@EXAMPLES
def test_normalised_graphs_of_items(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(st.integers(2, 12), st.integers(0, 10**6), st.booleans(), st.data())
    def check(n_items: int, seed: int, coarse: bool, data: st.DataObject) -> None:
        given_features = features(n_items, seed, coarse)
        usable = given_features.present & given_features.values.any(axis=1)
        n_neighbors = data.draw(st.integers(1, int(usable.sum())))
        row, col, cosine = edges = knn_edges(given_features, n_neighbors)
        assert torch.bincount(row, minlength=n_items).tolist() == (usable * n_neighbors).tolist()
        for weighting, weight in (
            ("binary", torch.ones_like(cosine)),
            ("cosine", cosine),
            ("positive", cosine.clamp(min=0)),
        ):
            given_weights = torch.zeros(n_items, n_items).index_put((row, col), weight)
            sums = given_weights.sum(dim=1)
            by_row = item_graph(edges, n_items, weighting, "rw").to_dense()
            clear = sums > 0.1  # where cosines nearly cancel out, rounding decides
            close(by_row[clear].sum(dim=1), np.ones(clear.sum()))
            assert bool((by_row[sums <= 0] == 0).all())
            both = item_graph(edges, n_items, weighting, "sym").to_dense()
            assert bool(both.isfinite().all())
            assert bool((both[sums <= 0] == 0).all())
        same = item_graph(edges, n_items, "binary", "sym").to_dense()
        close(same, item_graph(edges, n_items, "binary", "rw").to_dense())  # K everywhere
        close(same[torch.from_numpy(usable)].sum(dim=1), np.ones(usable.sum()))

    check()


@EXAMPLES
def test_shares_of_modalities_sum_to_the_same_for_every_item(examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 10**6))
    def check(n_items: int, n_modalities: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weights = rng.uniform(0.1, 1, n_modalities)
        present = [torch.from_numpy(rng.random(n_items) < 0.6) for _ in range(n_modalities)]
        shares = modality_shares(weights.tolist(), present)
        close(shares.sum(dim=0), torch.stack(present).any(dim=0) * weights.sum())
        assert bool((shares[~torch.stack(present)] == 0).all())
        graphs = [
            item_graph(
                (where := mask.nonzero()[:, 0], where, torch.ones(len(where))), n_items, "binary", "rw"
            )
            for mask in present
        ]
        close(mix_graphs(graphs, shares).to_dense().sum(dim=1), shares.sum(dim=0))

    check()
