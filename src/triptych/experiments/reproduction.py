"""The tables and figures of the papers again, on one's own data: our figures beside the printed ones.

A printed figure is one number, of unknown luck, often chosen by the test part itself. Ours are means over
seeds with epochs chosen on validation, and settings that the papers print, or a recipe that says where they
come from. What else differs, features or split, the plan says, and the data set's own protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict

from triptych.data.split import Split
from triptych.device import limited_threads
from triptych.errors import ConfigError, nearest
from triptych.experiments.comparison import compare
from triptych.experiments.jobs import Job, Outcome, Workshop
from triptych.experiments.plans import PaperPlan, published, published_metrics, published_sizes
from triptych.experiments.result import ComparisonResult, Spread
from triptych.runs import RUN, read_record, train
from triptych.training.observer import Observer
from triptych.training.recipe import Recipe


class ReproducedFigure(BaseModel):
    """One cell of a table."""

    model_config = ConfigDict(frozen=True)

    row: str
    metric: str
    printed: float | None
    """None where the table has no such cell."""
    note: str
    """What is known about the printed figure."""
    ours: Spread
    relative: float | None
    """(ours - printed) / printed."""


class DataUsed(BaseModel):
    """The sizes of the data set that was trained on, and those that the paper prints of its own."""

    model_config = ConfigDict(frozen=True)

    users: int
    items: int
    interactions: int
    printed: dict[str, str]
    """The same names, as printed: "19445", or "35k"."""

    @classmethod
    def of(cls, split: Split, plan: PaperPlan, data: str) -> DataUsed:
        """Measure a data set, and look up what is printed of the one it stands for."""
        return cls(
            users=split.n_users,
            items=split.n_items,
            interactions=len(split.data.interactions),
            printed=published_sizes(plan.paper, data),
        )

    @property
    def differing(self) -> list[str]:
        """Name the sizes that are not the printed ones; "35k" is any of 34 to 36 thousand."""
        return [
            name
            for name, text in self.printed.items()
            if (
                abs(getattr(self, name) - 1000 * float(text[:-1])) >= 1000
                if text.endswith("k")
                else getattr(self, name) != int(text)
            )
        ]


class ReproducedTable(BaseModel):
    """One table on one data set."""

    model_config = ConfigDict(frozen=True)

    paper: str
    table: str
    title: str
    source: str
    data: str
    """The data set's name in the published figures."""
    differs: str
    used: DataUsed
    seeds: list[int]
    figures: list[ReproducedFigure]
    comparison: ComparisonResult


