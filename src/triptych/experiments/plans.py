"""Plans that come with Triptych: the variants of a model, and the tables and figures of the papers."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from io import StringIO
from itertools import product
from typing import Any

from triptych.errors import ConfigError, nearest
from triptych.models.registry import model_entry
from triptych.training.recipe import Recipe, find_recipe

_MODALITY, _OTHERS = "{modality}", "{others}"
VARIANTS = "variants"
"""Name of the panel of a figure that draws variants."""


@dataclass(frozen=True)
class Ablation:
    """What a model's paper varies, and what its docstring promises as switches.

    Args:
        model: registry name.
        source: where it is varied.
        variants: name as printed -> settings that differ.
        sweeps: field -> values, one field at a time.
        grids: name -> fields and values, all combinations.
    """

    model: str
    source: str
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sweeps: Mapping[str, list[Any]] = field(default_factory=dict)
    grids: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)

    def systems(self, base: Recipe) -> dict[str, Recipe]:
        """Give the base, under the model's name, and each variant of it that is not the base itself."""
        same = self.no_variants(base)
        varied = {name: base.with_settings(of) for name, of in self.variants.items() if name not in same}
        return {base.name: base, **varied}

    def no_variants(self, base: Recipe) -> list[str]:
        """Name the variants that are the base itself, which has their settings already."""
        configs = base.configs()
        return [name for name, of in self.variants.items() if base.with_settings(of).configs() == configs]

    def sweep(self, name: str, base: Recipe) -> dict[str, Recipe]:
        """Give a system for each value of a field, or for each point of a grid.

        Raises:
            ConfigError: nothing of that name is swept.
        """
        grids = {field_name: {field_name: values} for field_name, values in self.sweeps.items()} | dict(
            self.grids
        )
        if name not in grids:
            raise ConfigError(
                f"no sweep of {self.model} is called '{name}'",
                wanted="one of: " + (", ".join(grids) or "none"),
                fix=nearest(name, grids) if grids else "Give values: FIELD=VALUE,VALUE",
            )
        return sweep_systems(base, grids[name])


def sweep_systems(base: Recipe, values: Mapping[str, list[Any]]) -> dict[str, Recipe]:
    """Give a system for each combination of values, named by them: "n_layers=2 dropout=0.1".

    Raises:
        ConfigError: the model does not read one of the fields.
    """
    if unread := [name for name in base.with_settings(values).unread() if name in values]:
        raise ConfigError(
            f"{base.model} does not read {', '.join(unread)}, as it is solved and takes no such steps",
            wanted="a setting that makes a difference",
            fix="Choose a setting of the model itself",
        )
    systems = {}
    for point in product(*values.values()):
        settings = dict(zip(values, point, strict=True))
        systems[" ".join(f"{name}={value}" for name, value in settings.items())] = base.with_settings(
            settings
        )
    return systems


def shipped_ablation(model: str, modalities: Sequence[str] = ("image", "text")) -> Ablation:
    """Read the variants of a model that come with Triptych; a model may have none.

    Args:
        model: registry name.
        modalities: what there is of content. A variant "w/o {modality}" is one for each of them, in whose
            settings "{others}" stands for all but it; where there are no others, there is no such variant.

    Raises:
        ConfigError: the model is unknown.
    """
    name = model_entry(model).name
    path = files("triptych") / "recipes" / "ablations" / f"{name}.toml"
    if not path.is_file():
        return Ablation(name, "")
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return Ablation(
        content["model"],
        content["source"],
        dict(_written_out(content.get("variants", {}), modalities)),
        content.get("sweeps", {}),
        content.get("grids", {}),
    )


