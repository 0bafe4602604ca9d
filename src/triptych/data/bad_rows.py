"""Rows that cannot be used: left out up to a limit, each counted under a reason, the first few shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from triptych.errors import ConfigError, DataError

SHOWN = 5


@dataclass
class BadRows:
    """Collects what was left out while files are read.

    Args:
        limit: the largest share of a file's rows that may be left out, in [0, 1].
        adjustable: whether who reads the files can raise it, and name what they are written in.
    """

    limit: float = 0.01
    adjustable: bool = True
    _reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)
    _harmless: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 1:
            raise ConfigError(
                f"a share of {self.limit} bad rows", wanted="a share from 0 to 1", fix="Use --max-bad 0.01"
            )

    def add(
        self, file: str, reason: str, n_rows: int, examples: Iterable[str] = (), *, harmless: bool = False
    ) -> None:
        """Count rows of a file that are left out.

        Args:
            file: the file's name.
            reason: why, in a few words that are the same for all such rows: "no JSON", "no item id".
            n_rows: how many.
            examples: where and what the first of them are: "line 17: Expecting value".
            harmless: such rows are usual, and do not count towards the limit.
        """
        if n_rows == 0:
            return
        if harmless:
            self._harmless[file] = self._harmless.get(file, 0) + n_rows
        reasons = self._reasons.setdefault(file, {})
        reasons[reason] = reasons.get(reason, 0) + n_rows
        shown = self._examples.setdefault(file, [])
        shown += [f"{reason}: {example}" for example in examples][: SHOWN - len(shown)]

    def check(self, file: str, n_rows: int, fix: str = "Repair the file", option: str = "") -> None:
        """Refuse a file with too many bad rows.

        Args:
            file: its name.
            n_rows: how many rows it has, good and bad.
            fix: what could be done.
            option: of the command, besides raising the limit; it is named where there are such options.

        Raises:
            DataError: more than `limit` of them are bad.
        """
        n_bad = self.count(file) - self._harmless.get(file, 0)
        if n_bad > self.limit * n_rows:
            shown = "; ".join(self._examples[file])
            options = [*([option] if option else []), "or let more be left out with --max-bad SHARE"]
            raise DataError(
                f"{file}: {n_bad:,} of {n_rows:,} rows cannot be used: {shown}",
                wanted=f"at most {self.limit:.3g} of the rows bad",
                fix=", ".join([fix, *options]) if self.adjustable else fix,
            )

    def count(self, file: str) -> int:
        """Say how many rows of a file were left out."""
        return sum(self._reasons.get(file, {}).values())

    def of(self, file: str) -> dict[str, Any]:
        """Give the counts by reason and the first examples of a file, in plain JSON values; {} if none."""
        if file not in self._reasons:
            return {}
        return {"left_out": dict(self._reasons[file]), "first_left_out": list(self._examples[file])}

    def all(self) -> dict[str, Any]:
        """Give what `of` gives for each file with bad rows."""
        return {file: self.of(file) for file in self._reasons}
