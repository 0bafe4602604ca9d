"""Every model keeps the contract, and does what its own paper adds to it."""

import pytest

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs
from triptych.models.freedom import FREEDOMConfig
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.mf_bpr import MFBPRConfig
from triptych.models.registry import create_model, make_config, model_entry
from triptych.models.vbpr import VBPRConfig
from triptych.testing import RecommenderContract, toy_dataset


class TestMFBPR(RecommenderContract):
    config = MFBPRConfig(embedding_dim=8, reg_weight=0.001)


class TestLightGCN(RecommenderContract):
    config = LightGCNConfig(embedding_dim=8)


class TestVBPR(RecommenderContract):
    config = VBPRConfig(embedding_dim=8, reg_weight=0.001)


class TestFREEDOM(RecommenderContract):
    config = FREEDOMConfig(embedding_dim=8, n_neighbors=2, edge_dropout=0.2)


class TestFREEDOMWithFeatureLoss(RecommenderContract):
    config = FREEDOMConfig(
        embedding_dim=8, n_neighbors=2, edge_dropout=0.2, feature_loss_weight=0.01, train_features=True
    )


@pytest.mark.parametrize("name", ["vbpr", "bm3", "msi", "lattice", "item-knn"])
def test_no_modality_and_one_twice_are_refused(name: str):
    inputs = ModelInputs.from_split(Split.by_ratio(toy_dataset(40, 30)))
    with pytest.raises(ConfigError, match="modalities"):
        make_config(model_entry(name).config, {"modalities": []})
    config = make_config(model_entry(name).config, {"modalities": ["image", "image"]})
    with pytest.raises(ConfigError, match="'image' is named twice"):
        create_model(config, inputs)


def test_mgnm_does_not_pretend_to_filter():
    with pytest.raises(ConfigError, match="without a filter"):
        make_config(model_entry("mgnm").config, {"hyper_start": "filtered", "filter": "off"})
