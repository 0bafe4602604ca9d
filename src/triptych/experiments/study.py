"""The points of a search: which were tried, which is next, kept in a journal that survives any kill.

Optuna proposes and remembers; what is added here is that no point is lost or tried twice, whichever process
dies at whichever moment. A trial that was begun is held by a lock, which falls with its process: whoever
comes next queues its point anew, and then gives it up. One that died before its point was written was never
begun.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError, TrainingError
from triptych.experiments.jobs import Job
from triptych.training.space import Range, SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["none", "median", "halving"]

_POINT, _LOST = "point", "lost"
"""What is noted of a trial: its settings, and the number of the one whose point it tries again."""
_BY_SETTINGS = "by settings"
"""Noted of a failure, whether its settings brought it about, as when a loss is NaN; it is not tried again."""
_DRAWS = 20
"""How often a sampler may propose what was tried, before a space with fractions is taken for exhausted."""
_SHUFFLED = 1_000_000
"""Points of a space that are gone through in a random order; of more, some are drawn."""
_UNPRUNED = 10
"""Evaluations of a trial before it may be stopped."""


@dataclass(frozen=True)
class SearchPlan:
    """How to search.

    Args:
        space: of which model with which plug-ins, and what to try.
        n_trials: at most so many, the defaults among them; a grid may have fewer points.
        sampler: "tpe" learns from earlier trials (Bergstra et al. 2011), "random" does not, "grid" tries
            every combination in a random order.
        pruner: whether a trial is stopped early: "median", where it is below the median of the earlier ones
            at its epoch, once five have ended; or "halving" (Li et al., arXiv:1810.05934), where it is not
            among the best quarter of those that came as far. Either lets ten evaluations go by first, or half
            of them, if epochs end before twenty.
        seed: of every training, and of what is proposed.
        fixed: settings of all trials, beside those of the space.
    """

    space: SearchSpace
    n_trials: int
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    seed: int = 1
    fixed: Mapping[str, Any] | None = None

    def job(self, settings: Mapping[str, Any]) -> Job:
        """Make the training of a point."""
        source = f"search of {self.space.name}: {self.space.source}"
        return Job(replace(self.space.recipe({**(self.fixed or {}), **settings}), source=source), self.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """What all trials have, unless it is searched."""
        return {**self.space.settings, **(self.fixed or {})}

    def key(self, settings: Mapping[str, Any]) -> str:
        """Name a point by what it trains, so that the defaults and their point of a grid are one."""
        try:
            named = self.job(settings).settings()
        except ConfigError:  # it cannot be trained; the trial that tries says why
            named = dict(settings)
        return json.dumps(named, sort_keys=True)

    @property
    def metric(self) -> str:
        """What is maximised, on the validation part."""
        return self.job({}).recipe.configs().training.metric


class Points:
    """The journal of a search, opened or begun; several processes may work with one.

    Args:
        plan: how to search.
        sealed: the split, without test pairs.
        folder: of the experiment.

    Raises:
        ConfigError: the folder holds a search of other data, space or seed.
        StorageError: the journal is damaged.
    """

    def __init__(self, plan: SearchPlan, sealed: Split, folder: Path) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = folder / "search" / f"{plan.space.name}.journal"
        self._plan, self._locks = plan, path.with_suffix(".locks")
        self._locks.mkdir(parents=True, exist_ok=True)
        self._alone = FileLock(self._locks / "next.lock")
        with self._alone:
            self.study = optuna.create_study(
                storage=_open_journal(path, FileLock(self._locks / "journal.lock")),
                study_name=plan.space.name,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(plan),
            )
            self.study.sampler = _sampler(plan, len(self.study.trials))
            _check_facts(self.study, plan, sealed, path)

    def take(self) -> tuple[Trial, AbstractContextManager[object]] | None:
        """Take the next point, and a lock for the block that tries it; None when there are enough."""
        with self._alone:  # so that two processes do not count alike
            self._give_back()
            trial = self._next()
            if trial is None:
                return None
            return trial, self._lock_of(trial.number).acquire()

    def counted(self) -> list[FrozenTrial]:
        """List the trials that count: those that were begun, and not tried again under another number."""
        trials = self.study.trials
        again = _tried_again(trials)
        return [trial for trial in trials if trial.number not in again and _POINT in trial.user_attrs]

    def first_number(self, trial: FrozenTrial) -> int:
        """Give the number that a trial's point had when it was first begun."""
        while _LOST in trial.user_attrs:
            trial = self.study.trials[trial.user_attrs[_LOST]]
        return trial.number

    def try_failed_again(self) -> None:
        """Queue the points anew that failed in earlier calls for other reasons than their settings."""
        from optuna.trial import TrialState

        with self._alone:
            again = _tried_again(self.study.get_trials(deepcopy=False))
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
                known = trial.user_attrs
                if _POINT in known and trial.number not in again and not known.get(_BY_SETTINGS, True):
                    self._queue(known[_POINT], {_LOST: trial.number})

    def _give_back(self) -> None:
        """Queue the points anew whose process is no more: nobody holds their lock."""
        from optuna.trial import TrialState

        again = _tried_again(self.study.get_trials(deepcopy=False))
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            try:
                with self._lock_of(trial.number):
                    if trial.number not in again and _POINT in trial.user_attrs:
                        self._queue(trial.user_attrs[_POINT], {_LOST: trial.number})
                    self.study.tell(
                        trial.number, state=TrialState.FAIL
                    )  # who is killed before finds it again
            except Timeout:
                continue

    def _next(self) -> Trial | None:
        """Take one that was given back, the defaults, or a point not tried yet; None if there are enough."""
        from optuna.trial import TrialState

        def waiting() -> list[FrozenTrial]:
            return self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))

        begun = self.counted()
        if not waiting() and len(begun) >= self._plan.n_trials:
            return None
        if not waiting() and begun:
            tried = {self._plan.key(trial.user_attrs[_POINT]) for trial in begun}
            left = next(_untried(self._plan, tried), None)
            drawn = self._draw(tried, _DRAWS if _is_endless(self._plan) else int(left is not None))
            if drawn is not None or left is None:
                return drawn
            self._queue(left)
        searched = bool(waiting()[0].user_attrs[_POINT]) if waiting() else False
        trial = self.study.ask(_distributions(self._plan) if searched else {})
        trial.set_user_attr(_POINT, _point(self._plan, trial))
        return trial

    def _draw(self, tried: set[str], n_draws: int) -> Trial | None:
        """Let the sampler propose a point that was not tried; None if it has none in so many draws."""
        from optuna.trial import TrialState

        if self._plan.sampler == "grid":
            return None
        # Seeded anew each time, or processes that began at once would draw the same.
        self.study.sampler = _sampler(self._plan, len(self.study.get_trials(deepcopy=False)))
        for _ in range(n_draws):
            trial = self.study.ask(_distributions(self._plan))
            point = _point(self._plan, trial)
            if self._plan.key(point) not in tried:
                trial.set_user_attr(_POINT, point)
                return trial
            self.study.tell(trial, state=TrialState.FAIL)  # without a point it does not count
        return None

    def _queue(self, point: Mapping[str, Any], notes: Mapping[str, Any] = {}) -> None:
        """Let a point be the next that is taken."""
        params = {name: _encode(value) for name, value in point.items()}
        self.study.enqueue_trial(params, user_attrs={_POINT: dict(point), **notes})

    def _lock_of(self, number: int) -> FileLock:
        return FileLock(self._locks / f"{number}.lock", timeout=0)


