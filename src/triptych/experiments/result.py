"""What a comparison found, in JSON values: figures, their spread, tested differences, costs, failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from triptych.evaluation.significance import Comparison as Difference
from triptych.experiments.content import Change


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
    model: str = ""
    """What was trained, plug-ins included: "freedom+sand"; empty in older results."""
    settings: dict[str, Any]
    """What its recipe sets beyond the defaults; the folders of saved runs."""
    seeds: list[int]
    runs: list[str]
    """Folders, in the order of the seeds."""
    valid: dict[str, Spread]
    test: dict[str, Spread]
    legacy: dict[str, float] | None
    """Test figures as MMRec would print them, see `triptych.experiments.legacy`: of the seed that is best
    on test. None unless asked for, or where no such training ended."""
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

    def widens(self, earlier: SystemFigures) -> bool:
        """Say whether these are figures of what earlier ones are of, and of as many seeds or more."""
        return (
            self.settings == earlier.settings
            and self.model == (earlier.model or self.model)
            and set(self.seeds) >= set(earlier.seeds)
            and (earlier.beyond is None or self.beyond is not None)
        )


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

        More seeds and systems widen a question, and so do figures beside accuracy; other list lengths change
        what is shown of it. Another split, mask, protocol or reference, other settings, seeds or systems ask
        something else.
        """
        mine, failed = {of.name: of for of in self.systems}, {failure.name for failure in self.failures}
        return self._measured() == earlier._measured() and all(
            mine[of.name].widens(of) if of.name in mine else of.name in failed for of in earlier.systems
        )

    def question(self) -> list[Any]:
        """Say in JSON values what is asked, without what came of it."""
        systems = [[of.name, of.model, of.settings, of.seeds, of.beyond is None] for of in self.systems]
        return [*self._measured(), systems]

    def _measured(self) -> tuple[Any, ...]:
        reference = None if self.reference_chosen else self.reference
        return self.split_hash, self.protocol["masked"], self.legacy_choice is None, reference
