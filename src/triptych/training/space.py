"""What is worth searching for a model: for each of its settings the values to try, from TOML.

```toml
model = "layergcn"
source = "the authors' grid (arXiv:2207.11088, section V)"

[space]
edge_dropout = [0.0, 0.1, 0.2]
reg_weight = [1e-2, 1e-3, 1e-4, 1e-5]
learning_rate = {low = 1e-4, high = 1e-2, log = true}
```

A list names the values; a table with `low` and `high` is a range, of whole numbers if both are, on a
logarithmic scale if `log` is true. Spaces with ranges have no grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from triptych.errors import ConfigError, StorageError, nearest
from triptych.models.registry import model_entry
from triptych.training.recipe import Recipe, parse_toml, read_toml_text

_GOALS = {"metric", "metric_decimals"}
"""Settings that say what is maximised."""


@dataclass(frozen=True)
class Range:
    """The numbers between two, both included.

    Args:
        low: the smallest.
        high: the largest.
        log: whether their logarithms are what is spread evenly.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether these are whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class SearchSpace:
    """A model and the values to try of some of its settings; all others keep their defaults.

    Args:
        model: registry name.
        values: field of the model's config or of `TrainConfig` -> values, at least one, or a range.
        source: where the values come from.

    Raises:
        ConfigError: a field says what is maximised, by which no two trials could then be compared.
    """

    model: str
    values: Mapping[str, tuple[Any, ...] | Range]
    source: str

    def __post_init__(self) -> None:
        if goals := sorted(_GOALS & self.values.keys()):
            raise ConfigError(
                f"a search space of {self.model} has values of '{goals[0]}'",
                wanted="one measure for all trials",
                fix=f"Leave it out of the space, and choose it with --set {goals[0]}=VALUE",
            )

    def __len__(self) -> int:
        return prod(len(tried) for tried in self._lists().values())

    def points(self) -> Iterator[Recipe]:
        """List every combination, the last field changing fastest.

        Raises:
            ConfigError: a field has a range, which has no end of values.
        """
        lists = self._lists()
        for point in product(*lists.values()):
            yield Recipe(self.model, dict(zip(lists, point, strict=True)), self.source)

    def _lists(self) -> dict[str, tuple[Any, ...]]:
        for field, tried in self.values.items():
            if isinstance(tried, Range):
                raise ConfigError(
                    f"'{field}' is a range, which no grid can go through",
                    wanted="lists of values for a grid",
                    fix=f"List values of {field}, or search at random or by TPE",
                )
        return {field: tried for field, tried in self.values.items() if isinstance(tried, tuple)}


def shipped_space(model: str) -> SearchSpace:
    """Give the space that comes with Triptych for a model.

    Raises:
        ConfigError: the model is unknown, or is none that comes with Triptych.
    """
    name = model_entry(model).name + ".toml"
    file = files("triptych") / "recipes" / "search" / name
    if not file.is_file():
        raise ConfigError(
            f"no search space comes with the model '{model}'",
            wanted="a model of the library, or a file with a search space",
            fix='Write a TOML file with model = "NAME" and a table [space], and give its name',
        )
    return read_space(file.read_text(encoding="utf-8"), f"search/{name}")


def find_space(name: str) -> SearchSpace:
    """Take a model's name, with the space that comes with it, or a file: FILE.toml.

    Raises:
        ConfigError: there is no such model, or the file holds something else than it should.
        StorageError: there is no such file.
    """
    if not name.endswith(".toml"):
        return shipped_space(name)
    path = Path(name)
    if not path.is_file():
        raise StorageError(
            f"there is no file {name}", wanted="a search space in TOML", fix="Check the path, or name a model"
        )
    return read_space(read_toml_text(path, name), name)


def read_space(text: str, name: str) -> SearchSpace:
    """Read the text of a search space, and try each of its values on the settings.

    Raises:
        ConfigError: it is no TOML, has other keys than model, source and space, names a field that the
            model does not have or that says what is maximised, gives a field no values, or one that the
            field refuses.
    """
    content = parse_toml(text, name, wanted="a search space")
    unknown = sorted(content.keys() - {"model", "source", "space"})
    values = content.get("space")
    if unknown or not isinstance(content.get("model"), str) or not isinstance(values, dict) or not values:
        raise ConfigError(
            f"{name} holds the keys {', '.join(content) or 'none'}",
            wanted="model = NAME, source = TEXT and a table [space] of at least one field",
            fix=nearest(unknown[0], ["model", "source", "space"]) if unknown else "Add what is missing",
        )
    read = {field: _read_values(name, field, tried) for field, tried in values.items()}
    for field, chosen in read.items():
        for value in (chosen.low, chosen.high) if isinstance(chosen, Range) else chosen:
            Recipe(content["model"], {field: value}).configs()
        if isinstance(chosen, Range) and not chosen.whole:
            _try_fraction(Recipe(content["model"]), field, chosen)
    return SearchSpace(content["model"], read, str(content.get("source", "")))


def _try_fraction(recipe: Recipe, field: str, chosen: Range) -> None:
    """Refuse a range of fractions where a field takes its ends, but no number between them."""
    try:
        recipe.with_settings({field: chosen.low + (chosen.high - chosen.low) * 0.382}).configs()
    except ConfigError as error:
        raise ConfigError(
            f"'{field}' ranges over the fractions from {chosen.low} to {chosen.high}; {error.found}",
            wanted="values that the field takes",
            fix=f"For whole numbers write {field} = {{low = {chosen.low:.0f}, high = {chosen.high:.0f}}}",
        ) from error


def _read_values(name: str, field: str, tried: object) -> tuple[Any, ...] | Range:
    """Read what is to be tried of one field."""
    if isinstance(tried, list) and tried:
        return tuple(tried)
    if isinstance(tried, dict) and {"low", "high"} <= tried.keys() <= {"low", "high", "log"}:
        low, high, log = tried["low"], tried["high"], tried.get("log", False)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            return Range(low, high, log)
    raise ConfigError(
        f"{name} gives '{field}' as {tried!r}",
        wanted="a list of values, or a range {low = ..., high = ...} with low below high, above 0 if log",
        fix=f"Write for example {field} = [1, 2, 3]",
    )
