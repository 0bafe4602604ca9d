"""Search for settings: Optuna proposes, validation decides, and no test pair is ever there.

The trials of a model are kept in `search/MODEL.journal` of an experiment's folder. Several processes may
work on one: each takes the next trial, and what a process that died had begun is tried again by the next
call, from its last checkpoint. The defaults are always tried first.

Needs the extra `search`: `pip install "triptych[search]"`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from triptych.data.split import Split
from triptych.encode.encoder import require
from triptych.errors import ConfigError, TrainingError, TriptychError
from triptych.experiments.jobs import Job, Workshop, training_of
from triptych.files import write_json, write_text
from triptych.training.recipe import Recipe
from triptych.training.space import Range, SearchSpace
from triptych.training.trainer import EpochRecord, Observer

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["none", "median", "halving"]
State = Literal["done", "pruned", "failed"]


class SearchTrial(BaseModel):
    """One point that was tried."""

    model_config = ConfigDict(frozen=True)

    number: int
    settings: dict[str, Any]
    """What is searched; empty for the defaults."""
    state: State
    value: float | None
    """Best validation value; none of a failed trial."""
    best_epoch: int | None
    epochs: int
    seconds: float
    error: str | None


class SearchResult(BaseModel):
    """What a search found, in JSON values."""

    model_config = ConfigDict(frozen=True)

    model: str
    data: str
    metric: str
    seed: int
    best: dict[str, Any]
    """The settings with the best validation value, those that were set for all trials among them."""
    best_value: float
    importance: dict[str, float]
    """Share of the differences between trials that each setting explains (fANOVA), largest first; empty with
    fewer than four finished trials."""
    trials: list[SearchTrial]


@dataclass(frozen=True)
class SearchPlan:
    """How to search.

    Args:
        space: of which model, and what to try.
        n_trials: at most so many, the defaults among them; a grid may have fewer points.
        sampler: "tpe" learns from earlier trials (Bergstra et al. 2011), "random" does not, "grid" tries
            every combination in a random order.
        pruner: whether a trial is stopped early: "median", where it is below the median of the earlier ones
            at its epoch, or "halving" (Li et al., arXiv:1810.05934).
        seed: of every training, and of what is proposed.
        fixed: settings of all trials.
    """

    space: SearchSpace
    n_trials: int
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    seed: int = 1
    fixed: Mapping[str, Any] | None = None

    def job(self, settings: Mapping[str, Any]) -> Job:
        """Make the training of a point."""
        source = f"search of {self.space.model}: {self.space.source}"
        return Job(Recipe(self.space.model, {**(self.fixed or {}), **settings}, source), self.seed)

    @property
    def metric(self) -> str:
        """What is maximised, on the validation part."""
        return self.job({}).recipe.configs().training.metric


def search(
    plan: SearchPlan,
    split: Split,
    workshop: Workshop,
    *,
    on_trial: Callable[[SearchTrial], None] | None = None,
    observe: Callable[[Job], Observer] | None = None,
) -> SearchResult:
    """Try settings of a model until there are `plan.n_trials` trials, counting those of earlier calls.

    Args:
        plan: how to search.
        split: the test part, if it has one, is taken off first.
        workshop: where and how.
        on_trial: is told of each trial that ends in this process.
        observe: makes an observer for a training in this process.

    Raises:
        ConfigError: the extra is missing, the plan cannot work, or the folder holds a search of other data,
            space or seed; found before anything is trained.
        TrainingError: not one trial ended.
    """
    require("search", "optuna")
    _check(plan)
    sealed = split.without_test()
    if workshop.workers == 1:
        _work(plan, sealed, workshop, on_trial, observe)
    else:
        with ProcessPoolExecutor(workshop.workers, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(_work, plan, sealed, workshop) for _ in range(workshop.workers)]:
                future.result()
    return _result(plan, sealed, _study(plan, sealed, workshop.folder))


def write_search(result: SearchResult, folder: Path) -> Path:
    """Keep what a search found in the experiment's folder, and the best settings as a recipe beside it.

    Returns: the recipe's file.
    """
    write_json(folder / f"search-{result.model}.json", result.model_dump(mode="json"))
    source = (
        f"best of {len(result.trials)} trials by validation {result.metric} on {result.data}, "
        f"seed {result.seed}"
    )
    recipe = folder / f"{result.model}-{result.data}.toml"
    write_text(recipe, Recipe(result.model, result.best, source).to_toml())
    return recipe


def _check(plan: SearchPlan) -> None:
    both = set(plan.fixed or {}) & set(plan.space.values)
    if both or plan.n_trials < 1:
        raise ConfigError(
            f"{plan.n_trials} trials" + (f", and {', '.join(both)} both set and searched" if both else ""),
            wanted="at least one trial, and each setting either set or searched",
            fix="Leave out --set, or use a space without the field" if both else "Allow more trials",
        )
    plan.job({}).settings()
    if plan.sampler == "grid":
        len(plan.space)


def _work(
    plan: SearchPlan,
    sealed: Split,
    workshop: Workshop,
    on_trial: Callable[[SearchTrial], None] | None = None,
    observe: Callable[[Job], Observer] | None = None,
) -> None:
    """Take one trial after another until there are enough."""
    study = _study(plan, sealed, workshop.folder)
    locks = workshop.folder / "search" / f"{plan.space.model}.locks"
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        with FileLock(locks / "next.lock"):  # so that two processes do not count alike
            _give_back(study, locks)
            trial = _next(plan, study)
            if trial is None:
                return
            held = FileLock(locks / f"{trial.number}.lock", timeout=0)
            held.acquire()
        try:
            _try(plan, study, trial, sealed, workshop, observe)
        finally:
            held.release()
        if on_trial is not None:
            on_trial(_summary(study.trials[trial.number]))


def _give_back(study: Study, locks: Path) -> None:
    """Queue the trials anew whose process is no more: nobody holds their lock."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        try:
            with FileLock(locks / f"{trial.number}.lock", timeout=0):
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(
                    trial.params, user_attrs={"point": trial.user_attrs["point"], "lost": trial.number}
                )
        except Timeout:
            continue


