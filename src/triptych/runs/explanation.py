"""Why a user is offered an item: what of the score is behaviour, and what each modality.

Where a model's scores are a sum by where they come from (`Recommender.score_parts`), or those of a fusion by
its parts, the terms are told. Elsewhere each modality in turn is knocked out: the model is made again without
it, with the weights that were trained, and what a score loses is the modality's part. The rest is behaviour.

Letters: U users, I items, n pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import IntArray, RawId
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.errors import ConfigError
from triptych.evaluation.ranking import top_k
from triptych.graph.learned import LearnedGraph, neighbor_graph
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import Edges
from triptych.models.base import ModelInputs, Recommender
from triptych.models.plugins.base import create_plugged_in
from triptych.models.registry import make_config, model_entry
from triptych.nn.item_mixture import mixture_weights
from triptych.runs.rebuild import (
    changed_inputs,
    content_graphs,
    fix_learned_graphs,
    rebuild,
    same_split,
    transplant,
)
from triptych.runs.run import Run, ScoredItem
from triptych.scorer import DenseWeights, EmbeddingScorer, FusedScorer, HistoryScorer, Scorer

BEHAVIOUR = "behaviour"

LARGEST_SOLVE = 5_000
"""Items up to which a closed form is solved again without a modality: time grows with their cube."""
_USERS = 256
"""Users scored at once by what has no vectors."""
_PAIRS = 1 << 16
"""Pairs whose vectors are held at once."""


@dataclass(frozen=True)
class Explanation:
    """Why a user is offered an item.

    Args:
        user_id: raw id.
        item_id: raw id.
        score: the run's.
        parts: modality, "behaviour", or part of a fusion -> what it adds to the score; they sum to it.
        shares: the parts over the sum of their sizes; what speaks against the item is negative.
        exact: whether the score is this sum by the model's own formula.
        how: how the parts were told, in a sentence.
        because: the user's training items nearest to the item, nearest first.
    """

    user_id: RawId
    item_id: RawId
    score: float
    parts: dict[str, float]
    shares: dict[str, float]
    exact: bool
    how: str
    because: list[ScoredItem]


def explain(
    run: Run, user_id: RawId, item_id: RawId, data: Dataset | None = None, n_neighbors: int = 5
) -> Explanation:
    """Say why a run scores an item for a user as it does.

    The first call for a run makes its model again, once for each modality where they must be knocked out;
    later ones of the same run and data are quick.

    Args:
        run: of any model, or of a fusion.
        user_id: raw id.
        item_id: raw id.
        data: what the run was trained on, with its features. Without it, a model that uses content is not
            taken apart: there are neither parts nor shares, and `how` says so.
        n_neighbors: how many of the user's own items to name.

    Raises:
        UnknownIdError: the user or the item is not in the data set.
        StorageError: the run was trained on other data.
        ConfigError: `n_neighbors` is negative.
    """
    if n_neighbors < 0:
        raise ConfigError(f"n_neighbors = {n_neighbors}", wanted="0 or more", fix="Leave it out for 5")
    user, item = run.split.data.users.index([user_id]), run.split.data.items.index([item_id])
    terms = _terms(run, data)
    score = float(_pair_scores(run.scorer, user, item)[0])
    parts = {name: float(part[0]) for name, part in terms.parts(user, item).items()}
    size = sum(abs(part) for part in parts.values())
    shares = {name: part / size if size > 0 else 0.0 for name, part in parts.items()}
    because = _because(run, int(user[0]), int(item[0]), n_neighbors)
    users, items = run.split.data.users.ids[user].tolist(), run.split.data.items.ids[item].tolist()
    return Explanation(users[0], items[0], score, parts, shares, terms.exact, terms.how, because)


def modality_shares(
    run: Run, data: Dataset | None, users: IntArray, items: IntArray, *, exact: bool = False
) -> dict[str, float]:
    """Give each part's mean share in the scores of many pairs, such as those of recommended lists.

    Args:
        run: of any model, or of a fusion.
        data: what the run was trained on, with its features; only models that use content need it.
        users: (n,) int64 by index.
        items: (n,) int64 by index.
        exact: knock nothing out; only scores that are a sum by the model's own formula are taken apart.

    Returns: part -> mean of the shares as `Explanation` has them.

    Raises:
        StorageError: the run was trained on other data.
        ConfigError: there are no pairs, or the model cannot be taken apart.
    """
    terms = _terms(run, data, exact=exact)
    parts = terms.parts(users, items) if len(users) else {}
    if not parts:
        raise ConfigError(
            terms.how if len(users) else "no pairs to take apart",
            wanted="pairs of users and items, and a model whose scores can be taken apart",
            fix="Give at least one pair, or choose another run",
        )
    stacked = torch.stack(list(parts.values()))  # (parts, n)
    shares = stacked / stacked.abs().sum(dim=0).clamp(min=torch.finfo(stacked.dtype).tiny)
    return dict(zip(parts, shares.mean(dim=1).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Terms:
    """What the scores of a run are taken apart into.

    Args:
        scorer: of the run.
        named: name -> scorer: of a part that is added, or of all but what is named.
        exact: the named scorers are parts that are added up; else what is named has been knocked out.
        how: in a sentence.
    """

    scorer: Scorer
    named: Mapping[str, Scorer]
    exact: bool
    how: str

    def parts(self, users: IntArray, items: IntArray) -> dict[str, Tensor]:
        """Take the scores of n pairs apart: name -> (n,)."""
        if isinstance(self.scorer, FusedScorer):
            return dict(zip(self.named, _fused_parts(self.scorer, users, items), strict=True))
        if self.exact:
            return {name: _pair_scores(part, users, items) for name, part in self.named.items()}
        if not self.named:
            return {}
        whole = _pair_scores(self.scorer, users, items)
        lost = {name: whole - _pair_scores(rest, users, items) for name, rest in self.named.items()}
        return {BEHAVIOUR: whole - torch.stack(list(lost.values())).sum(dim=0), **lost}


_TERMS: WeakKeyDictionary[Run, tuple[Dataset | None, _Terms]] = WeakKeyDictionary()


def _terms(run: Run, data: Dataset | None, *, exact: bool = False) -> _Terms:
    """Find out once how a run's scores are taken apart."""
    known = _TERMS.get(run)
    terms = known[1] if known is not None and known[0] is data else _added_up(run, data)
    if exact and (terms is None or not terms.exact):
        raise ConfigError(
            f"the scores of {run.record.name} are no sum by modality",
            wanted="a model whose own formula adds up what each modality gives",
            fix="Choose another run, or have modalities knocked out: exact=False",
        )
    if terms is None:
        terms = _knocked_out(run, data)
    _TERMS[run] = (data, terms)
    return terms


