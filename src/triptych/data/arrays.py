"""Names for the kinds of arrays and ids that tables are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
LabelArray = np.ndarray[Any, np.dtype[np.int8]]

RawId = str | int
