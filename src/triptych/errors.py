"""What Triptych says when it cannot go on: what was found, what was wanted, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TriptychError(Exception):
    """A mistake the user can mend. The command line prints it, no stack trace, and exits with `exit_code`.

    Args:
        found: what was met, with the value or the place.
        wanted: what would have been right.
        fix: what to do next.
    """

    exit_code = 2

    def __init__(self, found: str, *, wanted: str, fix: str) -> None:
        super().__init__(found, wanted, fix)
        self.found, self.wanted, self.fix = found, wanted, fix

    def __str__(self) -> str:
        return f"{self.found}; wanted {self.wanted}. {self.fix}."

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.found, self.wanted, self.fix)


def _rebuild(kind: type[TriptychError], found: str, wanted: str, fix: str) -> TriptychError:
    """Make the error again in another process (keyword-only arguments do not pickle by themselves)."""
    return kind(found, wanted=wanted, fix=fix)


class DataError(TriptychError):
    """A table, a matrix or a file of interactions or content is not what it should be."""


class ShapeError(DataError):
    """Two things that must have the same number of rows, or a matching size, do not."""


class UnknownIdError(DataError):
    """A raw user or item id that the data set does not hold."""


class ConfigError(TriptychError):
    """A setting, a model name, or a combination of them that cannot work."""


class ModelError(TriptychError):
    """The code of a model or plug-in does not keep to its contract; the one who wrote it can mend it."""


class StorageError(TriptychError):
    """A data set, run or checkpoint on disk is missing, damaged, or of another kind."""


class TrainingError(TriptychError):
    """Training went wrong: a loss is NaN or infinite, or the model scores with NaN."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Word the advice for a misspelt `name`: its closest known spelling, or what there is to choose from."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5) if len(choices) <= 50_000 else []
    if close:
        return f"Did you mean '{close[0]}'"
    if len(choices) > 50:
        return "Check the spelling"
    return "Choose one of: " + ", ".join(choices)


def kind_of(value: object) -> str:
    """Word what was met in the place of something else: "None", "a tuple", "an int"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"