def _written_out(
    variants: Mapping[str, Mapping[str, Any]], modalities: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give each variant, and those of "{modality}" once for each modality."""
    for name, settings in variants.items():
        if _MODALITY not in name:
            yield name, settings
            continue
        for modality in modalities:
            others = [other for other in modalities if other != modality]
            if others or _OTHERS not in settings.values():
                filled = {field: _filled(value, modality, others) for field, value in settings.items()}
                yield name.replace(_MODALITY, modality), filled


def _filled(value: Any, modality: str, others: list[str]) -> Any:
    if isinstance(value, list):
        return [_filled(one, modality, others) for one in value]
    return {_MODALITY: modality, _OTHERS: others}.get(value, value)


@dataclass(frozen=True)
class PaperRow:
    """One row of a printed table, and the system that stands for it.

    Args:
        printed: the row's name in print.
        recipe: what to train.
        by_data: data set -> settings that the paper has for it alone.
    """

    printed: str
    recipe: Recipe
    by_data: Mapping[str, Mapping[str, Any]]

    def on(self, data: str) -> Recipe:
        """Give what to train on a data set."""
        return self.recipe.with_settings(self.by_data.get(data, {}))


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper.

    Args:
        number: as printed.
        title: what it shows.
        rows: in the order of print.
    """

    number: str
    title: str
    rows: list[PaperRow]


@dataclass(frozen=True)
class PaperFigure:
    """A figure that draws what became of other values of some settings, or of other variants of a model.

    Args:
        number: as printed.
        title: what it shows.
        datasets: on which.
        row: what is varied.
        sweeps: by name in the model's `Ablation`, each a panel.
        variants: by name in the same, which together with the model itself are one more panel.
    """

    number: str
    title: str
    datasets: list[str]
    row: PaperRow
    sweeps: list[str]
    variants: list[str]

    @property
    def panels(self) -> list[str]:
        """Name the panels: a sweep each, and "variants"."""
        return [*self.sweeps, *([VARIANTS] if self.variants else [])]

    def systems(self, data: str) -> dict[str, dict[str, Recipe]]:
        """Give the systems of each panel on a data set: panel -> name -> what to train."""
        base = self.row.on(data)
        ablation = shipped_ablation(base.model)
        panels = {sweep: ablation.sweep(sweep, base) for sweep in self.sweeps}
        if self.variants:
            varied = {name: base.with_settings(ablation.variants[name]) for name in self.variants}
            panels[VARIANTS] = {base.name: base, **varied}
        return panels


@dataclass(frozen=True)
class PaperPlan:
    """A paper's tables and figures, as far as Triptych has what stands in them.

    Args:
        paper: name in the published figures.
        title: of the paper.
        source: where it can be found.
        differs: what keeps our figures from being the same measurement as the printed ones.
        datasets: name in the published figures -> the data set's name in words.
        tables: number -> table.
        figures: number -> figure; its values are printed nowhere.
    """

    paper: str
    title: str
    source: str
    differs: str
    datasets: Mapping[str, str]
    tables: Mapping[str, PaperTable]
    figures: Mapping[str, PaperFigure]


@dataclass(frozen=True)
class Printed:
    """A printed figure.

    Args:
        value: as printed.
        note: what is known about it: a misprint, a significance mark.
    """

    value: float
    note: str


def shipped_papers() -> list[str]:
    """Name the papers whose tables can be reproduced."""
    folder = files("triptych") / "recipes" / "papers"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def shipped_paper(name: str) -> PaperPlan:
    """Read the plan of a paper.

    Raises:
        ConfigError: there is none of that name.
    """
    if name.lower() not in shipped_papers():
        raise ConfigError(
            f"there is no plan for the paper '{name}'",
            wanted="one of: " + ", ".join(shipped_papers()),
            fix=nearest(name.lower(), shipped_papers()),
        )
    path = files("triptych") / "recipes" / "papers" / f"{name.lower()}.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    tables = {
        number: PaperTable(
            number,
            table["title"],
            [_read_row(printed, row) for printed, row in table["rows"].items()],
        )
        for number, table in content["tables"].items()
    }
    figures = {
        number: PaperFigure(
            number,
            figure["title"],
            figure["datasets"],
            _read_row(figure["title"], figure),
            figure.get("sweeps", []),
            figure.get("variants", []),
        )
        for number, figure in content.get("figures", {}).items()
    }
    return PaperPlan(
        content["paper"],
        content["title"],
        content["source"],
        content["differs"],
        content["datasets"],
        tables,
        figures,
    )


def _read_row(printed: str, row: Mapping[str, Any]) -> PaperRow:
    recipe = find_recipe(row["system"]).with_settings(row.get("settings", {}))
    return PaperRow(printed, recipe, row.get("by_data", {}))


def published(paper: str, table: str, data: str) -> dict[str, dict[str, Printed]]:
    """Look up the printed figures of a table on a data set: row -> metric, as in "recall@20", -> figure."""
    found: dict[str, dict[str, Printed]] = {}
    for row in _published_rows():
        here = (row["paper"], row["table"], row["dataset"]) == (paper, table, data)
        if here and row["k"] and row["value"]:  # some cells are printed as a dash
            figure = Printed(float(row["value"]), row["note"])
            found.setdefault(row["model_or_variant"], {})[f"{row['metric']}@{row['k']}"] = figure
    return found


def published_metrics(paper: str, table: str) -> set[str]:
    """Name what a printed table is about, be it in the plan or not: "recall", "memory_gb", "users"."""
    return {row["metric"] for row in _published_rows() if (row["paper"], row["table"]) == (paper, table)}


def published_sizes(paper: str, data: str) -> dict[str, str]:
    """Look up the users, items and interactions that a paper prints of a data set: "19445", or "35k"."""
    return {
        row["metric"]: row["value"]
        for row in _published_rows()
        if (row["paper"], row["dataset"], row["model_or_variant"]) == (paper, data, "statistics")
        and row["metric"] in ("users", "items", "interactions")
    }


def _published_rows() -> Iterator[dict[str, str]]:
    text = (files("triptych") / "recipes" / "papers" / "published.csv").read_text(encoding="utf-8")
    return iter(csv.DictReader(StringIO(text)))
