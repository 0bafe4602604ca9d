"""Carries out a command line, and turns what goes wrong into an answer and an exit status."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import typer

from triptych.cli import (  # noqa: F401  their functions enter the application
    data,
    demo,
    evaluation,
    experiments,
    export,
    fetch,
    listing,
    reproduction,
    search,
    serve,
    training,
    use,
)
from triptych.cli.base import app
from triptych.cli.output import print_error
from triptych.errors import StorageError, TriptychError

# typer raises click's exceptions but names only this one; its parents are what it prints and exits with.
_UsageError = cast(Any, typer.BadParameter.__mro__[2])


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit status.

    SIGTERM ends a command as Ctrl-C does: what it began to write is cleared away.
    """
    with _heeding_sigterm():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    arguments = [_home_in(argument) for argument in arguments]
    try:
        status = app(args=arguments, prog_name="triptych", standalone_mode=False)
    except TriptychError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except _UsageError as error:
        if as_json:
            usage = TriptychError(
                error.format_message(), wanted="a known command line", fix="See triptych --help"
            )
            print_error(usage, as_json=True)
        else:
            error.show()
        return int(error.exit_code)
    except OSError as error:
        refused = StorageError(
            f"the system refuses: {error}",
            wanted="files that can be read, and a place to write with room in it",
            fix=f"Check the path, its permissions and the free space{_way_on(arguments)}",
        )
        print_error(refused, as_json=as_json)
        return refused.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = _STOPPED
    except _TerminatedError:
        status = _TERMINATED
    if status in {_STOPPED, _TERMINATED}:  # typer turns Ctrl-C into this status by itself
        stopped = TriptychError(
            "stopped", wanted="to go on to the end", fix=f"Call it again{_way_on(arguments)}"
        )
        print_error(stopped, as_json=as_json)
    return status if isinstance(status, int) else 0


def _home_in(argument: str) -> str:
    """Expand `--out=~/runs`, as shells expand `--out ~/runs` and not all of them this."""
    option, equals, value = argument.partition("=")
    return option + equals + str(Path(value).expanduser()) if equals and value.startswith("~/") else argument


_STOPPED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class _TerminatedError(BaseException):
    """SIGTERM has come; like `KeyboardInterrupt`, nobody catches it on the way."""


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """Raise an error at SIGTERM inside a `with` block, in the main thread, where Python hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _way_on(arguments: list[str]) -> str:
    """Say what an interrupted command keeps."""
    ways = {
        "train": "; a training that saved a checkpoint goes on with --resume",
        **dict.fromkeys(
            ("compare", "knockout", "ablate", "sweep", "reproduce", "search"), "; what was trained is kept"
        ),
        "prepare": "; what was encoded is kept",
        "encode": "; what was encoded is kept",
        "data": "; what was fetched is kept",
    }
    return ways.get(arguments[0], "") if arguments else ""