def _next(plan: SearchPlan, study: Study) -> Trial | None:
    """Take the next trial: one given back, the defaults, or another point; None when there are enough."""
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if waiting:
        trial = study.ask(_distributions(plan) if waiting[0].user_attrs["point"] else {})
    else:
        begun = _counted(study)
        if len(begun) >= plan.n_trials:
            return None
        if begun and plan.sampler == "grid":
            left = _rest_of_grid(plan, begun)
            if not left:
                return None
            study.enqueue_trial(left[0])
        trial = study.ask(_distributions(plan) if begun else {})
    point = {name: _decode(plan, name, value) for name, value in trial.params.items()}
    trial.set_user_attr("point", point)
    return trial


def _counted(study: Study) -> list[FrozenTrial]:
    """List the trials that count, which are all but those that were tried again under another number."""
    again = {trial.user_attrs["lost"] for trial in study.trials if "lost" in trial.user_attrs}
    return [trial for trial in study.trials if trial.number not in again]


def _rest_of_grid(plan: SearchPlan, begun: list[FrozenTrial]) -> list[dict[str, Any]]:
    """List the points of the grid that were not begun, in an order that the seed decides."""
    choices = {
        name: _choices(values) for name, values in plan.space.values.items() if isinstance(values, tuple)
    }
    points = [dict(zip(choices, point, strict=True)) for point in product(*choices.values())]
    order = np.random.default_rng(plan.seed).permutation(len(points))
    tried = [trial.params for trial in begun]
    return [points[place] for place in order if points[place] not in tried]


