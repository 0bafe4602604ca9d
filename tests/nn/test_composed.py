"""Maps of a square map that is never made, against making it."""

from __future__ import annotations

import pytest
import torch

from triptych.nn.composed import ComposedMaps


@pytest.mark.parametrize("width", [2, 7, 12])
def test_equals_the_plain_form_in_value_and_gradient(width: int):
    torch.manual_seed(0)
    half = width // 2
    columns = {"all": slice(width), "first": slice(half), "again": slice(half), "rest": slice(half, width)}
    sizes = {"all": 5, "first": 1, "again": 3, "rest": 4}
    maps = ComposedMaps(width, {name: (columns[name], sizes[name]) for name in columns}).double()
    rows = torch.randn(20, width, dtype=torch.float64)
    square = rows @ maps.square.weight.T + maps.square.bias
    found = maps(rows)
    assert list(found) == list(columns)
    fast, slow = [], []
    for name, part in found.items():
        linear = maps.maps[name]
        plain = square[:, columns[name]] @ linear.weight.T + linear.bias
        assert part.shape == (20, sizes[name])
        torch.testing.assert_close(part, plain)
        weights = torch.randn_like(plain)
        fast.append((part.tanh() * weights).sum())
        slow.append((plain.tanh() * weights).sum())
    parameters = list(maps.parameters())
    assert len(parameters) == 10
    found_grads = torch.autograd.grad(sum(fast), parameters)
    torch.testing.assert_close(found_grads, torch.autograd.grad(sum(slow), parameters))
    assert all(grad.any() for grad in found_grads)


def test_nothing_as_wide_as_the_features_is_made():
    maps = ComposedMaps(64, {"few": (slice(32), 2), "others": (slice(64), 3)})
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made.append(tuple(result.shape) if isinstance(result, torch.Tensor) else ())
            return result

    with Watch():
        maps(torch.randn(50, 64))
    assert (50, 5) in made
    assert made.count((50, 64)) == 1  # the features themselves
