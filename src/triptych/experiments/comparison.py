"""Several systems on one split, several seeds each: figures, their spread, and which differences hold.

The order of things is the point: all trainings end before the test part of any is opened, and the system
that the others are tested against is chosen on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from triptych.data.split import Split
from triptych.errors import ConfigError, TrainingError, nearest
from triptych.evaluation.metrics import PerUser, parse_metric
from triptych.evaluation.ranking import Masked, Ranking, check_lengths, evaluate_ranking
from triptych.evaluation.significance import Comparison as Difference
from triptych.evaluation.significance import compare_systems
from triptych.experiments.jobs import Job, Outcome, Workshop, only_worker, run_jobs
from triptych.runs import RunRecord, load, open_test
from triptych.training.recipe import Recipe
from triptych.training.trainer import Observer


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
    """What its recipe sets beyond the defaults."""
    seeds: list[int]
    runs: list[str]
    """Folders, in the order of the seeds."""
    valid: dict[str, Spread]
    test: dict[str, Spread]
    legacy: dict[str, float] | None
    """Test figures of the seed that is best on test, as a toolbox would print that chooses by it; None unless
    asked for."""
    epochs: list[int]
    """Trained by each seed; the best one is some patience earlier."""
    seconds_per_epoch: float
    """Median over seeds."""
    peak_memory_bytes: int
    """The largest of the seeds'."""


class Failure(BaseModel):
    """A training that did not end."""

    model_config = ConfigDict(frozen=True)

    name: str
    seed: int
    error: str


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
    reference: str
    """The system that the others are tested against."""
    reference_chosen: bool
    """Whether it is the best on validation, and not one that was asked for."""
    legacy_choice: str | None
    """The system whose best seed is best on test, which is what choosing by it would take; None unless asked
    for."""
    differences: list[Difference]
    """Of the reference to each other system, on test, paired by user, means over seeds."""
    failures: list[Failure]


