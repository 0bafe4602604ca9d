"""What was measured on, and on which code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.process import ROOT


def machine_facts() -> dict[str, Any]:
    """Describe processor, threads, libraries and commit, in plain JSON values."""
    changed = _git("status", "--porcelain", "--", "src", "benchmarks")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "processors usable": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load average": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "torch cpu capability": torch.backends.cpu.get_cpu_capability(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "environment": {
            name: os.environ.get(name)
            for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "THP_MEM_ALLOC_ENABLE")
        },
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "uncommitted changes": sorted(line[3:] for line in changed.splitlines()),
    }


def resident_bytes(name: str = "VmRSS") -> int:
    """Read this process's resident bytes now (VmRSS) or at their peak (VmHWM).

    Unlike `resource.getrusage`, this peak is not inherited from the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(name)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.rstrip()
