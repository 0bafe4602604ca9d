"""The retrieval task against its formula, and what may be drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from triptych.errors import ConfigError
from triptych.nn.retrieval import ContentRetrieval

HAS = torch.tensor([[True] * 7, [False, True, True, False, True, True, False]])


def make(cosine: bool = False, temperature: float = 0.5) -> ContentRetrieval:
    torch.manual_seed(0)
    content = torch.randn(2, 7, 4, dtype=torch.float64) * HAS[:, :, None]
    return ContentRetrieval(content, HAS, 3, temperature, cosine=cosine)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_equals_its_formula_in_value_and_gradient(cosine: bool, place: int):
    task = make(cosine)
    content = make().content[place]
    vectors = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    items = torch.tensor([4, 1, 0, 4, 5])
    expected = []
    for item in items.tolist():
        pool = [item, *task.others[place, item].tolist()]
        scores = [
            (F.cosine_similarity(vectors[item], content[n], dim=0) if cosine else vectors[item] @ content[n])
            / 0.5
            for n in pool
        ]
        loss = -torch.stack(scores).softmax(dim=0)[0].log()
        expected.append(loss if HAS[place, item] else 0.0 * loss)
    found = task(place, vectors, items)
    torch.testing.assert_close(found, torch.stack(expected))
    weights = torch.rand(5, dtype=torch.float64)
    grads = [
        torch.autograd.grad((weights * x).sum(), vectors)[0]
        for x in (found, torch.stack(expected).nan_to_num())
    ]
    torch.testing.assert_close(*grads)
    assert grads[0][[4, 1, 5]].abs().min() > 0


def test_by_hand():
    content = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    task = ContentRetrieval(content, torch.tensor([[True, True, False]]), 2, 2.0)
    assert task.others[:, :2].tolist() == [[[1, 1], [0, 0]]]  # there is no other
    # Scores 4/2 at its own content and 2/2 at both of the others.
    loss = task(0, torch.tensor([[4.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, 2]))
    expected = [math.log(1 + 2 / math.e), math.log(3), 0.0]
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_others_have_the_modality_and_are_never_the_item_itself():
    task = make()
    task.n_others = 500
    for _ in range(3):
        task.draw()
        for has, others in zip(HAS, task.others, strict=True):
            owners = set(has.nonzero().flatten().tolist())
            for item, row in enumerate(others.tolist()):
                if has[item]:
                    assert set(row) == owners - {item}  # all of them, after 500 draws
                assert set(row) <= owners


def test_all_others_are_equally_likely():
    task = make()
    task.n_others = 30_000
    task.draw()
    counts = torch.bincount(task.others[0, 3].long(), minlength=7)
    assert counts[3] == 0
    assert (counts[counts > 0].float() / 5000 - 1).abs().max() < 0.07


def test_each_drawing_is_another_and_comes_from_the_default_generator():
    task = make()
    task.n_others = 50
    torch.manual_seed(5)
    task.draw()
    first = task.others
    task.draw()
    assert not torch.equal(task.others, first)
    torch.manual_seed(5)
    task.draw()
    assert torch.equal(task.others, first)
    assert task.others.dtype == torch.int32


def test_large_products_do_no_harm():
    task = make(temperature=1e-3)
    vectors = (1e4 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    loss = task(0, vectors, torch.arange(7))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert vectors.grad.isfinite().all()


def test_nothing_of_it_is_state():
    task = make()
    assert task.state_dict() == {}
    assert list(task.parameters()) == []


def test_there_are_fewer_others_than_items():
    has = torch.ones(1, 5, dtype=torch.bool)
    assert ContentRetrieval(torch.zeros(1, 5, 3), has, 4, 0.1).others.shape == (1, 5, 4)
    with pytest.raises(ConfigError, match="n_negatives = 5, but there are only 5 items"):
        ContentRetrieval(torch.zeros(1, 5, 3), has, 5, 0.1)


def test_a_single_item_has_nobody_to_be_told_from():
    has = torch.tensor([[True, True], [True, False]])
    with pytest.raises(ConfigError, match="only 1 items have features"):
        ContentRetrieval(torch.zeros(2, 2, 3), has, 1, 0.1)
