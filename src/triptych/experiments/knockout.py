"""Does a model use content at all? Trained anew with a modality gone, emptied, mixed up or worn thin.

A model that ranks as well without its pictures as with them, or with those of other items, owes nothing to
them. Zeros and a constant leave a model its parameters and take the content; noise and shuffled rows also
leave it something that tells items apart, which for some models is all that they use content for.

Source: for shares of items that lack content Malitesta et al. (arXiv:2408.11767); the rest is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from triptych.data.dataset import Dataset
from triptych.errors import ConfigError, nearest
from triptych.experiments.content import Change, Knockout, Wear
from triptych.experiments.result import ComparisonResult, LeftOut, Spread
from triptych.experiments.systems import Variant
from triptych.training.recipe import Recipe

KNOCKOUTS: tuple[Knockout, ...] = get_args(Knockout)


@dataclass(frozen=True)
class KnockoutPlan:
    """What to do to the content of each system.

    Args:
        kinds: of changes, done to each modality in turn and to all together.
        missing: per cent of items to lack content, each a point of a curve; 0 is the intact system.
        noisy: strengths of added noise in standard deviations, likewise.
        modalities: only these, and none together; by default all that a system uses. Curves are of all
            together, unless modalities are named.
    """

    kinds: Sequence[Knockout] = KNOCKOUTS
    missing: Sequence[float] = ()
    noisy: Sequence[float] = ()
    modalities: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not all(0 <= share < 100 for share in self.missing) or not all(
            0 <= sd < math.inf for sd in self.noisy
        ):
            raise ConfigError(
                f"missing {', '.join(f'{share:g}' for share in self.missing) or 'none'} per cent, "
                f"noise {', '.join(f'{sd:g}' for sd in self.noisy) or 'none'}",
                wanted="shares from 0 to below 100 per cent, and finite standard deviations of at least 0",
                fix="Write for example --missing 0,30,60,90 --noise 0,0.5,1,2",
            )

    def changes(self, used: Sequence[str]) -> list[Change]:
        """List what is done to a system that uses these modalities."""
        alone = [(modality,) for modality in used if modality in (self.modalities or used)]
        together = [tuple(used)] if len(used) > 1 and self.modalities is None else []
        curves = [("missing", self.missing), ("noisy", self.noisy)]
        return [
            *(Change(kind=kind, modalities=of) for of in alone + together for kind in self.kinds),
            *(
                Change(kind=kind, modalities=of, amount=amount)
                for kind, amounts in curves
                for of in together or alone
                for amount in dict.fromkeys(map(float, amounts))
                if amount > 0
            ),
        ]


def knockout_systems(
    systems: Mapping[str, Recipe], data: Dataset, plan: KnockoutPlan
) -> tuple[dict[str, Recipe | Variant], list[LeftOut]]:
    """Give each system, and after it what it is to be compared with: itself, trained on changed content.

    Args:
        systems: name -> what to train.
        data: what it learns from, unchanged.
        plan: what to do to the content.

    Returns: what to compare, where the variants are called "NAME: CHANGE"; and what cannot be, with the
        reason.

    Raises:
        ConfigError: a modality is not in the data set, or nothing is left to be compared.
    """
    for modality in plan.modalities or ():
        if modality not in data.features:
            raise ConfigError(
                f"modality '{modality}' is not in '{data.name}'",
                wanted="one of: " + (", ".join(data.features) or "none"),
                fix=nearest(modality, data.features),
            )
    found: dict[str, Recipe | Variant] = {}
    left_out: list[LeftOut] = []
    for name, recipe in systems.items():
        found[name] = recipe
        used = used_modalities(recipe, data)
        if not used:
            left_out.append(LeftOut(name=f"{name}: changed content", reason="it uses no content"))
        changes = plan.changes(used)
        if used and not changes:
            unused = plan.modalities is not None and not set(plan.modalities) & set(used)
            reason = "it uses " + "+".join(used) + " alone" if unused else "0 leaves the data as they are"
            left_out.append(LeftOut(name=f"{name}: changed content", reason=reason))
        for change in changes:
            called = f"{name}: {change.name}"
            reasons = [change.refused(data.features[modality]) for modality in change.modalities]
            parts = _chosen(recipe, data).values()
            if change.kind == "absent" and any(set(of) <= set(change.modalities) for of in parts if of):
                reasons = ["it, or a part of it, has no other content to learn from"]
            if why := next(filter(None, reasons), None):
                left_out.append(LeftOut(name=called, reason=why))
            else:
                changed = _without(recipe, change, data) if change.kind == "absent" else recipe
                found[called] = Variant(name, changed, change)
    if len(found) == len(systems):
        raise ConfigError(
            "there is nothing to knock out: " + "; ".join(f"{one.name}, {one.reason}" for one in left_out),
            wanted="a system that uses content, and something that can be done to it",
            fix="Choose another system, kind or modality, or prepare the data set with features",
        )
    return found, left_out


def used_modalities(recipe: Recipe, data: Dataset) -> tuple[str, ...]:
    """Name the modalities that a system or its plug-ins use, in the order of the data set.

    Raises:
        ConfigError: the recipe names something unknown or unfit.
    """
    chosen = _chosen(recipe, data).values()
    return tuple(modality for modality in data.features if any(modality in of for of in chosen))


def _chosen(recipe: Recipe, data: Dataset) -> dict[str, tuple[str, ...]]:
    """Give the settings of a recipe that choose modalities, with what they choose."""
    configs = recipe.configs()
    of_parts = {"modalities": configs.model} | {
        f"{name}.modalities": config for name, config in configs.plugins.items()
    }
    return {
        setting: tuple(data.features) if part.modalities is None else part.modalities
        for setting, part in of_parts.items()
        if hasattr(part, "modalities")
    }


def _without(recipe: Recipe, change: Change, data: Dataset) -> Recipe:
    """Choose all modalities but some, and share out anew what settings give by modality."""
    chosen = {
        setting: [modality for modality in of if modality not in change.modalities]
        for setting, of in _chosen(recipe, data).items()
    }
    by_modality = {}
    for name, of in recipe.settings.items():
        if isinstance(of, Mapping) and of.keys() <= data.features.keys():
            left = {modality: value for modality, value in of.items() if modality not in change.modalities}
            scale = sum(of.values()) / sum(left.values()) if left else 1.0
            by_modality[name] = {modality: scale * value for modality, value in left.items()}
    return recipe.with_settings({**by_modality, **chosen})


@dataclass(frozen=True)
class Curve:
    """How figures fall as content wears thin.

    Args:
        kind: "missing" or "noisy".
        target: the modalities, "image+text".
        points: system -> amount -> test figure by the metric of the comparison; 0 is the intact system.
    """

    kind: Wear
    target: str
    points: Mapping[str, Mapping[float, Spread]]


def curves(result: ComparisonResult) -> list[Curve]:
    """Give what a comparison found of changes by degrees."""
    intact = {system.name: system.test[result.metric] for system in result.systems if system.base is None}
    found: dict[tuple[Wear, str], dict[str, dict[float, Spread]]] = {}
    for system in result.systems:
        change = system.change
        if change is None or system.base is None or change.amount is None:
            continue
        kind: Wear = "missing" if change.kind == "missing" else "noisy"
        of_kind = found.setdefault((kind, change.target), {})
        start = {0.0: intact[system.base]} if system.base in intact else {}
        of_kind.setdefault(system.base, start)[change.amount] = system.test[result.metric]
    return [
        Curve(kind, target, {name: dict(sorted(of.items())) for name, of in points.items()})
        for (kind, target), points in found.items()
    ]
