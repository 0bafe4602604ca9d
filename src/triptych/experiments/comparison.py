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
from pydantic import BaseModel, ConfigDict

from triptych.data.split import Split
from triptych.errors import ConfigError, DataError, TrainingError, nearest
from triptych.evaluation.metrics import PerUser
from triptych.evaluation.ranking import Masked, Ranking, check_lengths, check_metric, evaluate_ranking
from triptych.evaluation.significance import Comparison as Difference
from triptych.evaluation.significance import compare_systems, correct_family
from triptych.experiments.content import Change
from triptych.experiments.jobs import Job, Outcome, Workshop, run_jobs
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


class Spread(BaseModel):
    """A figure over seeds."""

    model_config = ConfigDict(frozen=True)

    mean: float
    sd: float | None
    """Sample standard deviation; none of a single seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise the values of several seeds."""
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(mean=float(np.mean(values)), sd=sd)


class SystemFigures(BaseModel):
    """What is known of one system once all its seeds are trained."""

    model_config = ConfigDict(frozen=True)

    name: str
    settings: dict[str, Any]
    """What its recipe sets beyond the defaults; the folders of saved runs."""
    seeds: list[int]
    runs: list[str]
    """Folders, in the order of the seeds."""
    valid: dict[str, Spread]
    test: dict[str, Spread]
    legacy: dict[str, float] | None
    """Test figures as MMRec would print them, see `as_legacy`: of the seed that is best on test. None unless
    asked for, or where no such training ended."""
    legacy_run: str | None = None
    """Folder of that seed's run."""
    epochs: list[int]
    """Trained by each seed; the best one is some patience earlier."""
    seconds_per_epoch: float
    """Median over seeds."""
    peak_memory_bytes: int
    """The largest of the seeds'."""
    n_parameters: int | None = None
    """Learned by gradient, 0 of what is solved; None where the runs do not say."""
    saved: bool = False
    """Whether it was not trained but measured as it was."""
    base: str | None = None
    """The intact system, of one that was trained on changed content."""
    change: Change | None = None
    """What was done to the content."""
    beyond: dict[str, Spread] | None = None
    """What lists are like beside accuracy, and recall by groups of users and items; None unless asked for."""


class Failure(BaseModel):
    """A training that did not end."""

    model_config = ConfigDict(frozen=True)

    name: str
    seed: int
    error: str


class LeftOut(BaseModel):
    """What might have been compared and was not."""

    model_config = ConfigDict(frozen=True)

    name: str
    reason: str


class ComparisonResult(BaseModel):
    """All that a comparison found, in JSON values."""

    model_config = ConfigDict(frozen=True)

    data: str
    data_hash: str
    split_hash: str
    split: dict[str, Any]
    protocol: dict[str, Any]
    metric: str
    """By which systems are chosen, on validation, and tested, on test."""
    systems: list[SystemFigures]
    """In the order asked for."""
    reference: str | None
    """The system that the others are tested against; None where each is against its own intact system."""
    reference_chosen: bool
    """Whether it is the best on validation, and not one that was asked for."""
    legacy_choice: str | None
    """The system whose legacy figure is best, which is what choosing by the test part would take; None unless
    asked for."""
    differences: list[Difference]
    """Of the reference, or the intact system, to each other one, on test, paired by user, means over seeds;
    all of them are one family for Holm's correction."""
    failures: list[Failure]
    left_out: list[LeftOut] = []
    lengths: list[int] = []
    """Of the lists that were asked for; the metric's own may be measured beside them."""
    unread: dict[str, list[str]] = {}
    """System -> settings of the loop that it does not read, as it is solved."""

    def takes_place_of(self, earlier: ComparisonResult) -> bool:
        """Say whether this answers what an earlier result answers, and perhaps more.

        More seeds and systems widen a question, and other list lengths change what is shown of it; another
        split, mask or protocol, other settings or systems ask something else.
        """
        mine, theirs = ({of.name: of.settings for of in one.systems} for one in (self, earlier))
        failed = {failure.name for failure in self.failures}
        return self._measured() == earlier._measured() and all(
            mine.get(name, settings if name in failed else None) == settings
            for name, settings in theirs.items()
        )

    def _measured(self) -> tuple[object, ...]:
        return self.split_hash, self.protocol["masked"], self.legacy_choice is None


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
        legacy: beside the clean figures give those that MMRec would print: of trainings of their own, see
            `as_legacy`, the seed that is best on test.
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
    jobs = list_jobs(systems, seeds, legacy=legacy)
    outcomes: dict[str, Outcome] = {}
    for outcome in run_jobs([job for of in jobs.values() for job in of], split, workshop, observe=observe):
        outcomes[outcome.job.name(sealed)] = outcome
        if on_outcome is not None:
            on_outcome(outcome)
    every = {name: [outcomes[job.name(sealed)] for job in of] for name, of in jobs.items()}
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
            rounded = [
                _open(job, folder, split, lengths, masked, beyond=False)
                for folder, job in _runs(every.get(_legacy_name(name), every.get(name, [])) if legacy else [])
            ]
            by_test = max(rounded, key=lambda one: one.ranking.mean()[metric], default=None)
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


def list_jobs(
    systems: Mapping[str, System], seeds: Sequence[int], *, legacy: bool = False
) -> dict[str, list[Job]]:
    """List the trainings of a comparison by system; for the legacy protocol also "SYSTEM, legacy".

    A model of one epoch has nothing to round, and no such entry.
    """
    jobs: dict[str, list[Job]] = {}
    for name, system in systems.items():
        if isinstance(system, SavedRuns):
            continue
        recipe, change = (
            (system.recipe, _of_features(system)) if isinstance(system, Variant) else (system, None)
        )
        recipes = {name: recipe}
        if legacy and as_legacy(recipe) != recipe:
            recipes[_legacy_name(name)] = as_legacy(recipe)
        for called, trained in recipes.items():
            jobs[called] = [Job(trained, seed, change, called) for seed in dict.fromkeys(seeds)]
    return jobs


def n_trainings(systems: Mapping[str, System], seeds: Sequence[int], *, legacy: bool = False) -> int:
    """Count the trainings of a comparison, equal ones once."""
    jobs = [job for of in list_jobs(systems, seeds, legacy=legacy).values() for job in of]
    return len({json.dumps(job.settings(), sort_keys=True) for job in jobs})


def as_legacy(recipe: Recipe) -> Recipe:
    """Train as MMRec does: round the watched figure to 4 places before epochs are compared."""
    rounded = recipe.with_settings({"metric_decimals": 4})
    return recipe if "metric_decimals" in rounded.unread() else rounded


def _legacy_name(name: str) -> str:
    return f"{name}, legacy"


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
