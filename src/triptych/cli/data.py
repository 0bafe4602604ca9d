"""Commands about data sets: prepare, encode, filter, split, describe."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.base import (
    DataFolder,
    Json,
    MemoryLimit,
    Overwrite,
    SplitKind,
    SplitSeed,
    app,
    each_once,
    limited,
    make_split,
    read_choice,
    read_pair,
)
from triptych.cli.dataset_view import describe_dataset, show_dataset
from triptych.cli.output import err, out, print_json
from triptych.errors import ConfigError

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset
    from triptych.data.filters import Filters

OutFolder = Annotated[Path, typer.Option("--out", help="The data set folder to make.")]
Name = Annotated[str | None, typer.Option(help="Name in reports and of runs; by default the folder's.")]
MinRating = Annotated[float | None, typer.Option(help="Leave out rows with a lower rating.")]
Since = Annotated[str | None, typer.Option(help="Leave out what came before, such as 2014-01-31.")]
Until = Annotated[str | None, typer.Option(help="Leave out what came at this time or later.")]
MinUser = Annotated[int | None, typer.Option(help="Leave out users with fewer interactions.")]
MinItem = Annotated[int | None, typer.Option(help="Leave out items with fewer interactions.")]
Core = Annotated[
    int | None, typer.Option(help="Keep the k-core: at least so many interactions each, among those kept.")
]
Text = Annotated[
    str | None,
    typer.Option(
        metavar="TEMPLATE",
        help='The text to encode, such as "{title}. {brand}. {description}"; by default the usual columns '
        "there are; none for none.",
    ),
]
Images = Annotated[
    Path | None, typer.Option(help="Folder of pictures named by item id; none for those found.")
]
Sounds = Annotated[
    Path | None, typer.Option(help="Folder of sound files named by item id; none for those found.")
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        metavar="MODALITY=NAME",
        help="text=minilm, text=tfidf, image=descriptor, audio=mfcc, or the folder or hub name of a model; "
        "repeat for more. MODALITY=none encodes none.",
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", envvar="TRIPTYCH_CACHE", help="Folder that keeps what was encoded."),
]
Device = Annotated[str, typer.Option(help="Of learned encoders: auto, cpu, cuda or cuda:N.")]
NoThumbnails = Annotated[bool, typer.Option("--no-thumbnails", help="Keep no small pictures.")]


@app.command(
    epilog="Example: `triptych prepare export/ --core 5 --out data/shop`, or `triptych prepare sales.csv "
    "--user customer --item sku --items products.csv --images pictures/ --out data/shop`"
)
def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="A table of interactions (CSV, TSV, Parquet, JSON), or a folder: a shop's export, "
            "Amazon reviews, MovieLens, MicroLens, MMRec, RecBole.",
            metavar="SOURCE",
        ),
    ],
    out_folder: OutFolder,
    name: Name = None,
    layout: Annotated[
        str | None, typer.Option(help="The files' layout, if it is not to be found out; see the guide.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Column of user ids; by default found by its name.")
    ] = None,
    item: Annotated[
        str | None, typer.Option(help="Column of item ids; by default found by its name.")
    ] = None,
    rating: Annotated[str | None, typer.Option(help="Column of ratings; none to read none.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of times; none to read none.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column that says which part of a split a row is in; none for none.")
    ] = None,
    label_meaning: Annotated[
        str | None,
        typer.Option(help='What its labels mean; by default "0=train,1=valid,2=test" or these words.'),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Keep only rows of interactions whose columns meet a condition: \"event = 'purchase'\"; "
            "repeat for more, which must all hold.",
        ),
    ] = None,
    min_rating: MinRating = None,
    since: Since = None,
    until: Until = None,
    duplicates: Annotated[
        str, typer.Option(help="Which row of a repeated pair is kept: first, last or highest (rating).")
    ] = "first",
    min_user: MinUser = None,
    min_item: MinItem = None,
    core: Core = None,
    max_bad: Annotated[
        float, typer.Option(help="Share of a file's rows that may be left out because they cannot be used.")
    ] = 0.01,
    encoding: Annotated[str, typer.Option(help="Of CSV and TSV files.")] = "utf-8",
    items: Annotated[
        Path | None, typer.Option(help="Table of items: an id column, titles, anything else.")
    ] = None,
    item_column: Annotated[str | None, typer.Option(help="The items table's id column.")] = None,
    title: Annotated[
        str | None,
        typer.Option(help="The items table's title column; by default title, name or product_name."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=FILE",
            help="Ready features by item (.npy, .safetensors, .parquet) or an item graph (.npz with row, "
            "col, weight); repeat for more.",
        ),
    ] = None,
    text: Text = None,
    images: Images = None,
    sounds: Sounds = None,
    encoders: Encoders = None,
    cache: CacheFolder = None,
    device: Device = "auto",
    no_thumbnails: NoThumbnails = False,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read interactions and item content, filter, encode, check, and write a data set folder."""
    from triptych.cli.progress import EncodingProgress
    from triptych.data.columns import Columns
    from triptych.data.dataset import MANIFEST
    from triptych.data.split import read_label_meaning
    from triptych.files import check_new_folder
    from triptych.preparation import prepare as prepare_dataset

    check_new_folder(out_folder, marker=MANIFEST, overwrite=overwrite)
    with limited(memory_limit), EncodingProgress() as progress:
        data = prepare_dataset(
            source,
            name=name or out_folder.resolve().name,
            layout=layout,
            columns=Columns(user=user, item=item, rating=rating, timestamp=timestamp, label=label),
            rows=rows or (),
            filters=_filters(min_rating, since, until, min_user, min_item, core, duplicates),
            label_meaning=read_label_meaning(label_meaning) if label_meaning else None,
            max_bad=max_bad,
            encoding=encoding,
            items_file=items,
            item_column=item_column,
            title_column=title,
            features=[
                read_pair("--features", "MODALITY=FILE", pair, "image=vectors.npy") for pair in features or []
            ],
            text=text,
            media=_media(images, sounds),
            encoders=_encoders(encoders),
            cache_dir=_cache(cache),
            device=device,
            thumbnails=not no_thumbnails,
            observer=progress,
        )
    data.save(out_folder, overwrite=overwrite)
    _show(data, as_json=as_json, where=out_folder)


