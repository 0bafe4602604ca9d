"""Commands that measure runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.base import (
    DataFolder,
    Json,
    Lengths,
    MaskedOption,
    MemoryLimit,
    RunFolder,
    Seed,
    app,
    limited,
    needs,
    read_choice,
    read_lengths,
    read_masked,
)
from triptych.cli.output import err, out, print_json, print_table

if TYPE_CHECKING:
    from triptych.evaluation.beyond import Group
    from triptych.evaluation.ranking import Ranking
    from triptych.runs.beyond import BeyondAccuracy

Layers = Annotated[int, typer.Option(min=0, help="How often vectors are passed along the user–item graph.")]


@app.command(
    epilog="Example: `triptych evaluate runs/freedom-shop-seed7 --k 5,10,50 --beyond --data data/shop`"
)
def evaluate(
    context: typer.Context,
    run_folder: RunFolder,
    on: Annotated[str, typer.Option(help="valid or test.")] = "test",
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    per_user: Annotated[
        Path | None, typer.Option(help="Write every user's figures to this CSV file.")
    ] = None,
    beyond: Annotated[
        bool,
        typer.Option("--beyond", help="Also what the lists are like beside right, and for whom they are."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Rank by another setting with the same weights, such as MSI's score_with; repeat.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The data set folder, for --set, and what --beyond measures by features."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="What --beyond compares histories and lists by; by default popularity."
        ),
    ] = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Measure a saved run on its own split, by full ranking."""
    from triptych.data.dataset import Dataset
    from triptych.runs import evaluate as evaluate_run
    from triptych.runs import load, rank_otherwise
    from triptych.runs.beyond import BY_POPULARITY, measure_beyond
    from triptych.training.recipe import parse_settings

    changes = parse_settings(settings or ())
    part, lengths, hidden = read_choice("--on", on, ("valid", "test")), read_lengths(k), read_masked(masked)
    needs(context, ["--groups"], "--beyond", met=beyond)
    needs(context, ["--data"], "--beyond or --set", met=beyond or bool(changes))
    needs(context, ["--set"], "--data", met=data is not None)
    needs(context, ["--masked"], "--on test", met=part == "test" or hidden == "train")
    found = None
    with limited(memory_limit):
        run = load(run_folder)
        features = None if data is None else Dataset.load(data)
        if changes and features is not None:
            run = rank_otherwise(run, features, changes)
        ranking = evaluate_run(run, part, lengths, masked=hidden)
        if beyond:
            by = groups or BY_POPULARITY
            found = measure_beyond(run, features, lengths, on=part, masked=hidden, groups=by)
    if per_user is not None:
        _write_per_user(per_user, run.split.data.users.ids[ranking.users].tolist(), ranking)
    if as_json:
        print_json(
            {
                "run": str(run_folder),
                "model": run.record.name,
                **({"set": changes} if changes else {}),
                "metrics": ranking.mean(),
                "protocol": dict(ranking.protocol),
                **({} if found is None else {"beyond": found.model_dump(mode="json")}),
            }
        )
        return
    named = "".join(f", {name} = {value}" for name, value in changes.items())
    _show_by_length(
        f"{run.record.name} on {run.record.data}, {on}{named}", ranking.mean(), str(ranking).splitlines()[-1]
    )
    if found is not None:
        _show_beyond(found)


@app.command(epilog="Example: `triptych diagnose runs/freedom-shop-seed7 data/shop`")
def diagnose(
    run_folder: RunFolder,
    data: DataFolder,
    layers: Layers = 3,
    as_json: Json = False,
) -> None:
    """Measure what a trained model does with content: its columns, its modalities, what they share."""
    from triptych.data.dataset import Dataset
    from triptych.report.diagnosis_tables import modality_rows, pair_rows
    from triptych.runs import diagnose as diagnose_run
    from triptych.runs import load

    found = diagnose_run(load(run_folder), Dataset.load(data), n_layers=layers)
    if as_json:
        print_json({"run": str(run_folder), **found.model_dump(mode="json")})
        return
    print_table(
        f"{found.model} on {found.data}: how much columns repeat each other",
        ["of", "layer", "users", "items"],
        [(row.of, row.layer, row.users, row.items) for row in found.layers],
        notes="MGNM's p: 0 where no two of D columns correlate, sqrt(D (D - 1) / 2) where all are alike.",
    )
    if not found.modalities:
        out.print(f"\n{found.model} has no vectors by modality.", highlight=False)
    else:
        print_table(
            "\nThe modalities in the model",
            ["modality", "items", "uniformity", "raw variance kept", "by content alone"],
            modality_rows(found),
            notes="Uniformity: 0 where all vectors point one way, lower where they spread.\n"
            "By content alone: by what content makes of items before ids and graphs enter, if they do.",
        )
    if found.pairs:
        print_table(
            "\nWhat two modalities say of each other",
            ["modalities", "items", "distance", "nats in the model", "of content alone", "in raw features"],
            pair_rows(found),
            notes="Distance: mean squared distance of an item's two unit vectors, 0 to 4.\n"
            "Nats: lower bounds of the information they share.",
        )


