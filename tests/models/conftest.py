"""What the tests of all models share; see `planted` for their data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.register_assert_rewrite("planted")


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Draw alike in each test, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
