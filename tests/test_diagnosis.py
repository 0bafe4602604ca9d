"""Diagnosis: its figures are those of the model's own vectors, and it wants the data of the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.interactions import Interactions
from triptych.data.missing import fill_missing
from triptych.data.split import Split
from triptych.errors import StorageError
from triptych.evaluation.mechanism import alignment, variance_kept
from triptych.graph.bipartite import bipartite_graph
from triptych.models.base import ModelInputs
from triptych.models.dualgnn import DualGNNConfig
from triptych.nn.correlation import redundancy
from triptych.runs import Run, diagnose, load, train
from triptych.runs.diagnosis import rebuild
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig

BRIEFLY = TrainConfig(epochs=2, batch_size=16, metric="recall@1")


@pytest.fixture(scope="module")
def split() -> Split:
    data = toy_dataset()
    rng = np.random.default_rng(0)
    values = rng.normal(size=(data.n_items, 5))
    sound = ItemFeatures.dense(values, present=np.arange(data.n_items) > 1)
    return Split.by_ratio(replace(data, features={**data.features, "sound": sound}), rng=0)


@pytest.fixture(scope="module")
def run(split: Split) -> Run:
    return train(DualGNNConfig(embedding_dim=4), split, config=BRIEFLY, k=(1,), device="cpu")


def test_measures_are_those_of_the_rebuilt_models_vectors(run: Run, split: Split, tmp_path):
    run.save(tmp_path / "run")  # which keeps no features
    found = diagnose(load(tmp_path / "run"), split.data, n_layers=2)
    inputs = ModelInputs.from_split(split)
    model = rebuild(run, inputs)
    assert torch.equal(model.scorer().embeddings.items, run.scorer.embeddings.items)
    vectors = model.modality_embeddings()
    assert [row.modality for row in found.modalities] == list(vectors)
    for row in found.modalities:
        features = split.data.features[row.modality]
        present = torch.from_numpy(features.present)
        assert row.n_items == present.sum()
        kept = variance_kept(torch.from_numpy(features.values)[present], vectors[row.modality][present])
        assert row.variance_kept == pytest.approx(kept)
    assert len(found.pairs) == 3
    for pair in found.pairs:
        first, second = pair.modalities
        both = torch.from_numpy(split.data.features[first].present & split.data.features[second].present)
        assert pair.n_items == both.sum()
        assert pair.alignment == pytest.approx(alignment(vectors[first][both], vectors[second][both]))
        assert pair.information is None  # a dozen items are too few for a word on that
    result = next(row for row in found.layers if row.of == "result")
    assert result.items == pytest.approx(redundancy(run.scorer.embeddings.items).item())


def test_ids_are_passed_along_the_graph_layer_by_layer(split: Split):
    lightgcn = train("lightgcn", split, config=BRIEFLY, k=(1,), device="cpu", settings={"embedding_dim": 4})
    found = diagnose(lightgcn, split.data, n_layers=2)
    assert found.modalities == []
    user, item = (torch.from_numpy(part) for part in split.train)
    dense = bipartite_graph(user, item, split.n_users, split.n_items).to_dense()
    nodes = lightgcn.weights["nodes.weight"]
    for row in [row for row in found.layers if row.of == "ids"]:
        at = torch.linalg.matrix_power(dense, row.layer) @ nodes
        assert row.users == pytest.approx(redundancy(at[: split.n_users]).item(), rel=1e-4)
        assert row.items == pytest.approx(redundancy(at[split.n_users :]).item(), rel=1e-4)
    assert [row.layer for row in found.layers if row.of == "ids"] == [0, 1, 2]


def test_ids_that_are_kept_apart_from_content_are_found(split: Split):
    """VBPR keeps users and items by themselves, and users' tastes for content beside their vectors."""
    vbpr = train("vbpr", split, config=BRIEFLY, k=(1,), device="cpu", settings={"embedding_dim": 4})
    found = {row.layer: row for row in diagnose(vbpr, split.data, n_layers=1).layers if row.of == "ids"}
    users, items = vbpr.weights["users"][:, :4], vbpr.weights["items"]
    assert found[0].users == pytest.approx(redundancy(users).item(), rel=1e-4)
    assert found[0].items == pytest.approx(redundancy(items).item(), rel=1e-4)
    user, item = (torch.from_numpy(part) for part in split.train)
    dense = bipartite_graph(user, item, split.n_users, split.n_items).to_dense()
    passed = dense @ torch.cat([users, items])
    assert found[1].users == pytest.approx(redundancy(passed[: split.n_users]).item(), rel=1e-4)
    assert found[1].items == pytest.approx(redundancy(passed[split.n_users :]).item(), rel=1e-4)


