"""What a comparison found, beside its JSON: a page, and tables in Markdown and LaTeX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from triptych.errors import StorageError
from triptych.evaluation.significance import N_RESAMPLES
from triptych.experiments.result import ComparisonResult, SystemFigures
from triptych.files import hash_arrays, read_json, write_json, write_text
from triptych.report.comparison_figures import draw_all
from triptych.report.comparison_tables import (
    ALPHA,
    PlainTable,
    columns,
    comparison_latex,
    comparison_markdown,
    in_table,
    legacy_figures,
    legacy_heads,
    legacy_note,
    more_tables,
    name_seeds,
    p_value,
    parameters,
    plain_latex,
    plain_markdown,
    significant,
    table_caption,
    unread_note,
    words,
)
from triptych.report.page import draw_if_possible, write_page
from triptych.runs import RunRecord, read_record

__all__ = ["comparison_latex", "comparison_markdown", "write_comparison", "write_comparison_page"]


def free_path(path: Path, *results: ComparisonResult) -> Path:
    """Give where to write: the path, or one beside it if a report that answers another question is there.

    Args:
        path: the JSON file that is wanted.
        results: what it is to hold: a comparison, or one for each of several splits.
    """
    if not path.exists():
        return path
    try:
        content = read_json(path)
        there = (
            content["comparisons"].values()
            if "comparisons" in content
            else [content.get("comparison", content)]
        )
        earlier = [ComparisonResult.model_validate(one) for one in there]
    except (StorageError, ValidationError):
        earlier = []  # whatever it is, it is not ours to replace
    if len(earlier) == len(results) and all(map(ComparisonResult.takes_place_of, results, earlier)):
        return path
    key = hash_arrays(json.dumps([one.question() for one in results], sort_keys=True))[:8]
    return path.with_name(f"{path.stem}-{key}{path.suffix}")


def write_comparison(
    result: ComparisonResult,
    path: Path,
    whole: BaseModel | None = None,
    *,
    before: Sequence[PlainTable] = (),
) -> None:
    """Write a result, NAME.json, with tables and page beside it: NAME.md, NAME.tex and NAME.html.

    Args:
        result: of a comparison.
        path: the JSON file to make or replace.
        whole: what the result is a part of, to be written in its place.
        before: more tables, which come first on the page and in Markdown.
    """
    write_json(path, (whole or result).model_dump(mode="json"))
    write_text(
        path.with_suffix(".md"), "\n".join([*map(plain_markdown, before), comparison_markdown(result)])
    )
    write_text(path.with_suffix(".tex"), "\n".join([comparison_latex(result), *map(plain_latex, before)]))
    write_comparison_page(result, path.with_suffix(".html"), before=before)


def write_comparison_page(result: ComparisonResult, path: Path, *, before: Sequence[PlainTable] = ()) -> None:
    """Write the page, whole or not at all. It needs no network, no script and no other file.

    Curves by epoch and settings come from the records of the runs, and are left out for runs that are no
    longer where they were. Figures need the 'report' extra; without it the page says so and has the tables.

    Args:
        result: of a comparison.
        path: the HTML file to make or replace.
        before: tables that come first.
    """
    records = {system.name: _records(system) for system in result.systems}
    differing = _differing(
        {system.name: _settings(system, records[system.name]) for system in result.systems}
    )
    figures, without_figures = draw_if_possible(lambda: draw_all(result, records, differing, alpha=ALPHA))
    metrics = columns(result)
    write_page(
        path,
        "comparison.html",
        result=result,
        facts={
            "systems": len(result.systems),
            "trained with": name_seeds(result),
            "users": result.protocol["users"],
            "tested by": result.metric,
            "reference": result.reference or "the intact system",
        },
        caption=table_caption(result, metrics),
        metrics=metrics,
        table=in_table(result, metrics),
        valid={system.name: words(system.valid[result.metric]) for system in result.systems},
        legacy_heads=legacy_heads(result),
        legacy=legacy_figures(result),
        significant=significant(result),
        differing=differing,
        before=before,
        more=more_tables(result),
        figures=figures or {},
        without_figures=without_figures,
        lost=[system.name for system in result.systems if len(records[system.name]) < len(system.runs)],
        most_seconds=max(system.seconds_per_epoch for system in result.systems) or 1,
        most_memory=max(system.peak_memory_bytes for system in result.systems) or 1,
        how=_how_measured(result),
        split=result.split,
        p_value=p_value,
        parameters=parameters,
    )


def _how_measured(result: ComparisonResult) -> list[str]:
    """Say in sentences how the figures came to be."""
    protocol = result.protocol
    left_out = protocol.get("users_left_out", 0)
    said = [
        f"Each system was trained with {name_seeds(result)} on the training part alone. Each training "
        f"kept the epoch with the best {result.metric} on the validation part.",
        "The test part was opened when all trainings had ended; nothing was chosen by it.",
        f"For each of {protocol['users']:,} users with test items all items were ranked, but for the user’s "
        f"own of {protocol['masked'].replace('+', ' and ')}"
        + (f"; {left_out:,} users without test items are left out." if left_out else "."),
        "A figure is the mean over users, then over seeds. What follows ± is the sample standard deviation "
        "over seeds, which a single seed does not have.",
    ]
    if result.differences:
        chosen = "being the best on validation" if result.reference_chosen else "as asked for"
        reference = (
            "The reference of each is the same system, trained on the data as they are."
            if result.reference is None
            else f"{result.reference} is the reference, {chosen}."
        )
        said.append(
            f"{reference} Differences to it are taken user by user, after "
            "each user’s mean over seeds. Intervals and p-values are of a bootstrap of users with "
            f"{N_RESAMPLES:,} resamples; Holm’s correction is for all differences of this page, "
            f"{len(result.differences)} in number. They speak of other users, not of other seeds: a "
            "difference below the spread over seeds proves little."
        )
    if result.reference is None:
        said.append(
            "Content was changed for training and for nothing else: interactions, their split and the users "
            "are the same. What is drawn, such as noise, each seed draws for itself; of items that lack "
            "content, those of a smaller share are among those of a larger one."
        )
    said += [
        f"{system.name} was not trained here but measured as it was, from {', '.join(system.runs)}."
        for system in result.systems
        if system.saved
    ]
    if note := unread_note(result):
        said.append(note)
    if result.legacy_choice:
        said.append(
            f"{legacy_note(result)} Nothing else rests on them; a model that is solved at once has nothing "
            "to round, and was not trained twice."
        )
    return said


def _records(system: SystemFigures) -> list[RunRecord]:
    """Read what is written down of the runs, as far as they are still there; nothing of their weights."""
    records = []
    for folder in system.runs:
        try:
            records.append(read_record(folder))
        except StorageError:
            continue
    return records


def _settings(system: SystemFigures, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Give all settings, defaults included, if there is a record of them."""
    if not records:
        return system.settings
    record = records[0]
    plugins = {
        f"{plugin}.{name}": value for plugin, of in record.plugins.items() for name, value in of.items()
    }
    own = {**record.model_settings}
    if record.model == "fusion":  # of a part its weight and name are enough
        own["parts"] = [
            f"{part['weight']:.3f} {'+'.join([part['model'], *part['plugins']])}" for part in own["parts"]
        ]
    return {"model": record.name, **own, **record.train_settings, **plugins}


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Give the settings in which systems differ: name -> values in the order of systems, None for none."""
    names = dict.fromkeys(name for of in settings.values() for name in of)
    by_name = {name: [of.get(name) for of in settings.values()] for name in names}
    return {name: values for name, values in by_name.items() if any(value != values[0] for value in values)}
