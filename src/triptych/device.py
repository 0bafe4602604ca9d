"""Where training and encoding run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from triptych.errors import ConfigError, nearest
from triptych.memory import free_bytes


def resolve_device(name: str = "auto") -> torch.device:
    """Find the device of a name: "cpu", "cuda", "cuda:1", or "auto" for CUDA where there is one.

    Raises:
        ConfigError: the name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ConfigError(
            f"device '{name}'", wanted="auto, cpu, cuda or cuda:N", fix=nearest(name, ["cpu", "cuda", "auto"])
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{name}', but torch sees {torch.cuda.device_count()} CUDA devices",
            wanted="a device of this machine",
            fix="Use --device cpu, or install a torch built for your GPU",
        )
    return torch.device(name)


@contextmanager
def limited_threads(n: int | None) -> Iterator[None]:
    """Have torch compute with n threads inside a `with` block, and with as many as before after it.

    Args:
        n: at least 1; None changes nothing.
    """
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_memory(device: torch.device) -> int:
    """Count the bytes that can still be had on a device: of a GPU all that are free, else `free_bytes`."""
    if device.type != "cuda":
        return free_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for the next
    return torch.cuda.mem_get_info(device)[0] + kept
