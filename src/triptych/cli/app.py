"""The commands, one function each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from triptych.cli.output import err, out, print_error, print_facts, print_json, print_table
from triptych.errors import ConfigError, StorageError, TriptychError, nearest

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset
    from triptych.data.split import Split
    from triptych.evaluation.ranking import Masked, Ranking

app = typer.Typer(
    help="Multimodal graph recommendation: prepare data, train, evaluate honestly, recommend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer raises click's exceptions but names only this one; its parents are what it prints and exits with.
_UsageError = cast(Any, typer.BadParameter.__mro__[2])

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call wrote there.")]
Lengths = Annotated[str, typer.Option("-k", "--k", help="List lengths, with commas between them.")]
MaskedOption = Annotated[
    str, typer.Option("--masked", help="Items that are no candidates at test time: train, or train+valid.")
]
DataFolder = Annotated[
    Path, typer.Argument(help="A data set folder made by `triptych prepare`.", metavar="DATA")
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder made by `triptych train`.", metavar="RUN")]


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit status."""
    as_json = "--json" in arguments
    try:
        status = app(args=arguments, prog_name="triptych", standalone_mode=False)
    except TriptychError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except _UsageError as error:
        if as_json:
            usage = TriptychError(
                error.format_message(), wanted="a known command line", fix="See triptych --help"
            )
            print_error(usage, as_json=True)
        else:
            error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("stopped; a training that saved a checkpoint goes on with --resume")
        return 130
    return status if isinstance(status, int) else 0


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
    from triptych.cli.output import TrainingProgress
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
        f"{result.sparse_below} training interactions.",
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
        features=[_modality_and_file(text) for text in features or []],
    )
    data.save(out_folder, overwrite=overwrite)
    _show_dataset(data, as_json=as_json, where=out_folder)


@app.command(epilog="Example: `triptych describe data/shop`")
def describe(data: DataFolder, as_json: Json = False) -> None:
    """Count what is in a data set, and say where it came from."""
    from triptych.data.dataset import Dataset

    _show_dataset(Dataset.load(data), as_json=as_json, where=data)


