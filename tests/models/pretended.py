"""A pretended device: its tensors hold real ones, call themselves "meta", and refuse to meet the CPU's.

What a GPU refuses, a machine without one then refuses too: products, sums and lookups of tensors on different
devices. Numbers are computed on the CPU, so that all that depends on them goes on as usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("meta")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_NO_SCALARS = ("aten::cat", "aten::embedding", "aten::index_select", "aten::mm", "aten::stack")
"""Elsewhere a tensor of no dimensions counts as a number, wherever it lies."""


class DeviceMismatchError(RuntimeError):
    """Tensors of both devices met."""


class Pretended(torch.Tensor):
    """A tensor on the pretended device."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> Pretended:
        made = torch.Tensor._make_wrapper_subclass(
            cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(),
            dtype=real.dtype, device=DEVICE,
        )  # fmt: skip
        made.held = real
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    aten = torch.ops.aten
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Pretended) for x in tensors)
    if func not in (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default):
        _check(func._schema.name, args, tensors)
    if func is aten.copy_.default:
        there = isinstance(args[0], Pretended)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == DEVICE
        kwargs = {**kwargs, "device": "cpu"}
    out = func(*tree_map(_real, args), **tree_map(_real, kwargs))
    if func._schema.is_mutable:  # what comes back is what was given
        given = {id(x.held): x for x in tensors if isinstance(x, Pretended)}
        return tree_map(lambda x: given.get(id(x), x), out)
    return tree_map(lambda x: Pretended(x) if isinstance(x, torch.Tensor) else x, out) if there else out


def _real(x: Any) -> Any:
    return x.held if isinstance(x, Pretended) else x


def _check(name: str, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> None:
    if name in _INDEXED and isinstance(args[0], Pretended):
        tensors = [args[0], *args[2:3]]  # indices may lie on the CPU
    here = [x for x in tensors if not isinstance(x, Pretended) and (x.dim() > 0 or name in _NO_SCALARS)]
    if here and any(isinstance(x, Pretended) for x in tensors):
        raise DeviceMismatchError(
            f"{name} of {[tuple(x.shape) for x in here]} on the CPU and others that are not"
        )


@contextmanager
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Let torch know the device within a block."""
    make, autocast = torch.tensor, torch.autocast

    def tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        made = make(data, **options)
        return made if device is None else made.to(device)

    class Autocast(autocast):
        def __init__(self, device: str, *args: Any, **options: Any) -> None:
            super().__init__("cpu" if device == DEVICE.type else device, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(torch, "autocast", Autocast)
        patch.setattr(torch, "is_autocast_enabled", lambda device=None: False)
        patch.setattr(
            Pretended,
            "new_tensor",
            lambda self, data, **options: tensor(
                data, device=self.device, **{"dtype": self.dtype, **options}
            ),
        )
        with _Mode():
            yield DEVICE
