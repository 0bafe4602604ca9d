"""The contract between a plug-in and the model it is attached to, its host.

A plug-in sees its host through the contract of models alone: `embeddings()`, `modality_embeddings()`,
`id_embeddings()`. It may add loss terms, optimiser steps, parameter groups, work at the start of an
epoch, graphs, and may change the vectors that rank, if it says what ranks by them: see `Plugin.refine`. It
never changes the host, and knows no host's name. docs/guide/your-own-model.md writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from triptych.errors import ConfigError, ModelError
from triptych.models.base import (
    Group,
    Losses,
    ModelConfig,
    ModelInputs,
    Recommender,
    Settings,
    Step,
    Triplets,
)
from triptych.models.entries import Entry, Registry
from triptych.models.registry import create_model, make_config
from triptych.scorer import Embeddings


class PluginConfig(Settings):
    """Settings of a plug-in."""


class Plugin(nn.Module):
    """Base of all plug-ins; whatever is not overridden adds nothing.

    Args:
        config: its settings.
        inputs: what it may know of the data.
        host: the model it is attached to, complete. It is handed to each method, and not kept.

    Raises:
        ConfigError: the host, with its settings, lacks what the plug-in needs.
    """

    def __init__(self, config: PluginConfig, inputs: ModelInputs, host: Recommender) -> None:
        super().__init__()
        self.config = config

    @property
    def refines(self) -> bool:
        """Whether `refine` changes the vectors that rank: where it is overridden, unless settings say no."""
        return type(self).refine is not Plugin.refine

    def losses(self, host: Recommender, batch: Triplets) -> Losses:
        """Name the terms to minimise beside the host's; one named like a term of the host replaces it.

        They are means over the batch, and are multiplied by the host's `loss_scale`.
        """
        return {}

    def refine(self, host: Recommender, embeddings: Embeddings) -> Embeddings:
        """Change the vectors that rank; those given are the host's.

        The host's own ranking loss does not know of it. So `losses` has to give a term in its place, under
        its name, "bpr" in most hosts, of `refine(host, host.embeddings())`: what ranks is then what learns.
        Of the plug-ins of one host one may refine.
        """
        return embeddings

    def batch_steps(self, host: Recommender, batch: Triplets) -> Iterator[Step]:
        """Yield optimiser steps of one's own, before those of the host."""
        yield from ()

    def epoch_steps(self, host: Recommender, epoch: int) -> Iterable[Step]:
        """Do what an epoch begins with, after the host has; may yield steps."""
        return ()

    def optimizer_groups(self) -> dict[str, Group]:
        """Part the parameters into groups. Those of "main" are moved by the host's optimiser."""
        return {"main": Group(list(self.parameters()))}


def way_out(host: Recommender, method: str, otherwise: str) -> str:
    """Say what to do about a method of the host that gives nothing: what the host says, or else this."""
    return host.ways_out.get(method, otherwise)


class PluggedIn(Recommender):
    """A model with plug-ins, which is a model again.

    The plug-ins' losses join the first step of a batch that the host takes with its "main" group. A group of
    a plug-in's own, and a step of that group, is named after it: "sand.club".

    Args:
        host: the model.
        plugins: name -> plug-in, in the order in which they act.

    Raises:
        ConfigError: two of them change the vectors that rank, and each would learn without the other.
    """

    def __init__(self, host: Recommender, plugins: Mapping[str, Plugin]) -> None:
        nn.Module.__init__(self)
        self.config, self.n_users, self.n_items = host.config, host.n_users, host.n_items
        self.negatives = host.negatives
        self.host = host
        self.plugins = nn.ModuleDict(dict(plugins))
        refining = [name for name, plugin in self._attached() if plugin.refines]
        if len(refining) > 1:
            raise ConfigError(
                f"the plug-ins '{refining[0]}' and '{refining[1]}' both change the vectors that rank",
                wanted="one that does, as each ranks the host's own vectors while it learns",
                fix="Leave one of them out",
            )

    def embeddings(self) -> Embeddings:
        """Embed as the host does, refined by the plug-in that refines, if any."""
        embeddings = self.host.embeddings()
        for _, plugin in self._attached():
            embeddings = plugin.refine(self.host, embeddings)
        return embeddings

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        """Take the plug-ins' own steps, then the host's with the plug-ins' losses among them."""
        for name, plugin in self._attached():
            for step in plugin.batch_steps(self.host, batch):
                yield _named_after(name, step)
        joined = False
        for step in self.host.batch_steps(batch):
            if step.group == "main" and not joined:
                joined = True
                losses, scale = dict(step.losses), self.host.loss_scale(batch)
                given: dict[str, str] = {}
                for plugin_name, plugin in self._attached():
                    terms = plugin.losses(self.host, batch)
                    if plugin.refines:
                        _require_ranking(plugin_name, terms, step)
                    for name, term in terms.items():
                        other = given.setdefault(name, plugin_name)
                        if other != plugin_name:
                            raise ModelError(
                                f"the plug-ins '{other}' and '{plugin_name}' both have a loss term '{name}'",
                                wanted="terms with different names",
                                fix="Rename it in one of them",
                            )
                        losses[name] = scale * term
                yield Step(losses)
            else:
                yield step

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        """Begin the epoch: the host first."""
        yield from self.host.epoch_steps(epoch)
        for name, plugin in self._attached():
            for step in plugin.epoch_steps(self.host, epoch):
                yield _named_after(name, step)

    def optimizer_groups(self) -> dict[str, Group]:
        """Give the host's groups, its "main" with the plug-ins' in it, and the plug-ins' others."""
        groups = dict(self.host.optimizer_groups())
        main = groups["main"]
        for name, plugin in self._attached():
            for group_name, group in plugin.optimizer_groups().items():
                if group_name == "main":
                    main = Group(
                        [*main.parameters, *group.parameters], main.options, [*main.by_row, *group.by_row]
                    )
                else:
                    groups[f"{name}.{group_name}"] = group
        return {**groups, "main": main}

    def modality_embeddings(self) -> dict[str, Tensor]:
        """Give the host's."""
        return self.host.modality_embeddings()

    def content_codes(self) -> dict[str, Tensor]:
        """Give the host's."""
        return self.host.content_codes()

    def id_embeddings(self) -> Embeddings | None:
        """Give the host's."""
        return self.host.id_embeddings()

    def _attached(self) -> Iterator[tuple[str, Plugin]]:
        for name, plugin in self.plugins.items():
            assert isinstance(plugin, Plugin)
            yield name, plugin


