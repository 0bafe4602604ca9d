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

`model` may be a recipe, whose settings all points have, and may have plug-ins behind a `+`, as on the command
line; their settings are called as in recipes: `sand.align_weight = [0.1, 0.5]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from triptych.errors import ConfigError, nearest
from triptych.models.plugins.base import plugin_entry, plugins
from triptych.models.registry import model_entry
from triptych.training.recipe import RECIPE_KEYS, Recipe, find_recipe, parse_toml, read_toml_text

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
        values: field of the model's config or of `TrainConfig`, or "PLUGIN.FIELD" -> values, at least one,
            or a range.
        source: where the values come from.
        settings: what all points have, unless it is searched; the point without values is trained by them.
        plugins: names of what is attached to the model, in the order in which they act.

    Raises:
        ConfigError: a field says what is maximised, by which no two trials could then be compared.
    """

    model: str
    values: Mapping[str, tuple[Any, ...] | Range]
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if goals := sorted(_GOALS & self.values.keys()):
            raise ConfigError(
                f"a search space of {self.name} has values of '{goals[0]}'",
                wanted="one measure for all trials",
                fix=f"Leave it out of the space, and choose it with --set {goals[0]}=VALUE",
            )

    @property
    def name(self) -> str:
        """The model's name, and its plug-ins': "freedom+sand"."""
        return self.recipe({}).name

    def recipe(self, point: Mapping[str, Any]) -> Recipe:
        """Make the recipe of a point."""
        return Recipe(self.model, {**self.settings, **point}, self.source, self.plugins)

    def __len__(self) -> int:
        return prod(len(tried) for tried in self._lists().values())

    def points(self) -> Iterator[Recipe]:
        """List every combination, the last field changing fastest.

        Raises:
            ConfigError: a field has a range, which has no end of values.
        """
        lists = self._lists()
        for point in product(*lists.values()):
            yield self.recipe(dict(zip(lists, point, strict=True)))

    def _lists(self) -> dict[str, tuple[Any, ...]]:
        for name, tried in self.values.items():
            if isinstance(tried, Range):
                raise ConfigError(
                    f"'{name}' is a range, which no grid can go through",
                    wanted="lists of values for a grid",
                    fix=f"List values of {name}, or search at random or by TPE",
                )
        return {name: tried for name, tried in self.values.items() if isinstance(tried, tuple)}


def shipped_space(model: str) -> SearchSpace:
    """Give the space that comes with Triptych for a model.

    Raises:
        ConfigError: the model is unknown, or is none that comes with Triptych.
    """
    return _shipped("model", model_entry(model).name)


def _shipped(kind: str, name: str) -> SearchSpace:
    file = files("triptych") / "recipes" / "search" / f"{name}.toml"
    if not file.is_file():
        raise ConfigError(
            f"no search space comes with the {kind} '{name}'",
            wanted=f"a {kind} of the library, or a file with a search space",
            fix='Write a TOML file with model = "NAME" and a table [space], and give its name',
        )
    return read_space(file.read_text(encoding="utf-8"), f"search/{name}.toml")


def space_around(recipe: Recipe) -> SearchSpace:
    """Give the values that come with Triptych for what a recipe leaves open, of the model and its plug-ins.

    Those of a plug-in are in the space of the model of its name, of which it is the part that attaches.

    Raises:
        ConfigError: none come with the model or a plug-in, or the recipe leaves nothing open.
    """
    recipe.configs()
    host = shipped_space(recipe.model)
    values, sources = dict(host.values), [host.source]
    for plugin in recipe.plugins:
        space, fields = _shipped("plug-in", plugin), plugin_entry(plugin).config.model_fields
        values |= {f"{plugin}.{name}": tried for name, tried in space.values.items() if name in fields}
        sources.append(f"{plugin}: {space.source}")
    left = {name: tried for name, tried in values.items() if name not in recipe.settings}
    if not left:
        raise ConfigError(
            f"the recipe of {recipe.name} sets all that its search space has values of, {', '.join(values)}",
            wanted="something to search",
            fix="Name the model in its place, or write a search space whose model is this recipe",
        )
    return SearchSpace(recipe.model, left, "; ".join(sources), recipe.settings, recipe.plugins)


def find_space(name: str) -> SearchSpace:
    """Take what is to be searched as the command line names it: a model, a recipe, or a file with a space.

    Plug-ins may follow, as in "freedom+sand". Of a model or a recipe the values that come with Triptych are
    searched; what a recipe sets stays.

    Raises:
        ConfigError: there is no such model or plug-in, or the file holds something else than it should.
        StorageError: there is no such file.
    """
    first, *attached = name.split("+")
    path = Path(first)
    if first.endswith(".toml") and path.is_file():
        text = read_toml_text(path, first)
        if parse_toml(text, first, wanted="a search space or a recipe").keys() - RECIPE_KEYS:
            return read_space(text, first, attached)
    return space_around(find_recipe(name))


def read_space(text: str, name: str, attached: Iterable[str] = ()) -> SearchSpace:
    """Read the text of a search space, and try each of its values on the settings.

    Args:
        text: of the file.
        name: of the file, for messages.
        attached: plug-ins beside those that the text names.

    Raises:
        ConfigError: it is no TOML, has other keys than model, source, plugins and space, names a field that
            model and plug-ins do not have or that says what is maximised, gives a field no values, or one
            that the field refuses.
        StorageError: its model is a recipe that is not there.
    """
    content = parse_toml(text, name, wanted="a search space")
    keys = {"model", "source", "plugins", "space"}
    unknown = sorted(content.keys() - keys)
    values, named = content.get("space"), content.get("plugins", [])
    listed = isinstance(named, list) and all(isinstance(plugin, str) for plugin in named)
    named_all = isinstance(content.get("model"), str) and listed
    if unknown or not named_all or not isinstance(values, dict) or not values:
        raise ConfigError(
            f"{name} holds the keys {', '.join(content) or 'none'}",
            wanted="model = NAME, source = TEXT, perhaps plugins = [NAMES], and a table [space] of fields",
            fix=nearest(unknown[0], keys) if unknown else "Add what is missing, or mend its kind",
        )
    base = find_recipe("+".join([content["model"], *named, *attached]))
    base.configs()
    values = _by_full_name(name, values, base)
    read = {setting: _read_values(name, setting, tried) for setting, tried in values.items()}
    alone = replace(base, settings={})  # what does not go together costs its trials alone
    for setting, chosen in read.items():
        for value in (chosen.low, chosen.high) if isinstance(chosen, Range) else chosen:
            alone.with_settings({setting: value}).configs()
        if isinstance(chosen, Range) and not chosen.whole:
            _try_fraction(alone, setting, chosen)
    return SearchSpace(base.model, read, str(content.get("source", "")), base.settings, base.plugins)


def _by_full_name(file: str, values: Mapping[str, Any], base: Recipe) -> dict[str, Any]:
    """Call settings of plug-ins "PLUGIN.FIELD": to TOML they are in a table within a table."""
    found: dict[str, Any] = {}
    for setting, tried in values.items():
        if setting in base.plugins and isinstance(tried, dict):
            found |= {f"{setting}.{name}": chosen for name, chosen in tried.items()}
        elif isinstance(tried, dict) and setting in {entry.name for entry in plugins()}:
            raise ConfigError(
                f"{file} gives values of the plug-in '{setting}', which is not attached to {base.name}",
                wanted="settings of the model, of the training loop, or of an attached plug-in",
                fix=f'Write model = "{base.name}+{setting}"',
            )
        else:
            found[setting] = tried
    return found


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
        numbers = all(
            isinstance(end, int | float) and not isinstance(end, bool) and abs(end) < 2**63
            for end in (low, high)
        )
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            return Range(low, high, log)
    raise ConfigError(
        f"{name} gives '{field}' as {tried!r}",
        wanted="a list of values, or a range {low = ..., high = ...} with low below high, above 0 if log, "
        "and neither beyond 64 bits",
        fix=f"Write for example {field} = [1, 2, 3]",
    )
