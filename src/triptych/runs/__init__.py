"""Runs: trained models with all that says how they came to be."""

from triptych.runs.diagnosis import Diagnosis, diagnose
from triptych.runs.fusion import fuse
from triptych.runs.record import RunRecord
from triptych.runs.run import RUN, Recommendation, Run, ScoredItem, evaluate, load, open_test
from triptych.runs.train import train

__all__ = [
    "RUN",
    "Diagnosis",
    "Recommendation",
    "Run",
    "RunRecord",
    "ScoredItem",
    "diagnose",
    "evaluate",
    "fuse",
    "load",
    "open_test",
    "train",
]
