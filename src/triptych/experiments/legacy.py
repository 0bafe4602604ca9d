"""Trainings as MMRec has them, whose figures stand beside the clean ones and are not to be quoted.

MMRec rounds the watched figure to 4 places before it compares epochs, masks train items alone, and prints
what is best on test. Only the first of these changes a training, and often not even that: where rounding
keeps the epoch that was kept without it, the clean training is the legacy one.
"""

from __future__ import annotations

from dataclasses import replace

from triptych.experiments.jobs import Job, Outcome
from triptych.runs import read_record
from triptych.training.progress import epoch_kept

_DECIMALS = 4


def legacy_job(job: Job) -> Job:
    """Give the training that rounds; the job itself if its model has one epoch only, or it rounds already."""
    rounded = job.recipe.with_settings({"metric_decimals": _DECIMALS})
    if rounded == job.recipe or "metric_decimals" in rounded.unread():
        return job
    return replace(job, recipe=rounded, called=f"{job.called}, legacy")


def spare_training(job: Job, clean: Outcome) -> Outcome | None:
    """Take the run of a clean training for that of a legacy job, where both keep the same epoch.

    Which epoch the legacy job would keep is told by the clean one's validation figures, as both learn the
    same until one of them ends.

    Returns:
        What became of the job; None where it has to be trained.
    """
    if clean.folder is None:
        return None
    record = read_record(clean.folder)
    kept = epoch_kept(record.history, job.recipe.configs().training)
    return Outcome(job, clean.folder, done="spared") if kept == record.best_epoch else None
