"""What commands about many trainings share: their options, the data they name, and the way through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from triptych.cli.base import make_split, read_choice, read_lengths, read_masked
from triptych.cli.comparison_tables import print_comparison, print_splits
from triptych.cli.output import out, print_json
from triptych.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from triptych.cli.progress import ExperimentProgress
    from triptych.data.split import Split
    from triptych.experiments.comparison import LeftOut, Variant
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
        help="clean, or legacy: round as MMRec does, and show beside the means what choosing by the test "
        "part would print."
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
        split: str | None,
        split_seed: int,
        device: str,
        workers: int,
        threads: int | None,
        graph_cache: Path | None,
        out_folder: Path | None,
        k: str | None = "10,20",
    ) -> None:
        from triptych.data.dataset import Dataset
        from triptych.experiments.jobs import Workshop

        lengths = () if k is None else tuple(read_lengths(k))
        self._split, self._split_seed = split, split_seed
        self.dataset = Dataset.load(data)
        self.workshop = Workshop(
            out_folder or Path("experiments") / self.dataset.name,
            device=device,
            workers=workers,
            threads=threads,
            graph_cache=graph_cache,
            k=lengths,
        )

    @cached_property
    def split(self) -> Split:
        """The data, split as asked for."""
        return make_split(self.dataset, self._split, self._split_seed)

    def splits(self, text: str) -> dict[str, Split]:
        """Split the data in each of some ways, "ratio,leave-one-out,time".

        Raises:
            ConfigError: --split is there as well, or a way is unknown.
            DataError: a way goes by time, of which the data know nothing.
        """
        if self._split is not None:
            raise ConfigError(
                "both --split and --splits", wanted="one of them", fix="Name all ways with --splits"
            )
        found = {kind: make_split(self.dataset, kind, self._split_seed) for kind in text.split(",")}
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
        systems: Mapping[str, Recipe | Variant],
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
        from triptych.report.comparison import write_comparison

        with self.progress(len(systems) * len(seeds)) as progress:
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
        path = self.workshop.folder / f"{name}.json"
        write_comparison(result, path)
        _show(result, path, as_json, print_comparison)

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
        from triptych.report.splits import write_splits

        made = self.splits(splits)
        with self.progress(len(systems) * len(seeds) * len(made)) as progress:
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
        path = self.workshop.folder / "splits.json"
        write_splits(result, path)
        _show(result, path, as_json, print_splits)


def read_systems(names: Sequence[str], settings: Sequence[str] | None) -> dict[str, Recipe]:
    """Read what systems are called on the command line, with --set for all of them."""
    from triptych.training.recipe import find_recipe, parse_settings

    chosen = parse_settings(settings or [])
    return {name.replace(".toml", ""): find_recipe(name).with_settings(chosen) for name in names}


def read_seeds(text: str) -> list[int]:
    """Read "3" as 1, 2, 3, and "4,7" as these two.

    Raises:
        ConfigError: it is neither.
    """
    try:
        numbers = [int(piece) for piece in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or numbers == [0]:
        raise ConfigError(
            f"--seeds {text}", wanted="how many seeds, or a list of them", fix="Write for example --seeds 5"
        )
    return list(range(1, numbers[0] + 1)) if len(numbers) == 1 else numbers


def read_legacy(protocol: str) -> bool:
    """Read --protocol: whether to do as MMRec does."""
    return bool(read_choice("--protocol", protocol, ("clean", "legacy")) == "legacy")


def _show(result: Result, path: Path, as_json: bool, show: Callable[[Result], None]) -> None:
    """Print what was found, and where it was written."""
    if as_json:
        print_json({**result.model_dump(mode="json"), "folder": str(path.parent)})
        return
    show(result)
    out.print(f"\nWritten: {path}, and .html, .md, .tex beside it", highlight=False, markup=False)
