"""The command's frame: the application, the options commands share, and how their words are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych.cli.menu import Menu
from triptych.errors import ConfigError, nearest

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset
    from triptych.data.split import Split
    from triptych.evaluation.ranking import Masked

app = typer.Typer(
    cls=Menu,
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
LARGEST_SEED = 2**32 - 1
"""What the generators of all libraries take."""
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of everything that is drawn by chance.")]
SplitSeed = Annotated[
    int,
    typer.Option(
        min=0, max=LARGEST_SEED, help="Of the split; the same for all --seed, so that they compare."
    ),
]


def needs(context: typer.Context, options: Sequence[str], other: str, *, met: bool) -> None:
    """Refuse options that would be ignored: written on the command line without the `other` they belong to.

    What is left at its default or comes from the environment is no mistake.

    Args:
        context: of the command.
        options: such as "--index".
        other: what they need, such as "--to faiss".
        met: whether it is there.

    Raises:
        ConfigError: it is not, and one of the options is.
    """
    written = {
        option
        for parameter in context.command.params
        if (source := context.get_parameter_source(parameter.name or "")) is not None
        and source.name == "COMMANDLINE"
        for option in parameter.opts
    }
    for option in options:
        if option in written and not met:
            raise ConfigError(
                f"{option} without {other}", wanted="both, or neither", fix=f"Add {other}, or drop {option}"
            )


def each_once(option: str, names: Sequence[str]) -> Sequence[str]:
    """Take names that all differ.

    Raises:
        ConfigError: one is there twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{option} {name} more than once", wanted="each once", fix="Name it once")
    return names


def folder_name(*parts: str) -> str:
    """Name a folder after some words, none of which leads elsewhere."""
    return "-".join(parts).replace("/", "-").replace("\\", "-").lstrip(".") or "data"


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


def make_split(data: Dataset, kind: str | None, seed: int, option: str = "--split") -> Split:
    """Split a data set as --split, or another `option`, says."""
    from triptych.data.split import Split

    if kind is None:
        kind = "ratio" if data.interactions.label is None else "label"
    makers: dict[str, Callable[[], Split]] = {
        "label": lambda: Split.by_label(data),
        "ratio": lambda: Split.by_ratio(data, rng=seed),
        "leave-one-out": lambda: Split.leave_one_out(data, rng=seed),
        "time": lambda: Split.by_time(data),
    }
    return makers[read_choice(option, kind, tuple(makers))]()


def read_pair(option: str, form: str, text: str, example: str) -> tuple[str, str]:
    """Read "NAME=VALUE", or say which `form` was wanted.

    Raises:
        ConfigError: it is something else.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option} {text!r}", wanted=form, fix=f"Write for example {option} {example}")
    return name, value
