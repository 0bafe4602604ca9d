"""The models by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from triptych.errors import ConfigError, nearest
from triptych.models.base import ContentConfig, ModelConfig, ModelInputs, Recommender

Kind = Literal["collaborative", "content"]
"""Whether a model knows interactions alone, or item content as well."""

Model = TypeVar("Model", bound=type[Recommender])


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


AnyEntry = TypeVar("AnyEntry", bound=Entry)


class Registry(Generic[AnyEntry]):
    """Entries by name; those of a package are there once its modules are imported, which the first look does.

    Args:
        what: is registered, in a word.
        package: whose modules enter their own.
    """

    def __init__(self, what: str, package: str) -> None:
        self._what, self._package = what, package
        self._entries: dict[str, AnyEntry] = {}

    def enter(self, entry: AnyEntry) -> None:
        """Enter it, in the place of another of its name."""
        self._entries[entry.name] = entry

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
        _import_modules(self._package)
        return self._entries


@cache
def _import_modules(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """What the registry knows of a model.

    Args:
        model: its class.
        config: the class of its settings.
    """

    model: type[Recommender]
    config: type[ModelConfig]

    @property
    def kind(self) -> Kind:
        """Whether the model uses item content."""
        return "content" if issubclass(self.config, ContentConfig) else "collaborative"

    @property
    def needs(self) -> str:
        """What the model learns from beside interactions, in words."""
        if self.kind == "collaborative":
            return "interactions"
        return "features or item graphs" if self.model.item_graphs else "dense features"

    def as_dict(self) -> dict[str, Any]:
        """Describe it in JSON values; "any" stands for any number of modalities by name."""
        modalities = ["any"] if self.kind == "content" else []
        return {
            "name": self.name,
            "paper": self.paper,
            "year": self.year,
            "kind": self.kind,
            "modalities": modalities,
            "needs": self.needs,
        }


_MODELS = Registry[ModelEntry]("model", "triptych.models")


def register(name: str, config: type[ModelConfig], *, paper: str, year: int) -> Callable[[Model], Model]:
    """Enter a model under a name; also for models outside the library."""

    def enter(model: Model) -> Model:
        _MODELS.enter(ModelEntry(name=name, model=model, config=config, paper=paper, year=year))
        return model

    return enter


def models() -> list[ModelEntry]:
    """List the known models, by year and name."""
    return _MODELS.all()


def model_entry(name: str) -> ModelEntry:
    """Find a model by name.

    Raises:
        ConfigError: there is none of that name; the message gives the nearest one.
    """
    return _MODELS.find(name)


def model_entry_of(config: ModelConfig) -> ModelEntry:
    """Find the model that a settings object belongs to.

    Raises:
        ConfigError: no registered model has settings of this class.
    """
    for entry in models():
        if entry.config is type(config):
            return entry
    raise ConfigError(
        f"no model is registered for {type(config).__name__}",
        wanted="the settings class of a registered model",
        fix="Decorate the model with @register(name, config)",
    )


def make_config(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """Make a settings object, turning complaints into one `ConfigError` that lists them all.

    Raises:
        ConfigError: a field is unknown (the nearest one is named) or has an unfitting value.
    """
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        fields = kind.model_fields
        found, fixes = [], []
        for complaint in error.errors():
            name = ".".join(str(part) for part in complaint["loc"])
            if complaint["type"] == "extra_forbidden":
                found.append(f"{kind.__name__} has no field '{name}'")
                fixes.append(nearest(name, fields))
            else:
                found.append(f"{name} = {complaint['input']!r}: {complaint['msg'].lower()}")
                fixes.append(f"See '{name}' in {kind.__name__}" if name in fields else "Check the settings")
        raise ConfigError(
            "; ".join(found), wanted="known fields with fitting values", fix=". ".join(dict.fromkeys(fixes))
        ) from error


def create_model(config: ModelConfig, inputs: ModelInputs) -> Recommender:
    """Build the model that a settings object belongs to; its first weights come from torch's generator."""
    return model_entry_of(config).model(config, inputs)