def compare(
    systems: Mapping[str, Recipe],
    split: Split,
    seeds: Sequence[int],
    workshop: Workshop,
    *,
    k: Sequence[int] = (10, 20),
    masked: Masked = "train",
    reference: str | None = None,
    legacy: bool = False,
    observe: Callable[[Job], Observer] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> ComparisonResult:
    """Train each system with each seed, where that is still to be done, then open the test part for all.

    Args:
        systems: name -> what to train.
        split: with its test part, which no training sees.
        seeds: of each system.
        workshop: where and how; a second call with the same folder trains only what is missing.
        k: list lengths of the figures.
        masked: whose items are no candidates at test time.
        reference: the system that the others are tested against; by default the best on validation.
        legacy: do as MMRec does, to see what it makes of figures: round the watched metric to 4 places before
            epochs are compared, and give beside the means the figures of the seed that is best on test.
        observe: makes an observer for a training in this process.
        on_outcome: is told of each training that is found, done or failed.

    Raises:
        ConfigError: nothing to compare, a name or setting that cannot work, or systems that watch different
            metrics; found before anything is trained.
        StorageError: another process works in the folder.
        TrainingError: no training ended, or none of the reference that was asked for. A system of which
            none ended is left out otherwise, and stands among the failures.
    """
    if legacy:
        systems = {name: recipe.with_settings({"metric_decimals": 4}) for name, recipe in systems.items()}
    metric = _watched_metric(systems, seeds, reference)
    lengths = check_lengths([*k, parse_metric(metric)[1]], split.n_items)
    sealed = split.without_test()
    jobs = {name: [Job(recipe, seed) for seed in dict.fromkeys(seeds)] for name, recipe in systems.items()}
    outcomes: dict[str, Outcome] = {}
    for outcome in run_jobs([job for of in jobs.values() for job in of], split, workshop, observe=observe):
        outcomes[outcome.job.name(sealed)] = outcome
        if on_outcome is not None:
            on_outcome(outcome)
    ended = {name: [outcomes[job.name(sealed)] for job in of] for name, of in jobs.items()}
    figures: list[SystemFigures] = []
    per_user: dict[str, PerUser] = {}
    protocol: dict[str, Any] = {}
    needed = [reference] if reference is not None else list(ended)
    if all(outcome.folder is None for name in needed for outcome in ended[name]):
        raise TrainingError(
            f"no training of {needed[0]} ended: {ended[needed[0]][0].error}",
            wanted="at least one training that ends, and one of the reference",
            fix="Mend what failed, and call again: what is done is kept",
        )
    with only_worker(workshop.folder):
        for name, of in ended.items():
            folders = [outcome.folder for outcome in of if outcome.folder is not None]
            if not folders:
                continue  # told of by its failures
            records, rankings = zip(
                *(_open(folder, split, lengths, masked) for folder in folders), strict=True
            )
            by_test = metric if legacy else None
            figures.append(_figures(name, systems[name], folders, records, rankings, by_test))
            per_user[name] = np.stack([ranking.values[metric] for ranking in rankings])  # (seeds, n)
            protocol = dict(rankings[0].protocol)
    best = max(figures, key=lambda system: system.valid[metric].mean).name
    baseline = reference or best
    return ComparisonResult(
        data=split.data.name,
        data_hash=split.data.content_hash,
        split_hash=split.content_hash,
        split=dict(split.protocol),
        protocol=protocol,
        metric=metric,
        systems=figures,
        reference=baseline,
        reference_chosen=reference is None,
        legacy_choice=max(figures, key=lambda system: (system.legacy or {})[metric]).name if legacy else None,
        differences=compare_systems(per_user, metric=metric, baseline=baseline) if len(per_user) > 1 else [],
        failures=[
            Failure(name=name, seed=outcome.job.seed, error=outcome.error)
            for name, of in ended.items()
            for outcome in of
            if outcome.error is not None
        ],
    )


def _watched_metric(systems: Mapping[str, Recipe], seeds: Sequence[int], reference: str | None) -> str:
    """Check what can be checked before anything is trained, and name the metric that all systems watch."""
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
    watched = {name: recipe.configs().training.metric for name, recipe in systems.items()}
    if len(set(watched.values())) > 1:
        raise ConfigError(
            "the systems watch different metrics: "
            + ", ".join(f"{name} {metric}" for name, metric in watched.items()),
            wanted="one metric by which all choose their epoch",
            fix="Set the same 'metric' for all, for example with --set metric=recall@20",
        )
    return next(iter(watched.values()))


def _open(folder: Path, split: Split, lengths: Sequence[int], masked: Masked) -> tuple[RunRecord, Ranking]:
    """Open the test part for a run, if this has not been done, and measure each user."""
    run = load(folder)
    if run.record.test_opened is None:
        run = open_test(run, split, lengths, masked=masked)
        run.save(folder, overwrite=True)
    return run.record, evaluate_ranking(run.scorer, split, "test", lengths, masked=masked)


def _figures(
    name: str,
    recipe: Recipe,
    folders: Sequence[Path],
    records: Sequence[RunRecord],
    rankings: Sequence[Ranking],
    by_test: str | None,
) -> SystemFigures:
    means = [ranking.mean() for ranking in rankings]
    return SystemFigures(
        name=name,
        settings=dict(recipe.settings),
        seeds=[record.seed for record in records],
        runs=[str(folder) for folder in folders],
        valid={
            key: Spread.of([record.valid[key] for record in records])
            for key in records[0].valid
            if all(key in record.valid for record in records)  # a run may be another experiment's, of other k
        },
        test={key: Spread.of([mean[key] for mean in means]) for key in means[0]},
        legacy=None if by_test is None else max(means, key=lambda mean: mean[by_test]),
        epochs=[len(record.history) for record in records],
        seconds_per_epoch=float(np.median([record.seconds_per_epoch for record in records])),
        peak_memory_bytes=max(record.peak_memory_bytes for record in records),
    )
