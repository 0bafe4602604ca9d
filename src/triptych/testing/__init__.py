"""For tests of models, in this library and outside it: small data with a known answer, and the contract.

```python
from triptych.testing import RecommenderContract


class TestMyModel(RecommenderContract):
    config = MyModelConfig(n_layers=1)
```

A model that is solved, not trained by gradient, inherits `ScoringContract` instead.
"""

import pytest

# Before its import, so that a failure shows values to those who use it outside the library too.
pytest.register_assert_rewrite("triptych.testing.contract")

from triptych.testing.contract import RecommenderContract, ScoringContract  # noqa: E402
from triptych.testing.data import checkerboard, toy_dataset  # noqa: E402

__all__ = ["RecommenderContract", "ScoringContract", "checkerboard", "toy_dataset"]
