"""The model of a run, made again: as it was trained, or on a catalogue that has changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.missing import fill_missing
from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError
from triptych.graph.learned import LearnedGraph
from triptych.graph.sparse import SparseGraph
from triptych.graph.store import Edges, GraphStore
from triptych.models.base import ModelInputs, Recommender
from triptych.models.plugins.base import create_plugged_in, make_plugin_configs
from triptych.models.registry import make_config, model_entry
from triptych.nn.content import FeatureBank
from triptych.nn.content_graphs import ContentGraphs
from triptych.runs.run import Run
from triptych.training.trainer import isolated_rng

CPU = torch.device("cpu")

Neighbors = Callable[[str, int], Edges]
"""Modality and K -> edges from each item to its K nearest, as `GraphStore.neighbors` gives them."""

GRAPH = ("offsets", "indices", "values")
"""What the state of a graph consists of."""

WITHOUT_LEARNING: Mapping[str, Mapping[str, Any]] = {
    "mmssl": {"critic_widths": (1, 1)},
    "diffmm": {"denoiser_width": 1},
    "ksi": {"use_semantics": False},
}
"""Model or plug-in -> settings by which it leaves out what training alone reads, where that is large."""


def rebuild(run: Run, inputs: ModelInputs) -> Recommender:
    """Make the model of a run again, with its weights, in evaluation mode and on the CPU.

    Raises:
        StorageError: the model's code has other parameters or graphs since.
    """
    model = _create(run, inputs, {})
    try:
        model.load_state_dict(dict(run.weights))
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise StorageError(
            f"the weights of this run do not fit the model '{run.record.model}': {why}",
            wanted="the code that the run was trained with",
            fix="Train again, or use the version that trained it: "
            + run.record.versions.get("triptych", "unknown"),
        ) from error
    return model.eval()


def rank_otherwise(run: Run, data: Dataset, settings: Mapping[str, Any]) -> Run:
    """Let a trained model rank by other settings, with the weights that it has.

    So one training of MSI gives the three rows of its table 1, by `score_with`. The epoch stays the one at
    which the model was best as it ranked in training, and the record still says how that was.

    Args:
        run: trained on `data`.
        data: with its features, which a run does not keep.
        settings: of the model.

    Raises:
        ConfigError: the model has no such setting or value, has other weights with it, or ranks by it as it
            does without.
        StorageError: the run was trained on other data, or the model's code has changed since.
    """
    inputs = ModelInputs.from_split(same_split(run, data))
    before = rebuild(run, inputs).scorer().arrays()
    model = _create(run, inputs, {run.record.model: settings})
    named = " and ".join(f"{name} = {value}" for name, value in settings.items())
    refused = None
    try:
        model.load_state_dict(dict(run.weights))
    except RuntimeError:
        refused = f"{run.record.name} has other weights with {named}"
    else:
        scorer = model.eval().scorer()
        after = scorer.arrays()
        if all(torch.equal(part, after[name]) for name, part in before.items()):
            refused = f"{run.record.name} ranks by {named} as it does without"
    if refused is not None:
        raise ConfigError(
            refused,
            wanted="a setting of the model by which the same weights rank otherwise, as MSI's score_with",
            fix=f"Train a run with it: triptych train {run.record.model} --set",
        )
    return replace(run, scorer=scorer)


def same_split(run: Run, data: Dataset) -> Split:
    """Put the features of a data set beside the parts of a run that was trained on it.

    Raises:
        StorageError: the run was trained on other data.
    """
    part, protocol = run.split.part, run.split.protocol
    if len(part) == len(data.interactions):
        split = fill_missing(Split(data, part, protocol), protocol.get("missing", "leave"))
        if split.data.content_hash == run.record.data_hash:
            return split
    raise StorageError(
        f"the run was trained on {run.record.data} of hash {run.record.data_hash}, this is {data.name} of "
        f"hash {data.content_hash}",
        wanted="the data set that the run was trained on",
        fix="Give its folder",
    )


class ChangedGraphs(GraphStore):
    """Graphs of changed data, whose neighbours are handed over instead of being searched for.

    Args:
        inputs: what the model may know; its own graphs are not used.
        neighbors: gives the edges of an item graph.
    """

    def __init__(self, inputs: ModelInputs, neighbors: Neighbors) -> None:
        super().__init__(inputs.user, inputs.item, inputs.n_users, inputs.n_items, inputs.features)
        self._find = neighbors

    def neighbors(self, modality: str, n_neighbors: int) -> Edges:
        """List the edges that graphs of one modality are made of."""
        return self._find(modality, n_neighbors)


def changed_inputs(
    inputs: ModelInputs, features: Mapping[str, ItemFeatures], n_items: int, neighbors: Neighbors
) -> ModelInputs:
    """Show a model the same training pairs with other features, of items that may be more at the end."""
    changed = replace(inputs, features=features, n_items=n_items)
    return replace(changed, graphs=ChangedGraphs(changed, neighbors))


def transplant(run: Run, inputs: ModelInputs) -> Recommender:
    """Make the model of a run on changed data, with the weights that were trained.

    Items may be new, at the end, and features may be gone. A new item's learned vectors are zero: first
    vectors are drawn about zero, and nothing has moved its own. Features that learned are the trained ones,
    where items still have them. Graphs of items are those of the changed data; of all others the rows of
    known nodes are the trained ones. What does not fit the changed data, which training alone reads, is NaN,
    so that nothing can read it unnoticed.

    Args:
        run: of a model with weights.
        inputs: the changed data; users and their training pairs are those of the run.

    Returns: the model, in evaluation mode and on the CPU.
    """
    model = _create(run, inputs, WITHOUT_LEARNING)
    parts = dict(model.named_modules())
    n_new = inputs.n_items - run.split.n_items
    state: dict[str, Tensor] = {}
    for name, fresh in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        part = parts[owner]
        if isinstance(part, SparseGraph):
            trained = [run.weights[f"{owner}.{piece}"] for piece in GRAPH]
            state[name] = _graph_rows(part, trained, inputs.n_items, n_new)[GRAPH.index(leaf)]
        elif isinstance(part, FeatureBank):
            present = inputs.features[leaf.removeprefix("of_")].present[: run.split.n_items]
            known = torch.from_numpy(np.flatnonzero(present))
            state[name] = fresh.index_copy(0, known, run.weights[name].cpu()[known])
        else:
            state[name] = _grown(run.weights.get(name), fresh, n_new)
    model.load_state_dict(state)
    return model.eval()


def fix_learned_graphs(model: Recommender, learned: Mapping[str, list[LearnedGraph]]) -> None:
    """Have a model take graphs that it would learn from its content: name of its `ContentGraphs` -> S_m."""
    for name, graphs in learned.items():
        model.set_submodule(name, _FixedGraphs(model.get_submodule(name), graphs))


def content_graphs(model: nn.Module) -> dict[str, ContentGraphs]:
    """Name the parts of a model that learn graphs from content."""
    return {name: part for name, part in model.named_modules() if isinstance(part, ContentGraphs)}


class _FixedGraphs(ContentGraphs):
    """Content graphs whose learned part is handed over."""

    def __init__(self, whole: nn.Module, learned: list[LearnedGraph]) -> None:
        nn.Module.__init__(self)
        self.__dict__ = dict(whole.__dict__)
        self._given = learned

    def _learned(self) -> list[LearnedGraph]:
        return self._given


def _create(run: Run, inputs: ModelInputs, without: Mapping[str, Mapping[str, Any]]) -> Recommender:
    record = run.record
    settings = {**record.model_settings, **without.get(record.model, {})}
    config = make_config(model_entry(record.model).config, settings)
    plugins = {name: {**given, **without.get(name, {})} for name, given in record.plugins.items()}
    with isolated_rng(0, CPU):
        return create_plugged_in(config, make_plugin_configs(plugins), inputs)


def _grown(trained: Tensor | None, fresh: Tensor, n_new: int) -> Tensor:
    """Take what was trained, with zeros for new items below it."""
    if trained is not None and trained.shape == fresh.shape:
        return trained
    if trained is not None and (len(trained) + n_new, *trained.shape[1:]) == fresh.shape:
        return torch.cat([trained.cpu(), fresh.new_zeros(n_new, *fresh.shape[1:])])
    return fresh.new_full((), torch.nan).expand(fresh.shape)


def _graph_rows(graph: SparseGraph, trained: list[Tensor], n_items: int, n_new: int) -> list[Tensor]:
    """Give offsets, indices and values of a graph: trained rows, and those of new items as they are now."""
    if graph.n_rows == graph.n_cols == n_items:
        return [graph.offsets, graph.indices, graph.values]
    offsets, indices, values = (part.cpu() for part in trained)
    n_added = graph.n_rows + 1 - len(offsets)
    if n_added not in (0, n_new):
        return [graph.offsets, graph.indices, torch.full_like(graph.values, torch.nan)]
    first = graph.offsets[graph.n_rows - n_added]
    return [
        torch.cat([offsets, offsets[-1] + graph.offsets[graph.n_rows - n_added + 1 :] - first]),
        torch.cat([indices, graph.indices[first:]]),
        torch.cat([values, graph.values[first:]]),
    ]
