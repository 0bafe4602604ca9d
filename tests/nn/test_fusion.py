import torch

from triptych.nn.fusion import QueryAttention, masked_softmax


def test_query_attention_is_a_softmax_of_scores_over_the_modalities():
    torch.manual_seed(0)
    attention, parts = QueryAttention(4), torch.randn(3, 5, 4)
    weight, bias, query = (parameter.detach() for parameter in attention.parameters())
    scores = torch.tensor(
        [[query[0] @ torch.tanh(weight @ parts[m, n] + bias) for n in range(5)] for m in range(3)]
    )
    torch.testing.assert_close(attention(parts), scores.exp() / scores.exp().sum(0))


def test_query_attention_gives_nothing_to_what_a_node_lacks():
    torch.manual_seed(0)
    attention, parts = QueryAttention(4), torch.randn(2, 3, 4, requires_grad=True)
    has = torch.tensor([[True, True, False], [True, False, False]])
    shares = attention(parts, has)
    torch.testing.assert_close(shares[:, 0], attention(parts)[:, 0])
    assert shares[:, 1].tolist() == [1, 0]
    assert shares[:, 2].tolist() == [0, 0]
    shares.sum().backward()
    assert parts.grad.isfinite().all()


def test_masked_softmax_by_hand():
    scores = torch.tensor([[3.0], [1.0], [1.0]]).log()  # the same for all nodes
    has = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]], dtype=torch.bool)
    expected = torch.tensor([[0.6, 0.75, 0, 0], [0.2, 0, 0.5, 0], [0.2, 0.25, 0.5, 0]])
    torch.testing.assert_close(masked_softmax(scores, has), expected)
