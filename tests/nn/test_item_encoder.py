"""Each kind of layer against its dense form."""

from __future__ import annotations

import pytest
import torch

from triptych.graph.sparse import SparseGraph
from triptych.nn.item_encoder import GraphConvolution, ItemEncoder

KINDS = ("rgnn", "lightgcn", "gcn", "gat")
DENSE = torch.tensor(
    [[0.5, 0.2, 0, 0, 0], [0, 0.4, 0, 0.3, 0], [0.1, 0.3, 0.6, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0.7, 0, 0.2]],
    dtype=torch.float64,
)


def make(kind: str, n_layers: int = 2) -> ItemEncoder:
    torch.manual_seed(0)
    row, col = DENSE.nonzero().T
    graph = SparseGraph.from_edges(row, col, DENSE[row, col], 5, 5)
    return ItemEncoder(graph, kind, n_layers, 3).double()


def dense_layer(encoder: ItemEncoder, number: int, x: torch.Tensor) -> torch.Tensor:
    if encoder.kind in ("rgnn", "lightgcn"):
        return DENSE @ x
    weight = encoder.layers[number].project.weight
    if encoder.kind == "gcn":
        sent = DENSE @ x @ weight.T
        return torch.where(sent > 0, sent, 0.01 * sent)
    sent = x @ weight.T
    score = encoder.layers[number].score.weight[0]
    scores = (sent @ score[:3])[:, None] + sent @ score[3:]
    scores = torch.where(scores > 0, scores, 0.2 * scores).exp() * (DENSE > 0)
    return (scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-300) @ sent).clamp(min=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_equals_the_dense_form_in_value_and_gradient(kind: str, n_layers: int):
    encoder = make(kind, n_layers)
    items = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    expected = [items]
    for number in range(n_layers):
        expected.append(dense_layer(encoder, number, expected[-1]))
    layers = encoder(items)
    assert layers[0] is items
    torch.testing.assert_close(layers, expected)
    result = sum(expected) / len(expected) if kind == "lightgcn" else expected[-1]
    torch.testing.assert_close(encoder.result(layers), result)
    inputs = [items, *encoder.parameters()]
    assert len(inputs) - 1 == {"gcn": 1, "gat": 2}.get(kind, 0) * n_layers
    weights = torch.rand(5, 3, dtype=torch.float64)
    grads = [torch.autograd.grad((weights * x).sum(), inputs) for x in (encoder.result(layers), result)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", KINDS)
def test_without_neighbours_nothing_arrives(kind: str):
    encoder = make(kind)
    items = torch.randn(5, 3, dtype=torch.float64)
    assert encoder.linked().tolist() == [True, True, True, False, True]
    for layer in encoder(items)[1:]:
        assert not layer[3].any()
        assert layer[[0, 1, 2, 4]].abs().sum() > 0


def test_the_graph_is_state():
    names = set(make("gat", 1).state_dict())
    assert names == {f"graph.{part}" for part in ("offsets", "indices", "values")} | {
        "layers.0.project.weight",
        "layers.0.score.weight",
    }


def test_a_convolution_keeps_the_type_of_its_nodes():
    row, col = DENSE.nonzero().T
    graph = SparseGraph.from_edges(row, col, DENSE[row, col].float(), 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert GraphConvolution(3)(graph, torch.randn(5, 3)).dtype == torch.float32