@app.command(epilog="Example: `triptych train freedom data/shop --set n_layers=2 --seed 7`")
def train(
    model: Annotated[str, typer.Argument(help="A model's name, or a recipe: FILE.toml.", metavar="MODEL")],
    data: DataFolder,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A setting of model or training; repeat."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many; short for --set epochs=N.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    split: Annotated[
        str | None,
        typer.Option(
            help="label, ratio, leave-one-out or time; by default label if the data has one, else ratio."
        ),
    ] = None,
    split_seed: Annotated[
        int, typer.Option(help="Of the split; the same for all --seed, so that they compare.")
    ] = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The run folder; by default runs/MODEL-DATA-seedN.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Epochs between checkpoints.")] = 10,
    graph_cache: Annotated[
        Path | None,
        typer.Option(envvar="TRIPTYCH_CACHE", help="Folder that keeps item neighbours between calls."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a model, choose its epoch on validation, measure it once on test, and save the run."""
    from triptych.cli.output import TrainingProgress
    from triptych.data.dataset import Dataset
    from triptych.files import check_new_folder
    from triptych.runs import RUN
    from triptych.runs import train as train_run
    from triptych.training.recipe import find_recipe, parse_settings

    chosen = parse_settings(settings or []) | ({} if epochs is None else {"epochs": epochs})
    recipe = find_recipe(model).with_settings(chosen)
    model_config, train_config = recipe.configs()
    dataset = Dataset.load(data)
    folder = out_folder or Path("runs") / f"{recipe.model}-{dataset.name}-seed{seed}"
    check_new_folder(folder, marker=RUN, overwrite=overwrite)
    checkpoints = folder.with_name(folder.name + ".checkpoint")
    if checkpoints.exists() and not (resume or overwrite):
        raise StorageError(
            f"{checkpoints} holds an unfinished training",
            wanted="a decision what to do with it",
            fix="Pass --resume to go on, or --overwrite to begin anew",
        )
    with TrainingProgress(recipe.model, train_config.epochs, train_config.metric) as progress:
        result = train_run(
            model_config,
            _split(dataset, split, split_seed),
            seed=seed,
            config=train_config,
            device=device,
            k=_lengths(k),
            masked=_masked(masked),
            graph_cache=graph_cache,
            checkpoint_dir=checkpoints,
            checkpoint_every=checkpoint_every,
            resume=resume,
            observer=progress,
        )
    result.save(folder, overwrite=overwrite)
    summary = {**result.record.summary(), "run": str(folder)}
    if as_json:
        print_json(summary)
        return
    record = result.record
    print_table(
        f"{record.model} on {record.data}, seed {seed}: epoch {record.best_epoch} of {len(record.history)} "
        f"has the best {train_config.metric}",
        ["metric", "valid", "test"],
        [[metric, value, record.test.get(metric)] for metric, value in record.valid.items()],
        notes=f"{record.seconds_per_epoch:.2f} s an epoch, {record.seconds_per_evaluation:.2f} s "
        f"an evaluation, {record.peak_memory_bytes / 2**20:,.0f} MiB at most, on {record.device}. Saved: {folder}",
    )


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
    ranking = evaluate_run(run, _choice("--on", on, ("valid", "test")), _lengths(k), masked=_masked(masked))
    if per_user is not None:
        _write_per_user(per_user, run.split.data.users.ids[ranking.users].tolist(), ranking)
    if as_json:
        print_json(
            {
                "run": str(run_folder),
                "model": run.record.model,
                "metrics": ranking.mean(),
                "protocol": dict(ranking.protocol),
            }
        )
        return
    lengths = ranking.protocol["k"]
    means = ranking.mean()
    names = list(dict.fromkeys(name.partition("@")[0] for name in means))
    print_table(
        f"{run.record.model} on {run.record.data}, {on}",
        ["metric", *(f"@{length}" for length in lengths)],
        [[name, *(means[f"{name}@{length}"] for length in lengths)] for name in names],
        notes=str(ranking).splitlines()[-1],
    )


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
    lists = run.recommend(users, k, exclude=_choice("--exclude", exclude, ("train", "train+valid", "all")))
    if as_json:
        answers = [
            {"user_id": entry.user_id, "basis": entry.basis, "items": [vars(item) for item in entry.items]}
            for entry in lists
        ]
        print_json(
            {
                "run": str(run_folder),
                "model": run.record.model,
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


@app.command(epilog="Example: `triptych models --json`")
def models(as_json: Json = False) -> None:
    """List the models, and the recipes that come with Triptych."""
    from triptych.models.registry import models as known_models
    from triptych.training.recipe import shipped_recipes

    entries = [entry.as_dict() for entry in known_models()]
    if as_json:
        print_json({"models": entries, "recipes": shipped_recipes()})
        return
    rows = [
        (e["name"], str(e["year"]), e["kind"], ", ".join(e["modalities"]) or "–", e["paper"]) for e in entries
    ]
    print_table(None, ["model", "year", "kind", "modalities", "paper"], rows)
    out.print("\nRecipes: " + ", ".join(shipped_recipes()), highlight=False)


@app.command(epilog="Example: `triptych doctor runs/freedom-shop-seed7`")
def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="A data set or run to check.", metavar="[FOLDER]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine offers and, for a data set or a run, check every file of it."""
    from triptych.report.doctor import check_folder, machine_facts

    facts = machine_facts()
    if folder is not None:
        facts["checked"] = check_folder(folder)
    if as_json:
        print_json(facts)
        return
    print_facts(facts)


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


def _modality_and_file(text: str) -> tuple[str, Path]:
    modality, equals, file = text.partition("=")
    if not (modality and equals and file):
        raise ConfigError(
            f"--features {text!r}",
            wanted="MODALITY=FILE",
            fix="Write for example --features image=vectors.npy",
        )
    return modality, Path(file)


def _lengths(text: str) -> list[int]:
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"list lengths {text!r}",
            wanted="whole numbers with commas between them",
            fix="Write for example --k 10,20",
        ) from None


def _choice(option: str, value: str, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ConfigError(f"{option} {value}", wanted=" or ".join(choices), fix=nearest(value, choices))
    return value


def _masked(value: str) -> Masked:
    masked: Masked = _choice("--masked", value, ("train", "train+valid"))
    return masked


def _split(data: Dataset, kind: str | None, seed: int) -> Split:
    from triptych.data.split import Split

    if kind is None:
        kind = "ratio" if data.interactions.label is None else "label"
    makers: dict[str, Callable[[], Split]] = {
        "label": lambda: Split.by_label(data),
        "ratio": lambda: Split.by_ratio(data, rng=seed),
        "leave-one-out": lambda: Split.leave_one_out(data, rng=seed),
        "time": lambda: Split.by_time(data),
    }
    return makers[_choice("--split", kind, tuple(makers))]()


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
