"""What a trained model learned, measured for pictures: maps of its vectors, and how evenly they lie.

Letters: n rows of a map, I items, U users, N = U + I nodes, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from triptych.data.arrays import FloatArray, IntArray
from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.evaluation.mechanism import uniformity
from triptych.graph.sparse import propagate_layers
from triptych.models.base import ModelInputs, Recommender
from triptych.nn.correlation import column_correlation, redundancy
from triptych.nn.generic_unique import Separation, split_halves
from triptych.runs import Diagnosis, Run, diagnose
from triptych.runs.diagnosis import first_layers
from triptych.runs.rebuild import rebuild, same_split
from triptych.scorer import Embeddings, EmbeddingScorer

MOST_ROWS = 2000
"""Of one map."""
FEWEST_ROWS = 12
"""Of a group: fewer make no cloud."""
BINS = 16
"""Of each side of a histogram."""
_NEAR = 10
"""Neighbours by which a map is judged."""
_PERPLEXITY = 30.0

Announce = Callable[[str], object]
"""Is told what is drawn up next."""


class Panel(BaseModel):
    """One group of a map.

    Args:
        name: "text", "users", "image generic".
        ids: raw id of each row.
        points: n places in the plane.
        apart: mean share of the ten nearest rows, by the vectors themselves, that are of the same group; None
            where the map has one group.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    ids: list[str | int]
    points: list[tuple[float, float]]
    apart: float | None = None


class EmbeddingMap(BaseModel):
    """Groups of vectors that were laid out together by t-SNE.

    Args:
        kind: what is shown.
        title: in words.
        panels: the groups.
        trust: how far near rows in the plane are near as vectors, too: trustworthiness, 0 to 1.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["modalities", "halves", "nodes", "ids", "result", "content"]
    title: str
    panels: list[Panel]
    trust: float


class Histogram(BaseModel):
    """How many items lie in each cell of a map of one modality.

    Args:
        modality: whose.
        stage: "raw" features, or vectors of the "model".
        counts: rows of cells, from below.
        cells: how many hold an item.
        evenness: entropy of the counts over the greatest possible one: 0 all in one cell, 1 even.
        uniformity: of the vectors themselves, all items; 0 where all point one way, lower where they spread.
        trust: as of the map.
    """

    model_config = ConfigDict(frozen=True)

    modality: str
    stage: Literal["raw", "model"]
    counts: list[list[int]]
    cells: int
    evenness: float
    uniformity: float
    trust: float


class CorrelatedLayer(BaseModel):
    """How the columns of a layer correlate.

    Args:
        of: "ids", "result", or a modality.
        layer: how often the vectors were passed along the user–item graph.
        redundancy: MGNM's p over the items, from 0 to sqrt(D (D - 1) / 2).
        matrix: (D, D) correlations over the items, for the picture; not part of the JSON.
    """

    model_config = ConfigDict(frozen=True)

    of: str
    layer: int
    redundancy: float
    matrix: list[list[float]] = Field(exclude=True)


class Picture(BaseModel):
    """All that `picture_run` found.

    Args:
        n_items: of the data.
        sample: rows of each group of a map, at most.
        seed: of the sample and the maps.
        missing: what could not be shown -> why.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    data: str
    n_items: int
    sample: int
    seed: int
    maps: list[EmbeddingMap]
    histograms: list[Histogram]
    layers: list[CorrelatedLayer]
    diagnosis: Diagnosis
    missing: dict[str, str]


def picture_run(
    run: Run,
    data: Dataset,
    *,
    sample: int = 500,
    n_layers: int = 3,
    seed: int = 0,
    announce: Announce = lambda title: None,
) -> Picture:
    """Lay out what a model learned in the plane, and measure it.

    Maps are t-SNE's of a sample drawn at random, as in SAND (arXiv:2406.08270, figures 5 and 6) and CAmgr
    (Mathematics 2024, 12, 2353, figures 4 and 5), which show 500 items. Groups that are compared are laid
    out together. With the same number of threads, the same arguments give the same places.

    Args:
        run: trained on `data`.
        data: with its features, which a run does not keep.
        sample: rows of each group; a map of several groups has `MOST_ROWS` at most in all.
        n_layers: how often vectors are passed along the user–item graph to see how columns grow alike.
        seed: of sample and maps.
        announce: is told the title of each map before it is made.

    Raises:
        ConfigError: the model has no embeddings, or the sample is too small or too large.
        StorageError: the run was trained on other data.
    """
    if not FEWEST_ROWS <= sample <= MOST_ROWS:
        raise ConfigError(
            f"a sample of {sample:,} rows",
            wanted=f"from {FEWEST_ROWS} to {MOST_ROWS:,}",
            fix="Choose another --sample",
        )
    announce("diagnosis")
    diagnosis = diagnose(run, data, n_layers=n_layers)
    assert isinstance(run.scorer, EmbeddingScorer)  # or it could not be diagnosed
    split = same_split(run, data)
    inputs = ModelInputs.from_split(split)
    with torch.no_grad():
        studio = _Studio(rebuild(run, inputs), run.scorer.embeddings, split, inputs, sample, seed, announce)
        maps, histograms = list(studio.maps()), list(studio.histograms())
        layers = list(studio.layers(n_layers))
    return Picture(
        model=run.record.name,
        data=run.record.data,
        n_items=split.n_items,
        sample=sample,
        seed=seed,
        maps=maps,
        histograms=histograms,
        layers=layers,
        diagnosis=diagnosis,
        missing=studio.missing,
    )


