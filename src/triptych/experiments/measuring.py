"""What systems get on the test part, once all trainings have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triptych.data.split import Split
from triptych.evaluation.ranking import Masked, Ranking, evaluate_ranking
from triptych.experiments.jobs import Job
from triptych.experiments.result import Spread, SystemFigures
from triptych.experiments.saved import SavedRuns
from triptych.experiments.systems import System, Variant
from triptych.runs import Run, RunRecord, load, open_test
from triptych.runs.beyond import measure_beyond
from triptych.training.recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """A run whose test part is open, and what each user got of it.

    Args:
        folder: of the run.
        record: what is written down of it.
        ranking: its figures, user by user.
        beyond: what its lists are like beside accuracy, and whom and what they serve, where that was asked.
    """

    folder: Path
    record: RunRecord
    ranking: Ranking
    beyond: Mapping[str, float] | None


@dataclass(frozen=True)
class Opening:
    """How the test part is opened, and measured.

    Args:
        split: with its test part.
        lengths: of lists, the last one the longest.
        masked: whose items are no candidates.
    """

    split: Split
    lengths: Sequence[int]
    masked: Masked

    def measure(self, folder: Path, job: Job | None, *, beyond: bool) -> Measured:
        """Open the test part for a run, if that was not done, and measure each user.

        Args:
            folder: of the run.
            job: its training, which says what content it had; None of a run that was made elsewhere.
            beyond: whether to look at lists beside accuracy.
        """
        run = load(folder)
        if run.record.test_opened is None:
            split = self.split if job is None else job.split(self.split)
            run = open_test(run, split, self.lengths, masked=self.masked)
            run.save(folder, overwrite=True)
        ranking = evaluate_ranking(run.scorer, self.split, "test", self.lengths, masked=self.masked)
        return Measured(folder, run.record, ranking, self._beyond(run) if beyond else None)

    def _beyond(self, run: Run) -> dict[str, float]:
        """Say what lists are like, and whom and what they serve, by one name for each figure."""
        length = self.lengths[-1]
        found = measure_beyond(run, self.split.data, [length], masked=self.masked)
        recall = f"recall@{length}"
        items = {f"{recall}, {of.name} items": of.mean[recall] for of in found.by_popularity}
        users = {f"{recall}, users of {of.name} items": of.mean[recall] for of in found.by_degree}
        return {**found.figures, **items, **users}


def system_figures(
    name: str, system: System, runs: Sequence[Measured], by_test: Measured | None
) -> SystemFigures:
    """Summarise the runs of a system.

    Args:
        name: what it is called.
        system: what it is.
        runs: one for each seed, at least one.
        by_test: the run that is best on test, of legacy trainings.
    """
    records = [run.record for run in runs]
    beyond = [run.beyond for run in runs if run.beyond is not None]
    folders = [str(run.folder) for run in runs]
    variant = system if isinstance(system, Variant) else None
    recipe = system.recipe if isinstance(system, Variant) else system
    return SystemFigures(
        name=name,
        model=records[0].name,
        settings=dict(recipe.settings) if isinstance(recipe, Recipe) else {"runs": folders},
        seeds=[record.seed for record in records],
        runs=folders,
        saved=isinstance(system, SavedRuns),
        valid=_spreads([record.valid for record in records]),
        test=_spreads([run.ranking.mean() for run in runs]),
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