@app.command(epilog="Example: `triptych picture runs/sand-shop-seed7 data/shop --out sand.html`")
def picture(
    run_folder: RunFolder,
    data: DataFolder,
    out_file: Annotated[Path, typer.Option("--out", help="The HTML file to make or replace.")] = Path(
        "picture.html"
    ),
    sample: Annotated[int, typer.Option(help="Rows of each group of a map, at most; 2,000 in all.")] = 500,
    layers: Layers = 3,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw what a model learned: maps of its vectors, content before and after, columns that repeat."""
    from triptych.data.dataset import Dataset
    from triptych.report.embedding_page import write_picture_page
    from triptych.report.embeddings import picture_run
    from triptych.runs import load

    run = load(run_folder)
    with err.status("drawing") as status:
        found = picture_run(
            run,
            Dataset.load(data),
            sample=sample,
            n_layers=layers,
            seed=seed,
            announce=lambda title: status.update(f"drawing {title}"),
        )
        write_picture_page(found, out_file)
    if as_json:
        print_json({"run": str(run_folder), "page": str(out_file), **found.model_dump(mode="json")})
        return
    print_table(
        f"{found.model} on {found.data}",
        ["map", "group", "rows", "trustworthiness", "apart"],
        [
            (one.title, panel.name, len(panel.points), one.trust, panel.apart)
            for one in found.maps
            for panel in one.panels
        ],
        notes="\n".join(
            [*(f"Not shown: {what}; {why}." for what, why in found.missing.items()), f"The page: {out_file}"]
        ),
    )


def _show_by_length(title: str, figures: Mapping[str, float], notes: str) -> None:
    """Print figures named as in "recall@20": a row for each name, a column for each length."""
    names, lengths = (
        list(dict.fromkeys(pieces)) for pieces in zip(*(name.split("@") for name in figures), strict=True)
    )
    print_table(
        title,
        ["metric", *(f"@{length}" for length in lengths)],
        [[name, *(figures.get(f"{name}@{length}") for length in lengths)] for name in names],
        notes,
    )


def _show_beyond(found: BeyondAccuracy) -> None:
    left_out = "".join(f"\nNo {name.replace('_', ' by ')}: {why}." for name, why in found.without.items())
    _show_by_length(
        "\nBeside accuracy",
        found.figures,
        "coverage: share of all items that stand in any list\n"
        "gini: 0 where all items stand in equally many lists, near 1 where few have all\n"
        "popularity: mean training interactions of an item; lift: 0 as popular as what users took, 1 twice\n"
        "novelty: in bits; one more for items half as popular\n"
        f"miscalibration: nats between shares of {found.groups} in history and list, 0 where they agree\n"
        "diversity: 0 where the items of a list look alike, 1 at right angles\n"
        "share: of the score of a listed item, by where it comes from; below 0 it speaks against" + left_out,
    )
    _show_groups("\nBy number of training items of the user", "items", found.by_degree, ("recall", "ndcg"))
    _show_groups(
        "\nBy popularity of what was looked for",
        "group",
        found.by_popularity,
        ("recall",),
        "Head and tail: the most and the least popular items that hold a fifth of all training interactions; "
        "cold: items that have none.\nA user counts in each group that they look for an item of.",
    )


def _show_groups(
    title: str, what: str, groups: Sequence[Group], metrics: Sequence[str], notes: str = ""
) -> None:
    """Print some metrics of groups, at all lengths."""
    names = [name for name in groups[0].mean if name.partition("@")[0] in metrics]
    rows = [[group.name, group.n_users, *(group.mean[name] for name in names)] for group in groups]
    print_table(title, [what, "users", *names], rows, notes)


def _write_per_user(path: Path, user_ids: list[Any], ranking: Ranking) -> None:
    from triptych.files import write_atomic

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["user_id", *ranking.values])
            writer.writerows(
                zip(user_ids, *(values.tolist() for values in ranking.values.values()), strict=True)
            )

    write_atomic(path, write)
