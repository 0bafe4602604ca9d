"""What a trained model does with content: the papers' claims, measured on one's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    users: float
    """Of the users' rows. In a modality, users begin as the mean of their items that have it."""
    items: float


class ModalityMeasures(BaseModel):
    """One modality's vectors in the model, which may hold what its ids and graphs add to content."""

    model_config = ConfigDict(frozen=True)

    modality: str
    n_items: int
    """Items that have it."""
    uniformity: float
    variance_kept: float | None
    """Share of the raw features' variance that a linear map of the vectors brings back; none without
    dense features."""
    variance_kept_by_content: float | None
    """The same of the model's codes of content alone; none where it does not tell these apart."""


class PairMeasures(BaseModel):
    """Two modalities beside each other, over the items that have both."""

    model_config = ConfigDict(frozen=True)

    modalities: tuple[str, str]
    n_items: int
    alignment: float | None
    """Mean squared distance of an item's two unit vectors; none if the model knows but one of them."""
    information: float | None
    """Lower bound of what the two vectors say of each other, in nats; none as before. Ids and graphs that
    both hold count in it."""
    information_of_content: float | None
    """The same of the model's codes of content alone: MSI's I(z_t; z_v). None where it does not tell these
    apart from the vectors."""
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
    Isola's (arXiv:2005.10242), information is the InfoNCE bound (arXiv:1807.03748); of the codes of content
    alone it is of what MSI's first term stands for. No test interaction plays a part.

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
        vectors, codes = model.modality_embeddings(), model.content_codes()
        return Diagnosis(
            model=run.record.name,
            data=run.record.data,
            seed=run.record.seed,
            layers=list(_layers(model, result, inputs, vectors, n_layers)),
            modalities=[_modality(inputs, name, rows, codes.get(name)) for name, rows in vectors.items()],
            pairs=[_pair(inputs, *pair, vectors, codes) for pair in combinations(inputs.features, 2)],
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


def first_layers(
    model: Recommender, inputs: ModelInputs, vectors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Give what is passed along the user–item graph: names, nodes (U+I, D), and which of them count (U+I,).

    In a modality users begin as the mean of their items that have it, and those without such items do not
    count, nor do items that lack it.

    Args:
        model: whose ids they are, if it has some.
        inputs: with its features and graphs.
        vectors: modality -> (I, D).
    """
    ids = model.id_embeddings()
    if ids is not None:
        yield "ids", torch.cat(list(ids)), None
    chosen = inputs.graphs.users_from_items("sum")
    for modality, rows in vectors.items():
        present = torch.from_numpy(inputs.features[modality].present)
        items = rows.float() * present[:, None]
        counts = chosen.multiply(present[:, None].float())  # (U, 1)
        users = chosen.multiply(items) / counts.clamp(min=1)
        yield modality, torch.cat([users, items]), torch.cat([counts.squeeze(1) > 0, present])


def _layers(
    model: Recommender, result: Embeddings, inputs: ModelInputs, vectors: dict[str, Tensor], n_layers: int
) -> Iterator[LayerRedundancy]:
    sides = [inputs.n_users, inputs.n_items]
    for of, first, counted in first_layers(model, inputs, vectors):
        masks = (None, None) if counted is None else counted.split(sides)
        for layer, nodes in enumerate(propagate_layers(inputs.graphs.bipartite("sym"), first, n_layers)):
            yield _redundancy(of, layer, *nodes.split(sides), *masks)
    yield _redundancy("result", 0, result.users.cpu(), result.items.cpu())


def _redundancy(
    of: str,
    layer: int,
    users: Tensor,
    items: Tensor,
    users_counted: Tensor | None = None,
    items_counted: Tensor | None = None,
) -> LayerRedundancy:
    return LayerRedundancy(
        of=of,
        layer=layer,
        users=redundancy(users, users_counted).item(),
        items=redundancy(items, items_counted).item(),
    )


def _modality(inputs: ModelInputs, modality: str, rows: Tensor, codes: Tensor | None) -> ModalityMeasures:
    present = torch.from_numpy(inputs.features[modality].present)
    raw = _raw(inputs, modality)
    return ModalityMeasures(
        modality=modality,
        n_items=int(present.sum()),
        uniformity=uniformity(rows[present]),
        variance_kept=None if raw is None else variance_kept(raw[present], rows[present]),
        variance_kept_by_content=(
            None if raw is None or codes is None else variance_kept(raw[present], codes[present])
        ),
    )


def _pair(
    inputs: ModelInputs, first: str, second: str, vectors: Mapping[str, Tensor], codes: Mapping[str, Tensor]
) -> PairMeasures:
    have = [torch.from_numpy(inputs.features[modality].present) for modality in (first, second)]
    both = have[0] & have[1]

    def information(one: Tensor | None, other: Tensor | None) -> float | None:
        if one is None or other is None or len(one[both]) < FEWEST_ROWS:
            return None
        return information_bound(one[both], other[both])

    known = first in vectors and second in vectors
    return PairMeasures(
        modalities=(first, second),
        n_items=int(both.sum()),
        alignment=alignment(vectors[first][both], vectors[second][both]) if known and both.any() else None,
        information=information(vectors.get(first), vectors.get(second)),
        information_of_content=information(codes.get(first), codes.get(second)),
        information_raw=information(_raw(inputs, first), _raw(inputs, second)),
    )


def _raw(inputs: ModelInputs, modality: str) -> Tensor | None:
    values: Any = inputs.features[modality].values
    return None if values is None else torch.from_numpy(values)
