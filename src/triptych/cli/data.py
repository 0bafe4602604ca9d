"""Commands about data: the built-in shop, preparing, describing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.base import DataFolder, Json, Overwrite, app, read_modality_and_file
from triptych.cli.output import out, print_facts, print_json, print_table

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset


@app.command(epilog="Example: `triptych demo --out demo`")
def demo(
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the data set, the runs and the page.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the shop and of training.")] = 7,
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
            (str(item.item_id), item.title, item.score or 0.0, "chosen later" if item.hit else "")
            for item in result.recommendations[result.best_model]
        ],
    )
    out.print(f"\nThe page with pictures: {out_folder / 'index.html'}", highlight=False)
    out.print(
        f"Next: triptych train freedom {out_folder / 'data'} --out {out_folder / 'mine'}", highlight=False
    )


@app.command(
    epilog="Example: `triptych prepare sales.csv --user customer --item sku --items products.csv "
    "--features image=vectors.npy --core 5 --out data/shop`"
)
def prepare(
    interactions: Annotated[
        Path, typer.Argument(help="CSV, TSV, Parquet, JSON lines or MMRec .inter.", metavar="FILE")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="The data set folder to make.")],
    name: Annotated[str | None, typer.Option(help="Name in reports; by default the folder's.")] = None,
    user: Annotated[
        str | None, typer.Option(help="Column of user ids; by default found by its name.")
    ] = None,
    item: Annotated[
        str | None, typer.Option(help="Column of item ids; by default found by its name.")
    ] = None,
    rating: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column that says which part of a split a row is in.")
    ] = None,
    label_meaning: Annotated[
        str | None,
        typer.Option(help='What its labels mean; by default "0=train,1=valid,2=test" or these words.'),
    ] = None,
    min_rating: Annotated[float | None, typer.Option(help="Leave out rows with a lower rating.")] = None,
    core: Annotated[
        int | None, typer.Option(help="Keep the k-core: at least so many interactions each.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Table of items: an id column, titles, anything else.")
    ] = None,
    item_column: Annotated[str | None, typer.Option(help="The items table's id column.")] = None,
    title: Annotated[
        str | None, typer.Option(help="The items table's title column; by default title or name.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=FILE",
            help="Features by item (.npy, .safetensors, .parquet) or an item graph (.npz with row, col, "
            "weight); repeat for more.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read interactions and item content, filter, check, and write a data set folder."""
    from triptych.data.dataset import MANIFEST
    from triptych.data.prepare import prepare as prepare_dataset
    from triptych.data.readers import Columns
    from triptych.data.split import read_label_meaning
    from triptych.files import check_new_folder

    check_new_folder(out_folder, marker=MANIFEST, overwrite=overwrite)
    data = prepare_dataset(
        interactions,
        name=name or out_folder.resolve().name,
        columns=Columns(user=user, item=item, rating=rating, timestamp=timestamp, label=label),
        min_rating=min_rating,
        label_meaning=read_label_meaning(label_meaning) if label_meaning else None,
        core=core,
        items_file=items,
        item_column=item_column,
        title_column=title,
        features=[read_modality_and_file(text) for text in features or []],
    )
    data.save(out_folder, overwrite=overwrite)
    _show_dataset(data, as_json=as_json, where=out_folder)


@app.command(epilog="Example: `triptych describe data/shop`")
def describe(data: DataFolder, as_json: Json = False) -> None:
    """Count what is in a data set, and say where it came from."""
    from triptych.data.dataset import Dataset

    _show_dataset(Dataset.load(data), as_json=as_json, where=data)


def _show_dataset(data: Dataset, *, as_json: bool, where: Path) -> None:
    facts = {**data.describe(), "path": str(where), "provenance": dict(data.provenance)}
    if as_json:
        print_json(facts)
        return
    out.print(f"[bold]{data.name}[/] in {where}", highlight=False)
    modalities, facts["density"] = facts.pop("modalities"), f"{facts['density']:.3%}"
    print_facts({name: value for name, value in facts.items() if name not in ("name", "path")})
    rows = [
        (
            name,
            str(one["dim"] or "–"),
            str(one["graph_edges"] or "–"),
            f"{one['coverage']:.1%}",
            one["source"],
        )
        for name, one in modalities.items()
    ]
    if rows:
        print_table(
            "\nItem content", ["modality", "columns", "graph edges", "items that have it", "source"], rows
        )
