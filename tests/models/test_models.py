"""Every model keeps the contract, and does what its own paper adds to it."""

from triptych.models.freedom import FREEDOMConfig
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.mf_bpr import MFBPRConfig
from triptych.models.vbpr import VBPRConfig
from triptych.testing import RecommenderContract


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
