"""New items from their content alone, without training anything again.

Where a model's scores see content, a new item is put through the trained model: it joins the catalogue at
its end, without interactions, with a learned vector of zero and its own features; see `transplant`. It links
to the known items nearest to it, none of which links back, so that nothing changes for them. Elsewhere, and
for an item of which the model sees nothing, known items stand for it: the mean of those nearest in content,
by nearness. Scores are linear in items.

Letters: U users, I known items, n new ones, D width, K neighbours, B users of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.data.arrays import BoolArray, FloatArray, IntArray, RawId
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.errors import ConfigError, nearest
from triptych.evaluation.ranking import check_lengths, top_k
from triptych.graph.learned import LearnedGraph, neighbor_graph
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import Edges
from triptych.models.base import ContentConfig, ModelInputs
from triptych.models.registry import model_entry
from triptych.nn.content_graphs import ContentGraphs
from triptych.runs.known_content import Content, KnownContent, nearest_rows
from triptych.runs.rebuild import changed_inputs, content_graphs, fix_learned_graphs, same_split, transplant
from triptych.runs.run import Run, ScoredItem, only
from triptych.scorer import (
    DenseWeights,
    EmbeddingScorer,
    HistoryScorer,
    ItemWeights,
    LowRankWeights,
    SparseWeights,
)

By = Literal["model", "neighbors"]

N_NEIGHBORS = 10
"""K of the known items that stand for a new one."""
_PROBES = 8
"""Known items that a model is shown as new ones, to see whether it tells them apart by their content."""
_USERS = 1024
"""B, users scored at once."""

CONTENT_PATHS: Mapping[str, str] = {
    "vbpr": "exact: its projected features; the learned half is zero",
    "mmgcn": "exact: its features through the trained layers, without neighbours",
    "grcn": "exact: its projected features; nobody attends to them",
    "dualgnn": "exact: its features through the trained maps; nothing comes from users",
    "slmrec": "exact: its content channels, read out; nothing is propagated",
    "mmgcl": "exact: its content channels, read out; nothing is propagated",
    "diffmm": "exact: its content through its self-loop",
    "freedom": "exact: the ids of items alike",
    "ksi": "exact: the ids of items alike",
    "sand": "exact: what items alike are in each modality",
    "mgcn": "exact: the purified ids of items alike",
    "lattice": "exact: the ids of items alike, by its features and by the learned map of them",
    "micro": "exact: the ids of items alike, by its features and by the learned map of them",
    "camgr": "approximate: the purified ids of items alike; attention sums over all items, new ones too",
    "lgmrec": "approximate: its place in the hyperedges, which sum over all items, new ones too",
    "mgnm": "neighbors: the filter multiplies content with ids; as lgmrec where that is off",
    "mmssl": "neighbors: content reaches items through users alone",
    "bm3": "neighbors: content is in the loss, not in the scores",
    "msi": "neighbors: content is in the loss, not in the scores",
    "item-knn": "neighbors: a closed form",
    "add-ease": "neighbors: a closed form",
    "l3ae": "neighbors: a closed form",
}
"""How a model of content, with its default settings, comes to a new item.

