"""Scorers: the forms of item-to-item weights are one dense product, and what is stored comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.graph.sparse import SparseGraph
from triptych.scorer import (
    SCORERS,
    DenseWeights,
    Embeddings,
    EmbeddingScorer,
    FusedScorer,
    HistoryScorer,
    LowRankWeights,
    Scorer,
    SparseWeights,
    normalise,
)

N_USERS, N_ITEMS = 9, 7


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def history() -> tuple[SparseGraph, Tensor]:
    """Training pairs as a graph and as a matrix; user 3 and item 5 have none."""
    x = (draw(N_USERS, N_ITEMS, seed=1) > 0.2).float()
    x[3], x[:, 5] = 0, 0
    row, col = x.nonzero(as_tuple=True)
    return SparseGraph.from_edges(row, col, torch.ones(len(row)), N_USERS, N_ITEMS), x


def weights(form: str) -> tuple[object, Tensor]:
    """Weights in one of the forms, and spelled out."""
    if form == "dense":
        matrix = draw(N_ITEMS, N_ITEMS, seed=2)
        return DenseWeights(matrix), matrix
    if form == "sparse":
        matrix = draw(N_ITEMS, N_ITEMS, seed=2) * (draw(N_ITEMS, N_ITEMS, seed=3) > 0.5)
        matrix[2] = 0
        row, col = matrix.nonzero(as_tuple=True)
        return SparseWeights(SparseGraph.from_edges(row, col, matrix[row, col], N_ITEMS, N_ITEMS)), matrix
    left, right = draw(N_ITEMS, 3, seed=2), draw(N_ITEMS, 3, seed=3)
    return LowRankWeights(left, right), (left @ right.T).fill_diagonal_(0)


FORMS = ("dense", "sparse", "low rank")


@pytest.mark.parametrize("form", FORMS)
def test_history_scores_are_the_dense_product(form: str):
    graph, x = history()
    found, matrix = weights(form)
    scorer = HistoryScorer(graph, found)
    assert (scorer.n_users, scorer.n_items) == (N_USERS, N_ITEMS)
    users = torch.tensor([8, 3, 0, 8])
    torch.testing.assert_close(scorer.score(users), x[users] @ matrix)
    assert not scorer.score(torch.tensor([3])).any()
    for item in range(N_ITEMS):
        torch.testing.assert_close(scorer.item_similarities(item), matrix[item])


def test_embedding_scores_and_similarities():
    users, items = draw(N_USERS, 4), draw(N_ITEMS, 4, seed=1)
    items[2] = 0
    scorer = EmbeddingScorer(Embeddings(users, items))
    torch.testing.assert_close(scorer.score(torch.tensor([4, 0])), users[[4, 0]] @ items.T)
    expected = torch.nn.functional.cosine_similarity(items, items[[3]])
    torch.testing.assert_close(scorer.item_similarities(3), expected)


def every_scorer() -> list[Scorer]:
    graph, _ = history()
    simple = [HistoryScorer(graph, weights(form)[0]) for form in FORMS]
    simple.append(EmbeddingScorer(Embeddings(draw(N_USERS, 4), draw(N_ITEMS, 4, seed=1))))
    fused = [
        FusedScorer(simple, torch.tensor([0.1, 0.2, 0.3, 0.4]), how) for how in ("zscore", "minmax", "rank")
    ]
    return [*simple, *fused, FusedScorer([fused[0], simple[0]], torch.tensor([0.5, 0.5]), "minmax")]


@pytest.mark.parametrize("place", range(8))
def test_what_is_stored_comes_back(place: int):
    scorer = every_scorer()[place]
    arrays = {name: tensor.clone() for name, tensor in scorer.arrays().items()}
    again = SCORERS[scorer.kind].from_arrays(arrays)
    everybody = torch.arange(N_USERS)
    assert (again.n_users, again.n_items) == (N_USERS, N_ITEMS)
    assert torch.equal(again.score(everybody), scorer.score(everybody))
    assert torch.equal(again.item_similarities(2), scorer.item_similarities(2))
    assert again.arrays().keys() == arrays.keys()


@pytest.mark.parametrize("place", range(8))
def test_scores_are_new_tensors(place: int):
    scorer = every_scorer()[place]
    everybody = torch.arange(N_USERS)
    before = scorer.score(everybody)
    scorer.score(everybody).fill_(7)
    scorer.item_similarities(0).fill_(7)
    assert torch.equal(scorer.score(everybody), before)


def test_normalised_by_hand():
    scores = torch.tensor([[1.0, 3.0, 1.0, 7.0], [5.0, 5.0, 5.0, 5.0]])
    spread = np.std([1, 3, 1, 7])
    expected = {
        "zscore": [-2 / spread, 0.0, -2 / spread, 4 / spread],
        "minmax": [0.0, 1 / 3, 0.0, 1.0],
        "rank": [0.0, 2 / 3, 0.0, 1.0],
    }
    for how, row in expected.items():
        found = normalise(scores, how)
        torch.testing.assert_close(found[0], torch.tensor(row, dtype=torch.float32))
        assert not found[1].any()
    assert normalise(torch.tensor([[4.0]]), "rank").tolist() == [[0.0]]


@pytest.mark.parametrize("how", ["zscore", "minmax", "rank"])
def test_a_nan_is_not_lost(how: str):
    assert normalise(torch.tensor([[1.0, torch.nan, 2.0]]), how).isnan().any()


@pytest.mark.parametrize("how", ["zscore", "minmax", "rank"])
def test_fused_scores_are_the_weighted_sum_of_comparable_ones(how: str):
    one, other = every_scorer()[0], every_scorer()[3]
    fused = FusedScorer([one, other], torch.tensor([0.25, 0.75]), how)
    users = torch.tensor([5, 2])
    expected = 0.25 * normalise(one.score(users), how) + 0.75 * normalise(other.score(users), how)
    torch.testing.assert_close(fused.score(users), expected)
    rows = [normalise(part.item_similarities(4)[None], how)[0] for part in (one, other)]
    torch.testing.assert_close(fused.item_similarities(4), 0.25 * rows[0] + 0.75 * rows[1])
    stretched = FusedScorer([ten_times(one), other], torch.tensor([0.25, 0.75]), how)
    torch.testing.assert_close(stretched.score(users), expected)


def ten_times(scorer: Scorer) -> Scorer:
    arrays = {**scorer.arrays(), "weights": 10 * scorer.arrays()["weights"]}
    return SCORERS[scorer.kind].from_arrays(arrays)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20, 1e34])
def test_standard_scores_do_not_depend_on_the_scale(scale: float):
    scores = torch.tensor([[1.0, 2.0, 4.0, -3.0]])
    expected = (scores - scores.mean()) / scores.std(correction=0)
    torch.testing.assert_close(normalise(scores * scale, "zscore"), expected, rtol=1e-4, atol=1e-5)


def test_single_numbers_have_no_likeness():
    scorer = EmbeddingScorer(Embeddings(torch.ones(2, 1), torch.tensor([[3.0], [1.0], [0.0]])))
    assert scorer.item_similarities(0).tolist() == [0.0, 0.0, 0.0]
