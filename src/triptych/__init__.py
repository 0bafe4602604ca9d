"""Multimodal graph recommendation, from raw files to honest figures and recommendations.

```python
import triptych as tt

data = tt.Dataset.demo()
split = tt.Split.by_ratio(data, rng=7)
run = tt.train("freedom", split, seed=7)
print(tt.evaluate(run, on="test", k=(10, 20)))
print(run.recommend(["u0042"], k=10))
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych import models
    from triptych.data.dataset import Dataset
    from triptych.data.split import Split
    from triptych.errors import TriptychError
    from triptych.preparation import prepare
    from triptych.runs import Run, evaluate, load, train
    from triptych.training.config import TrainConfig

__all__ = [
    "Dataset",
    "Run",
    "Split",
    "TrainConfig",
    "TriptychError",
    "evaluate",
    "load",
    "models",
    "prepare",
    "train",
]

# Where each public name lives. They are imported when first asked for, so that the command line
# can set up threads before torch is loaded, and `triptych --help` need not load it at all.
_HOMES = {
    "Dataset": "triptych.data.dataset",
    "Run": "triptych.runs",
    "Split": "triptych.data.split",
    "TrainConfig": "triptych.training.config",
    "TriptychError": "triptych.errors",
    "evaluate": "triptych.runs",
    "load": "triptych.runs",
    "prepare": "triptych.preparation",
    "train": "triptych.runs",
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module("triptych.models")
    if name not in _HOMES:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
