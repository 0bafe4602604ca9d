"""How much memory this process may still take, and a refusal in time for what would take more."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from triptych.errors import ConfigError

LIMIT = "TRIPTYCH_MEMORY_LIMIT"
"""Environment variable: at most so much for this process, such as 8GB."""

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS |= {f"{unit}I": 1024**power for power, unit in enumerate(_UNITS) if unit}

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""

_limit: ContextVar[int | None] = ContextVar("memory limit", default=None)


def parse_size(text: str) -> int:
    """Read "8GB", "512 MiB" or a number of bytes.

    Raises:
        ConfigError: it is no such size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"a size of {text!r}", wanted="a number and a unit", fix="Write for example 8GB")
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


@contextmanager
def limited_to(n_bytes: int | None) -> Iterator[None]:
    """Let this process count on no more than so many bytes in all in a `with` block; None changes nothing."""
    token = _limit.set(_limit.get() if n_bytes is None else n_bytes)
    try:
        yield
    finally:
        _limit.reset(token)


def free_bytes() -> int:
    """Count what can still be had: of the machine, of the control group, and of the limit that was set.

    Of a system that does not say what is free, all its memory counts.
    """
    limit = _asked_limit()
    within_limit = [] if limit is None else [limit - resident_bytes()]
    return max(0, min([_free_in_machine(), *_free_in_groups(), *within_limit]))


def _asked_limit() -> int | None:
    limit = _limit.get()
    return parse_size(os.environ[LIMIT]) if limit is None and os.environ.get(LIMIT) else limit


def resident_bytes() -> int:
    """Count what this process holds now; 0 on a system that does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def restart_peak() -> None:
    """Let `peak_bytes` count from here, where the system can forget an earlier peak (Linux)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what is free belongs to nobody
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Count what this process has held at most since `restart_peak`, or else since it began."""
    with suppress(OSError, ValueError):
        facts = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (peak,) = (line.split()[1] for line in facts if line.startswith("VmHWM:"))
        return 1024 * int(peak)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> None:
    """Let this process take up again what it has freed, up to 1 GiB, rather than hand it back to the system.

    A training step frees and takes the same megabytes many times over, and each time the system would
    clear them anew, which can take longer than the step itself. Arrays above 32 MiB are handed back as ever.
    Does something where the C library is glibc, and nothing elsewhere.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_MMAP_THRESHOLD, 1 << 25)


def require_memory(needed: int, free: int, what: str, *, fix: str) -> None:
    """Refuse what does not fit, before anything is lost with it.

    Args:
        needed: bytes; an estimate.
        free: bytes.
        what: takes them.
        fix: what to do instead.

    Raises:
        ConfigError: `needed` is above `free`.
    """
    if needed > free:
        limit = _asked_limit()
        raise ConfigError(
            f"{what} needs about {needed:,} bytes of memory, {free:,} are free"
            + ("" if limit is None else f" within the limit of {limit:,}"),
            wanted="work that fits into memory",
            fix=fix if limit is None else f"{fix}, or raise the limit",
        )


def _free_in_machine() -> int:
    try:
        facts = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = (line.split()[1] for line in facts if line.startswith("MemAvailable:"))
        return 1024 * int(available)
    except (OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_groups(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Give what is left of each limit that the process's control group and those above it have.

    Both versions of Linux's control groups are read. Cached files are given back when needed, and so
    do not count as taken.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = groups.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "memory":
            base, files = (
                root / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        elif controllers == "":
            base, files = root, ("memory.max", "memory.current", "inactive_file")
        else:
            continue
        group = base / name.strip("/")
        for folder in (group, *(above for above in group.parents if above.is_relative_to(base))):
            # a container may not see the path that its process is named with
            with suppress(OSError, ValueError):  # "max" is no number
                limit, used = (int((folder / file).read_text(encoding="ascii")) for file in files[:2])
                yield limit - used + _statistic(folder / "memory.stat", files[2])


def _statistic(path: Path, name: str) -> int:
    lines = path.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
