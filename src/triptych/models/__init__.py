"""The models, one file each, and the contract they share (`base.py`).

Every model and its settings can be had from here by class name: `models.FREEDOMConfig`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    for kind in _kinds():
        if kind.__name__ == name:
            return kind
    raise AttributeError(f"module 'triptych.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(kind.__name__ for kind in _kinds())


def _kinds() -> list[type[Any]]:
    from triptych.models.registry import models

    return [kind for entry in models() for kind in (entry.model, entry.config)]