class _Studio:
    """One model, and what is drawn of it."""

    def __init__(
        self,
        model: Recommender,
        result: Embeddings,
        split: Split,
        inputs: ModelInputs,
        sample: int,
        seed: int,
        announce: Announce,
    ) -> None:
        self.model, self.result, self.split, self.inputs = model, result, split, inputs
        self.sample, self.seed, self.announce = sample, seed, announce
        self.vectors = model.modality_embeddings()
        self.missing: dict[str, str] = {}
        if not self.vectors:
            self.missing["the modalities in the model"] = "it has no vectors by modality"

    def maps(self) -> Iterator[EmbeddingMap]:
        """Make all maps that the model has the vectors for."""
        yield from self._modalities()
        yield from self._halves()
        yield from self._map(
            "nodes",
            "Users and items, as they are ranked",
            {"users": self.result.users, "items": self.result.items},
            {"users": np.arange(self.split.n_users), "items": np.arange(self.split.n_items)},
        )
        ids = self.model.id_embeddings()
        if ids is None:
            self.missing["items before the model"] = "it learns no vectors of ids"
        else:
            yield from self._items("ids", "Items before the model: their ids’ learned vectors", ids.items)
        yield from self._items("result", "Items after the model, as they are ranked", self.result.items)

    def _items(self, kind: Literal["ids", "result"], title: str, rows: Tensor) -> Iterator[EmbeddingMap]:
        yield from self._map(kind, title, {"items": rows}, {"items": np.arange(len(rows))})

    def _modalities(self) -> Iterator[EmbeddingMap]:
        """Lay all modalities out together, by the same items."""
        if len(self.vectors) > 1:
            every = self._with_all()
            same = dict.fromkeys(self.vectors, every)
            yield from self._map("modalities", "Items by modality in the model", self.vectors, same)
        elif self.vectors:
            self.missing["modalities beside each other"] = "the model has but one"

    def _halves(self) -> Iterator[EmbeddingMap]:
        """Lay out the generic and the unique halves of a model that has them."""
        has = any(isinstance(part, Separation) for part in self.model.modules())
        if not has:
            self.missing["generic and unique halves"] = "it does not part its modality vectors, as SAND does"
            return
        if getattr(self.model.config, "split_at", "gnn") != "gnn":
            self.missing["generic and unique halves"] = (
                "it parts wide maps of features, of which only what its losses see is made"
            )
            return
        groups = {
            f"{modality} {half}": split_halves(rows)[half]
            for modality, rows in self.vectors.items()
            for half in ("generic", "unique")
        }
        every = self._with_all()
        title = "Generic and unique halves"
        yield from self._map("halves", title, groups, dict.fromkeys(groups, every))

    def _with_all(self) -> IntArray:
        """Find the items that have all of the model's modalities."""
        present = [self.inputs.features[modality].present for modality in self.vectors]
        return np.flatnonzero(np.logical_and.reduce(present))

    def histograms(self) -> Iterator[Histogram]:
        """Count the items in the cells of maps of raw features, and of the model's vectors."""
        for modality, rows in self.vectors.items():
            features = self.inputs.features[modality]
            present = np.flatnonzero(features.present)
            if features.values is None:
                self.missing[f"{modality} before the model"] = "it is given as an item graph alone"
            else:
                yield from self._histogram(modality, "raw", torch.from_numpy(features.values), present)
            yield from self._histogram(modality, "model", rows, present)

    def _histogram(
        self, modality: str, stage: Literal["raw", "model"], rows: Tensor, which: IntArray
    ) -> Iterator[Histogram]:
        title = f"{modality}, {'features as given' if stage == 'raw' else 'vectors in the model'}"
        for one in self._map("content", title, {modality: rows}, {modality: which}):
            x, y = np.array(one.panels[0].points).T
            counts = np.histogram2d(y, x, bins=BINS)[0].astype(int)
            yield Histogram(
                modality=modality,
                stage=stage,
                counts=counts.tolist(),
                cells=int(np.count_nonzero(counts)),
                evenness=evenness(counts),
                uniformity=uniformity(rows[torch.from_numpy(which)]),
                trust=one.trust,
            )

    def layers(self, n_layers: int) -> Iterator[CorrelatedLayer]:
        """Correlate the columns of ids and modalities, layer by layer, and those of what ranks."""
        n_users = self.split.n_users
        for of, nodes, counted in first_layers(self.model, self.inputs, self.vectors):
            known = None if counted is None else counted[n_users:]
            for layer, passed in enumerate(
                propagate_layers(self.inputs.graphs.bipartite("sym"), nodes, n_layers)
            ):
                yield _correlated(of, layer, passed[n_users:], known)
        yield _correlated("result", 0, self.result.items.cpu(), None)

    def _map(
        self,
        kind: Literal["modalities", "halves", "nodes", "ids", "result", "content"],
        title: str,
        groups: Mapping[str, Tensor],
        which: Mapping[str, IntArray],
    ) -> Iterator[EmbeddingMap]:
        """Lay out a sample of each group, all in one plane, or say why that cannot be done."""
        n_rows = min(self.sample, MOST_ROWS // len(groups), *map(len, which.values()))
        widths = {rows.shape[1] for rows in groups.values()}
        if n_rows < FEWEST_ROWS or len(widths) > 1:
            self.missing[title] = (
                f"its vectors have {' and '.join(map(str, sorted(widths)))} columns"
                if len(widths) > 1
                else f"there are {n_rows} rows of a group, and fewer than {FEWEST_ROWS} make no cloud"
            )
            return
        self.announce(title)
        chosen = {name: self._draw(one, n_rows) for name, one in which.items()}
        stacked = torch.cat([groups[name].cpu().double()[chosen[name]] for name in groups]).numpy()
        if not np.ptp(stacked, axis=0).any():
            self.missing[title] = "all its vectors are the same"
            return
        places = lay_out(stacked, self.seed)
        of_group = np.repeat(np.arange(len(groups)), n_rows)
        apart = _apart(stacked, of_group) if len(groups) > 1 else [None]
        yield EmbeddingMap(
            kind=kind,
            title=title,
            panels=[
                Panel(
                    name=name,
                    ids=self._ids(name)[chosen[name]].tolist(),
                    points=places[of_group == at].tolist(),
                    apart=apart[at],
                )
                for at, name in enumerate(groups)
            ],
            trust=_trust(stacked, places),
        )

    def _draw(self, which: IntArray, n_rows: int) -> IntArray:
        """Draw rows without repetition, the same of the same."""
        drawn: IntArray = np.sort(np.random.default_rng(self.seed).choice(which, n_rows, replace=False))
        return drawn

    def _ids(self, group: str) -> np.ndarray[Any, Any]:
        return (self.split.data.users if group == "users" else self.split.data.items).ids


def lay_out(rows: FloatArray, seed: int) -> FloatArray:
    """Lay out rows in the plane by t-SNE, rounded to a thousandth: (n, D) -> (n, 2).

    Source: van der Maaten and Hinton (JMLR 2008); scikit-learn's, from the first two principal components.
    """
    from sklearn.manifold import TSNE

    layout = TSNE(
        perplexity=min(_PERPLEXITY, (len(rows) - 1) / 3),
        init="pca" if rows.shape[1] > 1 else "random",
        random_state=seed,
    )
    places: FloatArray = layout.fit_transform(rows).astype(np.float64).round(3)
    return places


def evenness(counts: np.ndarray[Any, Any]) -> float:
    """Say how evenly things lie in cells: entropy over the log of the most cells that they can fill, 0 to 1.

    Args:
        counts: of things in each cell, any shape; at least two things and two cells.
    """
    total = counts.sum()
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum() / np.log(min(total, counts.size)))


def _correlated(of: str, layer: int, items: Tensor, counted: Tensor | None) -> CorrelatedLayer:
    return CorrelatedLayer(
        of=of,
        layer=layer,
        redundancy=redundancy(items, counted).item(),
        matrix=column_correlation(items, counted).tolist(),
    )


def _apart(rows: FloatArray, group: IntArray) -> list[float | None]:
    """Average the share of each row's nearest that are of its own group, by group."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=_NEAR).fit(rows).kneighbors(return_distance=False)  # without the row
    own = (group[near] == group[:, None]).mean(axis=1)
    return [float(own[group == at].mean()) for at in range(group.max() + 1)]


def _trust(rows: FloatArray, places: FloatArray) -> float:
    from sklearn.manifold import trustworthiness

    n_near = min(_NEAR, (len(rows) - 1) // 2)
    return float(trustworthiness(rows, places, n_neighbors=n_near))
