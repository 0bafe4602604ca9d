"""The command about the built-in shop."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.base import Json, Overwrite, Seed, app
from triptych.cli.output import out, print_json, print_table


@app.command(epilog="Example: `triptych demo --out demo`")
def demo(
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the data set, the runs and the page.")
    ] = Path("demo"),
    seed: Seed = 7,
    noise: Annotated[float, typer.Option(help="Share of items with a wrong picture and text, 0 to 1.")] = 0.1,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Generate the built-in shop, train three models on it, and write a page with its pictures."""
    from triptych.cli.progress import TrainingProgress
    from triptych.report.demo import run_demo

    result = run_demo(out_folder, seed=seed, noise=noise, overwrite=overwrite, progress=TrainingProgress)
    if as_json:
        print_json(result.as_dict())
        return
    facts = result.facts
    print_table(
        f"Test figures on the built-in shop ({facts['users']} users, {facts['items']} items, "
        f"{facts['interactions']} interactions)",
        ["model", *result.metrics],
        [[row["model"], *(row[metric] for metric in result.metrics)] for row in result.comparison],
        notes="All items ranked, train and valid items masked. 'sparse' are items with at most "
        f"{facts['sparse_at_most']} training interactions.",
    )
    print_table(
        f"\nWhat user {result.user_id} chose",
        ["item", "title"],
        [(item.item_id, item.title) for item in result.history],
    )
    print_table(
        f"\nTop 10 for user {result.user_id} by {result.best_model}",
        ["item", "title", "score", ""],
        [
            (str(item.item_id), item.title, item.score or 0.0, "chosen, held out" if item.hit else "")
            for item in result.recommendations[result.best_model]
        ],
    )
    out.print(f"\nThe page with pictures: {out_folder / 'index.html'}", highlight=False, markup=False)
    run_folder = out_folder / "runs" / result.best_model
    command = shlex.join(["triptych", "serve", str(run_folder), "--data", str(out_folder / "data")])
    out.print(f"Next: {command}", highlight=False, markup=False, soft_wrap=True)
