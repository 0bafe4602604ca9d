"""The same results on a GPU, where there is one."""

from __future__ import annotations

import pytest
import torch

from triptych.graph.sparse import SparseGraph, propagate
from triptych.models.freedom import FREEDOMConfig
from triptych.models.lightgcn import LightGCNConfig
from triptych.runs import load, train
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_products_and_gradients_are_those_of_the_cpu():
    row, col = torch.randint(40, (2, 300), generator=torch.Generator().manual_seed(0))
    graph = SparseGraph.from_edges(row, col, torch.rand(300), 40, 40)
    x = torch.randn(40, 8)
    answers = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        out = propagate(graph.share().to(device), leaf, 3)
        out.pow(2).sum().backward()
        answers.append((out.detach().cpu(), leaf.grad.cpu()))
    assert torch.allclose(answers[0][0], answers[1][0], atol=1e-5)
    assert torch.allclose(answers[0][1], answers[1][1], atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        LightGCNConfig(embedding_dim=8),
        FREEDOMConfig(embedding_dim=8, n_neighbors=2, edge_dropout=0.2, feature_loss_weight=0.01),
    ],
)
def test_models_learn_in_bfloat16_and_are_saved_for_any_machine(config, tmp_path):
    training = TrainConfig(epochs=60, batch_size=64, learning_rate=0.02, metric="recall@2", precision="bf16")
    run = train(config, checkerboard(), config=training, device="cuda", k=(1, 2), masked="train+valid")
    assert run.record.test["recall@1"] > 0.9
    assert run.record.peak_memory_bytes > 0
    run.save(tmp_path / "run")
    assert load(tmp_path / "run").recommend([0], k=3)[0].items == run.recommend([0], k=3)[0].items