def _tried_again(trials: list[FrozenTrial]) -> set[int]:
    return {trial.user_attrs[_LOST] for trial in trials if _LOST in trial.user_attrs}


def _open_journal(path: Path, lock: FileLock) -> JournalStorage:
    """Open a journal, less a last line that was not written to its end.

    Raises:
        StorageError: it holds something else than Optuna wrote.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Lock(JournalFileOpenLock):
        """One that falls with its process; Optuna's own outlive it by half a minute."""

        def acquire(self) -> bool:
            lock.acquire()
            return True

        def release(self) -> None:
            lock.release()

    with lock:
        written = path.read_bytes() if path.exists() else b""
        if written and not written.endswith(b"\n"):
            os.truncate(path, written.rfind(b"\n") + 1)
    try:
        for line in written.splitlines(keepends=True):
            if line.endswith(b"\n"):
                json.loads(line)  # Optuna overlooks a bad last line, and stumbles once there is another
        return JournalStorage(JournalFileBackend(str(path), lock_obj=Lock(str(path))))
    except OSError:
        raise
    except Exception as error:  # what a damaged journal ends in depends on the damage
        raise StorageError(
            f"{path} is damaged: {type(error).__name__}: {error}",
            wanted="the journal of a search, as it was written",
            fix="Restore it from a copy; or delete it, to begin the search anew without its trials",
        ) from error


