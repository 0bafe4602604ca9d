"""Maps whose results are never made, against making them."""

from __future__ import annotations

import pytest
import torch

from triptych.nn.composed import ComposedMaps, mapped_products


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


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the shape of all that is made."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.made.append(tuple(result.shape) if isinstance(result, torch.Tensor) else ())
        return result


def test_nothing_as_wide_as_the_features_is_made():
    maps = ComposedMaps(64, {"few": (slice(32), 2), "others": (slice(64), 3)})
    with Watch() as watch:
        maps(torch.randn(50, 64))
    assert (50, 5) in watch.made
    assert watch.made.count((50, 64)) == 1  # the features themselves


@pytest.mark.parametrize("counted", [[True] * 9, [True, False, True, True, False, False, True, True, True]])
def test_products_of_mapped_rows_equal_the_plain_form_in_value_and_gradient(counted: list[bool]):
    torch.manual_seed(0)
    f, g, rows = torch.nn.Linear(5, 3).double(), torch.nn.Linear(4, 6).double(), torch.tensor(counted)
    x, y = (torch.randn(9, width, dtype=torch.float64, requires_grad=True) for width in (5, 4))
    fast, slow = mapped_products(x, f, y, g, rows), f(x)[rows].T @ g(y)[rows]
    torch.testing.assert_close(fast, slow)
    weights, leaves = torch.randn(3, 6, dtype=torch.float64), [x, y, *f.parameters(), *g.parameters()]
    found = torch.autograd.grad((fast.tanh() * weights).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((slow.tanh() * weights).sum(), leaves))
    assert all(grad.any() for grad in found)


def test_products_of_mapped_rows_map_no_row():
    f, g = torch.nn.Linear(8, 5), torch.nn.Linear(8, 6)
    with Watch() as watch:
        mapped_products(torch.randn(50, 8), f, torch.randn(50, 8), g, torch.ones(50, dtype=torch.bool))
    assert (5, 6) in watch.made
    assert not {(50, 5), (50, 6)} & set(watch.made)


def test_products_of_mapped_rows_keep_their_digits_under_autocast():
    torch.manual_seed(0)
    f, g, x, y = (
        torch.nn.Linear(8, 5),
        torch.nn.Linear(8, 6),
        9 + torch.randn(300, 8),
        9 + torch.randn(300, 8),
    )
    rows = torch.ones(300, dtype=torch.bool)
    plain = mapped_products(x, f, y, g, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mapped_products(x, f, y, g, rows), plain)
