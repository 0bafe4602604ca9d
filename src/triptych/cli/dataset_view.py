"""A data set as tables for people: in short after it was made, at length when described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.cli.output import out, print_facts, print_table

if TYPE_CHECKING:
    from triptych.data.dataset import Dataset

_SHOWN_NAMES = 20
_LEVELS = ("min", "p25", "median", "p75", "p90", "p99", "max", "mean")


def show_dataset(data: Dataset, facts: Mapping[str, Any], where: Path) -> None:
    """Print counts, the steps the rows went through, and what is known of the items."""
    out.print(f"{data.name} in {where}", style="bold", highlight=False, markup=False, soft_wrap=True)
    times = facts["times"]
    print_facts(
        {
            "users": facts["users"],
            "items": facts["items"],
            "interactions": facts["interactions"],
            "density": f"{facts['density']:.4%}",
            "interactions per user": _range(facts["interactions_per_user"]),
            "interactions per item": _range(facts["interactions_per_item"]),
            "ratings": facts["ratings"],
            "time": f"{times['first']} to {times['last']}" if times else None,
            **({"split": ", ".join(_counted(facts["labels"]))} if facts["labels"] else {}),
            "item columns": facts["item_columns"],
        }
    )
    _show_origin(data.provenance)
    _show_modalities(facts)
    for modality, origin in data.provenance.get("features", {}).items():
        if "left_out" in origin:
            _show_left_out(modality, origin)
        if origin.get("files_of_no_item"):
            out.print(
                f"{modality}: {origin['files_of_no_item']:,} files of no item", highlight=False, markup=False
            )
        if origin.get("ambiguous"):
            out.print(
                f"{modality}: {origin['ambiguous']:,} items without, since more than one file or item could "
                f"be meant: {', '.join(origin['first_ambiguous'])}",
                highlight=False,
                markup=False,
            )


def describe_dataset(data: Dataset, facts: Mapping[str, Any], where: Path) -> None:
    """Print all of `show_dataset`, and then degrees, popularity, texts and nearest neighbours."""
    show_dataset(data, facts, where)
    print_table(
        "\nInteractions of one user, of one item",
        ["of", *_LEVELS],
        [[kind, *(facts["degrees"][f"{kind}s"][level] for level in _LEVELS)] for kind in ("user", "item")],
    )
    popularity = facts["popularity"]
    print_table(
        f"\nPopularity (Gini {popularity['gini']:.3f})",
        ["the most popular", "have of all interactions"],
        [[f"{percent} % of items", f"{share:.1%}"] for percent, share in popularity["top"].items()],
    )
    if facts["texts"]:
        levels = ("median", "p90", "max")
        print_table(
            "\nTexts, in words",
            ["column", "empty", *levels],
            [
                [
                    name,
                    f"{text['empty']:.1%}",
                    *(_whole((text["words"] or {}).get(level)) for level in levels),
                ]
                for name, text in facts["texts"].items()
            ],
        )
    for modality, listed in facts["neighbors"].items():
        print_table(
            f"\nNearest by {modality} ({listed['by']})",
            ["item", "similarity", "neighbour"],
            [
                [_named(example) if place == 0 else "", f"{near['similarity']:.3f}", _named(near)]
                for example in listed["examples"]
                for place, near in enumerate(example["neighbors"])
            ],
        )


def _show_origin(provenance: Mapping[str, Any]) -> None:
    """Print which files it came from, and what each step took away."""
    files: Mapping[str, Any] = provenance.get("files", {})
    if files:
        names = ", ".join(f"{role} {file.get('file', file.get('folder'))}" for role, file in files.items())
        out.print(f"\nRead as {provenance['layout']}: {names}", highlight=False, markup=False)
    if unused := provenance.get("files_not_used"):
        shown = _first_names(unused) + ("" if "items" in files else "; --items names the table of items")
        out.print(f"Not used, since it is not clear what they are: {shown}", highlight=False, markup=False)
    for file, columns in provenance.get("columns_not_read", {}).items():
        shown = _first_names(columns)
        out.print(f"Columns not read of {file}: {shown}", highlight=False, markup=False)
    if items := provenance.get("items"):
        kept = any(step.get("items_removed") for step in provenance.get("steps", []))
        words = {"unknown_items": f"without interactions{' that were kept' if kept else ''}: left out"}
        odd = ", ".join(
            f"{count:,} {words.get(what, what.replace('_', ' '))}"
            for what, count in items.items()
            if what != "rows" and count
        )
        out.print(
            f"Item table: {items['rows']:,} rows" + (f", {odd}" if odd else ""), highlight=False, markup=False
        )
    for file, bad in provenance.get("unusable", {}).items():
        _show_left_out(file, bad)
    for skipped in provenance.get("skipped", []):
        out.print(f"Skipped {skipped}", highlight=False, markup=False)
    steps: Sequence[Mapping[str, Any]] = provenance.get("steps", [])
    for step in steps:
        if step["step"] == "rows":  # conditions may be too long for a table
            line = f"Kept {step['kept']:,} of {step['of']:,} rows where {step['where']}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if steps:
        removed = ("users_removed", "items_removed", "interactions_removed")
        print_table(
            "\nSteps",
            ["step", "", *(name.replace("_", " ") for name in removed)],
            [[step["step"], _settings(step), *(step.get(name, "") for name in removed)] for step in steps],
        )


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _show_left_out(what: str, bad: Mapping[str, Any]) -> None:
    """Print how many were left out for which reason, and the first of them."""
    out.print(f"{what}: left out {', '.join(_counted(bad['left_out']))}", highlight=False, markup=False)
    for example in bad["first_left_out"]:
        out.print(f"  {example}", highlight=False, markup=False)


def _show_modalities(facts: Mapping[str, Any]) -> None:
    rows = [
        (
            name,
            str(one["dim"] or "–"),
            str(one["graph_edges"] or "–"),
            f"{one['coverage']:.1%}",
            one["source"],
        )
        for name, one in facts["modalities"].items()
    ]
    if rows:
        columns = ["modality", "columns", "graph edges", "items that have it", "source"]
        print_table("\nItem content", columns, rows)


def _settings(step: Mapping[str, Any]) -> str:
    if step["step"] == "rows":
        return f"kept {step['kept']:,}"
    write = _moment if step["step"] == "time" else _value
    shown = {
        name: write(value)
        for name, value in step.items()
        if name != "step" and not name.endswith("_removed") and value is not None
    }
    return ", ".join(
        value if name == step["step"] else f"{name.replace('_', ' ')} {value}"
        for name, value in shown.items()
    )


def _value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _moment(seconds: float) -> str:
    """Write a time as a date, if it is one, and as it is if it is counted from another beginning."""
    if not 1e8 < seconds < 1e10:
        return f"{seconds:,}"
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.date().isoformat() if seconds % 86_400 == 0 else f"{moment:%Y-%m-%d %H:%M:%S}"


def _whole(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _range(levels: Mapping[str, float]) -> str:
    return f"{levels['min']:,.0f} to {levels['max']:,.0f}, median {levels['median']:,.1f}".removesuffix(".0")


def _counted(counts: Mapping[str, int]) -> list[str]:
    return [f"{count:,} {name}" for name, count in counts.items()]


def _named(item: Mapping[str, Any]) -> str:
    return f"{item['title']} ({item['item_id']})" if item["title"] else str(item["item_id"])
