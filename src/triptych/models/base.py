"""The contract between a model and everything else: how it embeds users and items, and what it minimises.

It never sees files, devices, optimisers or other models; the trainer never sees a model's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from triptych.data.features import ItemFeatures
from triptych.data.split import Split
from triptych.errors import ConfigError, nearest
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import GraphStore
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.scorer import Embeddings, EmbeddingScorer, Scorer

Losses = dict[str, Tensor]
"""Named, weighted scalar terms; their sum is minimised."""


class Triplets(NamedTuple):
    """A batch: users, an item each of them chose, and one each of them did not."""

    user: Tensor  # (B,) int64
    pos: Tensor  # (B,) int64
    neg: Tensor  # (B,) int64; for models with `negatives = 0` it is empty


class Step(NamedTuple):
    """Minimise the sum of these losses with the optimiser of this group."""

    losses: Losses
    group: str = "main"


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser.

    Args:
        parameters: what it moves.
        options: of Adam, where they differ from the training's: `lr`, which decays too, or `weight_decay`.
        by_row: those of the parameters whose gradients are sparse: Adam moves only the rows that a step
            read, with learning rate, betas and eps as for the others.
    """

    parameters: list[nn.Parameter]
    options: Mapping[str, Any] = field(default_factory=dict)
    by_row: Sequence[nn.Parameter] = ()


class Settings(BaseModel):
    """Base of all settings: frozen, typed, unknown keys refused; a dict of JSON values and back."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )


class ModelConfig(Settings):
    """Settings every model has."""

    embedding_dim: int = Field(64, gt=0)
    """Length of the user and item vectors."""


class ContentConfig(ModelConfig):
    """Settings of every model that uses item content."""

    modalities: tuple[str, ...] | None = Field(None, min_length=1)
    """Which modalities to use, by name; by default all that the data set has."""


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """What a model may know of the data: sizes, training pairs, item features, and graphs of these.

    Args:
        n_users: U.
        n_items: I.
        user: (E,) int64 users of the training pairs, ascending.
        item: (E,) int64 items of the training pairs.
        features: modality -> features.
        graphs: builds and remembers graphs of the above.
    """

    n_users: int
    n_items: int
    user: Tensor
    item: Tensor
    features: Mapping[str, ItemFeatures]
    graphs: GraphStore

    @classmethod
    def from_split(cls, split: Split, cache_dir: Path | None = None) -> ModelInputs:
        """Show a model the training part of a split, and nothing of the others."""
        user, item = torch.from_numpy(split.train.user), torch.from_numpy(split.train.item)
        features = split.data.features
        graphs = GraphStore(user, item, split.n_users, split.n_items, features, cache_dir)
        return cls(split.n_users, split.n_items, user, item, features, graphs)

    def choose_modalities(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """Name the modalities to use: those wanted, or by default all of the data set.

        Raises:
            ConfigError: one is not in the data set, or named twice; or there is none at all.
        """
        if not self.features:
            raise ConfigError(
                "the data set has no item features",
                wanted="at least one modality for this model",
                fix="Prepare with --text, --images or --features NAME=FILE, or add some by triptych encode; "
                "or choose a model of interactions alone",
            )
        chosen = tuple(self.features) if wanted is None else wanted
        for modality in chosen:
            if modality not in self.features or chosen.count(modality) > 1:
                wrong = "named twice" if modality in self.features else "not in the data set"
                raise ConfigError(
                    f"modality '{modality}' is {wrong}",
                    wanted="one of: " + ", ".join(self.features),
                    fix=nearest(modality, self.features),
                )
        return chosen


class Recommender(nn.Module):
    """Base of all models, of settings and inputs. Most write `__init__`, `embeddings` and `loss` alone."""

    negatives: int = 1
    """Sampled items per training pair; 0 for models that learn without."""

    item_graphs: ClassVar[bool] = False
    """Whether a modality that is given as an item graph only, without dense features, will do."""

    schedule: ClassVar[Literal["batches", "sweeps", "once"]] = "batches"
    """What an epoch is: `epoch_steps`, then all training pairs in batches; `epoch_steps` alone, for models
    that solve for all pairs at once; or, for closed forms, `epoch_steps` alone and no second epoch."""

    ways_out: ClassVar[Mapping[str, str]] = {}
    """Method below that gives nothing under some settings -> what to do about it, for `way_out`."""

    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__()
        self.config = config
        self.n_users, self.n_items = inputs.n_users, inputs.n_items

    def embeddings(self) -> Embeddings:
        """Embed all users (U, D) and items (I, D); in eval mode deterministic and without side effects.

        In training mode it is what the loss ranks by: of the thinned graph of a model that thins it, say.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it embeds users and items")

    def loss(self, batch: Triplets) -> Losses:
        """Name the terms to minimise on a batch, for `batch_steps`, by which loops go."""
        raise NotImplementedError(f"{type(self).__name__} must define loss() or batch_steps()")

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        """Yield the optimiser steps of a batch; code after a `yield` runs after that step was taken."""
        yield Step(self.loss(batch))

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        """Begin an epoch, counted from 1: draw a new graph, say; may yield steps as `batch_steps` does."""
        return ()

    def optimizer_groups(self) -> dict[str, Group]:
        """Part the parameters into groups, each with an optimiser of its own."""
        return {"main": Group(list(self.parameters()))}

    def modality_embeddings(self) -> dict[str, Tensor]:
        """Give what the model knows of items by modality, each (I, D); models without content give none."""
        return {}

    def content_codes(self) -> dict[str, Tensor]:
        """Give what content alone makes of items, (I, D) each, where ids or graphs are part of the above."""
        return {}

    def loss_scale(self, batch: Triplets) -> float:
        """Say what this model multiplies means over a batch by, for plug-ins whose terms are means."""
        return 1.0

    def id_embeddings(self) -> Embeddings | None:
        """Give the learned vectors of users (U, D) and items (I, D) themselves, before graphs and content.

        None for models that learn none; by default those of a `NodeEmbedding` kept as `nodes`.
        """
        nodes = getattr(self, "nodes", None)
        return nodes.ego if isinstance(nodes, NodeEmbedding) else None

    def score_parts(self) -> dict[str, Embeddings] | None:
        """Part the scores into a sum, by where they come from: "behaviour", or a modality -> vectors.

        The inner products of all parts add up to those of `embeddings()`; None where scores are no such sum.
        """
        return None

    def register_graph(self, name: str, graph: SparseGraph) -> None:
        """Hold a graph that `embeddings()` reads as part of the model's state, as attribute `name`."""
        self.add_module(name, graph.share(persistent=True))

    def scorer(self) -> Scorer:
        """Freeze the model as it is now into what evaluation and serving need."""
        training = self.training
        self.eval()
        with torch.no_grad():
            scorer = EmbeddingScorer(self.embeddings())
        self.train(training)
        return scorer


def batch_rows(embeddings: Embeddings, batch: Triplets) -> tuple[Tensor, Tensor, Tensor]:
    """Pick the rows of a batch's users, chosen and sampled items: three (B, D) tensors."""
    users = take_rows(embeddings.users, batch.user)
    items = take_rows(embeddings.items, torch.cat([batch.pos, batch.neg]))  # one scatter on the way back
    pos, neg = items.split(len(batch.user))
    return users, pos, neg


def pair_scores(users: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    """Score each user with the chosen and with the sampled item: (B, D) each -> two (B,) tensors."""
    return (users * pos).sum(dim=1), (users * neg).sum(dim=1)
