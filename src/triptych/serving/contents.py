"""Texts and pictures of new items as rows like those of a data set, by the encoders that made these."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from triptych.data.dataset import Dataset
from triptych.data.features import Matrix
from triptych.data.markup import without_markup
from triptych.data.texts import TextTemplate
from triptych.encode.encoder import Encoder
from triptych.encode.registry import load_encoder
from triptych.errors import ConfigError, TriptychError
from triptych.serving.problems import RefusedError

MOST_PIXELS = 16_000_000
"""Of an uploaded picture."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""Of uploaded pictures."""
_SAME = 0.999
"""Cosine of two rows that count as one: learned encoders may differ in the last bits."""
_CHECKED = 8
"""Texts of the data set that are encoded again to see that nothing has changed."""
_LOADED_AS = {"all-MiniLM-L6-v2": "minilm"}
"""Name in the provenance -> name by which the encoder is loaded, where they differ."""

Encode = Callable[[bytes], Matrix]
"""One content -> (1, F)."""


class NewContents:
    """Encodes the text and the picture of a new item as those of a data set were.

    What made the features is read from the data set's provenance, loaded at the first use, and checked: an
    encoder must have the same name, settings and weights; and texts of the data set, encoded again, must come
    out as they are stored. TF-IDF is fitted again to all texts of the data set. Models are looked for on this
    machine only, in the working folder and in the cache of the Hugging Face hub.

    Args:
        data: with features.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._made: Mapping[str, Any] = data.provenance.get("features", {})
        self._encoders: dict[str, Encode | TriptychError] = {}
        self._lock = Lock()
        self.remarks: list[str] = []

    @property
    def takes(self) -> list[str]:
        """Which contents a new item may have: "text", "picture"."""
        return [word for word, modality in (("text", "text"), ("picture", "image")) if self._knows(modality)]

    def encode(self, text: str | None, picture: bytes | None) -> dict[str, Matrix]:
        """Give a row of each content: modality -> (1, F).

        Raises:
            RefusedError: there is neither text nor picture; the data set cannot say how its features were
                made, or not by what is installed here; or the picture is none that is taken.
        """
        given: dict[str, bytes] = {}
        if text and (words := without_markup(text)):  # as the texts of a data set are read
            given["text"] = words.encode("utf-8", "replace")
        if picture:
            check_picture(picture)
            given["image"] = picture
        if not given:
            raise RefusedError(
                422,
                "neither a text nor a picture",
                wanted="at least one of them",
                fix="Send the fields text, picture, or both",
            )
        return {modality: self._encoder(modality)(content) for modality, content in given.items()}

    def _encoder(self, modality: str) -> Encode:
        with self._lock:
            if modality not in self._encoders:
                try:
                    self._encoders[modality] = self._load(modality)
                except TriptychError as error:  # remembered, as nothing here would mend it
                    self._encoders[modality] = error
        found = self._encoders[modality]
        if isinstance(found, TriptychError):
            raise RefusedError(409, found.found, wanted=found.wanted, fix=found.fix)
        return found

    def _knows(self, modality: str) -> bool:
        features = self._data.features.get(modality)
        return (
            features is not None and features.values is not None and "encoder" in self._made.get(modality, {})
        )

    def _load(self, modality: str) -> Encode:
        if not self._knows(modality):
            raise _impossible(
                f"the data set '{self._data.name}' does not say how its {modality} features were made"
                if modality in self._data.features
                else f"the data set '{self._data.name}' has no {modality} features"
            )
        facts = self._made[modality]
        spec: Mapping[str, Any] = facts["encoder"]
        name, settings = str(spec["name"]), dict(spec["settings"])
        if modality == "text" and name == "tfidf":
            return self._checked(TfIdfAgain(self._texts(facts), **settings).encode, facts)
        options = {"dtype": settings["dtype"]} if "dtype" in settings else {}
        encoder = _load_here(modality, name, options)
        here = encoder.spec.to_json()
        if (here["name"], here["settings"]) != (name, settings):
            raise _impossible(f"{modality} features are by {name} {settings}, which is {here} here")
        if _weights(here["version"]) != _weights(spec["version"]):
            raise _impossible(f"{modality} features are by other weights than those of {name} here")
        if here["version"] != spec["version"]:
            self.remarks.append(
                f"The {modality} encoder is of other versions than the data set's: {here['version']}."
            )
        encode = _one(encoder)
        return self._checked(encode, facts) if modality == "text" else encode

    def _texts(self, facts: Mapping[str, Any]) -> dict[int, str]:
        """Give the texts that were encoded, by item."""
        present = self._data.features["text"].present
        texts = TextTemplate(str(facts.get("template"))).fill(self._data.item_table)
        return {item: text for item, text in enumerate(texts) if text and present[item]}

    def _checked(self, encode: Encode, facts: Mapping[str, Any]) -> Encode:
        """Encode some texts of the data set again, and refuse an encoder that makes other rows of them."""
        values = self._data.features["text"].values
        assert values is not None
        texts = self._texts(facts)
        for item in list(texts)[:: max(1, len(texts) // _CHECKED)][:_CHECKED]:
            row = encode(texts[item].encode("utf-8", "replace"))[0]
            if row.shape != values[item].shape or _cosine(row, values[item]) < _SAME:
                raise _impossible(
                    "texts of the data set, encoded again, give other rows than those stored; it was "
                    "filtered after encoding, or its item table has changed"
                )
        return encode


class TfIdfAgain:
    """TF-IDF and truncated SVD fitted to texts as `describe_texts` does, and kept, to encode one more.

    Args:
        texts: by item, each with a word.
        dim: most columns.
        seed: of the randomised SVD.
    """

    def __init__(self, texts: Mapping[int, str], dim: int, seed: int = 0) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._words = TfidfVectorizer(sublinear_tf=True)
        counts = self._words.fit_transform(list(texts.values()))
        self._svd = None
        if counts.shape[1] > dim:
            self._svd = TruncatedSVD(min(dim, counts.shape[0]), random_state=seed).fit(counts)

    def encode(self, text: bytes) -> Matrix:
        """Encode one text: (1, F), of length 1.

        Raises:
            RefusedError: no word of it is a word of the data set.
        """
        counts = self._words.transform([text.decode()])
        row = np.asarray(
            counts.toarray() if self._svd is None else self._svd.transform(counts), dtype=np.float32
        )
        if counts.nnz == 0 or not (length := float(np.linalg.norm(row))):
            raise RefusedError(
                422,
                "no word of the text is known",
                wanted="a text with words that texts of the data set have",
                fix="Describe the item as others are described, or send a picture",
            )
        return row / np.float32(length)


def check_picture(data: bytes) -> None:
    """Refuse what is no PNG, JPEG or WebP picture of few enough pixels, before any of it is decoded.

    Raises:
        RefusedError: 415 for another format, 413 for too many pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused below
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise _too_large("a picture of far too many pixels") from error
    except Exception as error:  # whatever a damaged header makes Pillow raise
        raise RefusedError(
            415,
            "the upload is no picture that can be read",
            wanted="a PNG, JPEG or WebP picture",
            fix="Save the picture in one of these formats",
        ) from error
    if width * height > MOST_PIXELS:
        raise _too_large(f"a picture of {width:,} × {height:,} pixels")


