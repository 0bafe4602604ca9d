"""Commands that put a run to use: lists for users, items like an item."""

from __future__ import annotations

from typing import Annotated

import typer

from triptych.cli.base import Json, RunFolder, app, read_choice
from triptych.cli.output import print_json, print_table


@app.command(epilog="Example: `triptych recommend runs/freedom-shop-seed7 u0042 u0007 --k 5`")
def recommend(
    run_folder: RunFolder,
    users: Annotated[list[str], typer.Argument(help="Raw user ids.", metavar="USER...")],
    k: Annotated[int, typer.Option("-k", "--k", help="List length.")] = 10,
    exclude: Annotated[
        str, typer.Option(help="Items left out because the user has them: train, train+valid or all.")
    ] = "all",
    as_json: Json = False,
) -> None:
    """List the best items for users; a user without training interactions gets popular items."""
    from triptych.runs import load

    run = load(run_folder)
    lists = run.recommend(
        users, k, exclude=read_choice("--exclude", exclude, ("train", "train+valid", "all"))
    )
    if as_json:
        answers = [
            {"user_id": entry.user_id, "basis": entry.basis, "items": [vars(item) for item in entry.items]}
            for entry in lists
        ]
        print_json(
            {
                "run": str(run_folder),
                "model": run.record.name,
                "excluded": exclude,
                "recommendations": answers,
            }
        )
        return
    for entry in lists:
        basis = "" if entry.basis == "model" else " (no training interactions: the most popular items)"
        print_table(
            f"User {entry.user_id}{basis}",
            ["place", "item", "title", "score"],
            [
                (place, str(item.item_id), item.title or "", item.score)
                for place, item in enumerate(entry.items, start=1)
            ],
        )


@app.command(epilog="Example: `triptych similar runs/freedom-shop-seed7 mug-0137 --k 5`")
def similar(
    run_folder: RunFolder,
    item: Annotated[str, typer.Argument(help="A raw item id.", metavar="ITEM")],
    k: Annotated[int, typer.Option("-k", "--k", help="List length.")] = 10,
    as_json: Json = False,
) -> None:
    """List the items nearest to an item by the cosine of their embeddings."""
    from triptych.runs import load

    run = load(run_folder)
    items = run.similar(item, k)
    if as_json:
        print_json({"run": str(run_folder), "item_id": item, "items": [vars(entry) for entry in items]})
        return
    print_table(
        f"Items like {item}",
        ["place", "item", "title", "cosine"],
        [
            (place, str(entry.item_id), entry.title or "", entry.score)
            for place, entry in enumerate(items, start=1)
        ],
    )