def _added_up(run: Run, data: Dataset | None) -> _Terms | None:
    """Find the parts whose sum a score is by the model's own formula."""
    record, scorer = run.record, run.scorer
    if isinstance(scorer, FusedScorer):
        called = [
            "+".join([part["model"], *part.get("plugins", {})]) for part in record.model_settings["parts"]
        ]
        names = [
            name if called.count(name) == 1 else f"{name} {called[: place + 1].count(name)}"
            for place, name in enumerate(called)
        ]
        how = "The score is the weighted sum of the parts' scores, each made comparable."
        return _Terms(scorer, dict(zip(names, scorer.parts, strict=True)), True, how)
    if record.plugins:
        return None
    kind = model_entry(record.model)
    if kind.kind == "collaborative":
        return _Terms(scorer, {BEHAVIOUR: scorer}, True, f"{record.name} knows behaviour alone.")
    if data is None or kind.model.score_parts is Recommender.score_parts:
        return None
    with torch.no_grad():
        parts = rebuild(run, ModelInputs.from_split(same_split(run, data))).score_parts()
    if parts is None:
        return None
    named = {part: EmbeddingScorer(parts[part]) for part in parts}
    return _Terms(scorer, named, True, f"The score of {record.name} is the sum of these parts.")


def _knocked_out(run: Run, data: Dataset | None) -> _Terms:
    """Make the model again without each of its modalities."""
    scorer, name = run.scorer, run.record.name
    if data is None:
        how = f"{name} uses content: its parts are told where the data set is given, with features."
        return _Terms(scorer, {}, False, how)
    knock_out = _KnockOut(run, data)
    if not isinstance(scorer, HistoryScorer):
        without = {modality: knock_out.embed_without(modality) for modality in knock_out.modalities}
        how = "the trained model is made again without a modality; the rest is behaviour."
    elif isinstance(scorer.weights, DenseWeights) and scorer.n_items > LARGEST_SOLVE:
        how = f"{name} of {scorer.n_items:,} items would take too long to solve again without a modality."
        return _Terms(scorer, {}, False, how)
    else:
        without = {modality: knock_out.solve_without(modality) for modality in knock_out.modalities}
        how = "the model is solved again with a modality of weight zero."
    return _Terms(scorer, without, False, f"What the score loses when {how}")