def _too_large(found: str) -> RefusedError:
    return RefusedError(413, found, wanted=f"at most {MOST_PIXELS:,} pixels", fix="Make it smaller")


def _load_here(modality: str, name: str, options: Mapping[str, Any]) -> Encoder[Any]:
    """Load an encoder from this machine."""
    try:
        with _offline():
            encoder = load_encoder(modality, _LOADED_AS.get(name, name), **options)
    except ConfigError as error:
        if isinstance(error.__cause__, ImportError):  # an extra is missing, and the error names it
            raise
        raise RefusedError(
            409,
            f"the {modality} encoder '{name}' cannot be loaded: {error.found}",
            wanted="the model on this machine: a client's question fetches nothing",
            fix=f"Start the service where the model's folder lies as '{name}', or fetch it there before",
        ) from error
    assert isinstance(encoder, Encoder), "the one corpus encoder is TF-IDF"
    return encoder


@contextmanager
def _offline() -> Iterator[None]:
    """Let nothing be asked of the Hugging Face hub."""
    try:
        from huggingface_hub import constants
    except ImportError:  # then nothing can
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _weights(version: str) -> str:
    """Find the hash of a model's files in an encoder's version; empty where it has none."""
    return version.partition(", files ")[2]


def _one(encoder: Encoder[Any]) -> Encode:
    lock = Lock()  # tokenizers and processors are not made to be called by two threads

    def encode(content: bytes) -> Matrix:
        with lock:
            return encoder.encode([encoder.load(content)])

    return encode


def _impossible(found: str) -> RefusedError:
    return RefusedError(
        409,
        found,
        wanted="features that can be made again for a new item",
        fix="Encode the data set again with 'triptych encode', train, and serve with --data",
    )


def _cosine(one: Matrix, other: Matrix) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))
