"""Accuracy on real data: choose settings on validation, then measure the chosen ones with several seeds.

    python -m benchmarks.accuracy grid baby            # one seed each, validation figures only
    python -m benchmarks.accuracy table baby           # the recipes, three seeds, test figures
    python -m benchmarks.accuracy grid tiktok vbpr freedom

The data are looked for at $TRIPTYCH_DATA, else at ../shared/data. Results go to
benchmarks/results/accuracy-*.json, one entry per training, replacing an earlier entry of the same training.

With `--keep FOLDER` each training's record is kept there too, and none is trained twice at one commit: a
table takes what its grid has trained, and a killed queue goes on from its last checkpoint. A grid's results
hold no test figures, so that settings are chosen without them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.movielens import prepare_movielens, write_files
from triptych.cli.progress import TrainingProgress
from triptych.data.columns import Columns
from triptych.data.split import Split, read_label_meaning
from triptych.files import hash_arrays
from triptych.memory import keep_freed_memory
from triptych.preparation import prepare
from triptych.runs import train
from triptych.training.recipe import Recipe, find_recipe, parse_settings
from triptych.training.trainer import CHECKPOINT

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TRIPTYCH_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"

# Values that the models' authors or MMRec search, cut to what a morning on two cores allows.
GRID: Mapping[str, list[dict[str, Any]]] = {
    "popularity": [{}],
    "ease": [{"reg_weight": w} for w in (30.0, 100.0, 300.0, 1000.0)],
    "item-knn": [{"n_neighbors": k} for k in (11, 21)],
    "add-ease": [{"content_reg_weight": w, "content_share": a} for w in (5.0, 10.0) for a in (0.4, 0.6)],
    "l3ae": [
        {"reg_weight": x, "content_pull": e, "content_reg_weight": w}
        for x, e, w in ((-50.0, 150.0, 5.0), (-100.0, 200.0, 10.0), (0.0, 150.0, 10.0))
    ],
    "ials": [{"reg_weight": w, "unobserved_weight": a} for w in (0.003, 0.01) for a in (0.03, 0.1)],
    "mf-bpr": [{"reg_weight": w} for w in (1.0, 0.1, 0.01)],
    "lightgcn": [
        {"n_layers": 2, "reg_weight": 1e-4},
        {"n_layers": 3, "reg_weight": 1e-4},
        {"n_layers": 3, "reg_weight": 1e-3},
        {"n_layers": 4, "reg_weight": 1e-3},
    ],
    "vbpr": [{"reg_weight": w} for w in (2.0, 1.0, 0.1)],
    "freedom": [{"edge_dropout": rho, "feature_loss_weight": w} for rho in (0.8, 0.9) for w in (0.0, 1e-3)],
    "layergcn": [{"edge_dropout": 0.1, "reg_weight": w} for w in (1e-2, 1e-3, 1e-4)]
    + [{"edge_dropout": rho, "reg_weight": 1e-3} for rho in (0.0, 0.2)],
    "ngcf": [{"n_layers": 2, "learning_rate": lr} for lr in (1e-3, 5e-4)],
    "buir": [{"n_layers": n} for n in (2, 3)],
    "mmgcn": [{"learning_rate": lr} for lr in (1e-3, 5e-3)],
    "grcn": [{"reg_weight": w} for w in (1e-2, 1e-3, 1e-4)],
    "dualgnn": [{"reg_weight": w, "learning_rate": 1e-4} for w in (0.1, 1e-2, 1e-3)],
    "slmrec": [
        {"learning_rate": 1e-2, "align_weight": a, "align_temperature": t}
        for a in (0.01, 0.1)
        for t in (0.2, 1.0)
    ],
    "mmgcl": [{"contrast_weight": w, "temperature": t} for w, t in ((0.1, 0.2), (0.4, 0.2), (0.1, 0.5))],
    "lattice": [{"learning_rate": lr, "lr_decay": 0.96} for lr in (5e-4, 1e-3)],
    "micro": [{"learning_rate": 5e-4, "lr_decay": 0.96}],
    "bm3": [{"dropout": p, "reg_weight": w} for p, w in ((0.5, 0.1), (0.3, 0.1), (0.5, 0.01))],
    "mmssl": [
        {"sampler": "users", "batch_size": 1024, "lr_decay": 0.96, "patience": 7, "critic_max_width": 256}
        | {"learning_rate": 5.5e-4, "variant": variant, "graph_refresh": refresh}
        for variant, refresh in (("official", "official"), ("paper", "epoch"))
    ],
    "mgcn": [{"contrast_weight": w, "lr_decay": 0.96} for w in (1e-3, 1e-2, 1e-1)],
    "lgmrec": [{"contrast_weight": w} for w in (1e-4, 1e-5, 0.0)],
    "diffmm": [{"batch_size": 1024, "epochs": 50, "contrast_weight": w} for w in (0.1, 0.01)],
    "mgnm": [{"contrast_weight": w} for w in (1e-4, 1e-5, 0.0)],
    "camgr": [{"n_neighbors": 20, "lr_decay": 0.96, "reg_weight": w} for w in (1e-4, 1e-2, 0.1, 1.0)],
    "sand": [
        {"learning_rate": 1e-4, "align_weight": a, "distance_weight": b, "align_pool": "batch", "distance": d}
        | {"club_inner_steps": 5, "club_learning_rate": 1e-3}
        for a, b, d in ((0.012, 0.003, "mi"), (0.5, 0.003, "mi"), (0.1, 0.003, "l2"), (0.1, 1.0, "mi"))
    ],
    "ksi": [
        {"sampler": "users", "batch_size": 1024, "epochs": 50, "eval_every": 5, "patience": 10}
        | {"learning_rate": 5e-4, "lr_decay": 0.96, "semantic_weight": a, "redundancy_weight": b}
        for a, b in ((0.1, 1.0), (0.05, 0.1))
    ],
    "msi": [{"cl_weight": c, "initial_scale": scale} for c, scale in ((1.0, 0.69), (2.0, 0.69), (2.0, 0.1))],
}
# MovieLens is small and dense: fewer layers, more regularisation. And what does each modality give?
MORE: Mapping[str, Mapping[str, list[dict[str, Any]]]] = {
    "movielens": {
        "mf-bpr": [{"reg_weight": 3.0}],
        "lightgcn": [
            {"n_layers": 1, "reg_weight": 1e-3},
            {"n_layers": 2, "reg_weight": 1e-3},
            {"n_layers": 1, "reg_weight": 1e-2},
            {"n_layers": 2, "reg_weight": 1e-2},
        ],
        "vbpr": [{"reg_weight": 1.0, "modalities": [modality]} for modality in ("image", "text")],
        "freedom": [
            {"edge_dropout": 0.8, "feature_loss_weight": 0.0, "modalities": [modality]}
            for modality in ("image", "text")
        ],
    }
}
SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
AMAZON = ("baby", "sports", "clothing")
FIRST = ["mf-bpr", "lightgcn", "vbpr", "freedom"]
"""The models of a grid for which none is named; the others take hours."""
RECIPES: Mapping[str, list[str]] = {
    "baby": ["mf-bpr-baby.toml", "lightgcn-baby.toml", "vbpr-baby.toml", "freedom-baby.toml", "freedom"],
    "movielens": [
        "mf-bpr-movielens.toml",
        "lightgcn-movielens.toml",
        "vbpr-movielens.toml",
        "freedom-movielens.toml",
        "freedom",
    ],
    "sports": ["lightgcn"],
    "clothing": ["lightgcn"],
    "beauty": ["lightgcn"],
    "tiktok": ["vbpr-tiktok.toml", "freedom-tiktok.toml"],
}


def load_split(name: str) -> Split:
    """Prepare a data set in memory, as `triptych prepare` does on disk."""
    if name == "movielens":
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder))
            return Split.by_ratio(prepare_movielens(Path(folder)))
    columns = Columns(user="userID", item="itemID", label="x_label")
    if name == "beauty":  # has keyphrases of its items, and no pictures
        data = prepare(
            DATA / "amazon-beauty" / "interactions.parquet",
            name=name,
            columns=columns,
            label_meaning=read_label_meaning("0=train,1=valid,2=test"),
            items_file=DATA / "amazon-beauty" / "item_text.parquet",
            item_column="itemID",
            text="{text}",
            encoders={"text": "minilm"},
            cache_dir=Path(tempfile.gettempdir()) / "triptych-benchmarks",
        )
        return Split.by_label(data)
    if name in AMAZON:
        folder = DATA / f"amazon-{name}"
        # The published valid and test labels have each other's sizes; swapping them gives MMRec's.
        meaning = read_label_meaning("0=train,2=valid,1=test")
        files = [
            (m, folder / f"{m}_{kind}")
            for m in ("image", "text")
            for kind in ("knn10.npz", "feat_derived.npy")
            if (folder / f"{m}_{kind}").is_file()  # Clothing has none
        ]
    else:
        folder = DATA / "tiktok"
        meaning = read_label_meaning("0=train,1=valid,2=test")
        files = [(m, folder / f"{m}_feat.npy") for m in ("image", "audio")]
    data = prepare(
        folder / "interactions.parquet", name=name, columns=columns, label_meaning=meaning, features=files
    )
    return Split.by_label(data)


def trainings(
    stage: str, data: str, recipes: Iterable[str], seeds: Iterable[int], changes: Mapping[str, Any]
) -> Iterable[tuple[Recipe, int]]:
    """List what to train: each point of the grid once, or each recipe with each seed."""
    if stage == "grid":
        more = MORE.get(data, {})
        return [
            (Recipe(model, {**point, **changes}), 1)
            for model in recipes
            for point in [*GRID[model], *more.get(model, [])]
        ]
    return [(find_recipe(name).with_settings(changes), seed) for name in recipes for seed in seeds]


def main() -> None:
    """Train what is asked for and write down what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["grid", "table"])
    parser.add_argument("data", choices=sorted(RECIPES))
    parser.add_argument(
        "names", nargs="*", help="models (grid), or recipes and models with default settings (table)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting of all; repeat",
        dest="changes",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep records here, and take those there")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    split = load_split(arguments.data)
    names = arguments.names or (RECIPES[arguments.data] if arguments.stage == "table" else FIRST)
    changes = parse_settings(arguments.changes)
    for recipe, seed in trainings(arguments.stage, arguments.data, names, arguments.seeds, changes):
        entry = measure(
            split, recipe, seed, arguments.data, arguments.threads, arguments.keep, arguments.device
        )
        if arguments.stage == "grid":
            del entry["test"]
        print(json.dumps({key: entry[key] for key in ("model", "settings", "seed", "best_epoch", "epochs")}),
              f"valid recall@20 {entry['valid']['recall@20']:.4f}", flush=True)  # fmt: skip
        write(RESULTS / f"accuracy-{arguments.data}-{arguments.stage}.json", entry)
    summarise(RESULTS / f"accuracy-{arguments.data}-{arguments.stage}.json")


def measure(
    split: Split,
    recipe: Recipe,
    seed: int,
    data: str,
    threads: int,
    keep: Path | None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train once and say what came out, or take what an earlier call with the same arguments kept."""
    key = {"model": recipe.name, "settings": dict(recipe.settings), "seed": seed, "data": data}
    key |= {"threads": threads, "commit": commit()} | ({} if device == "cpu" else {"device": device})
    name = hash_arrays(json.dumps(key, sort_keys=True)) + ".json"
    if keep is not None and (keep / name).is_file():
        kept: dict[str, Any] = json.loads((keep / name).read_text())
        return kept
    configs = recipe.configs()
    checkpoints = None if keep is None else keep / f"{name}.checkpoint"
    training = configs.training
    with TrainingProgress(f"{recipe.name}, seed {seed}", training.epochs, training.metric) as progress:
        record = train(
            configs.model,
            split,
            plugins=configs.plugins,
            seed=seed,
            config=training,
            device=device,
            checkpoint_dir=checkpoints,
            resume=checkpoints is not None and (checkpoints / f"{CHECKPOINT}.json").is_file(),
            observer=progress,
        ).record
    entry = key | {
        "valid": record.valid,
        "test": record.test,
        "best_epoch": record.best_epoch,
        "epochs": len(record.history),
        "seconds_per_epoch": record.seconds_per_epoch,
        "seconds_per_evaluation": record.seconds_per_evaluation,
        "peak_memory_bytes": record.peak_memory_bytes,
        "data_hash": record.data_hash,
        "split": record.split,
        "protocol": record.protocol,
        "versions": record.versions,
    }
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / name).write_text(json.dumps(entry, indent=1))
        shutil.rmtree(keep / f"{name}.checkpoint", ignore_errors=True)
    return entry


def commit() -> str:
    """Name the state of the code; "+" if it differs from the commit."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=True
    ).stdout
    return name + ("+" if changed.strip() else "")


def write(path: Path, entry: dict[str, Any]) -> None:
    """Put an entry into a file, in the place of one of the same model, settings and seed."""
    path.parent.mkdir(exist_ok=True)
    entries = json.loads(path.read_text()) if path.is_file() else []
    same = ("model", "settings", "seed")
    entries = [old for old in entries if any(old[key] != entry[key] for key in same)] + [entry]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(entries, file, indent=1)
    Path(file.name).replace(path)
    path.chmod(0o644)


def summarise(path: Path) -> None:
    """Print a line of Markdown for each model and settings: means over seeds and their standard deviation."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(path.read_text()):
        groups.setdefault(f"{entry['model']} {json.dumps(entry['settings'])}", []).append(entry)
    print(
        "| model and settings | seeds | part |", *(f"{m} |" for m in SHOWN), "epochs | s/epoch | peak MiB |"
    )
    print("|" + "---|" * (6 + len(SHOWN)))
    for name, entries in groups.items():
        part = "test" if "test" in entries[0] else "valid"
        cells = [_spread([entry[part][metric] for entry in entries]) for metric in SHOWN]
        cells.append(" ".join(str(entry["epochs"]) for entry in entries))
        cells.append(f"{np.median([entry['seconds_per_epoch'] for entry in entries]):.2f}")
        cells.append(f"{max(entry['peak_memory_bytes'] for entry in entries) / 2**20:.0f}")
        seeds = " ".join(str(entry["seed"]) for entry in entries)
        print(f"| {name} | {seeds} | {part} | " + " | ".join(cells) + " |")


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
