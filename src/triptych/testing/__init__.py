"""For tests of models, in this library and outside it: small data with a known answer, and the contract.

```python
from triptych.testing import RecommenderContract


class TestMyModel(RecommenderContract):
    config = MyModelConfig(n_layers=1)
```

A model that is solved, not trained by gradient, inherits `ScoringContract` instead.
"""

from triptych.testing.contract import RecommenderContract, ScoringContract
from triptych.testing.data import checkerboard, toy_dataset

__all__ = ["RecommenderContract", "ScoringContract", "checkerboard", "toy_dataset"]
