"""Runs: trained models with all that says how they came to be."""

from triptych.runs.cold_start import ItemMaker, NewItems, ScoredUser
from triptych.runs.diagnosis import Diagnosis, diagnose
from triptych.runs.explanation import Explanation, explain, modality_shares
from triptych.runs.fold_in import fold_in
from triptych.runs.fusion import fuse
from triptych.runs.rebuild import rank_otherwise
from triptych.runs.record import RUN, RunRecord, read_record
from triptych.runs.run import Recommendation, Run, ScoredItem, evaluate, load, open_test
from triptych.runs.train import train

__all__ = [
    "RUN",
    "Diagnosis",
    "Explanation",
    "ItemMaker",
    "NewItems",
    "Recommendation",
    "Run",
    "RunRecord",
    "ScoredItem",
    "ScoredUser",
    "diagnose",
    "evaluate",
    "explain",
    "fold_in",
    "fuse",
    "load",
    "modality_shares",
    "open_test",
    "rank_otherwise",
    "read_record",
    "train",
]