"exact": what its equations give for an item without interactions whose id is zero, all else being as it was.
Features that learn are, of a new item, as they are given. "neighbors": known items stand for it, as with
models of interactions alone and fusions. `ItemMaker` goes by what it sees, not by this table.
"""


@dataclass(frozen=True)
class ScoredUser:
    """One place of an audience.

    Args:
        user_id: raw id.
        score: by how many standard deviations an item scores above the mean of all known items for this user.
    """

    user_id: RawId
    score: float


class ItemMaker:
    """Makes vectors and scores of new items; what does not depend on them is done once, here.

    With 20,000 items of 512 and 384 features, 10,000 users and 200,000 pairs, one new item took 0.12 s of CPU
    time by VBPR, 0.19 by FREEDOM, 0.21 by SAND, 0.36 by MGCN and 0.38 by LATTICE, on one thread. Making the
    maker takes as long as finding the neighbours of the model's item graphs, unless `graph_cache` has them.

    Args:
        run: trained on `data`.
        data: with its features, which a run does not keep.
        by: "model" for its own path from content to scores, where it has one; "neighbors" for known items
            that stand for new ones, whatever the model.
        graph_cache: folder that keeps item neighbours between processes, as in training.

    Raises:
        StorageError: the run was trained on other data.
        ConfigError: the data set has no dense features, or `by` is something else.
    """

    def __init__(self, run: Run, data: Dataset, *, by: By = "model", graph_cache: Path | None = None) -> None:
        if by not in get_args(By):
            raise ConfigError(
                f"by = {by!r}", wanted=" or ".join(map(repr, get_args(By))), fix=nearest(by, get_args(By))
            )
        self.run, self.by = run, by
        split = same_split(run, data)
        self.content = KnownContent(data, split)
        self._inputs = ModelInputs.from_split(split, graph_cache)
        self._learned: dict[str, list[tuple[Tensor, LearnedGraph]]] = {}
        self.sees_content = by == "model" and self._may_see_content() and self._tells_items_apart()

    def embed(self, features: Mapping[str, FloatArray]) -> NewItems:
        """Make new items.

        Args:
            features: modality -> (n, F) rows, by the encoder of the known items. A modality that is left out
                is missing, and so is a row of NaN.

        Raises:
            ConfigError: there is no such modality, or an item has no content.
            ShapeError: rows are too many, too few, too wide or too narrow.
            DataError: a row holds infinity, or NaN in places.
        """
        content = self.content.read(features)
        items, shares = self.content.stand_ins(content, N_NEIGHBORS)
        name = self.run.record.name
        stand_ins = f"the mean of the {items.shape[1]} known items nearest in content, by nearness"
        if not isinstance(self.run.scorer, EmbeddingScorer):
            basis = f"An approximation: {stand_ins}, as {name} ranks without vectors."
            return NewItems(self, content, items, shares, None, basis)
        mean = (self.known_vectors[items] * shares[:, :, None]).sum(dim=1)  # (n, D)
        if not self.sees_content:
            why = "as asked for" if self.by == "neighbors" else f"as {name} sees nothing of new items itself"
            basis = f"An approximation: {stand_ins}, {why}."
            return NewItems(self, content, items, shares, mean, basis)
        vectors, blank = self._through_model(content).tensor_split([-1])
        told = (vectors - blank).norm(dim=1) > 1e-5 * vectors.norm(dim=1)
        told_how = CONTENT_PATHS.get(self.run.record.model, "exact: whatever it makes of that").replace(
            ": ", ", ", 1
        )
        basis = f"The trained {name} on an item without interactions; {told_how}."
        if not told.all():
            basis += f" Of {int((~told).sum())} in {len(told)} it sees nothing: {stand_ins}."
        return NewItems(self, content, items, shares, torch.where(told[:, None], vectors, mean), basis)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each user's scores of all known items, (U,) each."""
        scorer, n_users = self.run.scorer, self.run.split.n_users
        if isinstance(scorer, EmbeddingScorer):
            users, known = scorer.embeddings.users.cpu(), self.known_vectors
            centre = known.mean(dim=0)
            spread = (known - centre).T @ (known - centre) / len(known)  # (D, D)
            variance = (users @ spread * users).sum(dim=1)
            return users @ centre, variance.clamp(min=0).sqrt()
        found = [
            torch.std_mean(scorer.score(users).cpu(), dim=1, correction=0)
            for users in torch.arange(n_users).split(_USERS)
        ]
        deviation, mean = (torch.cat(part) for part in zip(*found, strict=True))
        return mean, deviation

    @cached_property
    def known_vectors(self) -> Tensor:
        """The run's vectors of known items, (I, D)."""
        assert isinstance(self.run.scorer, EmbeddingScorer)
        return self.run.scorer.embeddings.items.cpu()

    def _may_see_content(self) -> bool:
        record = self.run.record
        if not isinstance(self.run.scorer, EmbeddingScorer) or not self.run.weights:
            return False
        return bool(record.plugins) or issubclass(model_entry(record.model).config, ContentConfig)

    def _tells_items_apart(self) -> bool:
        """Show the model some known items as new ones: do their vectors differ, and are they numbers?"""
        for name, part in content_graphs(transplant(self.run, self._grown_inputs({}, 0))).items():
            with torch.no_grad():
                vectors = [F.normalize(rows, dim=1) for rows in part.by_modality().values()]
                graphs = [
                    neighbor_graph(rows, part.n_neighbors, known)
                    for rows, known in zip(vectors, part.known, strict=True)
                ]
            self._learned[name] = list(zip(vectors, graphs, strict=True))
        features = {name: self.content.features[name] for name in self.content.weights}
        complete = np.flatnonzero(np.all([one.present for one in features.values()], axis=0))
        shown = complete[np.linspace(0, len(complete) - 1, min(_PROBES, len(complete))).astype(np.int64)]
        if len(shown) < 2:
            return False
        made = self._through_model({name: one.take(shown) for name, one in features.items()})[:-1]
        apart = (made - made.mean(dim=0)).norm(dim=1)
        return bool(made.isfinite().all()) and bool((apart > 1e-4 * made.norm(dim=1)).any())

    def _through_model(self, content: Content) -> Tensor:
        """Put new items through the trained model, and after them one without any content: (n + 1, D)."""
        n_known = self.run.split.n_items
        n_new = len(next(iter(content.values())).present) + 1
        content = {name: _with_blank(one) for name, one in content.items()}
        model = transplant(self.run, self._grown_inputs(content, n_new))
        with torch.no_grad():
            learned = {
                name: [
                    _grow_learned(part, modality, known, graph, n_known)
                    for modality, (known, graph) in zip(part.features.dims, self._learned[name], strict=True)
                ]
                for name, part in content_graphs(model).items()
            }
            fix_learned_graphs(model, learned)
            return model.embeddings().items[n_known:].float()

    def _grown_inputs(self, content: Content, n_new: int) -> ModelInputs:
        n_known = self.run.split.n_items
        features = {
            name: _appended(one, content.get(name), n_new) for name, one in self._inputs.features.items()
        }

        def neighbors(modality: str, k: int) -> Edges:
            edges = self._inputs.graphs.neighbors(modality, k)
            if modality not in content:
                return edges
            return _below(edges, n_known, *self.content.nearest(modality, content, k - 1))

        return changed_inputs(self._inputs, features, n_known + n_new, neighbors)


