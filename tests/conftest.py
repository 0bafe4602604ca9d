"""Settings of the whole suite, and what many of its rooms share."""

from __future__ import annotations

import pytest
import torch

from triptych.data.dataset import Dataset

# Test processes run beside each other, and their tensors are tiny: threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shop() -> Dataset:
    """The built-in shop, drawn once."""
    return Dataset.demo()