def _try(
    plan: SearchPlan,
    study: Study,
    trial: Trial,
    sealed: Split,
    workshop: Workshop,
    observe: Callable[[Job], Observer] | None,
) -> None:
    """Train a trial and tell the study what came of it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    job = plan.job(trial.user_attrs["point"])
    watcher = _Watcher(trial, plan.metric, observe(job) if observe else None)
    try:
        with training_of(job, job.name(sealed), sealed, workshop, watcher) as run:
            record = run.record
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (TriptychError, MemoryError, RuntimeError, OSError) as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
    else:
        trial.set_user_attr("best_epoch", record.best_epoch)
        study.tell(trial, record.valid[plan.metric])


class _Watcher(Observer):
    """Reports a training to Optuna, and stops it where the pruner says so."""

    def __init__(self, trial: Trial, metric: str, other: Observer | None) -> None:
        self._trial, self._metric, self._other = trial, metric, other or Observer()
        self._best = 0.0

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        self._other.on_batch(epoch, done, n_batches)

    def on_epoch(self, record: EpochRecord) -> None:
        from optuna import TrialPruned

        self._other.on_epoch(record)
        self._trial.set_user_attr("epochs", record.epoch)
        if record.valid is None:
            return
        self._best = max(self._best, record.valid[self._metric])
        self._trial.report(self._best, record.epoch)
        if self._trial.should_prune():
            raise TrialPruned


def _study(plan: SearchPlan, sealed: Split, folder: Path) -> Study:
    """Open the journal, or begin it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / "search" / f"{plan.space.model}.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=plan.space.model,
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(plan),
    )
    study.sampler = _sampler(plan, len(study.trials))
    facts = {
        "split": sealed.content_hash,
        "space": {name: str(values) for name, values in plan.space.values.items()},
        "fixed": json.dumps(dict(plan.fixed or {}), sort_keys=True),
        "seed": plan.seed,
    }
    known = study.user_attrs.get("facts", facts)
    if known != facts:
        raise ConfigError(
            f"{path} holds a search with another "
            + " and ".join(key for key in facts if facts[key] != known.get(key)),
            wanted="the search that was begun there",
            fix="Choose another folder with --out",
        )
    study.set_user_attr("facts", facts)
    return study


def _sampler(plan: SearchPlan, n_known: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = plan.seed + n_known  # a later call, or another process, goes on elsewhere
    return TPESampler(seed=seed) if plan.sampler == "tpe" else RandomSampler(seed=seed)


def _pruner(plan: SearchPlan) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    pruners: dict[Pruner, Callable[[], BasePruner]] = {
        "none": NopPruner,
        "median": MedianPruner,
        "halving": SuccessiveHalvingPruner,
    }
    return pruners[plan.pruner]()


def _distributions(plan: SearchPlan) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, values in plan.space.values.items():
        if not isinstance(values, Range):
            found[name] = CategoricalDistribution(_choices(values))
        elif values.whole:
            found[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
        else:
            found[name] = FloatDistribution(values.low, values.high, log=values.log)
    return found


def _choices(values: tuple[Any, ...]) -> list[Any]:
    """Give values as Optuna takes them: lists and tables become text."""
    return [value if isinstance(value, bool | int | float | str) else json.dumps(value) for value in values]


def _decode(plan: SearchPlan, name: str, chosen: Any) -> Any:
    """Give back the value that a choice stands for."""
    values = plan.space.values[name]
    return chosen if isinstance(values, Range) else values[_choices(values).index(chosen)]


def _summary(trial: FrozenTrial) -> SearchTrial:
    from optuna.trial import TrialState

    states: dict[TrialState, State] = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}
    steps = trial.intermediate_values
    return SearchTrial(
        number=trial.number,
        settings=trial.user_attrs.get("point", {}),
        state=states.get(trial.state, "failed"),
        value=trial.value if trial.state == TrialState.COMPLETE else max(steps.values(), default=None),
        best_epoch=trial.user_attrs.get("best_epoch"),
        epochs=trial.user_attrs.get("epochs", 0),
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        error=trial.user_attrs.get("error"),
    )


def _result(plan: SearchPlan, sealed: Split, study: Study) -> SearchResult:
    from optuna.trial import TrialState

    done = study.get_trials(states=(TrialState.COMPLETE,))
    lost = {trial.user_attrs["lost"] for trial in study.trials if "lost" in trial.user_attrs}
    trials = [
        _summary(trial) for trial in study.trials if trial.number not in lost and trial.state.is_finished()
    ]
    if not done:
        errors = [trial.error for trial in trials if trial.error] or ["no trial was begun"]
        raise TrainingError(
            f"none of {len(trials)} trials of {plan.space.model} ended: {errors[0]}",
            wanted="at least one finished trial",
            fix="Mend what failed, or search other values",
        )
    best = max(done, key=lambda trial: (trial.value or 0.0, -trial.number))
    return SearchResult(
        model=plan.space.model,
        data=sealed.data.name,
        metric=plan.metric,
        seed=plan.seed,
        best={**(plan.fixed or {}), **best.user_attrs["point"]},
        best_value=float(best.value or 0.0),
        importance=_importance(study, [trial for trial in done if trial.params]),
        trials=trials,
    )


def _importance(study: Study, done: list[FrozenTrial]) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    varied = len({trial.value for trial in done}) > 1
    if len(done) < 4 or not varied:
        return {}
    searched = list(done[0].params)
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=searched)
    return {name: float(share) for name, share in shares.items()}
