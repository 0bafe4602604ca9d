"""Learning curves where people look for them: JSON lines, TensorBoard, MLflow.

A tracker is told what a training is set to, of each epoch, and at the end of the run. Names are those of the
run record: `loss/bpr`, `valid/recall@20`, `seconds/epoch`, `seconds/evaluation`, `test/recall@20`.
A resumed training goes on with the same curve: epochs that were told before and are trained again stand
there once.
"""

from triptych.runs.tracking.make import TRACKERS, make_trackers
from triptych.runs.tracking.tracker import Tracker, Tracking, epoch_figures, settings_of

__all__ = ["TRACKERS", "Tracker", "Tracking", "epoch_figures", "make_trackers", "settings_of"]
