"""Settings by name: of a model, its plug-ins and the loop in one flat list, from TOML or the command line.

A recipe is a TOML file:

```toml
model = "freedom"
plugins = ["sand"]
source = "arXiv:2211.06924, table 2; chosen on validation"

[settings]
n_layers = 2
learning_rate = 0.001
sand.align_weight = 0.1
```

A setting of a plug-in is called by both names, as in the last line; most recipes have no plug-ins.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from triptych.errors import ConfigError, StorageError, nearest
from triptych.models.base import ModelConfig
from triptych.models.plugins.base import PluginConfig, make_plugin_configs, named_once, plugin_entry
from triptych.models.registry import make_config, model_entry
from triptych.training.config import TrainConfig


class Configs(NamedTuple):
    """The settings objects of a recipe."""

    model: ModelConfig
    training: TrainConfig
    plugins: dict[str, PluginConfig]
    """name -> settings, in the order in which they act."""


_OF_STEPS = {"batch_size", "learning_rate", "lr_decay", "sampler", "zero_missing_grads"}
_UNREAD = {
    "batches": set[str](),
    "sweeps": _OF_STEPS,
    "once": _OF_STEPS | {"epochs", "patience", "eval_every", "metric_decimals"},
}
"""What a model does in an epoch -> settings of the loop that change nothing."""

RECIPE_KEYS = {"model", "source", "plugins", "settings"}
"""What a recipe's file may hold."""


@dataclass(frozen=True)
class Recipe:
    """A model and the settings to train it with.

    Args:
        model: registry name.
        settings: fields of the model's config and of `TrainConfig`, no name being in both, and
            "PLUGIN.FIELD" for those of a plug-in.
        source: where the settings come from.
        plugins: names of what is attached to the model, in the order in which they act.
    """

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The model's name, and its plug-ins': "freedom+sand"."""
        return "+".join([self.model, *self.plugins])

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """Override some settings."""
        return replace(self, settings={**self.settings, **settings})

    def with_plugins(self, names: Iterable[str]) -> Recipe:
        """Attach plug-ins, beside those there are.

        Raises:
            ConfigError: one is there already.
        """
        return replace(self, plugins=named_once([*self.plugins, *names]))

    def to_toml(self) -> str:
        """Write it as a recipe file."""
        lines = [f"model = {_toml(self.model)}"]
        if self.plugins:
            lines.append(f"plugins = {_toml(list(self.plugins))}")
        lines += [f"source = {_toml(self.source)}", "", "[settings]"]
        return "\n".join([*lines, *(f"{name} = {_toml(value)}" for name, value in self.settings.items()), ""])

    def configs(self) -> Configs:
        """Sort the settings into the model's config, the loop's and the plug-ins'.

        Raises:
            ConfigError: the model, a plug-in or a field is unknown, or a value does not fit.
        """
        kind = model_entry(self.model).config
        if both := sorted(kind.model_fields.keys() & TrainConfig.model_fields.keys()):
            raise ConfigError(
                f"{kind.__name__} has the field '{both[0]}', as the training loop has",
                wanted="settings of a model with names of their own",
                fix=f"Call it otherwise, such as model_{both[0]}",
            )
        known = [*kind.model_fields, *TrainConfig.model_fields]
        for plugin in self.plugins:
            known += [f"{plugin}.{name}" for name in plugin_entry(plugin).config.model_fields]
        unknown = [name for name in self.settings if name not in known]
        if unknown:
            raise ConfigError(
                f"{self.name} has no setting '{unknown[0]}'",
                wanted="a field of the model, of the training loop, or PLUGIN.FIELD of an attached plug-in",
                fix=nearest(unknown[0], known),
            )
        of_plugins: dict[str, dict[str, Any]] = {plugin: {} for plugin in self.plugins}
        of_loop, of_model = {}, {}
        for name, value in self.settings.items():
            plugin, dot, field_name = name.partition(".")
            if dot:
                of_plugins[plugin][field_name] = value
            elif name in TrainConfig.model_fields:
                of_loop[name] = value
            else:
                of_model[name] = value
        return Configs(
            make_config(kind, of_model), make_config(TrainConfig, of_loop), make_plugin_configs(of_plugins)
        )

    def unread(self) -> list[str]:
        """Name the settings of the loop that the model does not read, as it solves instead of stepping."""
        return [name for name in self.settings if name in _UNREAD[model_entry(self.model).model.schedule]]


def _toml(value: Any) -> str:
    """Write a value in TOML, which for all but tables is what JSON writes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def find_recipe(name: str) -> Recipe:
    """Take a model's name, with its default settings, or a recipe: a file, or one that comes with Triptych.

    Plug-ins may follow: "freedom+sand", "freedom-baby.toml+sand".

    Raises:
        ConfigError: there is no such model or plug-in, or the recipe holds something else than it should.
        StorageError: there is no such recipe.
    """
    name, *plugins = name.split("+")
    if plugins:
        return find_recipe(name).with_plugins(plugin_entry(plugin).name for plugin in plugins)
    if not name.endswith(".toml"):
        return Recipe(model_entry(name).name)
    own = files("triptych") / "recipes" / name
    path = Path(name)
    if not path.is_file() and not own.is_file():
        raise StorageError(
            f"there is no recipe {name}",
            wanted="a TOML file, or one of: " + ", ".join(shipped_recipes()),
            fix=nearest(name, shipped_recipes()),
        )
    text = read_toml_text(path, name) if path.is_file() else own.read_text(encoding="utf-8")
    return read_recipe(text, name)


