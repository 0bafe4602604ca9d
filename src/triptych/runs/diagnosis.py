"""What a trained model does with content: the papers' claims, measured on one's own data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from triptych.data.dataset import Dataset
from triptych.errors import ConfigError
from triptych.evaluation.mechanism import alignment, information_bound, uniformity, variance_kept
from triptych.graph.sparse import propagate_layers
from triptych.models.base import ModelInputs, Recommender
from triptych.nn.correlation import redundancy
from triptych.runs.rebuild import rebuild, same_split
from triptych.runs.run import Run
from triptych.scorer import Embeddings, EmbeddingScorer

FEWEST_ROWS = 40
"""Items that two modalities must share for a word on what they have in common."""


class LayerRedundancy(BaseModel):
    """How much the columns of a layer repeat each other: p, from 0 to sqrt(D (D - 1) / 2)."""

    model_config = ConfigDict(frozen=True)

    of: str
    """"ids", "result", or a modality."""
    layer: int
    """How often the vectors were passed along the user–item graph; 0 is the model's own."""
    users: float | None
    """Of the users' rows; none for modalities, which the model knows of items alone."""
    items: float


class ModalityMeasures(BaseModel):
    """One modality's vectors in the model."""

    model_config = ConfigDict(frozen=True)

    modality: str
    n_items: int
    """Items that have it."""
    uniformity: float
    variance_kept: float | None
    """Share of the raw features' variance that a linear map of the vectors brings back; none without
    dense features."""


class PairMeasures(BaseModel):
    """Two modalities beside each other, over the items that have both."""

    model_config = ConfigDict(frozen=True)

    modalities: tuple[str, str]
    n_items: int
    alignment: float | None
    """Mean squared distance of an item's two unit vectors; none if the model knows but one of them."""
    information: float | None
    """Lower bound of what the two vectors say of each other, in nats; none as before."""
    information_raw: float | None
    """The same of the raw features."""


class Diagnosis(BaseModel):
    """All that `diagnose` measures."""

    model_config = ConfigDict(frozen=True)

    model: str
    data: str
    seed: int
    layers: list[LayerRedundancy]
    modalities: list[ModalityMeasures]
    pairs: list[PairMeasures]


def diagnose(run: Run, data: Dataset, *, n_layers: int = 3) -> Diagnosis:
    """Measure what a trained model does with content.

    Redundancy is MGNM's p (section on de-redundancy), alignment and uniformity are Wang and
    Isola's (arXiv:2005.10242), information is the InfoNCE bound (arXiv:1807.03748) that MSI's first term
    stands for. No test interaction plays a part.

    Args:
        run: trained on `data`.
        data: with its features, which a run does not keep.
        n_layers: how often vectors are passed along the user–item graph to see how columns grow alike.

    Raises:
        StorageError: the run was trained on other data.
        ConfigError: its model has no embeddings to measure.
    """
    result = _embeddings(run)
    split = same_split(run, data)
    inputs = ModelInputs.from_split(split)
    model = rebuild(run, inputs)
    with torch.no_grad():
        vectors = model.modality_embeddings()
        return Diagnosis(
            model=run.record.name,
            data=run.record.data,
            seed=run.record.seed,
            layers=list(_layers(model, result, inputs, vectors, n_layers)),
            modalities=[_modality(inputs, name, rows) for name, rows in vectors.items()],
            pairs=[
                _pair(inputs, first, second, vectors) for first, second in combinations(inputs.features, 2)
            ],
        )


def _embeddings(run: Run) -> Embeddings:
    """Give the vectors that rank."""
    if not isinstance(run.scorer, EmbeddingScorer):
        raise ConfigError(
            f"a run of {run.record.name}, which ranks without embeddings",
            wanted="a run of a model that embeds users and items",
            fix="Diagnose a run of another model",
        )
    return run.scorer.embeddings


def _layers(
    model: Recommender, result: Embeddings, inputs: ModelInputs, vectors: dict[str, Tensor], n_layers: int
) -> Iterator[LayerRedundancy]:
    ids = model.id_embeddings()
    if ids is not None:
        ego = torch.cat(list(ids))  # (U + I, D)
        for layer, nodes in enumerate(propagate_layers(inputs.graphs.bipartite("sym"), ego, n_layers)):
            users, items = nodes.split([inputs.n_users, inputs.n_items])
            yield _redundancy("ids", layer, items, users)
    for modality, rows in vectors.items():
        yield _redundancy(modality, 0, rows[torch.from_numpy(inputs.features[modality].present)])
    yield _redundancy("result", 0, result.items.cpu(), result.users.cpu())


def _redundancy(of: str, layer: int, items: Tensor, users: Tensor | None = None) -> LayerRedundancy:
    return LayerRedundancy(
        of=of,
        layer=layer,
        users=None if users is None else redundancy(users).item(),
        items=redundancy(items).item(),
    )


def _modality(inputs: ModelInputs, modality: str, rows: Tensor) -> ModalityMeasures:
    present = torch.from_numpy(inputs.features[modality].present)
    raw = _raw(inputs, modality)
    return ModalityMeasures(
        modality=modality,
        n_items=int(present.sum()),
        uniformity=uniformity(rows[present]),
        variance_kept=None if raw is None else variance_kept(raw[present], rows[present]),
    )


def _pair(inputs: ModelInputs, first: str, second: str, vectors: dict[str, Tensor]) -> PairMeasures:
    have = [torch.from_numpy(inputs.features[modality].present) for modality in (first, second)]
    both = have[0] & have[1]
    enough = int(both.sum()) >= FEWEST_ROWS
    known = first in vectors and second in vectors
    raw = [_raw(inputs, modality) for modality in (first, second)]
    return PairMeasures(
        modalities=(first, second),
        n_items=int(both.sum()),
        alignment=alignment(vectors[first][both], vectors[second][both]) if known and both.any() else None,
        information=(
            information_bound(vectors[first][both], vectors[second][both]) if known and enough else None
        ),
        information_raw=(
            information_bound(raw[0][both], raw[1][both])
            if enough and raw[0] is not None and raw[1] is not None
            else None
        ),
    )


def _raw(inputs: ModelInputs, modality: str) -> Tensor | None:
    values: Any = inputs.features[modality].values
    return None if values is None else torch.from_numpy(values)
