"""Commands about models: training, evaluating, recommending, and what there is."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.base import (
    DataFolder,
    Json,
    Lengths,
    MaskedOption,
    Overwrite,
    RunFolder,
    SplitKind,
    SplitSeed,
    app,
    make_split,
    read_choice,
    read_lengths,
    read_masked,
)
from triptych.cli.output import out, print_facts, print_json, print_table
from triptych.errors import StorageError

if TYPE_CHECKING:
    from triptych.evaluation.ranking import Ranking


@app.command(epilog="Example: `triptych train freedom data/shop --set n_layers=2 --seed 7`")
def train(
    model: Annotated[str, typer.Argument(help="A model's name, or a recipe: FILE.toml.", metavar="MODEL")],
    data: DataFolder,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="A setting of model or training, or PLUGIN.FIELD; repeat."
        ),
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="NAME", help="Attach a plug-in of 'triptych models'; repeat."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many; short for --set epochs=N.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    missing: Annotated[
        str,
        typer.Option(
            help="Rows of items without a modality: leave (to the model), zero, mean, or neighbors "
            "(mean over items with common users in training)."
        ),
    ] = "leave",
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
    from triptych.cli.progress import TrainingProgress
    from triptych.data.dataset import Dataset
    from triptych.data.missing import FILLINGS, fill_missing
    from triptych.files import check_new_folder
    from triptych.runs import RUN
    from triptych.runs import train as train_run
    from triptych.training.recipe import find_recipe, parse_settings

    chosen = parse_settings(settings or []) | ({} if epochs is None else {"epochs": epochs})
    recipe = find_recipe(model).with_plugins(plugins or []).with_settings(chosen)
    configs = recipe.configs()
    dataset = Dataset.load(data)
    folder = out_folder or Path("runs") / f"{recipe.name}-{dataset.name}-seed{seed}"
    check_new_folder(folder, marker=RUN, overwrite=overwrite)
    checkpoints = folder.with_name(folder.name + ".checkpoint")
    if checkpoints.exists() and not (resume or overwrite):
        raise StorageError(
            f"{checkpoints} holds an unfinished training",
            wanted="a decision what to do with it",
            fix="Pass --resume to go on, or --overwrite to begin anew",
        )
    parts = fill_missing(make_split(dataset, split, split_seed), read_choice("--missing", missing, FILLINGS))
    with TrainingProgress(recipe.name, configs.training.epochs, configs.training.metric) as progress:
        result = train_run(
            configs.model,
            parts,
            seed=seed,
            plugins=configs.plugins,
            config=configs.training,
            device=device,
            k=read_lengths(k),
            masked=read_masked(masked),
            graph_cache=graph_cache,
            checkpoint_dir=checkpoints,
            checkpoint_every=checkpoint_every,
            resume=resume,
            observer=progress,
        )
    result.save(folder, overwrite=overwrite)
    shutil.rmtree(checkpoints, ignore_errors=True)  # only now is nothing lost with it
    summary = {**result.record.summary(), "run": str(folder)}
    if as_json:
        print_json(summary)
        return
    record, counts = result.record, result.record.split
    print_table(
        f"{record.name} on {record.data}, seed {seed}: epoch {record.best_epoch} of {len(record.history)} "
        f"has the best {configs.training.metric}",
        ["metric", "valid", "test"],
        [[metric, value, record.test.get(metric)] for metric, value in record.valid.items()],
        notes=f"Split by {counts['kind']}: {counts['train']:,} train, {counts['valid']:,} valid, "
        f"{counts['test']:,} test; {counts['left_out']:,} of users without training pairs left out.\n"
        f"{record.seconds_per_epoch:.2f} s an epoch, {record.seconds_per_evaluation:.2f} s an evaluation, "
        f"{record.peak_memory_bytes / 2**20:,.0f} MiB at most, on {record.device}.\n"
        f"Saved: {folder}",
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


@app.command(epilog="Example: `triptych fuse runs/l3ae-shop-seed1 runs/freedom-shop-seed1 --out runs/fused`")
def fuse(
    run_folders: Annotated[
        list[Path], typer.Argument(help="Run folders made on one split.", metavar="RUN...")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="The fused run's folder.")],
    metric: Annotated[str, typer.Option(help="What the weights are chosen by, on validation.")] = "recall@20",
    normalisation: Annotated[
        str, typer.Option(help="How a user's scores are made comparable: zscore, minmax or rank.")
    ] = "zscore",
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Add up the scores of several runs, with weights chosen on validation, and save that as a run."""
    from triptych.files import check_new_folder
    from triptych.runs import RUN, load
    from triptych.runs import fuse as fuse_runs

    check_new_folder(out_folder, marker=RUN, overwrite=overwrite)
    fused = fuse_runs(
        [load(folder) for folder in run_folders],
        metric=metric,
        normalisation=read_choice("--normalisation", normalisation, ("zscore", "minmax", "rank")),
        k=read_lengths(k),
        masked=read_masked(masked),
    )
    fused.save(out_folder, overwrite=overwrite)
    record = fused.record
    if as_json:
        print_json({**record.summary(), "parts": record.model_settings["parts"], "run": str(out_folder)})
        return
    print_table(
        f"{len(run_folders)} runs on {record.data}, fused by validation {metric}",
        ["run", "weight"],
        [
            (str(folder), float(part["weight"]))
            for folder, part in zip(run_folders, record.model_settings["parts"], strict=True)
        ],
    )
    print_table(
        None,
        ["metric", "valid", "test"],
        [[name, value, record.test.get(name)] for name, value in record.valid.items()],
        notes=f"Saved: {out_folder}",
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


@app.command(epilog="Example: `triptych models --json`")
def models(as_json: Json = False) -> None:
    """List the models, the plug-ins for them, and the recipes that come with Triptych."""
    from triptych.models.plugins.base import plugins
    from triptych.models.registry import models as known_models
    from triptych.training.recipe import shipped_recipes

    entries = [entry.as_dict() for entry in known_models()]
    extras = [{"name": plugin.name, "paper": plugin.paper, "year": plugin.year} for plugin in plugins()]
    if as_json:
        print_json({"models": entries, "plugins": extras, "recipes": shipped_recipes()})
        return
    rows = [
        (e["name"], str(e["year"]), e["needs"], ", ".join(e["modalities"]) or "–", e["paper"])
        for e in entries
    ]
    print_table(None, ["model", "year", "needs", "modalities", "paper"], rows)
    print_table(
        "\nPlug-ins, for --plugin",
        ["plug-in", "year", "paper"],
        [(extra["name"], str(extra["year"]), extra["paper"]) for extra in extras],
    )
    out.print("\nRecipes: " + ", ".join(shipped_recipes()), highlight=False, markup=False)


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
