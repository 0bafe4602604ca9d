"""Several systems on one split, several seeds each: figures, their spread, and which differences hold.

The order of things is the point: all trainings end before the test part of any is opened, and the system
that the others are tested against is chosen on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from triptych.data.split import Split
from triptych.device import limited_threads
from triptych.errors import ConfigError, DataError, TrainingError, nearest
from triptych.evaluation.metrics import PerUser
from triptych.evaluation.ranking import Masked, check_lengths, check_metric
from triptych.evaluation.significance import Comparison as Difference
from triptych.evaluation.significance import compare_systems, correct_family
from triptych.experiments.jobs import Job, Outcome, Workshop, run_jobs
from triptych.experiments.legacy import legacy_job, spare_training
from triptych.experiments.measuring import Measured, Opening, system_figures
from triptych.experiments.result import ComparisonResult, Failure, LeftOut
from triptych.experiments.saved import SavedRuns
from triptych.experiments.systems import System, Variant, list_jobs, recipe_of
from triptych.files import only_process
from triptych.training.observer import Observer


def compare(
    systems: Mapping[str, System],
    split: Split,
    seeds: Sequence[int],
    workshop: Workshop,
    *,
    k: Sequence[int] = (10, 20),
    masked: Masked = "train",
    reference: str | None = None,
    legacy: bool = False,
    beyond: bool = False,
    left_out: Sequence[LeftOut] = (),
    observe: Callable[[Job], Observer] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> ComparisonResult:
    """Train each system with each seed, where that is still to be done, then open the test part for all.

    Args:
        systems: name -> what to train, or runs that were made elsewhere on the same split. Where there is a
            variant among them, variants are tested against their intact systems, and these are not tested
            against each other.
        split: with its test part, which no training sees.
        seeds: of each system.
        workshop: where and how; a second call with the same folder trains only what is missing.
        k: list lengths of the figures.
        masked: whose items are no candidates at test time.
        reference: the system that the others are tested against; by default the best on validation.
        legacy: beside the clean figures give those that MMRec would print, see `triptych.experiments.legacy`:
            of trainings that round, the seed that is best on test.
        beyond: also say what lists are like beside accuracy; see `triptych.runs.beyond`.
        left_out: what is not compared, to be told with the result.
        observe: makes an observer for a training in this process.
        on_outcome: is told of each training that is found, done or failed.

    Raises:
        ConfigError: nothing to compare, a name or setting that cannot work, systems that watch different
            metrics, or runs of another split; found before anything is trained.
        DataError: the split has no validation part, or no two users with test items; found before that, too.
        StorageError: another process works in the folder.
        TrainingError: a process that trained died, no training ended, or none of the reference that was asked
            for. A system of which none ended is left out otherwise, and stands among the failures.
    """
    metric = _check(systems, seeds, split, masked, reference, legacy)
    check_lengths(k, split.n_items)
    lengths = check_lengths([*k, check_metric(metric, split.n_items)], split.n_items)
    trained = _train(systems, seeds, split, workshop, legacy, observe, on_outcome)
    _check_trained(systems, trained.clean, reference)
    opening = Opening(split, lengths, masked)
    with only_process(workshop.folder, "working"), limited_threads(workshop.threads):
        every = {name: _measure(opening, name, system, trained, beyond) for name, system in systems.items()}
    measured = {name: runs for name, runs in every.items() if runs.clean}  # failures tell of the others
    figures = []
    for name, runs in measured.items():
        by_test = max(runs.rounded, key=lambda run: run.ranking.mean()[metric], default=None)
        figures.append(system_figures(name, systems[name], runs.clean, by_test))
    per_user = {
        name: np.stack([run.ranking.values[metric] for run in runs.clean])  # (seeds, n)
        for name, runs in measured.items()
    }
    variants = {name: of for name, of in systems.items() if isinstance(of, Variant)}
    best = max(figures, key=lambda system: system.valid[metric].mean).name
    baseline = None if variants else reference or best
    beside = {name: variants[name].base if name in variants else baseline for name in per_user}
    by_legacy = {system.name: system.legacy[metric] for system in figures if system.legacy}
    recipes = {name: recipe_of(system) for name, system in systems.items()}
    return ComparisonResult(
        data=split.data.name,
        data_hash=split.data.content_hash,
        split_hash=split.content_hash,
        split=dict(split.protocol),
        protocol=dict(next(iter(measured.values())).clean[0].ranking.protocol),
        metric=metric,
        systems=figures,
        reference=baseline,
        reference_chosen=reference is None and not variants,
        legacy_choice=max(by_legacy, key=by_legacy.__getitem__, default=None),
        differences=_differences(per_user, beside, metric),
        failures=_failures(trained),
        left_out=list(left_out),
        lengths=sorted(set(k)),
        unread={name: unread for name, recipe in recipes.items() if recipe and (unread := recipe.unread())},
    )


def _check(
    systems: Mapping[str, System],
    seeds: Sequence[int],
    split: Split,
    masked: Masked,
    reference: str | None,
    legacy: bool,
) -> str:
    """Refuse what cannot be compared, or not so, and name the metric that all systems watch."""
    if legacy and masked != "train":
        raise ConfigError(
            f"the legacy protocol with {masked} items masked",
            wanted="'train', which is the mask that MMRec has",
            fix="Leave out one of --protocol and --masked",
        )
    if not systems or not seeds:
        raise ConfigError(
            f"{len(systems)} systems with {len(seeds)} seeds",
            wanted="at least one of each",
            fix="Name models or recipes, and seeds",
        )
    if reference is not None and reference not in systems:
        raise ConfigError(
            f"the reference '{reference}' is not compared",
            wanted="one of: " + ", ".join(systems),
            fix=nearest(reference, systems),
        )
    metric = _watched_metric(systems, split)
    split.require("valid", "test")
    if len(systems) > 1 and len(np.unique(split.test.user)) < 2:
        raise DataError(
            f"one user of '{split.data.name}' has test items",
            wanted="two at least, as systems are compared user by user",
            fix="Split the data another way",
        )
    return metric


def _watched_metric(systems: Mapping[str, System], split: Split) -> str:
    """Name the metric that all systems watch, or say which watches what."""
    watched = {
        name: of.watched_metric(name, split)
        if isinstance(of, SavedRuns)
        else (of.recipe if isinstance(of, Variant) else of).configs().training.metric
        for name, of in systems.items()
    }
    if len(set(watched.values())) > 1:
        raise ConfigError(
            "the systems watch different metrics: "
            + ", ".join(f"{name} {metric}" for name, metric in watched.items()),
            wanted="one metric by which all choose their epoch",
            fix="Set the same 'metric' for all, for example with --set metric=recall@20",
        )
    return next(iter(watched.values()))


class _Trained(NamedTuple):
    """What became of the trainings of each system; nothing of those that were made elsewhere."""

    clean: dict[str, list[Outcome]]
    rounded: dict[str, list[Outcome]]  # with the same seeds, under the legacy protocol


def _train(
    systems: Mapping[str, System],
    seeds: Sequence[int],
    split: Split,
    workshop: Workshop,
    legacy: bool,
    observe: Callable[[Job], Observer] | None,
    on_outcome: Callable[[Outcome], None] | None,
) -> _Trained:
    """Do all trainings, equal ones once; a legacy one is spared where a clean one keeps the same epoch."""
    sealed = split.without_test()
    jobs, known = list_jobs(systems, seeds), dict[str, Outcome]()

    def note(outcome: Outcome) -> None:
        known[outcome.job.name(sealed)] = outcome
        if on_outcome is not None:
            on_outcome(outcome)

    def train_all(wanted: Mapping[str, Sequence[Job]]) -> dict[str, list[Outcome]]:
        missing = [job for of in wanted.values() for job in of if job.name(sealed) not in known]
        for outcome in run_jobs(missing, split, workshop, observe=observe):
            note(outcome)
        return {name: [known[job.name(sealed)] for job in of] for name, of in wanted.items()}

    clean = train_all(jobs)
    rounded = {name: [legacy_job(job) for job in of] for name, of in jobs.items()} if legacy else {}
    for name, of in rounded.items():
        for job, outcome in zip(of, clean[name], strict=True):
            if job != outcome.job and (same := spare_training(job, outcome)) is not None:
                note(same)
    return _Trained(clean, train_all(rounded))


def _check_trained(
    systems: Mapping[str, System], clean: Mapping[str, Sequence[Outcome]], reference: str | None
) -> None:
    """Refuse to go on with nothing, or without the reference that was asked for."""
    needed = [reference] if reference is not None else list(systems)
    if not any(name not in clean or any(outcome.folder for outcome in clean[name]) for name in needed):
        raise TrainingError(
            f"no training of {needed[0]} ended: {clean[needed[0]][0].error}",
            wanted="at least one training that ends, and one of the reference",
            fix="Mend what failed, and call again: what is done is kept",
        )


def _failures(trained: _Trained) -> list[Failure]:
    """List what failed; a legacy training that is the clean one itself is told of once."""
    clean = [(name, outcome) for name, outcomes in trained.clean.items() for outcome in outcomes]
    known = [outcome for _, outcome in clean]
    rounded = [
        (f"{name}, legacy", outcome)
        for name, outcomes in trained.rounded.items()
        for outcome in outcomes
        if outcome not in known
    ]
    return [
        Failure(name=name, seed=outcome.job.seed, error=outcome.error)
        for name, outcome in clean + rounded
        if outcome.error is not None
    ]


class _Runs(NamedTuple):
    """The runs of a system."""

    clean: list[Measured]
    rounded: list[Measured]


def _measure(opening: Opening, name: str, system: System, trained: _Trained, beyond: bool) -> _Runs:
    """Measure the runs of a system; lists beside accuracy are looked at of clean ones alone."""
    if isinstance(system, SavedRuns):
        return _Runs([opening.measure(folder, None, beyond=beyond) for folder in system.folders], [])
    clean, rounded = (
        [(outcome.folder, outcome.job) for outcome in of.get(name, []) if outcome.folder is not None]
        for of in trained
    )
    measured = {folder: opening.measure(folder, job, beyond=beyond) for folder, job in clean}
    return _Runs(
        list(measured.values()),
        [measured.get(folder) or opening.measure(folder, job, beyond=False) for folder, job in rounded],
    )


def _differences(
    per_user: Mapping[str, PerUser], beside: Mapping[str, str | None], metric: str
) -> list[Difference]:
    """Test each system against the one it is to be tested against; all tests are one family."""
    found: list[Difference] = []
    for base in dict.fromkeys(beside.values()):
        if base in per_user:
            family = {name: per_user[name] for name in per_user if name == base or beside[name] == base}
            if len(family) > 1:
                found += compare_systems(family, metric=metric, baseline=base)
    return correct_family(found) if found else []
