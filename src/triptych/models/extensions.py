"""Models and plug-ins that are defined outside the library."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from triptych.models.entries import is_own
from triptych.models.plugins.base import plugin_entry, plugins
from triptych.models.registry import model_entry, models


def outside_modules() -> list[str]:
    """Name the modules outside the library that define known models and plug-ins: new processes need them."""
    entries = [*models(), *plugins()]
    found = {entry.code.__module__ for entry in entries if not is_own(entry.code)}
    return sorted(found - {"__main__", "__mp_main__"})  # a new process has its own


def outside_code(model: str, attached: Iterable[str]) -> str | None:
    """Hash the files that define a model and plug-ins outside the library; None for what belongs to it.

    Of a module, only its own file is looked at; of what is made in a notebook, nothing.
    """
    entries = [model_entry(model), *(plugin_entry(name) for name in attached)]
    modules = {entry.code.__module__ for entry in entries if not is_own(entry.code)}
    files = [getattr(sys.modules.get(module), "__file__", None) for module in sorted(modules)]
    found = [Path(file).read_bytes() for file in files if file and Path(file).is_file()]
    return sha256(b"".join(found)).hexdigest()[:16] if found else None
