import numpy as np
import pytest
import torch

from triptych.data.features import ItemFeatures
from triptych.nn.content import FeatureBank
from triptych.nn.gate import Gate, Purifier

N_ITEMS, DIM = 7, 3


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def make_bank(training="frozen"):
    """Item 2 lacks a sound, item 4 a text; no item lacks a touch."""
    rng = np.random.default_rng(0)
    features = {
        name: ItemFeatures.dense(rng.normal(size=(N_ITEMS, width)), np.arange(N_ITEMS) != absent)
        for name, width, absent in (("sound", 5, 2), ("text", 2, 4), ("touch", 4, -1))
    }
    return FeatureBank(features, tuple(features), training=training)


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def test_a_gate_lets_through_what_is_asked_for():
    gate, x, by = Gate(DIM), torch.randn(5, DIM), torch.randn(5, DIM)
    torch.testing.assert_close(gate(x, by), x * sigmoid(by @ gate.ask.weight.T + gate.ask.bias))


def test_a_gate_by_hand():
    gate = Gate(2)
    with torch.no_grad():
        gate.ask.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        gate.ask.bias.copy_(torch.tensor([0.0, np.log(3)]))
    opened = gate(torch.tensor([[6.0, 8.0]]), torch.tensor([[2.0, -2.0]]))
    torch.testing.assert_close(opened, torch.tensor([[3.0, 6.0]]))


@pytest.mark.parametrize("gated", [True, False])
def test_purified_ids_are_their_formula(gated):
    bank = make_bank().double()
    purify = Purifier(bank, DIM, gated=gated).double()
    ids = torch.randn(N_ITEMS, DIM, dtype=torch.float64)
    parts = purify(ids)
    assert len(parts) == 3
    for place, (name, absent) in enumerate((("sound", 2), ("text", 4), ("touch", None))):
        first = purify.project.maps["of_" + name]
        expected = bank.rows(name) @ first.weight.T + first.bias
        if gated:
            second = purify.gates[place].ask
            expected = ids * sigmoid(expected @ second.weight.T + second.bias)
        if absent is not None:
            expected[absent] = 0
        torch.testing.assert_close(parts[place], expected)


def test_without_gates_ids_play_no_part():
    purify = Purifier(make_bank(), DIM, gated=False)
    assert not any("gates" in name for name, _ in purify.named_parameters())
    for one, other in zip(purify(torch.zeros(N_ITEMS, DIM)), purify(torch.ones(N_ITEMS, DIM)), strict=True):
        assert torch.equal(one, other)


def test_each_modality_has_maps_of_its_own():
    purify = Purifier(make_bank(), DIM)
    text = purify(torch.ones(N_ITEMS, DIM))[1]
    text.sum().backward()
    for name, parameter in purify.named_parameters():
        asked = "of_text" in name or "gates.1" in name
        assert (parameter.grad is not None) == asked, name


def test_trained_rows_of_items_that_lack_a_modality_stay_as_they_are():
    bank = make_bank("all")
    ids = torch.randn(N_ITEMS, DIM)
    torch.stack(Purifier(bank, DIM)(ids)).square().sum().backward()
    moved = bank.rows("sound").grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [True, True, False, True, True, True, True]


def test_sums_stay_in_float32_under_autocast():
    for gated in (True, False):
        purify, ids = Purifier(make_bank(), DIM, gated=gated), torch.randn(N_ITEMS, DIM)
        exact = purify(ids)
        with torch.autocast("cpu", torch.bfloat16):
            parts = purify(ids)
        assert {part.dtype for part in parts} == {torch.float32}
        torch.testing.assert_close(parts[0], exact[0], rtol=0.05, atol=0.05)
