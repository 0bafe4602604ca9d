"""The models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from triptych.errors import ConfigError, nearest
from triptych.models.base import ContentConfig, ModelConfig, ModelInputs, Recommender
from triptych.models.contract import check_class
from triptych.models.entries import Entry, Registry

Kind = Literal["collaborative", "content"]
"""Whether a model knows interactions alone, or item content as well."""

Model = TypeVar("Model", bound=type[Recommender])


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
    def code(self) -> type:
        """Its class."""
        return self.model

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
    """Enter a model under a name; also for models outside the library.

    Args:
        name: how commands and recipes call it.
        config: the class of its settings, of no other model.
        paper: authors' title, with where to find it.
        year: of publication.

    Raises:
        ConfigError: another model has the name or the class of settings.
        ModelError: the class lacks what every model defines.
    """

    def enter(model: Model) -> Model:
        check_class(model)
        others = [entry for entry in _MODELS.entered() if entry.config is config and entry.name != name]
        if others:
            raise ConfigError(
                f"the model '{name}' is to have the settings {config.__name__} of '{others[0].name}'",
                wanted="a class of settings of its own, by which a model is found",
                fix=f"Derive one: class MyConfig({config.__name__}): ...",
            )
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
        fix="Decorate the model with @register(NAME, CONFIG, paper=..., year=...)",
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
            elif complaint["type"] == "missing":
                found.append(f"{kind.__name__} lacks '{name}'")
                fixes.append(f"Set '{name}'")
            else:
                found.append(f"{name} = {complaint['input']!r}: {complaint['msg'].lower()}")
                fixes.append(f"See '{name}' in {kind.__name__}" if name in fields else "Check the settings")
        raise ConfigError(
            "; ".join(found), wanted="known fields with fitting values", fix=". ".join(dict.fromkeys(fixes))
        ) from error


def create_model(config: ModelConfig, inputs: ModelInputs) -> Recommender:
    """Build the model that a settings object belongs to; its first weights come from torch's generator."""
    return model_entry_of(config).model(config, inputs)
