"""Processes that work for an experiment: begun alike, and ended together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from triptych.errors import TrainingError
from triptych.memory import keep_freed_memory
from triptych.models.extensions import outside_modules


@contextmanager
def worker_processes(
    count: int, threads: int, folder: Path, begin: Callable[..., object] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """Have processes that train inside a `with` block.

    Whatever breaks off the block, such as Ctrl-C, ends them with it: each is sent SIGTERM, upon which a
    training saves its epoch. They end in the same way when this process dies.

    Args:
        count: how many at most.
        threads: of torch in each.
        folder: of the experiment, for messages.
        begin: what each calls first.
        given: what it is called with.

    Raises:
        TrainingError: one of them died.
    """
    others = set(active_children())
    # Not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        count,
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(threads, outside_modules(), begin, given),
    )
    try:
        with pool:
            try:
                yield pool
            except BaseException:
                for process in set(active_children()) - others:
                    process.terminate()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise TrainingError(
            f"a process that worked in {folder} died, as it does when memory runs out",
            wanted="workers that live until all is done",
            fix="Call it again, perhaps with fewer workers: it goes on where it was",
        ) from error


def _begin(
    threads: int, modules: Iterable[str], begin: Callable[..., object] | None, given: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all, and their parent to each
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    for module in modules:  # whose models this process is to know as well
        with suppress(ImportError):  # made where nothing finds it; a training that needs it will say so
            import_module(module)
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "workers are begun by somebody"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
