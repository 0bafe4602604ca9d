"""Processes that work for an experiment: begun alike, and ended together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import active_children, current_process, get_context, parent_process
from multiprocessing.queues import Queue
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

import torch

from triptych.errors import ConfigError, TrainingError
from triptych.memory import keep_freed_memory
from triptych.models.extensions import outside_modules

Parcels: TypeAlias = "Queue[tuple[Callable[..., object] | None, tuple[Any, ...]]]"
"""What each worker is to call first, and with what."""


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
    context = get_context("spawn")  # not forked: torch's threads do not survive a fork
    # What is given may be large, and who begins a process writes to it without end if it died before it read.
    parcels: Parcels = context.Queue()
    for _ in range(count):
        parcels.put((begin, given))
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin, initargs=(threads, outside_modules(), parcels)
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
    finally:
        parcels.cancel_join_thread()  # no process may be left that reads the rest


def check_script_guarded() -> None:
    """Refuse to work in a process that is not begun yet, as it still reads the script that began it.

    Raises:
        ConfigError: it does.
    """
    if getattr(current_process(), "_inheriting", False):  # as multiprocessing itself finds out
        raise ConfigError(
            "a script that asks for several workers was read by one of them, which began its work anew",
            wanted='what begins the work below `if __name__ == "__main__":`',
            fix="Put it there, or ask for one worker",
        )


def _begin(threads: int, modules: Iterable[str], parcels: Parcels) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all, and their parent to each
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    for module in modules:  # whose models this process is to know as well
        with suppress(ImportError):  # made where nothing finds it; a training that needs it will say so
            import_module(module)
    begin, given = parcels.get()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "workers are begun by somebody"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