@dataclass(frozen=True, eq=False)
class NewItems:
    """Items that a run was not trained on.

    Args:
        maker: that made them.
        content: their features.
        stand_ins: (n, K) int64, the known items nearest in content.
        shares: (n, K), by which these stand for a new item; rows sum to 1.
        vectors: (n, D) beside those of the run's known items; None where the run ranks without vectors.
        basis: what scores rest on, in a sentence.
    """

    maker: ItemMaker
    content: Content
    stand_ins: Tensor
    shares: Tensor
    vectors: Tensor | None
    basis: str

    def __len__(self) -> int:
        return len(self.stand_ins)

    def scores(self, users: IntArray) -> Tensor:
        """Score all new items for some users: (B,) int64 -> (B, n) float32."""
        scorer, index = self.maker.run.scorer, torch.from_numpy(np.asarray(users))
        if isinstance(scorer, EmbeddingScorer) and self.vectors is not None:
            return scorer.embeddings.users.cpu()[index] @ self.vectors.T
        if isinstance(scorer, HistoryScorer):
            history = scorer.history
            return history.select_rows(index.to(history.offsets.device)).multiply(self._columns).cpu()
        parts = [
            scorer.score(block).cpu()[:, self.stand_ins].mul_(self.shares).sum(dim=2)
            for block in index.split(_USERS)
        ]
        return torch.cat(parts)

    def similar(self, k: int = 10, *, where: str | BoolArray | None = None) -> list[list[ScoredItem]]:
        """List the known items nearest to each, by the cosine of vectors; of content where there are none.

        Args:
            k: list length.
            where: a condition on the run's item table (`triptych.data.conditions`), or (I,) marks of the
                known items that may be listed.

        Raises:
            ConfigError: k is below 1 or above the number of known items; or the condition cannot be read, or
                does not fit the item table.
        """
        run = self.maker.run
        check_lengths([k], run.split.n_items)
        if self.vectors is not None:
            known = F.normalize(self.maker.known_vectors, dim=1)
            near = F.normalize(self.vectors, dim=1) @ known.T
        else:
            near = self.maker.content.similarities(self.content)
        near = only(near, run.matching(where))
        return [run._scored(items, scores) for scores, items in zip(*top_k(near, k), strict=True)]

    def audience(self, k: int = 10) -> list[list[ScoredUser]]:
        """List the users for whom each new item scores highest beside their known items; see `ScoredUser`.

        Users without training interactions, of whom nothing was learned, are left out.

        Raises:
            ConfigError: k is below 1 or above the number of users.
        """
        split = self.maker.run.split
        if not 1 <= k <= split.n_users:
            raise ConfigError(
                f"an audience of {k}",
                wanted=f"a number from 1 to {split.n_users:,}, the number of users",
                fix="Choose another k",
            )
        mean, deviation = self.maker.moments
        above = (self.scores(np.arange(split.n_users)) - mean[:, None]) / deviation.clamp(min=1e-12)[:, None]
        above[torch.from_numpy(np.diff(split.train_offsets) == 0)] = -torch.inf
        ids = split.data.users.ids.tolist()
        return [
            [
                ScoredUser(ids[user], score)
                for user, score in zip(users.tolist(), scores.tolist(), strict=True)
                if user >= 0
            ]
            for scores, users in zip(*top_k(above.T, k), strict=True)
        ]

    @cached_property
    def _columns(self) -> Tensor:
        """Give what having a known item adds to the score of each new one: (I, n)."""
        scorer = self.maker.run.scorer
        assert isinstance(scorer, HistoryScorer)
        device = scorer.history.offsets.device
        mix = torch.zeros(scorer.n_items, len(self), device=device)
        mix.scatter_add_(0, self.stand_ins.T.to(device), self.shares.T.to(device))
        return _times(scorer.weights, mix)


