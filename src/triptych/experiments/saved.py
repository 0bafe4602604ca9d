"""Runs that were made elsewhere, such as fusions, as systems of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.runs import RunRecord, read_record


@dataclass(frozen=True)
class SavedRuns:
    """A system that is not trained but measured.

    Args:
        folders: of its runs, one for each seed.
    """

    folders: tuple[Path, ...]

    def watched_metric(self, name: str, split: Split) -> str:
        """Check that all runs were made on a split, and give the metric that they were chosen by.

        Args:
            name: what the system is called.
            split: with its test part.

        Raises:
            ConfigError: a run is of other data or another split, or two were chosen by different metrics.
            StorageError: a folder holds no run, or a damaged one.
        """
        records = {folder: read_record(folder) for folder in self.folders}
        for folder, record in records.items():
            _check_made_on(f"{name} ({folder})", record, split)
        metrics = {folder: _metric_of(record) for folder, record in records.items()}
        if len(set(metrics.values())) != 1:
            raise ConfigError(
                f"the runs of {name} were chosen by "
                + (", ".join(f"{metric} ({folder})" for folder, metric in metrics.items()) or "nothing"),
                wanted="runs that were chosen by one metric",
                fix="Make them by the same metric, or give them two names",
            )
        return next(iter(metrics.values()))


def _check_made_on(called: str, record: RunRecord, split: Split) -> None:
    """Refuse a run of something else; one whose test part is shut knows the split without it."""
    of = split if record.test_opened is not None else split.without_test()
    hashes = {
        "other data": (record.data_hash, of.data.content_hash),
        "another split": (record.split_hash, of.content_hash),
    }
    differing = {what: pair for what, pair in hashes.items() if pair[0] != pair[1]}
    if differing:
        raise ConfigError(
            f"{called} was made on "
            + " and ".join(f"{what} ({has}, not {wanted})" for what, (has, wanted) in differing.items()),
            wanted=f"runs of '{split.data.name}', split as here by {split.protocol.get('kind')}",
            fix="Give the --data, --split and --split-seed that the run was made with, or make it again",
        )


def _metric_of(record: RunRecord) -> str:
    settings = record.train_settings or record.model_settings  # a fusion has no training
    return str(settings["metric"])
