"""What the tests of reliability share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from orders import Laboratory


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Give a laboratory."""
    opened = Laboratory(tmp_path_factory.mktemp("laboratory"))
    yield opened
    opened.close()
