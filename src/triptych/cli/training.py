"""Commands that make runs: training one, and adding several up."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.base import (
    DataFolder,
    Device,
    GraphCache,
    Json,
    Lengths,
    MaskedOption,
    MemoryLimit,
    Overwrite,
    Seed,
    SplitKind,
    SplitSeed,
    app,
    folder_name,
    limited,
    make_split,
    read_choice,
    read_lengths,
    read_masked,
)
from triptych.cli.output import err, how_split, print_json, print_table
from triptych.errors import StorageError


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
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many; short for --set epochs=N.")] = None,
    device: Device = "auto",
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
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Epochs between checkpoints.")] = 10,
    graph_cache: GraphCache = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER[=PLACE]",
            help="Also keep the curves: jsonl, tensorboard or mlflow, in a folder or at an address; else in "
            "tracking/TRACKER beside the run; repeat.",
        ),
    ] = None,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a model, choose its epoch on validation, measure it once on test, and save the run."""
    from triptych.cli.progress import TrainingProgress
    from triptych.data.dataset import Dataset
    from triptych.data.missing import FILLINGS, fill_missing
    from triptych.files import check_new_folder
    from triptych.memory import parse_size
    from triptych.runs import RUN
    from triptych.runs import train as train_run
    from triptych.runs.run import checkpoints_of
    from triptych.runs.tracking import Tracking, make_trackers, settings_of
    from triptych.training.observer import Observers
    from triptych.training.recipe import find_recipe, parse_settings
    from triptych.training.trainer import CHECKPOINT

    chosen = parse_settings([*(settings or []), *([] if epochs is None else [f"epochs={epochs}"])])
    recipe = find_recipe(model).with_plugins(plugins or []).with_settings(chosen)
    configs = recipe.configs()
    with limited(memory_limit):
        dataset = Dataset.load(data)
    folder = out_folder or Path("runs") / folder_name(recipe.name, dataset.name, f"seed{seed}")
    check_new_folder(folder, marker=RUN, overwrite=overwrite)
    checkpoints = checkpoints_of(folder)
    begun = (checkpoints / f"{CHECKPOINT}.json").is_file()
    if begun and not (resume or overwrite):
        raise StorageError(
            f"{checkpoints} holds an unfinished training",
            wanted="a decision what to do with it",
            fix="Pass --resume to go on, or --overwrite to begin anew",
        )
    if resume and not begun:  # it may have been killed before it saved anything
        err.print(
            f"No checkpoint in {checkpoints}: begun anew", markup=False, highlight=False, soft_wrap=True
        )
    resume = resume and begun
    trackers = make_trackers(track or [], folder, resume=resume)
    parts = fill_missing(make_split(dataset, split, split_seed), read_choice("--missing", missing, FILLINGS))
    named = settings_of(configs, model=recipe.name, data=dataset.name, seed=seed, device=device)
    with (
        Tracking(trackers, named, warn=partial(err.print, markup=False, highlight=False)) as tracking,
        TrainingProgress(recipe.name, configs.training.epochs, configs.training.metric) as progress,
    ):
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
            memory_limit=parse_size(memory_limit) if memory_limit else None,
            observer=Observers(progress, tracking),
        )
        result.save(folder, overwrite=overwrite)
        tracking.end(result.record)
    shutil.rmtree(checkpoints, ignore_errors=True)  # only now is nothing lost with it
    summary = {**result.record.summary(), "run": str(folder)}
    unread = recipe.unread()
    if unread:
        summary["settings_not_read"] = unread
    if trackers:
        summary["tracked"] = {tracker.kind: tracker.where for tracker in tracking.kept}
    if as_json:
        print_json(summary)
        return
    record, counts = result.record, result.record.split
    print_table(
        f"{record.name} on {record.data}, seed {seed}: epoch {record.best_epoch} of {len(record.history)} "
        f"has the best {configs.training.metric}",
        ["metric", "valid", "test"],
        [[metric, value, record.test.get(metric)] for metric, value in record.valid.items()],
        notes=f"Split by {how_split(counts)}: {counts['train']:,} train, {counts['valid']:,} valid, "
        f"{counts['test']:,} test; {counts['left_out']:,} of users without training pairs left out.\n"
        f"{record.seconds_per_epoch:.2f} s an epoch, {record.seconds_per_evaluation:.2f} s an evaluation, "
        f"{record.peak_memory_bytes / 2**20:,.0f} MiB at most, on {record.device}.\n"
        + (
            f"On test, items of {masked} were no candidates; on valid, those of train.\n"
            if masked != "train"
            else ""
        )
        + (f"Not read, as {recipe.model} is solved: {', '.join(unread)}.\n" if unread else "")
        + f"Saved: {folder}"
        + "".join(f"\nTracked: {tracker.where}" for tracker in tracking.kept),
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
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Add up the scores of several runs, with weights chosen on validation, and save that as a run."""
    from triptych.files import check_new_folder
    from triptych.runs import RUN, load
    from triptych.runs import fuse as fuse_runs

    check_new_folder(out_folder, marker=RUN, overwrite=overwrite)
    with limited(memory_limit):
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
