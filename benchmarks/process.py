"""One process for each measurement, so that its memory is its own; several measurements take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
REFUSED = "refused"
"""Key under which a measurement says that Triptych refused to begin."""

Found = TypeVar("Found")
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Most:
    """What one measurement may take; None is without a limit.

    Args:
        seconds: of wall time, libraries and data included.
        memory: resident bytes.
    """

    seconds: float | None = None
    memory: int | None = None


UNLIMITED = Most()


@dataclass(frozen=True)
class NotMeasured:
    """What stands in the place of a measurement.

    Args:
        reason: in words.
        crashed: whether it broke, which is a defect, and not only passed a limit.
    """

    reason: str
    crashed: bool = False


def in_process(
    module: str,
    *arguments: str,
    threads: int,
    environment: Mapping[str, str] | None = None,
    most: Most = UNLIMITED,
) -> dict[str, Any] | NotMeasured:
    """Run a module, and read the JSON object in its last line.

    Args:
        module: is run as `python -m module`.
        arguments: of its command line.
        threads: of torch, polars and tokenizers.
        environment: variables beside those of this process.
        most: a process that passes it is ended.
    """
    surroundings = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"), str(threads)
    )
    if most.memory is not None:
        surroundings["TRIPTYCH_MEMORY_LIMIT"] = str(most.memory)  # what Triptych can foresee, it refuses
    command = [sys.executable, "-m", module, *arguments]
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        with subprocess.Popen(
            command, cwd=ROOT, env=surroundings | dict(environment or {}), stdout=out, stderr=err
        ) as process:
            try:
                passed = _wait(process, most)
            finally:
                process.kill()  # which does nothing to one that has ended
        out.seek(0)
        err.seek(0)
        if passed:
            return NotMeasured(passed)
        if process.returncode:
            return NotMeasured(f"exit status {process.returncode}:\n{err.read()[-3000:]}", crashed=True)
        found: dict[str, Any] = json.loads(out.read().splitlines()[-1])
    return NotMeasured(found[REFUSED]) if REFUSED in found else found


def required(found: dict[str, Any] | NotMeasured) -> dict[str, Any]:
    """Go on with a measurement, or not at all."""
    if isinstance(found, NotMeasured):
        sys.exit(found.reason)
    return found


def take_turns(jobs: Mapping[str, Callable[[], Found]], rounds: int) -> dict[str, list[Found]]:
    """Do each job once, then again, round after round (A B A B ...), and say on stderr how far that is."""
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    for done in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            found[name].append(job())
            seconds = time.perf_counter() - started
            print(f"  round {done + 1} of {rounds}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def _wait(process: subprocess.Popen[bytes], most: Most) -> str | None:
    """Wait for the end; say which limit was passed, if one was."""
    started = time.monotonic()
    while process.poll() is None:
        try:
            process.wait(_LOOK_SECONDS if most != UNLIMITED else None)
        except subprocess.TimeoutExpired:
            if most.seconds is not None and time.monotonic() - started > most.seconds:
                return f"more than {most.seconds:g} s"
            if most.memory is not None and _resident(process.pid) > most.memory:
                return f"more than {most.memory / 1e9:g} GB"
    return None


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):  # it has ended meanwhile
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
