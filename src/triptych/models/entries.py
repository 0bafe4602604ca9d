"""What is found by name: entered where it is defined, known once the modules that define it are imported."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from triptych.errors import ConfigError, TriptychError, nearest


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a registry knows of anything in it.

    Args:
        name: how commands and recipes call it.
        paper: authors' title, with where to find it.
        year: of publication.
    """

    name: str
    paper: str
    year: int

    @property
    def code(self) -> type:
        """The class that is entered."""
        raise NotImplementedError(f"{type(self).__name__} must say which class it stands for")


AnyEntry = TypeVar("AnyEntry", bound=Entry)


IMPORT = "TRIPTYCH_IMPORT"
"""Environment variable: modules, with commas between them, that enter models and plug-ins of their own."""
GROUP = "triptych"
"""Entry points of installed packages: modules that do so."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Registry(Generic[AnyEntry]):
    """Entries by name; they are there once modules are imported, which the first look does.

    These are the modules of one package of the library, and those of others that `IMPORT` or an entry point
    of the group `GROUP` names.

    Args:
        what: is registered, in a word.
        package: whose modules enter their own.
    """

    def __init__(self, what: str, package: str) -> None:
        self._what, self._package = what, package
        self._entries: dict[str, AnyEntry] = {}

    def enter(self, entry: AnyEntry) -> None:
        """Enter it. The same class may come again, as when a notebook's cell is run twice.

        Raises:
            ConfigError: another class has the name, or it is no name.
        """
        if not _NAME.fullmatch(entry.name):
            raise ConfigError(
                f"{entry.code.__qualname__} is to be the {self._what} '{entry.name}'",
                wanted="small letters, digits, - and _",
                fix="Give it such a name",
            )
        if not is_own(entry.code):
            _import_package(self._package)  # so that it cannot take the name of one that comes later
        other = self._entries.get(entry.name)
        if other is not None and _place(other.code) != _place(entry.code):
            raise ConfigError(
                f"{_place(entry.code)} is to be the {self._what} '{entry.name}', as {_place(other.code)} is",
                wanted="a name of its own",
                fix="Choose another name",
            )
        self._entries[entry.name] = entry

    def entered(self) -> list[AnyEntry]:
        """List what is there so far."""
        return list(self._entries.values())

    def all(self) -> list[AnyEntry]:
        """List the entries, by year and name."""
        return sorted(self._known().values(), key=lambda entry: (entry.year, entry.name))

    def find(self, name: str) -> AnyEntry:
        """Find an entry.

        Raises:
            ConfigError: there is none of that name; the message gives the nearest one.
        """
        known = self._known()
        if name not in known:
            raise ConfigError(
                f"there is no {self._what} '{name}'",
                wanted=f"a {self._what} of 'triptych models'",
                fix=nearest(name, known),
            )
        return known[name]

    def _known(self) -> dict[str, AnyEntry]:
        _import_package(self._package)
        import_extensions(os.environ.get(IMPORT, ""))
        return self._entries


def is_own(code: type) -> bool:
    """Say whether a class belongs to the library."""
    return code.__module__.partition(".")[0] == __name__.partition(".")[0]


def _place(code: type) -> str:
    return f"{code.__module__}.{code.__qualname__}"


@cache
def _import_package(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


@cache
def import_extensions(named: str) -> None:
    """Import modules that `IMPORT` names, and those of entry points."""
    found = {name.strip(): IMPORT for name in named.split(",") if name.strip()}
    for point in entry_points(group=GROUP):
        found.setdefault(point.module, f"the package {point.dist.name}" if point.dist else "an entry point")
    for name, source in found.items():
        try:
            importlib.import_module(name)
        except TriptychError:
            raise
        except Exception as error:  # whatever a module does when it is imported
            raise ConfigError(
                f"the module '{name}' of {source} cannot be imported: {type(error).__name__}: {error}",
                wanted="a module that enters models or plug-ins",
                fix="Mend it, see that Python finds it (PYTHONPATH), or take it off",
            ) from error
