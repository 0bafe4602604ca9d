"""Mistakes and their HTTP status: every one is said as {"error": {"found", "wanted", "fix"}}."""

from __future__ import annotations

import json
from typing import Any

from triptych.errors import ConfigError, DataError, StorageError, TriptychError, UnknownIdError

Headers = list[tuple[bytes, bytes]]


class RefusedError(TriptychError):
    """A request that cannot be answered.

    Args:
        status: of HTTP.
        found: what was met.
        wanted: what would have been right.
        fix: what to do next.
        headers: that belong to the status.
    """

    def __init__(
        self, status: int, found: str, *, wanted: str, fix: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(found, wanted=wanted, fix=fix)
        self.status, self.headers = status, headers or {}


_STATUS: tuple[tuple[type[TriptychError], int], ...] = (
    (UnknownIdError, 404),
    (DataError, 422),
    (ConfigError, 400),
    (StorageError, 409),  # the data set at hand is not the one that the run was trained on
)


def status_of(error: TriptychError) -> int:
    """Find the status of an error; 500 where it is no client's mistake."""
    if isinstance(error, RefusedError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def as_problem(found: str, wanted: str, fix: str) -> dict[str, Any]:
    """Put an error together as it is answered."""
    return {"error": {"found": found, "wanted": wanted, "fix": fix}}


def to_json(value: object) -> bytes:
    """Write JSON as it is sent. All in ASCII, since ids may hold what UTF-8 cannot."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
