"""Commands that measure runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.base import (
    DataFolder,
    Json,
    Lengths,
    MaskedOption,
    RunFolder,
    app,
    read_choice,
    read_lengths,
    read_masked,
)
from triptych.cli.output import out, print_json, print_table

if TYPE_CHECKING:
    from triptych.evaluation.ranking import Ranking


@app.command(epilog="Example: `triptych evaluate runs/freedom-shop-seed7 --k 5,10,50 --masked train+valid`")
def evaluate(
    run_folder: RunFolder,
    on: Annotated[str, typer.Option(help="valid or test.")] = "test",
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    per_user: Annotated[
        Path | None, typer.Option(help="Write every user's figures to this CSV file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a saved run on its own split, by full ranking."""
    from triptych.runs import evaluate as evaluate_run
    from triptych.runs import load

    run = load(run_folder)
    ranking = evaluate_run(
        run, read_choice("--on", on, ("valid", "test")), read_lengths(k), masked=read_masked(masked)
    )
    if per_user is not None:
        _write_per_user(per_user, run.split.data.users.ids[ranking.users].tolist(), ranking)
    if as_json:
        print_json(
            {
                "run": str(run_folder),
                "model": run.record.name,
                "metrics": ranking.mean(),
                "protocol": dict(ranking.protocol),
            }
        )
        return
    lengths = ranking.protocol["k"]
    means = ranking.mean()
    names = list(dict.fromkeys(name.partition("@")[0] for name in means))
    print_table(
        f"{run.record.name} on {run.record.data}, {on}",
        ["metric", *(f"@{length}" for length in lengths)],
        [[name, *(means[f"{name}@{length}"] for length in lengths)] for name in names],
        notes=str(ranking).splitlines()[-1],
    )


@app.command(epilog="Example: `triptych diagnose runs/freedom-shop-seed7 data/shop`")
def diagnose(
    run_folder: RunFolder,
    data: DataFolder,
    layers: Annotated[
        int, typer.Option(min=0, help="How often vectors are passed along the user–item graph.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Measure what a trained model does with content: its columns, its modalities, what they share."""
    from triptych.data.dataset import Dataset
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
            ["modality", "items", "uniformity", "raw variance kept"],
            [(row.modality, row.n_items, row.uniformity, row.variance_kept) for row in found.modalities],
            notes="Uniformity: 0 where all vectors point one way, lower where they spread.",
        )
    if found.pairs:
        print_table(
            "\nWhat two modalities say of each other",
            ["modalities", "items", "distance", "nats in the model", "nats in raw features"],
            [
                (" + ".join(row.modalities), row.n_items, row.alignment, row.information, row.information_raw)
                for row in found.pairs
            ],
            notes="Distance: mean squared distance of an item's two unit vectors, 0 to 4.\n"
            "Nats: lower bounds of the information they share.",
        )


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
