"""The base of models that are solved at once, by how items speak for items."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from triptych.graph.sparse import SparseGraph
from triptych.models.base import ModelConfig, ModelInputs, Recommender, Step
from triptych.scorer import HistoryScorer, ItemWeights


class ClosedForm(Recommender):
    """Base of the models that solve for item-to-item weights: `item_weights` is all they define.

    Such a model learns nothing but these weights. They are in its scorer and no part of its state, which is
    empty but for what `__init__` draws: they would fill the memory twice.
    """

    negatives = 0
    schedule = "once"
    history: SparseGraph  # (U, I), ones at the training pairs

    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.history = inputs.graphs.users_from_items("sum")
        self._solved: HistoryScorer | None = None

    def item_weights(self) -> ItemWeights:
        """Solve for the weights, (I, I)."""
        raise NotImplementedError(f"{type(self).__name__} must say how items speak for items")

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        """Solve."""
        self._solved = None  # before, so that an old solution is not held beside the new one
        with torch.no_grad():
            self._solved = HistoryScorer(self.history.share(), self.item_weights())
        return ()

    def scorer(self) -> HistoryScorer:
        """Give the solution; solve, if that has not been done."""
        if self._solved is None:
            self.epoch_steps(1)
        assert self._solved is not None
        return self._solved
