"""Carries out a command line, and turns what goes wrong into an answer and an exit status."""

from __future__ import annotations

from typing import Any, cast

import typer

from triptych.cli import data, demo, evaluation, experiments, fetch, listing, search, training, use  # noqa: F401  their functions enter the application
from triptych.cli.base import app
from triptych.cli.output import print_error
from triptych.errors import StorageError, TriptychError

# typer raises click's exceptions but names only this one; its parents are what it prints and exits with.
_UsageError = cast(Any, typer.BadParameter.__mro__[2])


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit status."""
    as_json = "--json" in arguments
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
    if status == _STOPPED:  # typer turns Ctrl-C into this status by itself
        stopped = TriptychError(
            "stopped", wanted="to go on to the end", fix=f"Call it again{_way_on(arguments)}"
        )
        print_error(stopped, as_json=as_json)
    return status if isinstance(status, int) else 0


_STOPPED = 130


def _way_on(arguments: list[str]) -> str:
    """Say what an interrupted command keeps."""
    ways = {
        "train": "; a training that saved a checkpoint goes on with --resume",
        **dict.fromkeys(("compare", "ablate", "sweep", "reproduce", "search"), "; what was trained is kept"),
        "prepare": "; what was encoded is kept",
        "encode": "; what was encoded is kept",
        "data": "; what was fetched is kept",
    }
    return ways.get(arguments[0], "") if arguments else ""