def _check_facts(study: Study, plan: SearchPlan, sealed: Split, path: Path) -> None:
    facts = {
        "split": sealed.content_hash,
        "space": {name: str(values) for name, values in plan.space.values.items()},
        "fixed": json.dumps(plan.settings, sort_keys=True),
        "seed": plan.seed,
    }
    in_words = {
        "split": "other data or another split",
        "space": "another space",
        "fixed": "other settings (--set, or of the recipe)",
        "seed": "another seed (--seed)",
    }
    known = study.user_attrs.get("facts", facts)
    if known != facts:
        raise ConfigError(
            f"{path} holds a search with "
            + " and ".join(in_words[key] for key in facts if facts[key] != known.get(key)),
            wanted="the search that was begun there",
            fix="Give what it was begun with, or choose another folder with --out",
        )
    study.set_user_attr("facts", facts)


def _sampler(plan: SearchPlan, n_known: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = plan.seed + n_known  # a later call, or another process, goes on elsewhere
    return TPESampler(seed=seed) if plan.sampler == "tpe" else RandomSampler(seed=seed)


def _pruner(plan: SearchPlan) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    training = plan.job({}).recipe.configs().training
    n_evaluations = training.epochs // training.eval_every
    # The first epochs order learning rates by their size; Optuna's own choice is to begin with the first.
    first = training.eval_every * max(1, min(_UNPRUNED, n_evaluations // 2))
    pruners: dict[Pruner, Callable[[], BasePruner]] = {
        "none": NopPruner,
        "median": lambda: MedianPruner(n_warmup_steps=first),
        "halving": lambda: SuccessiveHalvingPruner(min_resource=first),
    }
    return pruners[plan.pruner]()


def note_failure(trial: Trial, error: Exception) -> None:
    """Note why a trial failed, and whether its settings brought that about."""
    trial.set_user_attr("error", f"{type(error).__name__}: {error}")
    trial.set_user_attr(_BY_SETTINGS, isinstance(error, TrainingError))


def _is_endless(plan: SearchPlan) -> bool:
    """Say whether a space has fractions, of which there are always more."""
    return any(isinstance(values, Range) and not values.whole for values in plan.space.values.values())


def _untried(plan: SearchPlan, tried: set[str]) -> Iterator[dict[str, Any]]:
    """Go through the points left of a space that has an end, in an order that the seed decides.

    Lists none of them before it is asked for, so that it takes as long as points were tried.
    """
    if _is_endless(plan):
        return
    choices = {
        name: range(int(values.low), int(values.high) + 1) if isinstance(values, Range) else values
        for name, values in plan.space.values.items()
    }
    sizes = [len(values) for values in choices.values()]
    rng = np.random.default_rng(plan.seed)
    if prod(sizes) <= _SHUFFLED:
        places = (np.unravel_index(place, sizes) for place in rng.permutation(prod(sizes)))
    else:  # hardly one of so many is drawn twice
        places = (tuple(rng.integers(sizes)) for _ in range(_SHUFFLED))
    for place in places:
        point = {name: choices[name][at] for name, at in zip(choices, place, strict=True)}
        if plan.key(point) not in tried:
            yield point


def _point(plan: SearchPlan, trial: Trial) -> dict[str, Any]:
    return {name: _decode(plan, name, chosen) for name, chosen in trial.params.items()}


def _distributions(plan: SearchPlan) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, values in plan.space.values.items():
        if not isinstance(values, Range):
            found[name] = CategoricalDistribution([_encode(value) for value in values])
        elif values.whole:
            found[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
        else:
            found[name] = FloatDistribution(values.low, values.high, log=values.log)
    return found


def _encode(value: Any) -> Any:
    """Give a value as Optuna takes it: lists and tables become text."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _decode(plan: SearchPlan, name: str, chosen: Any) -> Any:
    """Give back the value that a choice stands for."""
    values = plan.space.values[name]
    return chosen if isinstance(values, Range) else values[[_encode(value) for value in values].index(chosen)]