def test_modalities_of_enough_items_are_compared(split: Split):
    n = 90
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(n, 3))
    features = {
        "image": ItemFeatures.dense(shared @ rng.normal(size=(3, 3))),
        "text": ItemFeatures.dense(shared + 0.1 * rng.normal(size=(n, 3))),
    }
    users, items = rng.integers(0, 30, 900), rng.integers(0, n, 900)
    items[:n] = np.arange(n)
    pairs = Interactions.from_ids(users.astype(str), np.char.mod("%03d", items))
    data = replace(Dataset.from_interactions("many", pairs), features=features)
    many = Split.by_ratio(data, rng=0)
    run = train(DualGNNConfig(embedding_dim=4), many, config=BRIEFLY, k=(1,), device="cpu")
    (pair,) = diagnose(run, data).pairs
    assert pair.n_items == n
    assert pair.information_raw > 1
    assert pair.information >= 0


def test_users_of_a_modality_begin_as_the_mean_of_their_items_that_have_it(run: Run, split: Split):
    found = diagnose(run, split.data, n_layers=2)
    vectors = rebuild(run, ModelInputs.from_split(split)).modality_embeddings()
    user, item = (torch.from_numpy(part) for part in split.train)
    dense = bipartite_graph(user, item, split.n_users, split.n_items).to_dense()
    for modality, rows in vectors.items():
        present = split.data.features[modality].present
        mine = [[i for u, i in zip(*split.train, strict=True) if u == who and present[i]]
                for who in range(split.n_users)]  # fmt: skip
        users = torch.stack([rows[i].mean(dim=0) if i else torch.zeros(rows.shape[1]) for i in mine])
        nodes = torch.cat([users, rows * torch.from_numpy(present)[:, None]]).detach()
        some = torch.tensor([bool(i) for i in mine])
        assert some.any()
        layers = [row for row in found.layers if row.of == modality]
        assert [row.layer for row in layers] == [0, 1, 2]
        for row in layers:
            at = torch.linalg.matrix_power(dense, row.layer) @ nodes
            wanted = redundancy(at[: split.n_users][some]), redundancy(at[split.n_users :][present])
            assert (row.users, row.items) == pytest.approx([part.item() for part in wanted], rel=1e-3)


@pytest.fixture(scope="module")
def strangers() -> Split:
    """Images and texts that say nothing of each other."""
    rng, n = np.random.default_rng(2), 300
    users, items = rng.integers(0, 60, 1800), rng.integers(0, n, 1800)
    items[:n] = np.arange(n)
    pairs = Interactions.from_ids(users.astype(str), np.char.mod("%03d", items))
    features = {name: ItemFeatures.dense(rng.normal(size=(n, 8))) for name in ("image", "text")}
    return Split.by_ratio(replace(Dataset.from_interactions("strangers", pairs), features=features), rng=0)


@pytest.mark.parametrize(
    ("model", "settings", "least"),
    [
        ("msi", {"use_ssd": False}, 0.1),
        ("camgr", {}, 1.0),
        ("mgcn", {}, 1.0),
        ("micro", {}, 0.0),
        ("dualgnn", {}, 0.1),
        ("sand", {"distance": "l2"}, 1.0),
        ("sand", {"distance": "l2", "split_at": "features"}, 1.0),
    ],
)
def test_what_modalities_share_by_ids_and_graphs_is_told_from_content(
    strangers: Split, model, settings, least
):
    briefly = TrainConfig(epochs=1, metric="recall@1")
    run = train(model, strangers, settings=settings, config=briefly, k=(1,), device="cpu")
    found = diagnose(run, strangers.data, n_layers=0)
    (pair,) = found.pairs
    assert pair.information_raw < 0.05
    assert pair.information_of_content < 0.05
    assert pair.information >= least  # of ids, or of users, that both modalities hold
    for row in found.modalities:
        assert 0 < row.variance_kept_by_content <= 1 + 1e-6


def test_vectors_of_content_alone_are_not_measured_twice(strangers: Split):
    briefly = TrainConfig(epochs=1, metric="recall@1")
    run = train("bm3", strangers, config=briefly, k=(1,), device="cpu")
    (pair,) = diagnose(run, strangers.data, n_layers=0).pairs
    assert pair.information < 0.05
    assert pair.information_of_content is None


def test_other_data_is_refused(run: Run, split: Split):
    features = {**split.data.features, "sound": ItemFeatures.dense(np.ones((split.n_items, 2)))}
    for other in (replace(split.data, features=features), replace(split.data, features={})):
        with pytest.raises(StorageError, match="the data set that the run was trained on"):
            diagnose(run, other)


def test_filled_features_are_filled_again(split: Split):
    filled = fill_missing(split, "mean")
    run = train(DualGNNConfig(embedding_dim=4), filled, config=BRIEFLY, k=(1,), device="cpu")
    found = diagnose(run, split.data)
    assert {row.n_items for row in found.modalities} == {split.n_items}


def test_weights_that_do_not_fit_the_code_any_more_are_refused(run: Run, split: Split):
    weights = dict(run.weights)
    del weights[next(iter(weights))]
    with pytest.raises(
        StorageError, match="the weights of this run do not fit the model 'dualgnn': Missing key"
    ):
        rebuild(Run(run.record, run.scorer, run.split, weights), ModelInputs.from_split(split))
