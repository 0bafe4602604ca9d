"""Contents -> `ItemFeatures`: the one loop for texts, pictures and sounds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from triptych.data.arrays import RawId
from triptych.data.bad_rows import BadRows
from triptych.data.content import ContentError
from triptych.data.features import ItemFeatures
from triptych.encode.cache import DIGEST_BYTES, Cache, Row
from triptych.encode.encoder import KINDS, Content, CorpusEncoder, Encoder
from triptych.errors import DataError, ShapeError
from triptych.memory import free_bytes, require_memory

_PER_ROW = 600
"""Bytes of a row beside its numbers: its digest, its items, its places in tables."""
_FIX = "Encode where there is more, or with an encoder of fewer columns; what was encoded is kept"


class Observer(Protocol):
    """Sees an encoding go on."""

    def on_items(self, done: int, total: int, items_per_s: float) -> None:
        """Hear of progress after each batch, and once if there is none.

        Args:
            done: different contents that have a row, or were found unusable.
            total: different contents in all.
            items_per_s: of those encoded so far, not counting rows from the cache.
        """


@dataclass(frozen=True)
class Effort:
    """What an encoding took; it differs from run to run, so it is shown and not stored.

    Args:
        encoded: contents encoded now.
        cached: contents whose rows came from the cache.
        seconds: for opening and encoding those encoded now.
        notes: what was odd, in words.
    """

    encoded: int
    cached: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def items_per_s(self) -> float:
        """Contents encoded per second; 0 if none was."""
        return self.encoded / self.seconds if self.encoded else 0.0


@dataclass(frozen=True)
class Encoded:
    """Features with what is known of how they came to be.

    Args:
        features: one row per item.
        facts: plain JSON values, the same whenever the same contents are encoded the same way: the encoder,
            how many items there are, have a row (`present`), have no content (`without`), were `cut`; and
            those `left_out` by reason, with the first examples.
        effort: what it took.
    """

    features: ItemFeatures
    facts: dict[str, Any]
    effort: Effort


def encode(
    kind: str,
    contents: Sequence[Content | None],
    encoder: Encoder[Any] | CorpusEncoder,
    *,
    names: Sequence[RawId] | None = None,
    cache_dir: Path | None = None,
    observer: Observer | None = None,
) -> Encoded:
    """Encode what each item has.

    A content that cannot be used makes its item one without features; it is counted under a reason. Items
    with the same content share one row, and a row found in the cache is the one an earlier run made. Which
    contents are encoded together depends only on those still missing, so a run can be repeated bit by bit.

    Args:
        kind: one of `KINDS`.
        contents: one per item: a text, or a path; None for nothing. Blank texts count as nothing.
        encoder: made for this kind.
        names: what messages call the items, their raw ids; None for their places.
        cache_dir: where rows are remembered from run to run; not used for a `CorpusEncoder`. Where it cannot
            be written, `Effort.notes` says so.
        observer: sees the encoding go on.

    Raises:
        DataError: not one item has a content that can be used.
        ConfigError: the rows need more memory than is free. That is asked when the first batch has shown how
            wide they are; what the encoder itself takes for a batch is no part of it.
    """
    task = _Task(kind, contents, range(len(contents)) if names is None else names)
    if isinstance(encoder, CorpusEncoder):
        rows, effort = _encode_together(task, encoder)
    else:
        rows, effort = _encode_each(task, encoder, cache_dir, observer)
    word, left_out = task.word, task.count_left_out()
    if not rows:
        shown = ": " + "; ".join(left_out["first_left_out"]) if left_out else ""
        raise DataError(
            f"none of {len(contents):,} items has a {word} that can be used{shown}",
            wanted=f"{word}s of some items at least",
            fix="Check where they were looked for, or leave this modality out",
        )
    values = np.zeros((len(contents), len(next(iter(rows.values())).values)), dtype=np.float32)
    for item, row in rows.items():
        values[item] = row.values
    present = np.zeros(len(contents), dtype=bool)
    present[list(rows)] = True
    n_cut = sum(row.cut for row in rows.values())
    facts = {
        "encoder": encoder.spec.to_json(),
        "items": len(contents),
        "present": len(rows),
        "without": len(contents) - len(rows) - len(task.left_out),
        "cut": n_cut,
        **left_out,
    }
    source = f"{encoder.spec}, {n_cut:,} {word}s cut at {encoder.limit}" if n_cut else str(encoder.spec)
    return Encoded(ItemFeatures.dense(values, present, source), facts, effort)


@dataclass
class _Shared:
    """One content, and the items that have it."""

    size: int
    items: list[int] = field(default_factory=list)


class _Task:
    """The contents of all items, read one at a time, and which items are left out and why."""

    def __init__(self, kind: str, contents: Sequence[Content | None], names: Sequence[RawId]) -> None:
        self.left_out: dict[int, str] = {}
        self._kind, self._contents, self._names = kind, contents, names
        self.word = KINDS[kind].word

    def __len__(self) -> int:
        return len(self._contents)

    def read(self, item: int) -> bytes:
        content = self._contents[item]
        return b"" if content is None else KINDS[self._kind].read(content)

    def read_all(self) -> Iterator[tuple[int, bytes]]:
        """Give the items that have a content, and its bytes."""
        for item in range(len(self._contents)):
            try:
                data = self.read(item)
            except ContentError as error:
                self.left_out[item] = error.reason
                continue
            if data:
                yield item, data

    def count_left_out(self) -> dict[str, Any]:
        """Count by reason, and name the first by item: which is met first depends on the cache."""
        bad = BadRows(limit=1.0)
        for item, reason in sorted(self.left_out.items()):
            bad.add(self._kind, reason, 1, [self._name(item)])
        return bad.of(self._kind)

    def _name(self, item: int) -> str:
        """Name an item as people know it, without the folders of this machine."""
        content = self._contents[item]
        if content is None or (isinstance(content, str) and self._kind == "text"):
            return f"item {self._names[item]}"
        return Path(content).name


def _encode_together(task: _Task, encoder: CorpusEncoder) -> tuple[dict[int, Row], Effort]:
    """Give the rows by item."""
    texts = {item: data.decode() for item, data in task.read_all()}
    inputs = list(texts.values())
    needed = encoder.memory_needed(inputs)
    require_memory(needed, free_bytes(), f"encoding {len(inputs):,} {task.word}s together", fix=_FIX)
    started = time.perf_counter()
    values, present = encoder.encode_all(inputs)
    seconds = time.perf_counter() - started
    rows = {}
    for item, row, known in zip(texts, values, present, strict=True):
        if known:
            rows[item] = Row(row, cut=False)
        else:
            task.left_out[item] = encoder.reason
    return rows, Effort(encoded=len(rows), cached=0, seconds=seconds)


def _encode_each(
    task: _Task, encoder: Encoder[Any], cache_dir: Path | None, observer: Observer | None
) -> tuple[dict[int, Row], Effort]:
    """Give the rows by item."""
    shared: dict[bytes, _Shared] = {}
    for item, data in task.read_all():
        shared.setdefault(_digest(data), _Shared(len(data))).items.append(item)
    cache = Cache(cache_dir, encoder.spec)
    rows = cache.find(shared)
    n_cached = len(rows)
    missing = [digest for digest in shared if digest not in rows]
    if encoder.by_length:  # the longest first: if memory is short, that shows soon
        missing.sort(key=lambda digest: -shared[digest].size)
    started, asked = time.perf_counter(), False
    with cache:
        for start in range(0, len(missing) or 1, encoder.batch_size):  # once at least, for the observer
            batch = {digest: shared[digest].items for digest in missing[start : start + encoder.batch_size]}
            fresh = _encode_batch(task, encoder, batch)
            cache.add(fresh)
            rows |= fresh
            if rows and not asked:  # only now is it known how wide they are
                asked = True
                width, left = len(next(iter(rows.values())).values), len(shared) - len(rows)
                needed = left * (4 * width + _PER_ROW) + len(task) * 2 * 4 * width
                require_memory(needed, free_bytes(), f"encoding {len(shared):,} {task.word}s", fix=_FIX)
            if observer is not None:
                rate = (len(rows) - n_cached) / max(time.perf_counter() - started, 1e-9)
                observer.on_items(n_cached + start + len(batch), len(shared), rate)
    effort = Effort(len(rows) - n_cached, n_cached, time.perf_counter() - started, tuple(cache.notes))
    return {item: row for digest, row in rows.items() for item in shared[digest].items}, effort


def _encode_batch(task: _Task, encoder: Encoder[Any], batch: dict[bytes, list[int]]) -> dict[bytes, Row]:
    """Encode contents given by their digests, with the items that have them."""
    inputs: dict[bytes, Any] = {}
    for digest, items in batch.items():
        try:
            data = task.read(items[0])
            if _digest(data) != digest:
                # a row must never be remembered for other bytes
                task.left_out |= dict.fromkeys(items, "changed meanwhile")
            else:
                inputs[digest] = encoder.load(data)
        except ContentError as error:
            task.left_out |= dict.fromkeys(items, error.reason)
    if not inputs:
        return {}
    loaded = list(inputs.values())
    rows: dict[bytes, Row] = {}
    encoded = np.asarray(encoder.encode(loaded))
    if encoded.ndim != 2 or len(encoded) != len(loaded):
        raise ShapeError(
            f"the encoder {encoder.spec.name} gives shape {encoded.shape} for {len(loaded)} inputs",
            wanted=f"({len(loaded)}, columns): a row for each input",
            fix="Mend its encode()",
        )
    for digest, values, cut in zip(inputs, encoded, encoder.cut(loaded), strict=True):
        if np.isfinite(values).all():
            rows[digest] = Row(values, bool(cut))
        else:
            task.left_out |= dict.fromkeys(batch[digest], "features not finite")
    return rows


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()[:DIGEST_BYTES]
