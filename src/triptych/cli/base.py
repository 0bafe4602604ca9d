"""The command's frame: the application, the options commands share, and how their words are read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.errors import ConfigError, nearest

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset
    from triptych.data.split import Split
    from triptych.evaluation.ranking import Masked

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"triptych {metadata.version('triptych')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
]


@app.callback()
def main(version: Version = False) -> None:
    """Multimodal graph recommendation: prepare data, train, evaluate honestly, recommend."""


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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
GraphCache = Annotated[
    Path | None,
    typer.Option(envvar="TRIPTYCH_CACHE", help="Folder that keeps item neighbours between calls."),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        envvar="TRIPTYCH_MEMORY_LIMIT", help="Refuse what would take more memory than this, such as 8GB."
    ),
]


def limited(size: str | None) -> AbstractContextManager[None]:
    """Hold what happens in a `with` block to --memory-limit."""
    from triptych.memory import limited_to, parse_size

    return limited_to(parse_size(size) if size else None)


SplitKind = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="label, ratio, leave-one-out or time; by default label if the data has one, else ratio.",
    ),
]
SplitSeed = Annotated[
    int, typer.Option(min=0, help="Of the split; the same for all --seed, so that they compare.")
]


def read_lengths(text: str) -> list[int]:
    """Read "10,20" as list lengths."""
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"list lengths {text!r}",
            wanted="whole numbers with commas between them",
            fix="Write for example --k 10,20",
        ) from None


def read_choice(option: str, value: str, choices: tuple[str, ...]) -> Any:
    """Take one of some words, or name the nearest."""
    if value not in choices:
        raise ConfigError(f"{option} {value}", wanted=" or ".join(choices), fix=nearest(value, choices))
    return value


def read_masked(value: str) -> Masked:
    """Read which items are masked."""
    masked: Masked = read_choice("--masked", value, ("train", "train+valid"))
    return masked


def make_split(data: Dataset, kind: str | None, seed: int) -> Split:
    """Split a data set as --split says."""
    from triptych.data.split import Split

    if kind is None:
        kind = "ratio" if data.interactions.label is None else "label"
    makers: dict[str, Callable[[], Split]] = {
        "label": lambda: Split.by_label(data),
        "ratio": lambda: Split.by_ratio(data, rng=seed),
        "leave-one-out": lambda: Split.leave_one_out(data, rng=seed),
        "time": lambda: Split.by_time(data),
    }
    return makers[read_choice("--split", kind, tuple(makers))]()


def read_pair(option: str, form: str, text: str, example: str) -> tuple[str, str]:
    """Read "NAME=VALUE", or say which `form` was wanted.

    Raises:
        ConfigError: it is something else.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option} {text!r}", wanted=form, fix=f"Write for example {option} {example}")
    return name, value
