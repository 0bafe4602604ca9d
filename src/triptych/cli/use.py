"""Commands that put a run to use: lists for users, items like an item; and what a database knows."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.base import Json, MemoryLimit, Overwrite, RunFolder, app, limited, needs, read_choice
from triptych.cli.output import err, out, print_facts, print_json, print_table
from triptych.errors import ConfigError

Length = Annotated[int, typer.Option("-k", "--k", help="List length.")]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="CONDITION",
        help="List only items whose columns meet a condition: \"category = 'Bags' and price < 60\".",
    ),
]


@app.command(
    epilog="Example: `triptych recommend runs/freedom-shop-seed7 u0042 u0007 --k 5`, or `triptych recommend "
    "runs/freedom-shop-seed7 --all --k 20 --where \"category = 'Bags' and price < 60\" --out lists.parquet`"
)
def recommend(
    context: typer.Context,
    run_folder: RunFolder,
    users: Annotated[list[str] | None, typer.Argument(help="Raw user ids.", metavar="USER")] = None,
    users_file: Annotated[
        Path | None,
        typer.Option(
            "--users",
            metavar="FILE",
            help="Users from a table (CSV, TSV, Parquet, JSON), each once, or a .txt with one a line.",
        ),
    ] = None,
    user_column: Annotated[
        str | None, typer.Option(help="The column of that table; by default the first.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All users of the data set.")] = False,
    k: Length = 10,
    exclude: Annotated[
        str,
        typer.Option(help="Items left out because the user has them: train, train+valid or all; or none."),
    ] = "all",
    where: Where = None,
    diversity: Annotated[
        float,
        typer.Option(
            help="From 0 to 1: how much an item's unlikeness to those above it counts beside its score."
        ),
    ] = 0.0,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write one table: .parquet, .csv or .jsonl."),
    ] = None,
    titles: Annotated[bool, typer.Option("--titles", help="Write the items' titles as well.")] = False,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """List the best items for users; a user without training interactions gets popular items."""
    from triptych.data.frames import check_suffix
    from triptych.runs import load
    from triptych.runs.batch import read_users, recommend_all, write_recommendations

    excluded = read_choice("--exclude", exclude, ("none", "train", "train+valid", "all"))
    if [bool(users), users_file is not None, everybody].count(True) != 1:
        raise ConfigError(
            "users are to be named in one way",
            wanted="user ids, --users FILE or --all",
            fix="Choose one of these",
        )
    is_table = users_file is not None and users_file.suffix.lower() != ".txt"
    needs(context, ["--user-column"], "a table as --users", met=is_table)
    needs(context, ["--titles"], "--out", met=out_file is not None)
    if out_file is not None:
        check_suffix(out_file)
    wanted = read_users(users_file, user_column) if users_file is not None else users or None
    with limited(memory_limit):
        run = load(run_folder)
    facts = {
        "run": str(run_folder),
        "model": run.record.name,
        "excluded": exclude,
        "where": where,
        "diversity": diversity,
    }
    if out_file is not None:
        with limited(memory_limit), _counting("users") as observer:
            counts = write_recommendations(
                run, out_file, wanted, k, exclude=excluded, where=where, diversity=diversity,
                titles=titles, observer=observer,
            )  # fmt: skip
        show = print_json if as_json else print_facts
        show({**facts, **counts, "out": str(out_file)})
        return
    with limited(memory_limit):  # what the lists need is asked before the first is made
        lists = recommend_all(run, wanted, k, exclude=excluded, where=where, diversity=diversity)
    if as_json:
        answers = [
            {"user_id": entry.user_id, "basis": entry.basis, "items": [vars(item) for item in entry.items]}
            for entry in lists
        ]
        print_json({**facts, "recommendations": answers})
        return
    for entry in lists:
        basis = "" if entry.basis == "model" else " (no training interactions: the most popular items)"
        short = "" if len(entry.items) == k else f" (no more than {len(entry.items)} to list)"
        print_table(
            f"User {entry.user_id}{basis}{short}",
            ["place", "item", "title", "score"],
            [
                (place, str(item.item_id), item.title or "", item.score)
                for place, item in enumerate(entry.items, start=1)
            ],
        )


@app.command(
    epilog="Example: `triptych similar runs/freedom-shop-seed7 mug-0217 --k 5`, or `triptych similar "
    "runs/freedom-shop-seed7 mug-0217 --where \"status = 'active'\"`"
)
def similar(
    run_folder: RunFolder,
    item: Annotated[str, typer.Argument(help="A raw item id.", metavar="ITEM")],
    k: Length = 10,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """List the items nearest to an item, as the model scores."""
    from triptych.runs import load
    from triptych.scorer import EmbeddingScorer

    run = load(run_folder)
    items = run.similar(item, k, where=where)
    if as_json:
        facts = {"run": str(run_folder), "item_id": item, "where": where}
        print_json({**facts, "items": [vars(entry) for entry in items]})
        return
    if not items:
        which = "no item" if where is None else f"no item where {where}"
        out.print(f"{run.record.name} says of {which} that it is like {item}", markup=False, highlight=False)
        return
    short = "" if len(items) == k else f" (no more than {len(items)} to list)"
    print_table(
        f"Items like {item}{short}",
        ["place", "item", "title", "cosine" if isinstance(run.scorer, EmbeddingScorer) else "score"],
        [
            (place, str(entry.item_id), entry.title or "", entry.score)
            for place, entry in enumerate(items, start=1)
        ],
    )


@app.command(
    epilog='Example: `triptych pull postgresql://shop@localhost/shop --interactions "select customer as '
    'user_id, sku as item_id, sold_at as timestamp from sales" --items "select sku as item_id, title, price '
    'from products" --out export`'
)
def pull(
    url: Annotated[
        str,
        typer.Argument(
            envvar="TRIPTYCH_DATABASE",
            show_envvar=False,
            help="postgresql://USER@HOST/DATABASE, or $TRIPTYCH_DATABASE; the password in ~/.pgpass or "
            "$PGPASSWORD.",
            metavar="URL",
        ),
    ],
    interactions: Annotated[
        str,
        typer.Option(metavar="SQL", help="A query for user_id, item_id and, if known, rating, timestamp."),
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="The folder to make, for `triptych prepare`.")],
    items: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="A query for item_id, title, anything else of the items."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read interactions and items from PostgreSQL into files that `triptych prepare` reads."""
    from triptych.serving.postgres import pull as pull_tables

    facts = pull_tables(url, out_folder, interactions=interactions, items=items, overwrite=overwrite)
    if as_json:
        print_json({**facts, "path": str(out_folder)})
        return
    print_facts({"folder": str(out_folder), "from": facts["source"], **facts["counts"]})
    made = shlex.quote(f"data/{out_folder.resolve().name}")
    line = f"Next: triptych prepare {shlex.quote(str(out_folder))} --out {made}"
    out.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show on standard error how many are done; nothing where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(f"[bold]{what}"), BarColumn(bar_width=20), MofNCompleteColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
