"""What a comparison is of, and the trainings it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triptych.experiments.content import Change
from triptych.experiments.jobs import Job
from triptych.experiments.legacy import legacy_job
from triptych.experiments.saved import SavedRuns
from triptych.training.recipe import Recipe


@dataclass(frozen=True)
class Variant:
    """A system that is tested against another one of the comparison: what is left of it on changed content.

    Args:
        base: the name of the intact system.
        recipe: what to train.
        change: what is done to the content.
    """

    base: str
    recipe: Recipe
    change: Change


System = Recipe | Variant | SavedRuns
"""What is trained, and how, or what was."""


def recipe_of(system: System) -> Recipe | None:
    """Say how a system is trained; None if it was trained elsewhere."""
    if isinstance(system, SavedRuns):
        return None
    return system.recipe if isinstance(system, Variant) else system


def list_jobs(systems: Mapping[str, System], seeds: Sequence[int]) -> dict[str, list[Job]]:
    """List the trainings of a comparison by system."""
    jobs: dict[str, list[Job]] = {}
    for name, system in systems.items():
        if (recipe := recipe_of(system)) is not None:
            change = _of_features(system) if isinstance(system, Variant) else None
            jobs[name] = [Job(recipe, seed, change, name) for seed in dict.fromkeys(seeds)]
    return jobs


def n_trainings(systems: Mapping[str, System], seeds: Sequence[int], *, legacy: bool = False) -> int:
    """Count the trainings of a comparison, equal ones once; legacy ones may be spared yet."""
    jobs = [job for of in list_jobs(systems, seeds).values() for job in of]
    if legacy:
        jobs += [legacy_job(job) for job in jobs]
    return len({json.dumps(job.settings(), sort_keys=True) for job in jobs})


def _of_features(variant: Variant) -> Change | None:
    """Give the change of features; to be without a modality is a setting."""
    return None if variant.change.kind == "absent" else variant.change