def reproduce(
    plan: PaperPlan,
    table: str,
    data: str,
    split: Split,
    seeds: Sequence[int],
    workshop: Workshop,
    *,
    rows: Sequence[str] | None = None,
    observe: Callable[[Job], Observer] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> ReproducedTable:
    """Train what is missing for a table on a data set, and put our figures beside the printed ones.

    Args:
        plan: of the paper.
        table: its number.
        data: the data set's name in the published figures.
        split: of that data set.
        seeds: of each row.
        workshop: where and how.
        rows: printed names; by default all that there are systems for.
        observe: makes an observer for a training in this process.
        on_outcome: is told of each training that is found, done or failed.

    Raises:
        ConfigError: the paper has no such table, data set or row.
    """
    systems = table_systems(plan, table, data, rows)
    printed = published(plan.paper, table, data)
    metrics = {metric for row in printed.values() for metric in row}
    lengths = sorted({int(metric.partition("@")[2]) for metric in metrics} | set(workshop.k))
    result = compare(
        systems,
        split,
        seeds,
        replace(workshop, k=tuple(lengths)),
        k=lengths,
        observe=observe,
        on_outcome=on_outcome,
    )
    figures = []
    for system in result.systems:
        for metric, ours in system.test.items():
            if metric not in metrics:
                continue
            known = printed.get(system.name, {}).get(metric)
            relative = None if known is None or known.value == 0 else ours.mean / known.value - 1
            figures.append(
                ReproducedFigure(
                    row=system.name,
                    metric=metric,
                    printed=None if known is None else known.value,
                    note="" if known is None else known.note,
                    ours=ours,
                    relative=relative,
                )
            )
    return ReproducedTable(
        paper=plan.paper,
        table=table,
        title=plan.tables[table].title,
        source=plan.source,
        data=data,
        differs=plan.differs,
        used=DataUsed.of(split, plan, data),
        seeds=sorted(set(seeds)),
        figures=figures,
        comparison=result,
    )


class ReproducedPanel(BaseModel):
    """One panel of a figure on one data set; what the paper drew there is printed nowhere."""

    model_config = ConfigDict(frozen=True)

    paper: str
    figure: str
    title: str
    source: str
    data: str
    """The data set's name in the published figures."""
    differs: str
    used: DataUsed
    panel: str
    """What is varied: a setting, or two, or "variants"."""
    comparison: ComparisonResult


def reproduce_figure(
    plan: PaperPlan,
    figure: str,
    data: str,
    split: Split,
    seeds: Sequence[int],
    workshop: Workshop,
    *,
    observe: Callable[[Job], Observer] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[ReproducedPanel]:
    """Train what is missing for a paper's figure on a data set; each panel is a comparison.

    Args:
        plan: of the paper.
        figure: its number.
        data: the data set's name in the published figures.
        split: of that data set.
        seeds: of each point.
        workshop: where and how.
        observe: makes an observer for a training in this process.
        on_outcome: is told of each training that is found, done or failed.

    Raises:
        ConfigError: the paper has no such figure, or not on this data set.
    """
    return [
        ReproducedPanel(
            paper=plan.paper,
            figure=figure,
            title=plan.figures[figure].title,
            source=plan.source,
            data=data,
            differs=plan.differs,
            used=DataUsed.of(split, plan, data),
            panel=panel,
            comparison=compare(
                systems, split, seeds, workshop, k=workshop.k, observe=observe, on_outcome=on_outcome
            ),
        )
        for panel, systems in figure_systems(plan, figure, data).items()
    ]


def figure_systems(plan: PaperPlan, figure: str, data: str) -> dict[str, dict[str, Recipe]]:
    """Give the systems of a figure's panels on a data set: panel -> point -> what to train.

    Raises:
        ConfigError: the paper has no such figure, or not on this data set.
    """
    if figure not in plan.figures:
        raise _unknown(plan, "figure", figure, plan.figures)
    known = plan.figures[figure].datasets
    if data not in known:
        raise _unknown(plan, f"figure {figure} on the data set", data, dict.fromkeys(known))
    return plan.figures[figure].systems(data)


def table_systems(
    plan: PaperPlan, table: str, data: str, rows: Sequence[str] | None = None
) -> dict[str, Recipe]:
    """Give the systems of a table on a data set: printed name -> what to train.

    Raises:
        ConfigError: the paper has no such table, data set or row.
    """
    if table not in plan.tables:
        raise _made_otherwise(plan, table) or _unknown(plan, "table", table, plan.tables)
    if data not in plan.datasets:
        raise _unknown(plan, "data set", data, plan.datasets)
    printed = published(plan.paper, table, data)
    if not printed:
        raise ConfigError(
            f"table {table} of {plan.paper} has no figures of '{data}'",
            wanted="a data set that the table is about",
            fix=f"See 'triptych reproduce {plan.paper.lower()}', or name another data set",
        )
    found = {row.printed: row.on(data) for row in plan.tables[table].rows if row.printed in printed}
    for row in rows or ():
        if row not in found:
            raise _unknown(plan, f"row of table {table}", row, found)
    return {name: recipe for name, recipe in found.items() if rows is None or name in rows}


def _made_otherwise(plan: PaperPlan, table: str) -> ConfigError | None:
    """Say which command makes a printed table that is of no accuracy; None if it is no such table."""
    about = published_metrics(plan.paper, table)
    if "seconds_per_epoch" in about:
        what = "what training costs"
        fix = (
            "Run 'python -m benchmarks sand' in the repository, which measures the same models; 'triptych "
            "compare' prints seconds and memory of whatever it trains"
        )
    elif "users" in about:
        what, fix = "the data sets", "Run 'triptych describe DATA'"
    else:
        return None
    return ConfigError(
        f"table {table} of {plan.paper} is about {what}, and is not made by training to the end",
        wanted="one of: " + ", ".join(plan.tables),
        fix=fix,
    )


def _unknown(plan: PaperPlan, kind: str, name: str, known: Mapping[str, object]) -> ConfigError:
    return ConfigError(
        f"{plan.paper} has no {kind} '{name}' that Triptych knows",
        wanted="one of: " + (", ".join(known) or "none"),
        fix=nearest(name, known),
    )


class Cost(BaseModel):
    """What is still to be trained for one row."""

    model_config = ConfigDict(frozen=True)

    row: str
    missing: int
    """Seeds that are not trained yet."""
    seconds_per_epoch: float
    """With the evaluation after it."""
    epochs: int
    """As many as the row's own runs took, if there are any, else `ASSUMED_EPOCHS`."""
    known: bool
    """Whether a run of the row says how many epochs it takes."""
    error: str | None = None
    """Why it cannot be trained, and costs nothing."""

    @property
    def seconds(self) -> float:
        """Of all that is missing, one after the other."""
        return self.missing * self.epochs * self.seconds_per_epoch


ASSUMED_EPOCHS = 100
"""Epochs of a system that was never trained here; between 30 and 250 is usual."""


def estimate(
    systems: Mapping[str, Recipe],
    split: Split,
    seeds: Sequence[int],
    workshop: Workshop,
) -> list[Cost]:
    """Say what training would cost on this machine; an epoch is trained of what has no run here.

    What cannot be trained is told with its row.

    Args:
        systems: name -> what to train.
        split: on what.
        seeds: of each.
        workshop: where earlier runs lie, and how to train.
    """
    sealed = split.without_test()
    costs = []
    for name, recipe in systems.items():
        folders = {seed: workshop.run_folder(Job(recipe, seed).name(sealed)) for seed in dict.fromkeys(seeds)}
        records = [read_record(folder) for folder in folders.values() if (folder / RUN).is_file()]
        missing, error = len(folders) - len(records), None
        if records:
            seconds = float(
                np.median([record.seconds_per_epoch + record.seconds_per_evaluation for record in records])
            )
            epochs = int(np.median([len(record.history) for record in records]))
        else:
            epochs = min(recipe.configs().training.epochs, ASSUMED_EPOCHS)
            try:
                seconds = _measure_epoch(recipe, sealed, workshop)
            except Exception as caught:  # whatever it is, training notes it and goes on to the other rows
                seconds, error = 0.0, str(caught)
        costs.append(
            Cost(
                row=name,
                missing=missing,
                seconds_per_epoch=seconds,
                epochs=epochs,
                known=bool(records),
                error=error,
            )
        )
    return costs


def _measure_epoch(recipe: Recipe, sealed: Split, workshop: Workshop) -> float:
    """Train an epoch, and give its seconds with those of the evaluation after it."""
    configs = recipe.configs()
    with limited_threads(workshop.threads):
        run = train(
            configs.model,
            sealed,
            plugins=configs.plugins,
            config=configs.training.model_copy(update={"epochs": 1}),
            device=workshop.device,
            k=workshop.k,
            graph_cache=workshop.graph_cache,
            memory_limit=workshop.memory_limit,
        )
    return run.record.seconds_per_epoch + run.record.seconds_per_evaluation
