"""Settings by name: a model's and the loop's in one flat list, from TOML recipes and from the command line.

A recipe is a TOML file:

```toml
model = "freedom"
source = "arXiv:2211.06924, table 2; chosen on validation"

[settings]
n_layers = 2
learning_rate = 0.001
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from triptych.errors import ConfigError, StorageError, nearest
from triptych.models.base import ModelConfig
from triptych.models.registry import make_config, model_entry
from triptych.training.config import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A model and the settings to train it with.

    Args:
        model: registry name.
        settings: fields of the model's config and of `TrainConfig`; no name is in both.
        source: where the settings come from.
    """

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """Override some settings."""
        return Recipe(self.model, {**self.settings, **settings}, self.source)

    def configs(self) -> tuple[ModelConfig, TrainConfig]:
        """Sort the settings into the model's config and the loop's.

        Raises:
            ConfigError: the model or a field is unknown, or a value does not fit.
        """
        kind = model_entry(self.model).config
        known = [*kind.model_fields, *TrainConfig.model_fields]
        unknown = [name for name in self.settings if name not in known]
        if unknown:
            raise ConfigError(
                f"{self.model} has no setting '{unknown[0]}'",
                wanted="a field of the model or of the training loop",
                fix=nearest(unknown[0], known),
            )
        of_loop = {name: value for name, value in self.settings.items() if name in TrainConfig.model_fields}
        of_model = {name: value for name, value in self.settings.items() if name not in of_loop}
        return make_config(kind, of_model), make_config(TrainConfig, of_loop)


def find_recipe(name: str) -> Recipe:
    """Take a model's name, with its default settings, or a recipe: a file, or one that comes with Triptych.

    Raises:
        ConfigError: there is no such model, or the recipe holds something else than it should.
        StorageError: there is no such recipe.
    """
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
    text = path.read_text(encoding="utf-8") if path.is_file() else own.read_text(encoding="utf-8")
    return read_recipe(text, name)


def shipped_recipes() -> list[str]:
    """List the recipes that come with Triptych."""
    return sorted(
        file.name for file in (files("triptych") / "recipes").iterdir() if file.name.endswith(".toml")
    )


def read_recipe(text: str, name: str) -> Recipe:
    """Read a recipe's text.

    Raises:
        ConfigError: it is no TOML, or has other keys than model, source and settings.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is no TOML: {error}", wanted="a recipe", fix="Mend the file") from error
    unknown = sorted(content.keys() - {"model", "source", "settings"})
    settings = content.get("settings", {})
    if unknown or not isinstance(content.get("model"), str) or not isinstance(settings, dict):
        raise ConfigError(
            f"{name} holds the keys {', '.join(content) or 'none'}",
            wanted="model = NAME, source = TEXT and a table [settings]",
            fix=nearest(unknown[0], ["model", "source", "settings"]) if unknown else "Add what is missing",
        )
    return Recipe(content["model"], settings, str(content.get("source", "")))


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Read "field=value" pieces; values are TOML, and anything else is a string.

    Raises:
        ConfigError: a piece has no "=".
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"the setting {assignment!r}", wanted="FIELD=VALUE", fix="Write for example --set n_layers=2"
            )
        try:
            settings[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name.strip()] = text.strip()
    return settings
