"""What an encoder is: one item's content in, one row of numbers out; and what its rows are known by."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from triptych.data.arrays import BoolArray
from triptych.data.content import read_content
from triptych.data.features import Matrix
from triptych.errors import ConfigError
from triptych.files import hash_arrays

Input = TypeVar("Input")
Content = str | Path


class Kind(NamedTuple):
    """A kind of content.

    Args:
        word: what people call one of it.
        read: gives the bytes that say all about one item's content; none at all if it is blank.
    """

    word: str
    read: Callable[[Content], bytes]


def _read_text(content: Content) -> bytes:
    text = content if isinstance(content, str) else read_content(content).decode("utf-8", "replace")
    text = text.replace("\0", " ")  # some tokenizers end a text there
    return text.encode("utf-8", "replace") if text.strip() else b""


def _read_file(content: Content) -> bytes:
    return read_content(Path(content))


KINDS: Mapping[str, Kind] = {
    "text": Kind("text", _read_text),
    "image": Kind("picture", _read_file),
    "audio": Kind("sound", _read_file),
}


@dataclass(frozen=True)
class EncoderSpec:
    """All that decides which row a content gets; where it is computed is no part of it.

    Args:
        name: the encoder's.
        version: of the libraries, the first being the one that matters most, and a hash of the model's files.
        settings: plain JSON values.
    """

    name: str
    version: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**asdict(self), "settings": dict(self.settings)}

    @property
    def key(self) -> str:
        """Name of the spec, 16 hexadecimal digits; rows are remembered under it."""
        return hash_arrays(json.dumps(self.to_json(), sort_keys=True))

    def __str__(self) -> str:
        library = self.version.partition(",")[0]
        dtype = self.settings.get("dtype")
        return f"{self.name} ({library}, {dtype})" if dtype else f"{self.name} ({library})"


@dataclass(frozen=True)
class Options:
    """Where and how an encoder computes, if it has a choice.

    Args:
        device: auto, cpu, cuda or cuda:N.
        dtype: "auto" for bfloat16 where the processor has it in hardware; or "float32", "bfloat16".
        batch_size: inputs at a time.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32


class Encoder(ABC, Generic[Input]):
    """Turns each content into a row that depends on that content alone.

    Rows of encoders without weights are the same in any batch. Those of models may differ in the last bits
    with the other inputs of a batch, since these decide on padding and on the order of sums; the same
    batches give the same rows.

    Args:
        spec: what its rows are known by.
        batch_size: inputs at a time.
        limit: what longer contents are cut at, in words.
    """

    by_length: ClassVar[bool] = False
    """Whether a batch goes faster if its inputs are equally long."""

    def __init__(self, spec: EncoderSpec, batch_size: int, limit: str = "") -> None:
        self.spec, self.batch_size, self.limit = spec, batch_size, limit

    @abstractmethod
    def load(self, data: bytes) -> Input:
        """Make an input from a content's bytes. It should be small: a whole batch of them is kept.

        Raises:
            ContentError: the bytes are of another kind, or damaged.
        """

    @abstractmethod
    def encode(self, batch: Sequence[Input]) -> Matrix:
        """Encode n inputs -> (n, F) float32."""

    def cut(self, batch: Sequence[Input]) -> BoolArray:
        """Say which of n inputs are longer than the encoder can see -> (n,) bool."""
        return np.zeros(len(batch), dtype=bool)


class CorpusEncoder(ABC):
    """Turns texts into rows that depend on all texts together, so that nothing can be remembered.

    Args:
        spec: what its rows are known by.
        reason: why a text has no row.
    """

    limit: ClassVar[str] = ""
    """It sees the whole of each text."""

    def __init__(self, spec: EncoderSpec, reason: str) -> None:
        self.spec, self.reason = spec, reason

    @abstractmethod
    def memory_needed(self, texts: Sequence[str]) -> int:
        """Estimate how many bytes `encode_all` takes at most."""

    @abstractmethod
    def encode_all(self, texts: Sequence[str | None]) -> tuple[Matrix, BoolArray]:
        """Encode I texts -> (I, F) float32, and (I,) bool, which have a row."""


def versions(*packages: str) -> str:
    """Word the versions of installed packages: "torch 2.13.0, numpy 2.4.6"."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def require(extra: str, *modules: str) -> None:
    """Check that an optional part of Triptych is installed.

    Raises:
        ConfigError: a module of it cannot be imported.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"this needs {module}, which cannot be imported: {error}",
                wanted=f"Triptych with its '{extra}' extra",
                fix=f"Run: pip install 'triptych[{extra}]'",
            ) from error