def _times(weights: ItemWeights, x: Tensor) -> Tensor:
    """Multiply item-to-item weights with a matrix: B x, (I, n) -> (I, n)."""
    match weights:
        case DenseWeights(matrix):
            return matrix @ x
        case SparseWeights(graph):
            return graph.multiply(x)
        case LowRankWeights(left, right):
            return left @ (right.T @ x) - (left * right).sum(dim=1, keepdim=True) * x
    raise TypeError(f"weights of kind {type(weights).__name__}")


def _appended(known: ItemFeatures, new: ItemFeatures | None, n_new: int) -> ItemFeatures:
    """Put the rows of new items below those of known ones; what is not given is missing."""
    if n_new == 0:
        return known
    present = np.zeros(n_new, dtype=bool) if new is None else new.present
    values = known.values
    if values is not None and new is not None and new.values is not None:
        values = np.concatenate([values, new.values])
    return ItemFeatures(np.concatenate([known.present, present]), values, known.graph, known.source)


def _with_blank(features: ItemFeatures) -> ItemFeatures:
    assert features.values is not None
    values = np.pad(features.values, ((0, 1), (0, 0)))
    return ItemFeatures(np.pad(features.present, (0, 1)), values, source=features.source)


def _below(known: Edges, n_known: int, new: Tensor, items: Tensor, cosines: Tensor) -> Edges:
    """Put the edges of m new items to K known ones each, and to themselves, below those of known items."""
    row, n_links = n_known + new, items.shape[1]
    return (
        torch.cat([known[0], row, row.repeat_interleave(n_links)]),
        torch.cat([known[1], row, items.flatten()]),
        torch.cat([known[2], cosines.new_ones(len(row)), cosines.flatten()]),
    )


def _grow_learned(
    part: ContentGraphs, modality: str, known: Tensor, graph: LearnedGraph, n_known: int
) -> LearnedGraph:
    """Add new items' rows to a graph learned from content: themselves, and the nearest by the learned map."""
    has, rows = part.known[list(part.features.dims).index(modality)], part.features.rows(modality)[n_known:]
    unit = F.normalize(part.project(modality, rows), dim=1)
    new = has[n_known:].nonzero().squeeze(1)
    items, cosines = nearest_rows(unit[new], known, has[:n_known], part.n_neighbors - 1)
    row, col, _ = graph.pattern.edges()
    edges = _below((row, col, graph.values), n_known, new, items, cosines.clamp(min=0))
    grown = SparseGraph.from_edges(*edges, len(has), len(has))
    return LearnedGraph(grown, grown.values)
