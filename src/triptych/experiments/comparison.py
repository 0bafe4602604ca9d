"""Several systems on one split, several seeds each: figures, their spread, and which differences hold.

The order of things is the point: all trainings end before the test part of any is opened, and the system
that the others are tested against is chosen on validation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych.data.split import Split
from triptych.errors import ConfigError, DataError, TrainingError, nearest
from triptych.evaluation.metrics import PerUser
from triptych.evaluation.ranking import Masked, Ranking, check_lengths, check_metric, evaluate_ranking
from triptych.evaluation.significance import Comparison as Difference
from triptych.evaluation.significance import compare_systems, correct_family
from triptych.experiments.content import Change
from triptych.experiments.jobs import Job, Outcome, Workshop, run_jobs
from triptych.experiments.legacy import legacy_job, spare_training
from triptych.experiments.result import ComparisonResult, Failure, LeftOut, Spread, SystemFigures
from triptych.experiments.saved import SavedRuns
from triptych.files import only_process
from triptych.runs import Run, RunRecord, load, open_test
from triptych.runs.beyond import measure_beyond
from triptych.training.observer import Observer
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
    recipes = {
        name: of.recipe if isinstance(of, Variant) else of
        for name, of in systems.items()
        if not isinstance(of, SavedRuns)
    }
    saved = {name: of for name, of in systems.items() if isinstance(of, SavedRuns)}
    variants = {name: of for name, of in systems.items() if isinstance(of, Variant)}
    if legacy and masked != "train":
        raise ConfigError(
            f"the legacy protocol with {masked} items masked",
            wanted="'train', which is the mask that MMRec has",
            fix="Leave out one of --protocol and --masked",
        )
    _check_asked(systems, seeds, reference)
    metric = _watched_metric(
        {name: recipe.configs().training.metric for name, recipe in recipes.items()}
        | {name: of.watched_metric(name, split) for name, of in saved.items()}
    )
    lengths = check_lengths([*k, check_metric(metric, split.n_items)], split.n_items)
    split.require("valid", "test")
    if len(systems) > 1 and len(np.unique(split.test.user)) < 2:
        raise DataError(
            f"one user of '{split.data.name}' has test items",
            wanted="two at least, as systems are compared user by user",
            fix="Split the data another way",
        )
    sealed = split.without_test()
    jobs, outcomes = list_jobs(systems, seeds), dict[str, Outcome]()

    def note(outcome: Outcome) -> None:
        outcomes[outcome.job.name(sealed)] = outcome
        if on_outcome is not None:
            on_outcome(outcome)

    def train_all(wanted: Mapping[str, Sequence[Job]]) -> dict[str, list[Outcome]]:
        missing = [job for of in wanted.values() for job in of if job.name(sealed) not in outcomes]
        for outcome in run_jobs(missing, split, workshop, observe=observe):
            note(outcome)
        return {name: [outcomes[job.name(sealed)] for job in of] for name, of in wanted.items()}

    every = train_all(jobs)
    rounded = {name: [legacy_job(job) for job in of] for name, of in jobs.items()} if legacy else {}
    for name, of in rounded.items():
        for job, outcome in zip(of, every[name], strict=True):
            if job != outcome.job and (same := spare_training(job, outcome)) is not None:
                note(same)
    every_rounded = train_all(rounded)
    figures: list[SystemFigures] = []
    per_user: dict[str, PerUser] = {}
    protocol: dict[str, Any] = {}
    needed = [reference] if reference is not None else list(systems)
    if not any(name in saved or any(outcome.folder for outcome in every[name]) for name in needed):
        raise TrainingError(
            f"no training of {needed[0]} ended: {every[needed[0]][0].error}",
            wanted="at least one training that ends, and one of the reference",
            fix="Mend what failed, and call again: what is done is kept",
        )
    with only_process(workshop.folder, "working"):
        for name, system in systems.items():
            runs = (
                _runs(every[name]) if name in recipes else [(folder, None) for folder in saved[name].folders]
            )
            opened = [_open(job, folder, split, lengths, masked, beyond) for folder, job in runs]
            if not opened:
                continue  # told of by its failures
            known = {one.folder: one for one in opened}
            opened_rounded = [
                known.get(folder) or _open(job, folder, split, lengths, masked, beyond=False)
                for folder, job in _runs(every_rounded.get(name, []))
            ]
            by_test = max(opened_rounded, key=lambda one: one.ranking.mean()[metric], default=None)
            figures.append(_figures(name, system, opened, by_test))
            per_user[name] = np.stack([one.ranking.values[metric] for one in opened])  # (seeds, n)
            protocol = dict(opened[0].ranking.protocol)
    best = max(figures, key=lambda system: system.valid[metric].mean).name
    by_legacy = {system.name: system.legacy[metric] for system in figures if system.legacy}
    baseline = None if variants else reference or best
    beside = {name: variants[name].base if name in variants else baseline for name in per_user}
    return ComparisonResult(
        data=split.data.name,
        data_hash=split.data.content_hash,
        split_hash=split.content_hash,
        split=dict(split.protocol),
        protocol=protocol,
        metric=metric,
        systems=figures,
        reference=baseline,
        reference_chosen=reference is None and not variants,
        legacy_choice=max(by_legacy, key=by_legacy.__getitem__, default=None),
        differences=_differences(per_user, beside, metric),
        failures=[
            Failure(name=name, seed=outcome.job.seed, error=outcome.error)
            for name, of in every.items()
            for outcome in of
            if outcome.error is not None
        ],
        left_out=list(left_out),
        lengths=sorted(set(k)),
        unread={name: unread for name, recipe in recipes.items() if (unread := recipe.unread())},
    )


def list_jobs(systems: Mapping[str, System], seeds: Sequence[int]) -> dict[str, list[Job]]:
    """List the trainings of a comparison by system."""
    jobs: dict[str, list[Job]] = {}
    for name, system in systems.items():
        if isinstance(system, SavedRuns):
            continue
        recipe, change = (
            (system.recipe, _of_features(system)) if isinstance(system, Variant) else (system, None)
        )
        jobs[name] = [Job(recipe, seed, change, name) for seed in dict.fromkeys(seeds)]
    return jobs


def n_trainings(systems: Mapping[str, System], seeds: Sequence[int], *, legacy: bool = False) -> int:
    """Count the trainings of a comparison, equal ones once; legacy ones may be spared yet."""
    jobs = [job for of in list_jobs(systems, seeds).values() for job in of]
    if legacy:
        jobs += [legacy_job(job) for job in jobs]
    return len({json.dumps(job.settings(), sort_keys=True) for job in jobs})


def _check_asked(systems: Mapping[str, System], seeds: Sequence[int], reference: str | None) -> None:
    """Refuse a comparison of nothing, or with something that is not compared."""
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


def _watched_metric(watched: Mapping[str, str]) -> str:
    """Name the metric that all systems watch, or say which watches what."""
    if len(set(watched.values())) > 1:
        raise ConfigError(
            "the systems watch different metrics: "
            + ", ".join(f"{name} {metric}" for name, metric in watched.items()),
            wanted="one metric by which all choose their epoch",
            fix="Set the same 'metric' for all, for example with --set metric=recall@20",
        )
    return next(iter(watched.values()))


def _of_features(variant: Variant) -> Change | None:
    """Give the change of features; to be without a modality is a setting."""
    return None if variant.change.kind == "absent" else variant.change


@dataclass(frozen=True)
class _Opened:
    """A run whose test part is open, and what each user got of it."""

    folder: Path
    record: RunRecord
    ranking: Ranking
    beyond: Mapping[str, float] | None


def _runs(outcomes: Sequence[Outcome]) -> list[tuple[Path, Job | None]]:
    return [(outcome.folder, outcome.job) for outcome in outcomes if outcome.folder is not None]


def _open(
    job: Job | None, folder: Path, split: Split, lengths: Sequence[int], masked: Masked, beyond: bool
) -> _Opened:
    """Open the test part for a run, if that was not done, and measure each user; a saved one has no job."""
    run = load(folder)
    if run.record.test_opened is None:
        run = open_test(run, split if job is None else job.split(split), lengths, masked=masked)
        run.save(folder, overwrite=True)
    ranking = evaluate_ranking(run.scorer, split, "test", lengths, masked=masked)
    return _Opened(folder, run.record, ranking, _beyond(run, split, lengths[-1], masked) if beyond else None)


def _beyond(run: Run, split: Split, length: int, masked: Masked) -> dict[str, float]:
    """Say what lists are like, and whom and what they serve, by one name for each figure."""
    found, recall = measure_beyond(run, split.data, [length], masked=masked), f"recall@{length}"
    items = {f"{recall}, {of.name} items": of.mean[recall] for of in found.by_popularity}
    users = {f"{recall}, users of {of.name} items": of.mean[recall] for of in found.by_degree}
    return {**found.figures, **items, **users}


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


def _figures(name: str, system: System, opened: Sequence[_Opened], by_test: _Opened | None) -> SystemFigures:
    records, means = [one.record for one in opened], [one.ranking.mean() for one in opened]
    beyond = [one.beyond for one in opened if one.beyond is not None]
    runs = [str(one.folder) for one in opened]
    variant = system if isinstance(system, Variant) else None
    recipe = system.recipe if isinstance(system, Variant) else system
    return SystemFigures(
        name=name,
        settings=dict(recipe.settings) if isinstance(recipe, Recipe) else {"runs": runs},
        seeds=[record.seed for record in records],
        runs=runs,
        saved=isinstance(system, SavedRuns),
        valid=_spreads([record.valid for record in records]),
        test=_spreads(means),
        legacy=None if by_test is None else by_test.ranking.mean(),
        legacy_run=None if by_test is None else str(by_test.folder),
        epochs=[len(record.history) for record in records],
        seconds_per_epoch=float(np.median([record.seconds_per_epoch for record in records])),
        peak_memory_bytes=max(record.peak_memory_bytes for record in records),
        n_parameters=records[0].n_parameters,  # all seeds have the same shapes
        base=None if variant is None else variant.base,
        change=None if variant is None else variant.change,
        beyond=_spreads(beyond) if beyond else None,
    )


def _spreads(figures: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Summarise what all seeds have a figure of; a run may be another experiment's, of other list lengths."""
    return {
        key: Spread.of([of[key] for of in figures]) for key in figures[0] if all(key in of for of in figures)
    }
