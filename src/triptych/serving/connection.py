"""A connection that is cut when its client takes too long to say what it wants."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from triptych.serving.service import HEAD_SECONDS, KEEP_ALIVE_SECONDS


class Connection(H11Protocol):
    """Gives the head of each request a time limit: uvicorn's own limits end with the first byte."""

    head_seconds = HEAD_SECONDS
    next_head_seconds = KEEP_ALIVE_SECONDS + HEAD_SECONDS
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, which may be there already."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        seconds = self.head_seconds if self.cycle is None else self.next_head_seconds
        self._limit = self.loop.call_later(seconds, self._cut_off, self.cycle)

    def _cut_off(self, last: RequestResponseCycle | None) -> None:
        """End the connection unless a request has begun since; with it goes what is left of a long body."""
        if self.cycle is last:
            self.transport.abort()
