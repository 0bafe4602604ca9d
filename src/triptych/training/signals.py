"""Ctrl-C and SIGTERM, heard when it is their time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class DeferredSignals:
    """Ctrl-C and SIGTERM, kept back inside a `with` block until it is their time; a second one is not.

    In the main thread alone, as Python handles signals nowhere else. What the process ignores, it goes
    on to ignore.

    Args:
        on_first: is called when the first one comes.
        active: whether to keep back anything at all.
    """

    def __init__(self, on_first: Callable[[], object], *, active: bool = True) -> None:
        self._on_first, self._active = on_first, active
        self._before: dict[int, Any] = {}
        self._kept: int | None = None

    @property
    def waiting(self) -> bool:
        """Whether one has come."""
        return self._kept is not None

    def deliver(self) -> None:
        """Let the one that has come, if any, do what it would have done."""
        number, self._kept = self._kept, None
        if number is not None:
            signal.raise_signal(number)

    def __enter__(self) -> DeferredSignals:
        if self._active and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._kept = number
        self._restore()
        self._on_first()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
