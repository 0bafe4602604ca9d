"""What commands print: tables for people, one JSON object for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from triptych.errors import TriptychError

out = Console()
err = Console(stderr=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def print_error(error: TriptychError, *, as_json: bool) -> None:
    """Print what was found, wanted, and to be done; as JSON on standard output, or for people beside it."""
    if as_json:
        facts = {"type": type(error).__name__, "found": error.found, "wanted": error.wanted, "fix": error.fix}
        print_json({"error": facts})
        return
    err.print("[bold red]error:[/] ", end="")
    for text in (error.found, f"  wanted: {error.wanted}", f"  to do:  {error.fix}"):
        err.print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: str = ""
) -> None:
    """Print rows for people; numbers stand to the right, fractions with four places. Ids go in as text."""
    if title:
        out.print(title, style="bold", highlight=False, markup=False)
    table = Table(header_style="bold", box=None, pad_edge=False)
    listed = [list(row) for row in rows]
    for place, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[place], int | float) for row in listed)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(Text(_cell(value)) for value in row))  # text: titles may hold what looks like markup
    out.print(table)
    if notes:
        out.print(notes, style="dim", highlight=False, markup=False)


def how_split(protocol: Mapping[str, object]) -> str:
    """Word what a split goes by, as its protocol says."""
    drawn = ", the last of each user at random for want of times" if protocol.get("order") == "random" else ""
    return f"{protocol['kind']}{drawn}"


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values for people, one a line, and what a value consists of below it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in ("name", "value"):
        table.add_column(overflow="fold")
    for name, value in _lines(facts):
        table.add_row(Text(name), Text(value))
    out.print(table)


def _lines(facts: Mapping[str, object], indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        label = indent + (name.replace("_", " ") if name.islower() and name.isidentifier() else name)
        if isinstance(value, Mapping):
            yield label, "" if value else "–"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
            yield label, ""
            for part in value:
                yield from _lines(part, indent + "  ")
        elif isinstance(value, list | tuple):
            yield label, ", ".join(map(_cell, value)) or "–"
        else:
            yield label, _cell(value)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
