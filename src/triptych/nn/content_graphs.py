"""Graphs of alike items, made of raw features once, and of projected ones as they are learned.

Letters: I items, M modalities, F and D widths, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from triptych.data.features import ItemFeatures
from triptych.graph.learned import LearnedGraph, mix_learned, neighbor_graph
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import GraphStore
from triptych.nn.content import FeatureBank, Projector


class ContentGraphSettings(BaseModel):
    """Settings of the graphs, for models that have them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    n_neighbors: int = Field(10, gt=0)
    """K of the item graphs, the item itself included."""
    fixed_share: float = Field(0.9, ge=0, le=1)
    """Share of the fixed item graphs; the learned ones have the rest."""
    feature_training: Literal["frozen", "all"] = "all"
    """Whether the raw features learn, "all" as in the authors' code, for four times their memory."""


class ContentGraphs(nn.Module):
    """Links each item to its nearest in each modality, by its features and by a linear map of them.

    K(X) keeps the K largest cosines of each row of X, itself included; N(S) = D^-1/2 S D^-1/2, D the row
    sums. Fixed graphs are O_m = N(K(F_m)), of the features as they are given; learned ones are
    S_m = K(W_m F_m + c_m). An item has neighbours in the modalities it has; where its features are all
    zero, it lacks the modality.

    In eval mode graphs are learned from the parameters as they are. In training the first call learns those
    of an epoch, with a gradient; the model says when the step was taken, after which they are constants
    (`hold`), and when the next epoch begins (`relearn`).

    Source: LATTICE (arXiv:2104.09036), section on modality-aware graphs; MICRO (arXiv:2111.00678).

    Args:
        features: modality -> features.
        graphs: gives the fixed graphs.
        modalities: which to take, in this order.
        dim: D.
        settings: of the graphs.

    Raises:
        ConfigError: a modality is given as an item graph only, or fewer than K items have it.
    """

    known: Tensor  # (M, I) bool, which items have which modality

    def __init__(
        self,
        features: Mapping[str, ItemFeatures],
        graphs: GraphStore,
        modalities: Sequence[str],
        dim: int,
        settings: ContentGraphSettings,
    ) -> None:
        super().__init__()
        self.n_neighbors, self.fixed_share = settings.n_neighbors, settings.fixed_share
        self.features = FeatureBank(features, modalities, training=settings.feature_training)
        self.project = Projector(self.features.dims, dim)
        known = [self.features.present(m) & self.features.rows(m).any(dim=1) for m in modalities]
        self.register_buffer("known", torch.stack(known), persistent=False)
        fixed = [graphs.items(modality, settings.n_neighbors, "cosine") for modality in modalities]
        self.fixed = nn.ModuleList(graph.share(persistent=True) for graph in fixed)
        self._of_epoch: dict[str, list[list[LearnedGraph]]] = {}

    def relearn(self) -> None:
        """Forget the epoch's graphs."""
        self._of_epoch = {}

    def hold(self) -> None:
        """Make constants of the epoch's graphs."""
        for kind, graphs in self._of_epoch.items():
            self._of_epoch[kind] = [[part.detach() for part in parts] for parts in graphs]

    def by_modality(self) -> dict[str, Tensor]:
        """Give W_m F_m + c_m by modality, (I, D) each; zero where an item lacks it."""
        return {
            modality: self.project(modality, self.features.rows(modality)) * known[:, None]
            for modality, known in zip(self.features.dims, self.known, strict=True)
        }

    def mixed(self, shares: Tensor) -> list[LearnedGraph]:
        """Learn one graph of all modalities.

        Args:
            shares: b, (M, I), what each modality counts in each item's row.

        Returns: graphs whose sum is (1 - fixed_share) N(sum_m b_m S_m) + fixed_share sum_m b_m O_m.
        """
        return self._once_an_epoch(
            "mixed", lambda: [mix_learned(self._learned(), self._fixed(), shares, self.fixed_share)]
        )[0]

    def apart(self) -> list[list[LearnedGraph]]:
        """Learn one graph for each modality.

        Returns: M lists of graphs, whose sums are (1 - fixed_share) N(S_m) + fixed_share O_m.
        """
        return self._once_an_epoch(
            "apart",
            lambda: [
                mix_learned([learned], [fixed], known.to(learned.values.dtype), self.fixed_share)
                for learned, fixed, known in zip(
                    self._learned(), self._fixed(), self.known[:, None], strict=True
                )
            ],
        )

    def _apply(self, *args: Any, **options: Any) -> ContentGraphs:
        self.relearn()  # another device or number format
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.relearn()
        super()._load_from_state_dict(*args, **options)

    def _once_an_epoch(
        self, kind: str, learn: Callable[[], list[list[LearnedGraph]]]
    ) -> list[list[LearnedGraph]]:
        graphs = self._of_epoch.get(kind) if self.training else None
        if graphs is None:
            graphs = learn()
            if self.training and torch.is_grad_enabled():  # else they would never have had a gradient
                self._of_epoch[kind] = graphs
        return graphs

    def _learned(self) -> list[LearnedGraph]:
        return [
            neighbor_graph(vectors, self.n_neighbors, known)
            for vectors, known in zip(self.by_modality().values(), self.known, strict=True)
        ]

    def _fixed(self) -> list[SparseGraph]:
        return cast("list[SparseGraph]", list(self.fixed))