def _require_ranking(plugin: str, terms: Losses, step: Step) -> None:
    """Refuse a plug-in whose refined vectors rank while the host's own learn."""
    ranking = {"bpr"} & step.losses.keys() or step.losses.keys()
    if not ranking & terms.keys():
        raise ModelError(
            f"the plug-in '{plugin}' changes the vectors that rank, and its losses are "
            + (", ".join(f"'{name}'" for name in terms) or "none"),
            wanted="one that ranks by these vectors in the place of the host's: "
            + " or ".join(f"'{name}'" for name in ranking),
            fix="Return it from losses(), of refine(host, host.embeddings()), or leave refine() as it is",
        )


def _named_after(plugin: str, step: Step) -> Step:
    """Name a step of a plug-in as its group is named; "main" is the host's as well."""
    return step if step.group == "main" else step._replace(group=f"{plugin}.{step.group}")


@dataclass(frozen=True, kw_only=True)
class PluginEntry(Entry):
    """What is known of a plug-in.

    Args:
        plugin: its class.
        config: the class of its settings.
    """

    plugin: type[Plugin]
    config: type[PluginConfig]

    @property
    def code(self) -> type:
        """Its class."""
        return self.plugin


_PLUGINS = Registry[PluginEntry]("plug-in", "triptych.models.plugins")

Kind = TypeVar("Kind", bound=type[Plugin])


def register_plugin(
    name: str, config: type[PluginConfig], *, paper: str, year: int
) -> Callable[[Kind], Kind]:
    """Enter a plug-in under a name; also for plug-ins outside the library.

    Args:
        name: how commands and recipes call it.
        config: the class of its settings.
        paper: authors' title, with where to find it.
        year: of publication.

    Raises:
        ConfigError: another plug-in has the name, or torch keeps it for itself.
    """
    if hasattr(nn.ModuleDict, name):
        raise ConfigError(
            f"a plug-in is to be called '{name}'",
            wanted="a name that torch leaves free",
            fix="Choose another",
        )

    def enter(plugin: Kind) -> Kind:
        _PLUGINS.enter(PluginEntry(name=name, plugin=plugin, config=config, paper=paper, year=year))
        return plugin

    return enter


def plugins() -> list[PluginEntry]:
    """List the known plug-ins, by year and name."""
    return _PLUGINS.all()


def plugin_entry(name: str) -> PluginEntry:
    """Find a plug-in by name.

    Raises:
        ConfigError: there is none of that name; the message gives the nearest one.
    """
    return _PLUGINS.find(name)


def make_plugin_configs(
    settings: Mapping[str, Mapping[str, Any] | PluginConfig],
) -> dict[str, PluginConfig]:
    """Make the settings objects of plug-ins from their fields by name; those made already are kept.

    Raises:
        ConfigError: a plug-in or a field is unknown, or a value does not fit.
    """
    return {
        name: given if isinstance(given, PluginConfig) else make_config(plugin_entry(name).config, given)
        for name, given in settings.items()
    }


def named_once(names: Iterable[str]) -> tuple[str, ...]:
    """List the plug-ins to attach.

    Raises:
        ConfigError: one is named twice.
    """
    listed = tuple(names)
    for name in listed:
        if listed.count(name) > 1:
            raise ConfigError(
                f"the plug-in '{name}' is named twice", wanted="each once", fix="Leave one of them out"
            )
    return listed


def create_plugged_in(
    config: ModelConfig, plugin_configs: Mapping[str, PluginConfig], inputs: ModelInputs
) -> Recommender:
    """Build a model and attach plug-ins to it; without any, it is the model itself.

    Args:
        config: the model's settings.
        plugin_configs: name -> the plug-in's settings, in the order in which they act.
        inputs: what both may know of the data.

    Raises:
        ConfigError: a plug-in is refused by what the host is.
    """
    host = create_model(config, inputs)
    if not plugin_configs:
        return host
    kinds = {name: plugin_entry(name).plugin for name in plugin_configs}
    for name, kind in kinds.items():
        refused = None
        if type(host).scorer is not Recommender.scorer:
            refused = "a scorer of its own", "a model that ranks by embeddings(), which plug-ins refine"
        elif any(isinstance(part, kind) for part in host.modules()):
            refused = f"'{name}' in it already", "a model without"
        if refused is not None:
            raise ConfigError(
                f"the plug-in '{name}' on a model with {refused[0]}",
                wanted=refused[1],
                fix="Leave the plug-in out, or choose another model",
            )
    return PluggedIn(host, {name: kinds[name](of, inputs, host) for name, of in plugin_configs.items()})
