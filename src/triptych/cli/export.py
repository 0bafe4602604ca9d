"""The command that writes data sets and vectors for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.cli.base import Json, Overwrite, SplitKind, SplitSeed, app, make_split, needs, read_choice
from triptych.cli.output import print_facts, print_json
from triptych.errors import ConfigError


@app.command(
    epilog="Example: `triptych export data/shop --to mmrec --out shop-for-mmrec`, or `triptych export "
    "runs/freedom-shop-seed7 --to vectors --out vectors`"
)
def export(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            help="A data set folder made by `triptych prepare`, or a run folder made by `triptych train`.",
            metavar="DATA|RUN",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Of a data set: mmrec or recbole. Of a run: vectors (Parquet), faiss (an index of items) "
            "or postgres (tables)."
        ),
    ],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The folder to make; postgres needs none.")
    ] = None,
    kind: SplitKind = None,
    split_seed: SplitSeed = 999,
    index: Annotated[
        str, typer.Option(help="How the FAISS index searches: hnsw (finds more) or ivf (is built faster).")
    ] = "hnsw",
    url: Annotated[
        str | None,
        typer.Option(
            envvar="TRIPTYCH_DATABASE",
            show_envvar=False,
            help="postgresql://USER@HOST/DATABASE, or $TRIPTYCH_DATABASE; the password in ~/.pgpass or "
            "$PGPASSWORD.",
        ),
    ] = None,
    schema: Annotated[str, typer.Option(help="Where in the database the tables are.")] = "public",
    array: Annotated[
        bool, typer.Option("--array", help="Write real[] columns, for databases without pgvector.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a data set as the files of another toolbox, or a run's vectors for what searches them."""
    choice = read_choice("--to", to, ("mmrec", "recbole", "vectors", "faiss", "postgres"))
    files = choice in ("mmrec", "recbole")
    needs(context, ["--split", "--split-seed"], "--to mmrec or --to recbole", met=files)
    needs(context, ["--index"], "--to faiss", met=choice == "faiss")
    needs(context, ["--url", "--schema", "--array"], "--to postgres", met=choice == "postgres")
    if choice == "postgres" and out_folder is not None:
        raise ConfigError(
            "--to postgres with --out", wanted="tables in a database, and no folder", fix="Leave --out away"
        )
    if choice == "postgres" and url is None:
        raise ConfigError(
            "--to postgres without --url",
            wanted="the address of a database",
            fix="Name it with --url, or in $TRIPTYCH_DATABASE",
        )
    if choice != "postgres" and out_folder is None:
        raise ConfigError(f"--to {choice} without --out", wanted="a folder to make", fix="Name it with --out")
    place = str(url) if choice == "postgres" else str(out_folder)
    facts: Mapping[str, Any]
    if files:
        from triptych.data.dataset import Dataset
        from triptych.data.export import export_mmrec, export_recbole

        dataset = Dataset.load(source)
        write = export_mmrec if choice == "mmrec" else export_recbole
        facts = write(dataset, place, split=make_split(dataset, kind, split_seed), overwrite=overwrite)
    else:
        from triptych.runs import load
        from triptych.serving.postgres import push_vectors
        from triptych.serving.vectors import export_faiss, export_vectors

        run = load(source)
        if choice == "postgres":
            facts = push_vectors(place, run, schema=schema, array=array)
        elif choice == "faiss":
            how = read_choice("--index", index, ("hnsw", "ivf"))
            facts = export_faiss(run, place, kind=how, overwrite=overwrite)
        else:
            facts = export_vectors(run, place, overwrite=overwrite)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
