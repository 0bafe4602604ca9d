"""Orders to the laboratory, in which work is killed, or refused by the disk, at any one of its steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Report:
    """What became of a piece of work.

    Args:
        status: the exit status; None if it was killed.
        killed: whether it was.
        steps: kind -> how many.
        error: what it raised, for work that is no command.
        failed_at: the kind of step at which the disk refused.
        said: all that it printed.
    """

    status: int | None
    killed: bool
    steps: dict[str, int]
    error: str | None = None
    failed_at: str | None = None
    said: str = field(default="", repr=False)


class Laboratory:
    """Orders work from a process of its own; see laboratory.py."""

    def __init__(self, place: Path) -> None:
        self._said = place / "said.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("laboratory.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )

    def do(
        self,
        work: str,
        folder: Path,
        *arguments: object,
        fault: str | None = None,
        at: int = 0,
        only: str | None = None,
    ) -> Report:
        """Do a piece of work, failing at one of its steps if asked to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        order = {"work": work, "folder": str(folder), "arguments": arguments, "fault": fault, "at": at, "only": only,
                 "said": str(self._said)}  # fmt: skip
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        facts = json.loads(self._process.stdout.readline())
        return Report(**facts, said=self._said.read_text(encoding="utf-8"))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def leftovers(folder: Path) -> list[str]:
    """List what was left below a folder that no reader knows."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".partial-*"))
