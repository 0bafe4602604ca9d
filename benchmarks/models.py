"""Every model: set-up, an epoch, an evaluation, memory, and how much of the epoch is no product.

Each measurement is a process of its own, the models in turns. Features are generated, 4,096 and 384 columns
wide; the settings are those of the recipe NAME-DATA.toml, or without one the model's defaults. An epoch is
put together from some of its batches, as `benchmarks.training` says. Set-up is from the split to the first
batch, neighbours of the raw features included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.data import sized_split, with_features
from benchmarks.options import Options
from benchmarks.report import Case, Table, ratio_of
from benchmarks.training import EPOCH, LIMIT, NOT_MEASURED, PEAK, SHARE, Job, case_of, jobs_in_turns
from triptych.models.registry import model_entry, models
from triptych.training.recipe import shipped_recipes

ROUNDS = 3


def run(options: Options) -> Iterator[Case]:
    """Measure the models that are named, or all."""
    names = [model_entry(name).name for name in options.models] or [entry.name for entry in models()]
    sized = sized_split(options.data)
    jobs = {
        name: Job(
            recipe_of(name, options.data), batches=options.batches, profiled=True, device=options.device
        )
        for name in names
    }
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with_features(sized.split).labelled().save(data)
        found = jobs_in_turns(jobs, data, options)
    for name, rounds in found.items():
        facts = {**sized.facts(), "recipe": jobs[name].recipe}
        yield case_of("models", f"{name}, {sized.size}", rounds, facts)


def recipe_of(model: str, data: str) -> str:
    """Find the recipe of a model for a data set, else the model with its defaults."""
    recipe = f"{model}-{data}.toml"
    return recipe if recipe in shipped_recipes() else model


def table(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Put all models side by side, from the cases of a report."""
    rows = []
    for case in cases:
        facts = case["facts"]
        seconds = [
            f"{case['timings'][form]['cpu_median']:,.2f}" if form in case["timings"] else "–"
            for form in ("set-up", EPOCH, "evaluation")
        ]
        if NOT_MEASURED in facts:
            seconds[0] = f"not measured: {facts[NOT_MEASURED].splitlines()[0]}"
        rows.append(
            [
                case["size"].partition(",")[0],
                *seconds,
                f"{facts[PEAK]:,.0f}" if PEAK in facts else "–",
                f"{facts[SHARE]:.0%}" if SHARE in facts else "–",
                ratio_of(case, EPOCH, LIMIT),
                facts["recipe"],
            ]
        )
    return Table(
        (
            "model",
            "set-up, s",
            "epoch, s",
            "evaluation, s",
            "peak, MB",
            "no product",
            "epoch / its products",
            "recipe",
        ),
        rows,
        "CPU seconds, medians of rounds. An epoch is scaled up from some of its batches; of a closed form it"
        " is the solution. The limit that an epoch is held against is the time its own products of dense"
        " matrices and of sparse ones took in the same process, as the profiler saw it; the rest is no"
        " product. The profiler slows products down a little, so that a ratio may fall below 1.",
    )