@app.command(
    epilog="Example: `triptych encode data/shop --text '{title}. {description}' --out data/shop-text`"
)
def encode(
    data: DataFolder,
    out_folder: OutFolder,
    name: Name = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help='The text to encode, such as "{title}. {brand}. {description}"; by default none, or the '
            "usual columns there are if --encoder text=NAME is given.",
        ),
    ] = None,
    images: Images = None,
    sounds: Sounds = None,
    encoders: Encoders = None,
    cache: CacheFolder = None,
    device: Device = "auto",
    no_thumbnails: NoThumbnails = False,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Encode texts, pictures or sounds of a data set's items, in addition to the features it has."""
    from triptych.cli.progress import EncodingProgress
    from triptych.data.dataset import MANIFEST, Dataset
    from triptych.files import check_new_folder
    from triptych.preparation import add_content, choose_content

    check_new_folder(out_folder, marker=MANIFEST, overwrite=overwrite)
    with limited(memory_limit):
        dataset = Dataset.load(data)
    contents = choose_content(dataset, {}, text, _media(images, sounds), _encoders(encoders), asked_only=True)
    if not contents:
        raise ConfigError(
            "nothing to encode",
            wanted="a text template, or a folder of files",
            fix="Name it with --text, --images or --sounds, or name an encoder with --encoder text=NAME",
        )
    with limited(memory_limit), EncodingProgress() as progress:
        encoded = add_content(
            dataset,
            contents,
            cache_dir=_cache(cache),
            device=device,
            thumbnails=not no_thumbnails,
            observer=progress,
        )
    _save_as(name, encoded, out_folder, overwrite=overwrite, as_json=as_json)