class _KnockOut:
    """Makes the model of a run again without a modality."""

    def __init__(self, run: Run, data: Dataset) -> None:
        self.run = run
        self.inputs = ModelInputs.from_split(same_split(run, data))
        chosen = run.record.model_settings.get("modalities")
        if chosen is None or run.record.plugins:
            chosen = self.inputs.features
        self.modalities = tuple(chosen)

    @torch.no_grad()
    def embed_without(self, gone: str) -> Scorer:
        """Embed with no item that has the modality."""
        features = {**self.inputs.features, gone: _emptied(self.inputs.features[gone])}

        def neighbors(modality: str, k: int) -> Edges:
            if modality == gone:
                nowhere = torch.empty(0, dtype=torch.int64)
                return nowhere, nowhere, torch.empty(0)
            return self.inputs.graphs.neighbors(modality, k)

        model = transplant(self.run, changed_inputs(self.inputs, features, self.inputs.n_items, neighbors))
        learned = {name: graphs if gone not in graphs else {**graphs, gone: _no_links(self.inputs.n_items)}
                   for name, graphs in self._learned.items()}  # fmt: skip
        fix_learned_graphs(model, {name: list(graphs.values()) for name, graphs in learned.items()})
        return EmbeddingScorer(model.embeddings())

    def solve_without(self, gone: str) -> Scorer:
        """Solve a closed form with a modality of weight zero."""
        config: Any = make_config(model_entry(self.run.record.model).config, self.run.record.model_settings)
        weights = mixture_weights(config.modality_weights, self.modalities)
        config = config.model_copy(update={"modality_weights": {**weights, gone: 0.0}})
        model = create_plugged_in(config, {}, self.inputs)
        model.load_state_dict(dict(self.run.weights))
        return model.scorer()

    @cached_property
    def _learned(self) -> dict[str, dict[str, LearnedGraph]]:
        """The graphs that the trained model has learned from content."""
        return {
            name: {
                modality: neighbor_graph(rows, part.n_neighbors, known)
                for (modality, rows), known in zip(part.by_modality().items(), part.known, strict=True)
            }
            for name, part in content_graphs(rebuild(self.run, self.inputs)).items()
        }


def _emptied(features: ItemFeatures) -> ItemFeatures:
    values = None if features.values is None else np.zeros_like(features.values)
    none = np.empty(0, dtype=np.int64)
    graph = None if features.graph is None else ItemGraph(none, none, np.empty(0, dtype=np.float32))
    return replace(features, present=np.zeros_like(features.present), values=values, graph=graph)


def _no_links(n_items: int) -> LearnedGraph:
    nowhere = torch.empty(0, dtype=torch.int64)
    pattern = SparseGraph.from_edges(nowhere, nowhere, torch.empty(0), n_items, n_items)
    return LearnedGraph(pattern, pattern.values)


def _pair_scores(scorer: Scorer, users: IntArray, items: IntArray) -> Tensor:
    """Score n pairs: (n,) float64."""
    if not isinstance(scorer, EmbeddingScorer):
        return _picked(lambda block: scorer.score(block)[None], 1, users, items)[0]
    of_users, of_items = (part.cpu() for part in scorer.embeddings)
    pairs = zip(*(torch.from_numpy(index).split(_PAIRS) for index in (users, items)), strict=True)
    return torch.cat([(of_users[u].double() * of_items[i].double()).sum(dim=1) for u, i in pairs])


def _fused_parts(scorer: FusedScorer, users: IntArray, items: IntArray) -> Tensor:
    """Give what each part of a fusion adds to the scores of n pairs: (P, n) float64."""
    weights = scorer.weights[:, None, None]
    return _picked(lambda block: scorer.part_scores(block) * weights, len(scorer.parts), users, items)


def _picked(score: Callable[[Tensor], Tensor], n_parts: int, users: IntArray, items: IntArray) -> Tensor:
    """Pick the scores of n pairs, (P, n) float64, out of those of blocks of users: (B,) -> (P, B, I)."""
    user, item = torch.from_numpy(users), torch.from_numpy(items)
    distinct, place = user.unique(return_inverse=True)
    found = torch.empty(n_parts, len(user), dtype=torch.float64)
    for start, block in enumerate(distinct.split(_USERS)):
        inside = place // _USERS == start
        found[:, inside] = score(block).cpu()[:, place[inside] % _USERS, item[inside]].double()
    return found


def _because(run: Run, user: int, item: int, n: int) -> list[ScoredItem]:
    """Name the user's training items that are nearest to an item, or say most of it."""
    own = torch.from_numpy(run.split.train.item[slice(*run.split.train_offsets[user : user + 2])])
    own = own[own != item]
    if not len(own) or n == 0:
        return []
    if isinstance(run.scorer, EmbeddingScorer):
        near = run.scorer.item_similarities(item).cpu()[own]
    else:  # what having one item adds to another's score is not symmetric
        near = torch.stack([run.scorer.item_similarities(int(one)).cpu()[item] for one in own])
    scores, places = top_k(near[None], min(n, len(own)))
    return run._scored(own[places[0]], scores[0])
