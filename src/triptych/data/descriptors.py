"""Pictures and texts as rows of numbers without any learned weights: what a learned encoder has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from triptych.data.arrays import BoolArray, FloatArray, IntArray
from triptych.data.features import Matrix
from triptych.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

SIDE = 64  # every picture is looked at in this many pixels, whatever its size
COLOUR_CELLS, EDGE_CELLS = 4, 4  # cells per side
HUES, SATURATIONS, BRIGHTNESSES, DIRECTIONS = 12, 3, 3, 8
PICTURE_DIM = COLOUR_CELLS**2 * 3 + HUES * SATURATIONS * BRIGHTNESSES + EDGE_CELLS**2 * DIRECTIONS


def describe_picture(picture: Image.Image) -> Matrix:
    """Describe where which colour is, how much there is of each, and which way the edges run.

    Three blocks, each of Euclidean length 1, or 0 where a picture has nothing of the kind: mean colours
    of a 4 × 4 grid, less those of the whole picture; a histogram of hue × saturation × brightness; edge
    directions in 4 × 4 cells, weighted by contrast, whichever side is the brighter.

    Args:
        picture: of any size and mode; transparent parts count as white.

    Returns: (F,) float32, F = `PICTURE_DIM`.

    Raises:
        DataError: the picture has no pixels.
    """
    from PIL import Image, ImageOps

    if 0 in picture.size:
        found, fix = f"a picture of {picture.width} × {picture.height} pixels", "Leave this picture out"
        raise DataError(found, wanted="at least one pixel", fix=fix)
    upright = ImageOps.exif_transpose(picture).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)
    seen = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    rgb = np.asarray(seen) / 255  # (SIDE, SIDE, 3)
    colours = _cells(rgb - rgb.mean(axis=(0, 1)), COLOUR_CELLS)
    histogram = _histogram(np.asarray(seen.convert("HSV"), dtype=np.int64))
    return np.concatenate([_unit(colours), _unit(histogram), _unit(_edges(rgb.mean(axis=2)))])


def describe_pictures(pictures: Sequence[Image.Image | None]) -> tuple[Matrix, BoolArray]:
    """Describe one picture per item; None is an item without one.

    Returns: (I, `PICTURE_DIM`) float32 with zero rows for absent pictures, and (I,) bool, which are present.
    """
    present = np.array([picture is not None for picture in pictures], dtype=bool)
    matrix = np.zeros((len(pictures), PICTURE_DIM), dtype=np.float32)
    for row, picture in zip(matrix, pictures, strict=True):
        if picture is not None:
            row[:] = describe_picture(picture)
    return matrix, present


def describe_texts(texts: Sequence[str | None], dim: int = 64, *, seed: int = 0) -> tuple[Matrix, BoolArray]:
    """Describe one text per item by its words: TF-IDF, then truncated SVD.

    Args:
        texts: None, or a text without a word of two letters, is an item without text.
        dim: most columns; a vocabulary no larger than this is kept whole, one column per word.
        seed: of the randomised SVD.

    Returns: (I, F) float32, 1 <= F <= `dim`, rows of length 1 or, where absent, 0; and (I,) bool, present.

    Raises:
        ConfigError: `dim` is below 1.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if dim < 1:
        raise ConfigError(
            f"text features with {dim} columns", wanted="at least one", fix="Use 64, for example"
        )
    words = TfidfVectorizer(sublinear_tf=True)
    split = words.build_analyzer()
    present = np.array([text is not None and bool(split(text)) for text in texts], dtype=bool)
    if not present.any():
        return np.zeros((len(texts), 1), dtype=np.float32), present
    counts = words.fit_transform([text for text, known in zip(texts, present, strict=True) if known])
    if counts.shape[1] <= dim:
        rows = counts.toarray()
    else:
        svd = TruncatedSVD(min(dim, counts.shape[0]), random_state=seed)
        with np.errstate(invalid="ignore"):  # texts that are all alike have no variance to explain
            rows = svd.fit_transform(counts)
    matrix = np.zeros((len(texts), rows.shape[1]), dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    matrix[present] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return matrix, present


def _unit(block: FloatArray) -> Matrix:
    """Flatten and scale to length 1; a block of (nearly) nothing stays nothing."""
    flat = block.reshape(-1).astype(np.float32)
    length = float(np.linalg.norm(flat))
    return flat / length if length > 1e-6 else np.zeros_like(flat)


def _cells(values: FloatArray, n_cells: int) -> FloatArray:
    """Average (SIDE, SIDE, C) over square cells -> (n_cells, n_cells, C)."""
    step = SIDE // n_cells
    means: FloatArray = values.reshape(n_cells, step, n_cells, step, -1).mean(axis=(1, 3))
    return means


def _histogram(hsv: IntArray) -> FloatArray:
    bins = np.array([HUES, SATURATIONS, BRIGHTNESSES])
    hue, saturation, brightness = np.moveaxis(hsv * bins // 256, 2, 0)
    hue = hue * (saturation > 0)  # what is nearly grey has no hue to speak of
    cell = (hue * SATURATIONS + saturation) * BRIGHTNESSES + brightness
    counts = np.bincount(cell.reshape(-1), minlength=int(bins.prod()))
    return np.sqrt(counts)  # lest a large, plain background drown the rest


def _edges(grey: FloatArray) -> FloatArray:
    down, right = np.gradient(grey)
    angle = np.arctan2(down, right) % np.pi
    direction = (angle / np.pi * DIRECTIONS + 0.5).astype(np.int64) % DIRECTIONS  # bins centred on the axes
    weight = np.hypot(down, right)[..., None] * np.eye(DIRECTIONS)[direction]
    return np.sqrt(_cells(weight, EDGE_CELLS))
