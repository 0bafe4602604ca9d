"""What the service tells of itself: one JSON line per request, and figures for Prometheus."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOGGER = "triptych.serving"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

log = logging.getLogger(LOGGER)


class Metrics:
    """Counts requests by route and status, and what is loaded. Routes are templates, never what was asked."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "triptych_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "triptych_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "triptych_requests_in_flight", "Requests being answered.", registry=self._registry
        )
        self._loaded = Gauge(
            "triptych_run_loaded", "1 for the version of each run that answers.", ("run", "version"),
            registry=self._registry,
        )  # fmt: skip
        self._swaps = Counter(
            "triptych_run_swaps", "Runs replaced, or found to be unfit.", ("run", "outcome"),
            registry=self._registry,
        )  # fmt: skip

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def loaded(self, runs: Iterable[tuple[str, str]]) -> None:
        """Note which versions answer, by run."""
        self._loaded.clear()
        for name, version in runs:
            self._loaded.labels(name, version).set(1)

    def swapped(self, run: str, outcome: str) -> None:
        """Count a run that was replaced ("swapped") or could not be ("failed")."""
        self._swaps.labels(run, outcome).inc()

    def text(self) -> bytes:
        """Write all figures in the format of Prometheus."""
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """One JSON object a line; what a record holds under `facts` stands beside time, level and event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Let the service and its server write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in ((LOGGER, logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
