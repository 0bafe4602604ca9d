"""Kind of content and name -> encoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from triptych.encode.encoder import KINDS, CorpusEncoder, Encoder, Options
from triptych.encode.pictures import Descriptor, picture_model
from triptych.encode.sounds import Mfcc, sound_model
from triptych.encode.texts import TfIdf, minilm, text_model
from triptych.errors import ConfigError, nearest

AnyEncoder = Encoder[Any] | CorpusEncoder

BUILT_IN: Mapping[str, Mapping[str, Callable[..., AnyEncoder]]] = {
    "text": {"minilm": minilm, "tfidf": TfIdf},
    "image": {"descriptor": Descriptor},
    "audio": {"mfcc": Mfcc},
}
"""Kind -> name -> what makes the encoder; the first of each kind is the default."""

_MODELS: Mapping[str, Callable[..., AnyEncoder]] = {
    "text": text_model,
    "image": picture_model,
    "audio": sound_model,
}


def load_encoder(
    kind: str,
    name: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 32,
    **settings: Any,
) -> AnyEncoder:
    """Make an encoder.

    Args:
        kind: one of `KINDS`.
        name: one of `BUILT_IN`, or else a model's folder or its name on the Hugging Face hub; None for the
            default of the kind.
        device: auto, cpu, cuda or cuda:N; encoders without weights use the processor.
        dtype: of a model's weights: "float32", "bfloat16", or "auto" for bfloat16 where it is fast.
        batch_size: inputs at a time.
        settings: of the encoder: `dim` of tfidf, `seconds` of encoders of sounds.

    Raises:
        ConfigError: the kind or a setting is unknown, or what the encoder needs is missing.
    """
    if kind not in KINDS:
        raise ConfigError(f"the kind '{kind}'", wanted="a kind of content", fix=nearest(kind, KINDS))
    if batch_size < 1:
        raise ConfigError(f"a batch size of {batch_size}", wanted="at least 1", fix="Use 32, for example")
    built_in = BUILT_IN[kind]
    name = next(iter(built_in)) if name is None else name
    make = built_in.get(name, _MODELS[kind])
    known = inspect.signature(make).parameters.keys() - {"name", "options"}
    for setting in settings.keys() - known:
        raise ConfigError(
            f"the encoder '{name}' has no setting '{setting}'",
            wanted=f"one of: {', '.join(sorted(known))}" if known else "none",
            fix="Leave it out",
        )
    options = Options(device, dtype, batch_size)
    return make(options, **settings) if name in built_in else make(name, options, **settings)