def shipped_recipes() -> list[str]:
    """List the recipes that come with Triptych."""
    return sorted(
        file.name for file in (files("triptych") / "recipes").iterdir() if file.name.endswith(".toml")
    )


def read_toml_text(path: Path, name: str) -> str:
    """Read the text of a TOML file.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: {error}", wanted="UTF-8", fix="Save it as UTF-8") from error


def parse_toml(text: str, name: str, *, wanted: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ConfigError: it is none, or holds what Python takes no number from, or nests too deeply.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so are endless digits
        raise ConfigError(f"{name} is no TOML: {error}", wanted=wanted, fix="Mend the file") from error


def read_recipe(text: str, name: str) -> Recipe:
    """Read a recipe's text.

    Raises:
        ConfigError: it is no TOML, or has other keys than model, source and settings.
    """
    content = parse_toml(text, name, wanted="a recipe")
    unknown = sorted(content.keys() - RECIPE_KEYS)
    settings, plugins = content.get("settings", {}), content.get("plugins", [])
    listed = isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins)
    if unknown or not isinstance(content.get("model"), str) or not isinstance(settings, dict) or not listed:
        raise ConfigError(
            f"{name} holds the keys {', '.join(content) or 'none'}",
            wanted="model = NAME, source = TEXT, perhaps plugins = [NAMES], and a table [settings]",
            fix=nearest(unknown[0], RECIPE_KEYS) if unknown else "Add what is missing, or mend its kind",
        )
    for plugin in plugins:  # `sand.align_weight = 0.1` is a table within a table to TOML
        of_plugin = settings.pop(plugin, {})
        if not isinstance(of_plugin, dict):
            raise ConfigError(
                f"{name} sets '{plugin}' to {of_plugin!r}",
                wanted=f"settings of the plug-in, {plugin}.FIELD = VALUE",
                fix="Name the field",
            )
        settings |= {f"{plugin}.{field_name}": value for field_name, value in of_plugin.items()}
    return Recipe(content["model"], settings, str(content.get("source", "")), named_once(plugins))


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Read "field=value" pieces; values are TOML, and anything else is a string.

    Raises:
        ConfigError: a piece has no "=", or a field is set twice.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"the setting {assignment!r}", wanted="FIELD=VALUE", fix="Write for example --set n_layers=2"
            )
        if name.strip() in settings:
            raise ConfigError(f"{name.strip()} is set twice", wanted="one value", fix="Leave one of them out")
        try:
            settings[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError
            settings[name.strip()] = text.strip()
    return settings
