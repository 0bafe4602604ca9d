"""The contract of models, checked where a breach would otherwise show late, elsewhere, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from triptych.errors import ModelError, kind_of, nearest
from triptych.models.base import Group, Recommender, Step
from triptych.scorer import Scorer

_SCHEDULES = ("batches", "sweeps", "once")
_OPTIONS = {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"}
_OPTIONS &= set(signature(torch.optim.Adam).parameters)  # how it computes is the training's to say


def check_class(model: type[Recommender]) -> None:
    """Refuse a class that lacks what every model defines.

    Raises:
        ModelError: it ranks by nothing, learns by nothing, or has a schedule or number of negatives that
            there is not.
    """
    if model.embeddings is Recommender.embeddings and model.scorer is Recommender.scorer:
        _refuse(model, "has no embeddings()", "vectors that rank", "Define embeddings(self) -> Embeddings")
    if model.schedule not in _SCHEDULES:
        wanted = "one of: " + ", ".join(_SCHEDULES)
        _refuse(model, f"has schedule = {model.schedule!r}", wanted, "Mend it, or leave it out")
    learns = (model.loss, model.batch_steps) != (Recommender.loss, Recommender.batch_steps)
    if model.schedule == "batches" and not learns:
        _refuse(model, "has no loss()", "terms to minimise", "Define loss(self, batch) -> dict of scalars")
    if isinstance(model.negatives, int) and model.negatives not in (0, 1):
        _refuse(model, f"has negatives = {model.negatives}", "0 or 1", "Draw more of them in loss()")


def check_groups(model: Recommender, groups: Mapping[str, Group]) -> None:
    """Refuse groups of which no optimisers can be made, or that leave out what is to learn.

    Raises:
        ModelError: they are something else, or a parameter is in none or in several.
    """
    if not isinstance(groups, Mapping) or not all(isinstance(group, Group) for group in groups.values()):
        _refuse(model, "gives optimizer_groups() that are no Groups", "a dict: name -> Group", "Mend it")
    places: dict[int, int] = {}
    for name, group in groups.items():
        if unknown := sorted(group.options.keys() - _OPTIONS):
            fix = nearest(unknown[0], _OPTIONS)
            _refuse(model, f"gives its group {name!r} the option {unknown[0]!r}", "options of Adam", fix)
        if not {id(parameter) for parameter in group.by_row} <= {id(one) for one in group.parameters}:
            fix = "Name it in both"
            _refuse(model, f"gives its group {name!r} a by_row beyond its parameters", "some of them", fix)
        for parameter in group.parameters:
            places[id(parameter)] = places.get(id(parameter), 0) + 1
    for name, parameter in model.named_parameters():
        count = places.get(id(parameter), 0)
        if count > 1 or (not count and parameter.requires_grad):
            _refuse(
                model,
                f"has the parameter {name} in {count} of its optimiser groups",
                "each parameter that learns in one group",
                "Put it into one in optimizer_groups(), or set its requires_grad to False",
            )


def check_steps(model: Recommender, steps: object) -> Iterable[Step]:
    """Refuse what is no stream of steps.

    Raises:
        ModelError: it cannot be gone through.
    """
    if not isinstance(steps, Iterable):
        _refuse(
            model,
            f"gives {kind_of(steps)} for steps",
            "an iterable of Steps",
            "Yield them, or return () for none",
        )
    return steps


def total_loss(model: Recommender, step: Step, groups: Iterable[str]) -> Tensor:
    """Add up the terms of a step.

    Args:
        model: which gave it.
        step: losses, and the group that is to minimise them.
        groups: that there are.

    Raises:
        ModelError: a term is no scalar tensor, none depends on what learns, or there is no such group.
    """
    if not isinstance(step, Step):
        _refuse(model, f"yields {kind_of(step)}", "a Step", "Yield Step(losses), or Step(losses, group)")
    if step.group not in groups:
        wanted = "one of: " + ", ".join(groups)
        _refuse(model, f"takes a step of the group {step.group!r}", wanted, "Name it in optimizer_groups()")
    if not isinstance(step.losses, Mapping) or not step.losses:
        what = "no terms" if isinstance(step.losses, Mapping) else kind_of(step.losses)
        _refuse(model, f"gives {what} for losses", "a dict: name -> scalar tensor", "Name each term")
    for name, term in step.losses.items():
        if not isinstance(term, Tensor) or term.ndim:
            what = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else kind_of(term)
            fix = "Take its mean or sum" if isinstance(term, Tensor) else "Do not turn it into a number"
            _refuse(model, f"gives the loss term '{name}' as {what}", "a tensor without axes", fix)
    total = torch.stack(list(step.losses.values())).sum()
    if not total.requires_grad:
        names = ", ".join(step.losses)
        fix = "Compute them without detach() and no_grad()"
        _refuse(model, f"gives losses that no parameter moves: {names}", "terms with a gradient", fix)
    return total


def check_scorer(model: Recommender, scorer: Scorer) -> Scorer:
    """Refuse what scores other users or items than there are.

    Raises:
        ModelError: it does.
    """
    found, wanted = (scorer.n_users, scorer.n_items), (model.n_users, model.n_items)
    if found != wanted:
        _refuse(
            model,
            f"embeds {found[0]:,} users and {found[1]:,} items",
            f"{wanted[0]:,} users and {wanted[1]:,} items",
            "Mend embeddings()",
        )
    return scorer


def _refuse(model: nn.Module | type[Any], found: str, wanted: str, fix: str) -> NoReturn:
    kind = model if isinstance(model, type) else type(model)
    raise ModelError(f"{kind.__module__}.{kind.__qualname__} {found}", wanted=wanted, fix=fix)
