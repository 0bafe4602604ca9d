"""Small splits with holes in them, plain dense forms to compare with, and comparisons of several models.

Matrices are in float64 and made from the pairs of a split alone, by none of the library's own graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import LEFT_OUT
from triptych.data.split import Split
from triptych.models.base import Recommender, Triplets
from triptych.testing import toy_dataset


def toy_split(*, bare: int | None = None, stranger: int | None = 0, sound: bool = True) -> Split:
    """12 users and 10 items: item 0 lacks an image, item 1 a text, item `bare` both; all have a sound, if any.

    User `stranger` chose nothing.
    """
    data = toy_dataset()
    features = {
        name: ItemFeatures.dense(given.values, given.present & (np.arange(data.n_items) != bare))
        for name, given in data.features.items()
    }
    if sound:
        features["audio"] = ItemFeatures.dense(np.random.default_rng(1).normal(size=(data.n_items, 3)))
    split = Split.by_ratio(replace(data, features=features), rng=0)
    part = np.where(data.interactions.user == stranger, LEFT_OUT, split.part).astype(np.int8)
    return replace(split, part=part)


def with_features(split: Split, features: Mapping[str, ItemFeatures]) -> Split:
    """The same split with these features and no others."""
    return replace(split, data=replace(split.data, features=features))


def graph_alone(split: Split) -> ItemFeatures:
    """A modality of which only an item graph is given: each item links to the next."""
    n = split.n_items
    each = np.arange(n)
    graph = ItemGraph.from_edges(each, (each + 1) % n, np.ones(n, dtype=np.float32), n)
    return ItemFeatures(present=np.ones(n, dtype=bool), graph=graph)


def interactions(split: Split) -> torch.Tensor:
    """R, (U, I): 1 where a user chose an item in training."""
    chosen = torch.zeros(split.n_users, split.n_items, dtype=torch.float64)
    chosen[split.train.user, split.train.item] = 1
    return chosen


def links(split: Split) -> torch.Tensor:
    """A = [0 R; R^T 0], (N, N)."""
    n = split.n_users + split.n_items
    linked = torch.zeros(n, n, dtype=torch.float64)
    linked[: split.n_users, split.n_users :] = interactions(split)
    return linked + linked.T


def adjacency(split: Split, normalisation: str = "sym") -> torch.Tensor:
    """D^-1/2 A D^-1/2, or (D + I)^-1 (A + I) where it is "rw_loop"."""
    linked = links(split)
    if normalisation == "rw_loop":
        linked = linked + torch.eye(len(linked))
        return linked / linked.sum(1, keepdim=True)
    root = linked.sum(1).clamp(min=1).sqrt()
    return linked / root / root[:, None]


def mean_of_layers(adjacency: torch.Tensor, nodes: torch.Tensor, n_layers: int) -> torch.Tensor:
    """LightGCN."""
    layers = [nodes]
    for _ in range(n_layers):
        layers.append(adjacency @ layers[-1])
    return torch.stack(layers).mean(0)


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows scaled to length 1; those of zeros stay so, and have no gradient."""
    squares = rows.pow(2).sum(-1, keepdim=True)
    return torch.where(squares > 0, rows / torch.where(squares > 0, squares, 1).sqrt(), 0)


def linear(part: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Apply a linear map, with a bias or without."""
    return x @ part.weight.T if part.bias is None else x @ part.weight.T + part.bias


def away(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The mean of 1 - cos, row by row."""
    return (1 - (a * b).sum(1) / (a.pow(2).sum(1) * b.pow(2).sum(1)).sqrt()).mean()


def spelled_out(model: Recommender) -> np.ndarray:
    """What having an item adds to another's score, (I, I), of a model that ranks by that."""
    scorer = model.scorer()
    return torch.stack([scorer.item_similarities(item) for item in range(model.n_items)]).double().numpy()


def nearest(rows: torch.Tensor, k: int, known: torch.Tensor) -> torch.Tensor:
    """The k largest cosines of each of the known rows with each other, (I, I); zero elsewhere."""
    cosines = (unit(rows) @ unit(rows).T).where(known & known[:, None], -2.0)
    values, places = cosines.topk(k, dim=1)
    return torch.zeros_like(cosines).scatter(1, places, values) * known[:, None]


def by_row_sums(matrix: torch.Tensor) -> torch.Tensor:
    """D^-1/2 S D^-1/2, D the row sums; zero where these are."""
    sums = matrix.sum(1)
    root = torch.where(sums > 0, sums.where(sums > 0, 1).pow(-0.5), 0)
    return root[:, None] * matrix * root


def check_losses(
    model: Recommender, losses: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    """Each term is as expected, and so are all gradients of their sum, none of which vanishes."""
    assert list(losses) == list(expected)
    for name, term in losses.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-6), name
    parameters = list(model.parameters())
    fast = torch.autograd.grad(sum(losses.values()), parameters)
    slow = torch.autograd.grad(sum(expected.values()), parameters)
    for ours, theirs in zip(fast, slow, strict=True):
        assert theirs.abs().max() > 1e-8
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def check_mixed_precision(
    model: Recommender, batch: Triplets, terms: Sequence[str] = (), **near: float
) -> None:
    """In bfloat16 the named terms, or all, are near those in float32, and gradients are finite."""
    found = []
    for mixed in (False, True):
        torch.manual_seed(1)
        list(model.epoch_steps(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses = model.float().loss(batch)
        found.append({name: losses[name].item() for name in terms or losses})
    assert found[1] == pytest.approx(found[0], **near)
    sum(losses.values()).backward()
    assert all(parameter.grad.to_dense().isfinite().all() for parameter in model.parameters())