@app.command(
    "filter", epilog="Example: `triptych filter data/shop --since 2024-01-01 --core 5 --out data/core`"
)
def filter_(
    data: DataFolder,
    out_folder: OutFolder,
    name: Name = None,
    min_rating: MinRating = None,
    since: Since = None,
    until: Until = None,
    min_user: MinUser = None,
    min_item: MinItem = None,
    core: Core = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Keep some interactions of a data set; its items and features follow."""
    from triptych.data.dataset import Dataset
    from triptych.data.filters import filter_dataset

    filters = _filters(min_rating, since, until, min_user, min_item, core)
    filtered = filter_dataset(Dataset.load(data), filters)
    _save_as(name, filtered, out_folder, overwrite=overwrite, as_json=as_json)


@app.command(epilog="Example: `triptych split data/shop --split time --out data/shop-by-time`")
def split(
    data: DataFolder,
    out_folder: OutFolder,
    name: Name = None,
    kind: SplitKind = None,
    split_seed: SplitSeed = 999,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write into a data set which interactions are for training, validation and test."""
    from triptych.data.dataset import Dataset

    labelled = make_split(Dataset.load(data), kind, split_seed).labelled()
    _save_as(name, labelled, out_folder, overwrite=overwrite, as_json=as_json)


@app.command(epilog="Example: `triptych describe data/shop --page shop.html`")
def describe(
    data: DataFolder,
    page: Annotated[
        Path | None, typer.Option(help="Write a page with pictures and curves to this HTML file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count what is in a data set, show its nearest neighbours, and say where it came from."""
    from triptych.data.dataset import Dataset

    dataset = Dataset.load(data)
    facts = dataset.describe()
    if page is not None:
        from triptych.report.dataset_page import write_dataset_page

        write_dataset_page(page, dataset, facts)
    if as_json:
        print_json({**facts, "path": str(data), "provenance": dict(dataset.provenance)})
        return
    describe_dataset(dataset, facts, data)
    if page is not None:
        out.print(
            f"\nThe page with pictures and curves: {page}", highlight=False, markup=False, soft_wrap=True
        )


def _filters(
    min_rating: float | None,
    since: str | None,
    until: str | None,
    min_user: int | None,
    min_item: int | None,
    core: int | None,
    duplicates: str = "first",
) -> Filters:
    from triptych.data.filters import Filters
    from triptych.data.times import read_moment

    return Filters(
        min_rating=min_rating,
        since=None if since is None else read_moment(since),
        until=None if until is None else read_moment(until),
        duplicates=read_choice("--duplicates", duplicates, ("first", "last", "highest")),
        min_user=min_user,
        min_item=min_item,
        core=core,
    )


def _media(images: Path | None, sounds: Path | None) -> dict[str, Path]:
    given = {"image": images, "audio": sounds}
    return {modality: folder for modality, folder in given.items() if folder is not None}


def _encoders(pairs: list[str] | None) -> dict[str, str]:
    named = [read_pair("--encoder", "MODALITY=NAME", pair, "text=minilm") for pair in pairs or []]
    each_once("--encoder", [modality for modality, _ in named])
    return dict(named)


def _cache(folder: Path | None) -> Path | None:
    """Choose where encoded contents are kept; None, and a word about it, where nothing can be written."""
    try:
        if folder is None:
            base = os.environ.get("XDG_CACHE_HOME")
            folder = (Path(base) if base else Path.home() / ".cache") / "triptych"
        (folder / "encoded").mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        err.print(
            f"nothing encoded is kept: {error}; name a folder with --cache", markup=False, highlight=False
        )
        return None
    return folder / "encoded"


def _save_as(name: str | None, made: Dataset, out_folder: Path, *, overwrite: bool, as_json: bool) -> None:
    """Save what was made of another data set under a name of its own, so that their runs do not meet."""
    named = replace(made, name=name or out_folder.resolve().name)
    named.save(out_folder, overwrite=overwrite)
    _show(named, as_json=as_json, where=out_folder)


def _show(data: Dataset, *, as_json: bool, where: Path) -> None:
    facts = data.describe()
    if as_json:
        print_json({**facts, "path": str(where), "provenance": dict(data.provenance)})
    else:
        show_dataset(data, facts, where)
