"""For tests of models, in this library and outside it: small data with a known answer, and the contract.

```python
from triptych.testing import RecommenderContract


class TestMyModel(RecommenderContract):
    config = MyModelConfig(n_layers=1)
```
"""

from triptych.testing.contract import RecommenderContract
from triptych.testing.data import checkerboard, toy_dataset

__all__ = ["RecommenderContract", "checkerboard", "toy_dataset"]
