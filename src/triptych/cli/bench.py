"""What commands about many trainings share: their options, the data they name, and the way through."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from triptych.cli.base import (
    LARGEST_SEED,
    each_once,
    folder_name,
    limited,
    make_split,
    read_choice,
    read_lengths,
    read_masked,
)
from triptych.cli.comparison_tables import print_comparison, print_splits
from triptych.cli.output import out, print_json
from triptych.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from triptych.cli.progress import ExperimentProgress
    from triptych.data.split import Split
    from triptych.experiments.result import LeftOut
    from triptych.experiments.saved import SavedRuns
    from triptych.experiments.systems import System as AnySystem
    from triptych.training.recipe import Recipe

Result = TypeVar("Result", bound="BaseModel")

System = Annotated[str, typer.Argument(help="A model or recipe, perhaps with plug-ins.", metavar="SYSTEM")]
Systems = Annotated[
    list[str],
    typer.Argument(help="Models or recipes, perhaps with plug-ins: MODEL+PLUGIN.", metavar="SYSTEM..."),
]
DataOption = Annotated[Path, typer.Option("--data", help="A data set folder made by `triptych prepare`.")]
Seeds = Annotated[str, typer.Option(help="How many, or which: 3 is short for 1,2,3.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A setting of all systems; repeat."),
]
Protocol = Annotated[
    str,
    typer.Option(
        help="clean, or legacy: beside the clean figures those of trainings that round as MMRec does, the "
        "seed chosen by the test part."
    ),
]
Beyond = Annotated[
    bool,
    typer.Option(
        "--beyond", help="Also what lists are like beside accuracy, and recall by groups of users and items."
    ),
]
Workers = Annotated[int, typer.Option(help="Trainings at the same time.")]
Threads = Annotated[int | None, typer.Option(help="Threads of each training.")]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="The experiment's folder; by default experiments/DATA.")
]


class Bench:
    """The data and the workshop that the options of a command name."""

    def __init__(
        self,
        data: Path,
        *,
        split: str | None,
        split_seed: int,
        device: str,
        workers: int,
        threads: int | None,
        graph_cache: Path | None,
        memory_limit: str | None,
        out_folder: Path | None,
        k: str | None = "10,20",
    ) -> None:
        from triptych.data.dataset import Dataset
        from triptych.experiments.jobs import Workshop
        from triptych.memory import parse_size

        lengths = () if k is None else tuple(read_lengths(k))
        self.split_kind, self._split_seed = split, split_seed
        with limited(memory_limit):
            self.dataset = Dataset.load(data)
        self.workshop = Workshop(
            out_folder or Path("experiments") / folder_name(self.dataset.name),
            device=device,
            workers=workers,
            threads=threads,
            graph_cache=graph_cache,
            memory_limit=parse_size(memory_limit) if memory_limit else None,
            k=lengths,
        )

    @cached_property
    def split(self) -> Split:
        """The data, split as asked for."""
        return make_split(self.dataset, self.split_kind, self._split_seed)

    def splits(self, text: str) -> dict[str, Split]:
        """Split the data in each of some ways, "ratio,leave-one-out,time".

        Raises:
            ConfigError: --split is there as well, or a way is unknown or named twice.
            DataError: a way goes by time, of which the data know nothing.
        """
        if self.split_kind is not None:
            raise ConfigError(
                "both --split and --splits", wanted="one of them", fix="Name all ways with --splits"
            )
        kinds = each_once("--splits", [kind.strip() for kind in text.split(",")])
        found = {kind: make_split(self.dataset, kind, self._split_seed, "--splits") for kind in kinds}
        for kind, split in found.items():
            if split.protocol.get("order") == "random":
                raise DataError(
                    f"'{self.dataset.name}' has no timestamps, and the last of '{kind}' would be any",
                    wanted="a time for each interaction",
                    fix=f"Prepare it with --timestamp COLUMN, or leave '{kind}' out",
                )
        return found

    @staticmethod
    def progress(total: int) -> ExperimentProgress:
        """Make what shows the trainings."""
        from triptych.cli.progress import ExperimentProgress

        return ExperimentProgress(total)

    def compare(
        self,
        systems: Mapping[str, AnySystem],
        seeds: Sequence[int],
        masked: str,
        name: str,
        as_json: bool,
        *,
        reference: str | None = None,
        legacy: bool = False,
        beyond: bool = False,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        """Compare, write down under a name, and print."""
        from triptych.experiments.comparison import compare
        from triptych.experiments.systems import n_trainings
        from triptych.report.comparison import free_path, write_comparison

        with self.progress(n_trainings(systems, seeds, legacy=legacy)) as progress:
            result = compare(
                systems,
                self.split,
                seeds,
                self.workshop,
                k=self.workshop.k,
                masked=read_masked(masked),
                reference=reference,
                legacy=legacy,
                beyond=beyond,
                left_out=left_out,
                observe=progress.observe,
                on_outcome=progress.on_outcome,
            )
        asked = self.workshop.folder / f"{name}.json"
        path = free_path(asked, result)
        write_comparison(result, path)
        _show(result, path, asked, as_json, print_comparison)

    def compare_splits(
        self,
        systems: Mapping[str, Recipe],
        splits: str,
        seeds: Sequence[int],
        masked: str,
        as_json: bool,
        *,
        reference: str | None = None,
        legacy: bool = False,
        beyond: bool = False,
    ) -> None:
        """Compare under several splits, write down, and print."""
        from triptych.experiments.splits import compare_splits
        from triptych.experiments.systems import n_trainings
        from triptych.report.comparison import free_path
        from triptych.report.splits import write_splits

        made = self.splits(splits)
        with self.progress(n_trainings(systems, seeds, legacy=legacy) * len(made)) as progress:
            result = compare_splits(
                systems,
                made,
                seeds,
                self.workshop,
                k=self.workshop.k,
                masked=read_masked(masked),
                reference=reference,
                legacy=legacy,
                beyond=beyond,
                observe=progress.observe,
                on_outcome=progress.on_outcome,
            )
        asked = self.workshop.folder / f"{file_name('splits', ','.join(made))}.json"
        path = free_path(asked, *result.comparisons.values())
        write_splits(result, path)
        _show(result, path, asked, as_json, print_splits)


def read_systems(names: Sequence[str], settings: Sequence[str] | None) -> dict[str, Recipe]:
    """Read what systems are called on the command line, with --set for all of them.

    Recipes lose their ".toml" in what they are called, unless something else is called so.

    Raises:
        ConfigError: a name is there twice, or there is no such model, plug-in or setting.
    """
    from triptych.training.recipe import find_recipe, parse_settings

    chosen = parse_settings(settings or [])
    short = {name: name.replace(".toml", "") for name in each_once("SYSTEM", names)}
    called = Counter(short.values())
    return {
        brief if called[brief] == 1 else name: find_recipe(name).with_settings(chosen)
        for name, brief in short.items()
    }


def read_compared(names: Sequence[str], settings: Sequence[str] | None) -> dict[str, Recipe | SavedRuns]:
    """Read systems, among which there may be runs: a folder, called by its name, or NAME=FOLDER,FOLDER.

    What is called as a model is the model, even where a folder has that name; "./NAME" is the folder.

    Raises:
        ConfigError: a name is there twice, or there is no such model, plug-in or setting.
    """
    from triptych.experiments.saved import SavedRuns
    from triptych.files import home_in
    from triptych.models.registry import models
    from triptych.runs import RUN

    known = {entry.name for entry in models()}
    runs: dict[str, tuple[str, SavedRuns]] = {}
    for text in each_once("SYSTEM", names):
        called, equals, folders = text.partition("=")
        if equals:
            several = each_once(f"run of {called}", [piece.strip() for piece in folders.split(",")])
            runs[text] = called.strip(), SavedRuns(tuple(map(home_in, several)))
        elif text not in known and (home_in(text) / RUN).is_file():
            runs[text] = home_in(text).resolve().name, SavedRuns((home_in(text),))
    recipes = read_systems([text for text in names if text not in runs], settings)
    counts = Counter([*recipes, *(called for called, _ in runs.values())])
    found: dict[str, Recipe | SavedRuns] = {}
    trained = iter(recipes.items())
    for text in names:  # in the order asked for
        if text in runs:
            called, system = runs[text]
            found[called if counts[called] == 1 else text] = system
        else:
            name, recipe = next(trained)
            found[name] = recipe
    return found


def file_name(*asked: str | None) -> str:
    """Name a result's files, less their suffix, after what was asked, so that other questions keep theirs.

    How it is measured stands in no name: with more seeds or other lengths the result takes its old place, and
    `free_path` finds another where that would replace what answers something else.

    Args:
        asked: the kind of result, the systems, what is varied; None for what was not asked.
    """
    whole = "-".join(word for word in asked if word)
    name = re.sub(r"[^A-Za-z0-9_.,+=]+", "-", whole).strip("-")
    return name if len(name) <= _LONGEST_NAME else f"{name[:80]}-{sha256(whole.encode()).hexdigest()[:8]}"


_LONGEST_NAME = 120


def read_seeds(text: str) -> list[int]:
    """Read "3" as 1, 2, 3, and "4,7" as these two.

    Raises:
        ConfigError: it is neither, or more or larger than there can be.
    """
    try:
        numbers = [int(piece) for piece in text.split(",")]
    except ValueError:
        numbers = [-1]
    most = _MOST_SEEDS if len(numbers) == 1 else LARGEST_SEED
    if not 0 <= min(numbers) <= max(numbers) <= most or numbers == [0]:
        raise ConfigError(
            f"--seeds {text}",
            wanted=f"how many seeds, up to {_MOST_SEEDS:,}, or a list of them, each up to 2**32 - 1",
            fix="Write for example --seeds 5",
        )
    return list(range(1, numbers[0] + 1)) if len(numbers) == 1 else list(dict.fromkeys(numbers))


_MOST_SEEDS = 1_000


def read_legacy(protocol: str) -> bool:
    """Read --protocol: whether to do as MMRec does."""
    return bool(read_choice("--protocol", protocol, ("clean", "legacy")) == "legacy")


def _show(result: Result, path: Path, asked: Path, as_json: bool, show: Callable[[Result], None]) -> None:
    """Print what was found, and where it was written."""
    if as_json:
        print_json({**result.model_dump(mode="json"), "folder": str(path.parent), "report": path.name})
        return
    show(result)
    print_written(path, asked)


def print_written(path: Path, asked: Path) -> None:
    """Say where a report is, and why if it is not where one would look."""
    kept = "" if path == asked else f"; {asked.name} answers another question, and stays"
    out.print(f"\nWritten: {path}, and .html, .md, .tex beside it{kept}", highlight=False, markup=False)
