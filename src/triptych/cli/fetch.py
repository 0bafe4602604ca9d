"""Commands `triptych data ...`: raw files to begin with, from the network or made on the spot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.base import DataFolder, Json, Overwrite, Seed, app
from triptych.cli.output import out, print_facts, print_json, print_table
from triptych.errors import DataError

data = typer.Typer(
    no_args_is_help=True, help="Raw files to begin with: public data sets, pictures, an example."
)
app.add_typer(data, name="data")


@data.command("list", epilog="Example: `triptych data list`")
def list_(as_json: Json = False) -> None:
    """List the public data sets that `triptych data get` knows."""
    from triptych.fetch.catalogue import list_catalogue

    entries = list_catalogue()
    if as_json:
        listed = [
            {"name": e.name, "title": e.title, "page": e.page, "terms": e.terms,
             "files": {file.name: {"role": file.role, "optional": file.optional} for file in e.files}}
            for e in entries
        ]  # fmt: skip
        print_json({"data_sets": listed})
        return
    print_table(None, ["name", "what it is"], [(entry.name, entry.title) for entry in entries])


@data.command(epilog="Example: `triptych data get movielens-100k --out raw`")
def get(
    name: Annotated[str, typer.Argument(help="A name that `triptych data list` shows.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Where raw files are kept.")] = Path("raw"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Files of this role only, optional ones as well: interactions, items, image; repeat."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch the files of a public data set; a broken download goes on where it stopped."""
    from triptych.cli.progress import DownloadProgress
    from triptych.fetch.catalogue import get as get_files

    with DownloadProgress() as progress:
        facts = get_files(name, out_folder, roles=only, observer=progress.on_bytes)
    if as_json:
        print_json(facts)
        return
    print_facts(facts)
    source = facts["unpacked"][0] if facts["unpacked"] else facts["folder"]
    _print_next(f"triptych prepare {shlex.quote(source)} --out {shlex.quote(f'data/{name}')}")


@data.command(epilog="Example: `triptych data pictures data/baby --out raw/baby-pictures`")
def pictures(
    data_folder: DataFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the pictures.")],
    column: Annotated[str, typer.Option(help="Column of the item table with their addresses.")] = "image_url",
    parallel: Annotated[int, typer.Option(help="Pictures fetched at a time.")] = 4,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for pictures that did not exist.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch the pictures of a data set's items by their addresses; goes on where it stopped.

    Of several addresses in a cell, parted by commas or bars, the first is taken.
    """
    import polars as pl

    from triptych.cli.progress import DownloadProgress
    from triptych.data.dataset import Dataset
    from triptych.fetch.pictures import addresses, fetch_pictures

    table = Dataset.load(data_folder).item_table
    if column not in table.columns:
        raise DataError(
            f"the item table has no column '{column}'",
            wanted="a column of addresses, one of: " + ", ".join(table.columns),
            fix="Name it with --column",
        )
    if table[column].dtype != pl.String:
        raise DataError(
            f"column '{column}' holds {table[column].dtype} values",
            wanted="addresses",
            fix="Name another with --column",
        )
    cells = zip(table["item_id"].to_list(), table[column].to_list(), strict=True)
    found = {item: in_cell for item, cell in cells if cell is not None and (in_cell := addresses(cell))}
    urls = {item: in_cell[0] for item, in_cell in found.items()}
    with DownloadProgress() as progress:
        report = fetch_pictures(
            urls, out_folder, parallel=parallel, retry_failed=retry_failed, observer=progress.on_files
        )
    facts = {
        "without_address": table.height - len(urls),
        "more_than_one_address": sum(len(in_cell) > 1 for in_cell in found.values()),
        **vars(report),
    }
    if as_json:
        print_json(facts)
        return
    print_facts(facts)
    if not report.fetched + report.already_there:
        return  # there is nothing to encode
    folders = f"{shlex.quote(str(data_folder))} --images {shlex.quote(str(out_folder))}"
    _print_next(f"triptych encode {folders} --out {shlex.quote(f'{data_folder}-pictures')}")


@data.command(epilog="Example: `triptych data example --out export`")
def example(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("export"),
    seed: Seed = 7,
    noise: Annotated[float, typer.Option(help="Share of items with a wrong picture and text, 0 to 1.")] = 0.1,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the built-in shop as its owner would export it: sales, products, and a folder of pictures."""
    from triptych.data.demo import build_shop

    shop = build_shop(seed=seed, noise=noise)
    shop.export(out_folder, overwrite=overwrite)
    facts = {
        "folder": str(out_folder),
        "sales": len(shop.interactions),
        "products": shop.item_table.height,
        "pictures": int(shop.present["image"].sum()),
    }
    if as_json:
        print_json(facts)
        return
    print_facts(facts)
    _print_next(f"triptych prepare {shlex.quote(str(out_folder))} --out data/shop")


def _print_next(command: str) -> None:
    out.print(f"Next: {command}", highlight=False, markup=False, soft_wrap=True)
