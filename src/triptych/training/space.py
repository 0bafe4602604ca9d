"""What is worth searching for a model: for each of its settings the values to try, from TOML.

```toml
model = "layergcn"
source = "the authors' grid (arXiv:2207.11088, section V)"

[space]
edge_dropout = [0.0, 0.1, 0.2]
reg_weight = [1e-2, 1e-3, 1e-4, 1e-5]
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from math import prod
from typing import Any

from triptych.errors import ConfigError, nearest
from triptych.models.registry import model_entry
from triptych.training.recipe import Recipe


@dataclass(frozen=True)
class SearchSpace:
    """A model and the values to try of some of its settings; all others keep their defaults.

    Args:
        model: registry name.
        values: field of the model's config or of `TrainConfig` -> values, at least one.
        source: where the values come from.
    """

    model: str
    values: Mapping[str, tuple[Any, ...]]
    source: str

    def __len__(self) -> int:
        return prod(len(tried) for tried in self.values.values())

    def points(self) -> Iterator[Recipe]:
        """List every combination, the last field changing fastest."""
        for point in product(*self.values.values()):
            yield Recipe(self.model, dict(zip(self.values, point, strict=True)), self.source)


def shipped_space(model: str) -> SearchSpace:
    """Give the space that comes with Triptych for a model.

    Raises:
        ConfigError: the model is unknown.
    """
    name = model_entry(model).name + ".toml"
    text = (files("triptych") / "recipes" / "search" / name).read_text(encoding="utf-8")
    return read_space(text, f"search/{name}")


def read_space(text: str, name: str) -> SearchSpace:
    """Read the text of a search space, and try each of its values on the settings.

    Raises:
        ConfigError: it is no TOML, has other keys than model, source and space, names a field that the
            model does not have, gives a field no values, or one that the field refuses.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{name} is no TOML: {error}", wanted="a search space", fix="Mend the file"
        ) from error
    unknown = sorted(content.keys() - {"model", "source", "space"})
    values = content.get("space")
    if unknown or not isinstance(content.get("model"), str) or not isinstance(values, dict) or not values:
        raise ConfigError(
            f"{name} holds the keys {', '.join(content) or 'none'}",
            wanted="model = NAME, source = TEXT and a table [space] of at least one field",
            fix=nearest(unknown[0], ["model", "source", "space"]) if unknown else "Add what is missing",
        )
    for field, tried in values.items():
        if not isinstance(tried, list) or not tried:
            raise ConfigError(
                f"{name} gives '{field}' as {tried!r}",
                wanted="a list of values to try",
                fix=f"Write for example {field} = [1, 2, 3]",
            )
        for value in tried:
            Recipe(content["model"], {field: value}).configs()
    space = {field: tuple(tried) for field, tried in values.items()}
    return SearchSpace(content["model"], space, str(content.get("source", "")))
