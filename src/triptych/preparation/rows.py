"""Which rows of a table of interactions are meant, by conditions on its own columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from triptych.data.arrays import BoolArray
from triptych.data.conditions import Condition
from triptych.data.filters import Step
from triptych.data.layouts import Layout
from triptych.errors import ConfigError, DataError, nearest

_SHOWN = 5


class Rows(NamedTuple):
    """Rows chosen.

    Args:
        keep: (n,) the rows that meet all conditions; None without any condition.
        steps: a step for each condition.
    """

    keep: BoolArray | None
    steps: list[Step]


def choose_rows(frame: pl.DataFrame, conditions: Sequence[Condition], found: Layout, file: str) -> Rows:
    """Mark the rows that meet all conditions.

    Args:
        frame: the interactions with the columns of their file.
        conditions: on these columns.
        found: the layout that they were read of.
        file: what messages call the table.

    Raises:
        ConfigError: a column is not there, or does not hold what it is compared with.
        DataError: no row is left.
    """
    if not conditions:
        return Rows(None, [])
    keep, steps = np.ones(frame.height, dtype=bool), []
    for condition in conditions:
        _check_columns(frame, condition, found, file)
        before = int(keep.sum())
        keep &= condition.rows(frame)
        kept = int(keep.sum())
        if not kept:
            raise DataError(
                f"{file}: none of {before:,} rows is left where {condition.text}",
                wanted="a condition that some rows meet",
                fix="Compare it with what is there: " + _some_values(frame, condition),
            )
        removed = {"interactions_removed": before - kept}
        steps.append({"step": "rows", "where": condition.text, "of": before, "kept": kept, **removed})
    return Rows(keep, steps)


def _check_columns(frame: pl.DataFrame, condition: Condition, found: Layout, file: str) -> None:
    for name in condition.columns:
        if name in frame.columns:
            continue
        fix = nearest(name, frame.columns)
        reason = ""
        if found.name != "tables":  # such a layout may know more columns than it reads
            fix = "Choose one of these, or read the file as any other table, with --layout tables"
            reason = f"; of {found.title}, no others are read"
        raise ConfigError(
            f"--rows {condition.text!r} names the column '{name}', which is not among those read of {file}",
            wanted=f"one of {', '.join(frame.columns)}{reason}",
            fix=fix,
        )


def _some_values(frame: pl.DataFrame, condition: Condition) -> str:
    """Word the first few values of each column that a condition names."""
    shown = []
    for name in condition.columns:
        column = frame.get_column(name).drop_nulls()
        values = column if column.dtype.is_nested() else column.unique(maintain_order=True)
        words = ", ".join(map(repr, values.head(_SHOWN).to_list())) or "nothing"
        shown.append(f"'{name}' holds {words}" + (", ..." if len(values) > _SHOWN else ""))
    return "; ".join(shown)
