"""Search for settings: Optuna proposes, validation decides, and no test pair is ever there.

The trials of a model, perhaps with plug-ins, are kept in `search/MODEL.journal` of an experiment's folder.
Several processes may work on one: each takes the next trial, and what a process that died had begun is tried
again by the next call, from its last checkpoint. The defaults, or the recipe as it is, are tried first.

Needs the extra `search`: `pip install "triptych[search]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from triptych.data.split import Split
from triptych.encode.encoder import require
from triptych.errors import ConfigError, TrainingError
from triptych.experiments.jobs import Job, Workshop, drop_checkpoints, job_lock, training_of
from triptych.experiments.study import Points, SearchPlan, note_failure
from triptych.experiments.workers import worker_processes
from triptych.files import write_json, write_text
from triptych.training.observer import EpochRecord, Observer
from triptych.training.recipe import Recipe

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

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
    """The settings with the best validation value, those of all trials and of the recipe among them."""
    best_value: float
    importance: dict[str, float]
    """Share of the differences between trials that each setting explains (fANOVA), largest first; empty with
    fewer than four finished trials beside the defaults."""
    trials: list[SearchTrial]
    plugins: tuple[str, ...] = ()
    """What was attached to the model."""

    @property
    def name(self) -> str:
        """The model's name, and its plug-ins': "freedom+sand"."""
        return self.recipe.name

    @property
    def recipe(self) -> Recipe:
        """The best settings."""
        source = (
            f"best of {len(self.trials)} trials by validation {self.metric} on {self.data}, seed {self.seed}"
        )
        return Recipe(self.model, self.best, source, self.plugins)


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
        on_trial: is told of each trial that ends, in this process or in a worker of it.
        observe: makes an observer for a training in this process.

    Raises:
        ConfigError: the extra is missing, the plan cannot work, or the folder holds a search of other data,
            space or seed; found before anything is trained.
        StorageError: the journal of the folder's search is damaged.
        TrainingError: not one trial ended, or a worker's process died.
    """
    check_plan(plan)
    sealed = split.without_test()
    Points(plan, sealed, workshop.folder).try_failed_again()
    if workshop.workers == 1:
        _work(plan, sealed, workshop, on_trial, observe)
    else:
        _work_together(plan, sealed, workshop, on_trial)
    return _result(plan, sealed, Points(plan, sealed, workshop.folder))


def write_search(result: SearchResult, folder: Path) -> Path:
    """Keep what a search found in the experiment's folder, and the best settings as a recipe beside it.

    Returns: the recipe's file.
    """
    write_json(folder / f"search-{result.name}.json", result.model_dump(mode="json"))
    called = f"{result.name}-{result.data}".replace("+", "-")  # behind a + commands expect plug-ins
    recipe = folder / f"{called}.toml"
    write_text(recipe, result.recipe.to_toml())
    return recipe


def check_plan(plan: SearchPlan) -> None:
    """Refuse a search that cannot work.

    Raises:
        ConfigError: the extra is missing, no trial is allowed, a setting is both set and searched or does not
            fit, or a grid is to go through a range.
    """
    require("search", "optuna")
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
    points = Points(plan, sealed, workshop.folder)
    while (trial := _try_next(points, plan, sealed, workshop, observe)) is not None:
        if on_trial is not None:
            on_trial(trial)


def _work_together(
    plan: SearchPlan, sealed: Split, workshop: Workshop, on_trial: Callable[[SearchTrial], None] | None
) -> None:
    """Have workers that each take the next trial when one has ended."""
    count, threads = workshop.workers, workshop.threads_each
    given = (plan, sealed, workshop)
    with worker_processes(count, threads, workshop.folder, _begin_worker, *given) as pool:
        trying = {pool.submit(_try_next_in_worker) for _ in range(count)}
        while trying:
            ended, trying = wait(trying, return_when=FIRST_COMPLETED)
            for trial in (future.result() for future in ended):
                if trial is not None:
                    trying.add(pool.submit(_try_next_in_worker))
                    if on_trial is not None:
                        on_trial(trial)


_worker: dict[str, Any] = {}
"""What a worker process was begun with, and the journal once it is opened."""


def _begin_worker(plan: SearchPlan, sealed: Split, workshop: Workshop) -> None:
    _worker.update(plan=plan, sealed=sealed, workshop=workshop, observe=None)


def _try_next_in_worker() -> SearchTrial | None:
    if "points" not in _worker:
        _worker["points"] = Points(_worker["plan"], _worker["sealed"], _worker["workshop"].folder)
    return _try_next(**_worker)


def _try_next(
    points: Points,
    plan: SearchPlan,
    sealed: Split,
    workshop: Workshop,
    observe: Callable[[Job], Observer] | None,
) -> SearchTrial | None:
    """Take the next trial and say what came of it; None when there are enough."""
    taken = points.take()
    if taken is None:
        return None
    trial, held = taken
    with held:
        _try(plan, points.study, trial, sealed, workshop, observe)
    return _summary(points.study.trials[trial.number])


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
    try:
        name = job.name(sealed)
        watcher = _Watcher(trial, plan.metric, observe(job) if observe else None)
        with job_lock(name, workshop), training_of(job, name, sealed, workshop, watcher) as run:
            record = run.record
    except TrialPruned:
        with job_lock(name, workshop):
            drop_checkpoints(name, workshop)
        study.tell(trial, state=TrialState.PRUNED)
    except Exception as error:  # whatever it is, the others go on
        note_failure(trial, error)
        study.tell(trial, state=TrialState.FAIL)
    else:
        trial.set_user_attr("best_epoch", record.best_epoch)
        study.tell(trial, record.valid[plan.metric])


class _Watcher(Observer):
    """Reports a training to Optuna, and stops it where the pruner says so."""

    def __init__(self, trial: Trial, metric: str, other: Observer | None) -> None:
        self._trial, self._metric, self._other = trial, metric, other or Observer()
        self._best = 0.0

    def on_resume(self, history: Sequence[EpochRecord]) -> None:
        self._other.on_resume(history)
        self._best = max((record.valid[self._metric] for record in history if record.valid), default=0.0)

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

    def on_stopping(self, epoch: int) -> None:
        self._other.on_stopping(epoch)


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


def _result(plan: SearchPlan, sealed: Split, points: Points) -> SearchResult:
    from optuna.trial import TrialState

    done = points.study.get_trials(states=(TrialState.COMPLETE,))
    trials = [_summary(trial) for trial in points.counted() if trial.state.is_finished()]
    if not done:
        errors = [trial.error for trial in trials if trial.error] or ["no trial was begun"]
        raise TrainingError(
            f"none of {len(trials)} trials of {plan.space.name} ended: {errors[0]}",
            wanted="at least one finished trial",
            fix="Mend what failed, or search other values",
        )
    best = max(done, key=lambda trial: (trial.value or 0.0, -points.first_number(trial)))
    return SearchResult(
        model=plan.space.model,
        plugins=plan.space.plugins,
        data=sealed.data.name,
        metric=plan.metric,
        seed=plan.seed,
        best={**plan.settings, **best.user_attrs["point"]},
        best_value=float(best.value or 0.0),
        importance=_importance(points.study, [trial for trial in done if trial.params]),
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
