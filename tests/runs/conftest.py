"""What tests of runs share."""

from __future__ import annotations

import pytest

from triptych.data.dataset import Dataset


@pytest.fixture(scope="session")
def shop() -> Dataset:
    """The built-in shop, drawn once."""
    return Dataset.demo()
