"""MicroLens (50k, 100k, 1m): comments on short videos, with titles, likes, covers and sound tracks beside."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from triptych.data.bad_rows import SHOWN, BadRows
from triptych.data.columns import Columns
from triptych.data.dialect import table_suffix
from triptych.data.feature_files import read_features
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap
from triptych.data.layouts.base import Layout
from triptych.data.layouts.plain import usual_columns
from triptych.data.lines import DAMAGED, open_bytes, read_lines, unpacked_name
from triptych.data.tables import existing_file, read_table
from triptych.errors import DataError

Schema = Mapping[str, type[pl.DataType]]

_PAIRS = re.compile(r"(microlens.*)_pairs\.(csv|tsv)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,18}")
_BESIDE = {  # in what follows the prefix of the pairs' file, or, of a folder, stands alone
    "titles": r"{prefix}_titles?(_en)?\.csv",
    "counts": r"{prefix}_likes_and_views\.txt",
    "covers": r"({prefix}_)?covers",
    "audios": r"({prefix}_)?audios?",
}
_TITLES: Schema = {"item_id": pl.Int64, "title": pl.String}
_COUNTS: Schema = {"item_id": pl.Int64, "likes": pl.Int64, "views": pl.Int64}
_FEATURES = {
    "image": r"{prefix}_image_features.*\.npy",
    "text": r"{prefix}_title.*_text_features.*\.npy",
    "video": r"{prefix}_video_features.*\.npy",
}
_FEATURES_FOLDER = "extracted_modality_features"
_MEDIA = {"image": "covers", "audio": "audios"}


@dataclass(frozen=True)
class MicroLens(Layout):
    """A folder with `MicroLens-100k_pairs.csv` or another size, or that file alone.

    The pairs are in a `.csv` file with times, or in a `.tsv` file with a user and the videos in order of
    time on each line; of both, the first is read.
    """

    name: ClassVar[str] = "microlens"
    title: ClassVar[str] = "MicroLens (50k, 100k, 1m)"

    @classmethod
    def find(cls, path: Path) -> MicroLens | None:
        """Recognise the file of pairs by its name."""
        if path.is_file():
            return cls({"interactions": path}) if _PAIRS.fullmatch(unpacked_name(path)) else None
        entries = sorted(path.iterdir()) if path.is_dir() else []
        sizes: dict[str, Path] = {}
        for entry in entries:  # .csv before .tsv
            if match := _PAIRS.fullmatch(unpacked_name(entry)):
                sizes.setdefault(match[1], entry)
        if len(sizes) > 1:
            raise DataError(
                f"{path} holds more than one MicroLens: {', '.join(sizes)}",
                wanted="one",
                fix="Keep each size in a folder of its own",
            )
        if not sizes:
            return None
        prefix, pairs = next(iter(sizes.items()))
        files = {"interactions": pairs}
        entries += sorted((path / _FEATURES_FOLDER).glob("*"))
        for role, pattern in (_BESIDE | _FEATURES).items():
            exact = re.compile(pattern.format(prefix=re.escape(prefix)), re.IGNORECASE)
            found = [
                entry
                for entry in entries
                if exact.fullmatch(entry.name if role in _FEATURES else unpacked_name(entry))
            ]
            found = [entry for entry in found if entry.is_dir() == (role in _MEDIA.values())]
            if found:
                files[role] = found[0]  # of titles in two languages, "title_en" sorts first
        return cls(files)

    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read the pairs. A `.tsv` file gives no times, but each video's `place` among its user's."""
        path = self.files["interactions"]
        if table_suffix(path) == ".tsv":
            return _read_sequences(path, bad), Columns(user="user", item="item")
        frame = read_table(path, bad)
        return frame, usual_columns(frame, self.hints.columns)

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read `title`, `likes` and `views`, as far as there are files of them."""
        readers = {"titles": _read_titles, "counts": _read_counts}
        tables = [read(self.files[role], bad) for role, read in readers.items() if role in self.files]
        if not tables:
            return None
        table = tables[0]
        for more in tables[1:]:
            table = table.join(more, on="item_id", how="full", coalesce=True)
        return table

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of which the publishers' features lie there."""
        return tuple(role for role in self.files if role in _FEATURES)

    def read_features(self, modality: str, items: IdMap, listed: IdMap) -> ItemFeatures:
        """Read the publishers' features: videos are numbered from 1, so row k belongs to video k + 1.

        Raises:
            DataError: videos have no numbers.
            ShapeError: there are more or fewer rows than up to the last video.
        """
        if listed.ids.dtype.kind != "i":
            raise DataError(
                f"{self.files['interactions'].name} calls a video {listed.ids[0].item()!r}",
                wanted="numbers from 1 on, which the rows of features follow",
                fix="Download the file again",
            )
        order = range(1, int(listed.ids[-1]) + 1)
        features = read_features(self.files[modality], modality, listed, order)
        return features.take(listed.index(items.ids.tolist()))

    @property
    def media(self) -> Mapping[str, Path]:
        """Covers and sound tracks, named by the numbers of their videos."""
        return {modality: self.files[role] for modality, role in _MEDIA.items() if role in self.files}


def _read_sequences(path: Path, bad: BadRows) -> pl.DataFrame:
    """Read lines of a user, a tab, and videos apart by spaces."""
    rows: list[tuple[int, list[int]]] = []
    damaged: list[str] = []
    for number, line in read_lines(path):
        user, _, videos = line.decode("latin-1").partition("\t")
        try:
            rows.append((_whole(user), [_whole(video) for video in videos.split(" ")]))
        except ValueError:
            damaged.append(f"line {number:,}: {line[:40]!r}")
    bad.add(path.name, "not a user and videos", len(damaged), damaged[:SHOWN])
    bad.check(path.name, len(rows) + len(damaged))
    frame = pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.List(pl.Int64)}, orient="row")
    places = pl.int_ranges(pl.col("item").list.len()).alias("place")
    return frame.with_columns(places).explode("item", "place")


def _whole(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is no number")
    return int(text)


def _read_titles(path: Path, bad: BadRows) -> pl.DataFrame:
    try:
        with io.TextIOWrapper(open_bytes(existing_file(path)), encoding="utf-8-sig", newline="") as file:
            return _numbered(path, _quoted_rows(file), _TITLES, bad)
    except (UnicodeDecodeError, *DAMAGED) as error:
        raise DataError(
            f"{path} cannot be read: {error}", wanted="whole UTF-8", fix="Save it so, or download it again"
        ) from error


def _quoted_rows(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Give the last line number and the fields of each row; a line that is in no whole row has no fields."""
    reader = csv.reader(file, strict=True)
    while True:
        before = reader.line_num
        try:
            row = next(reader)
            yield reader.line_num, row
        except StopIteration:
            return
        except csv.Error:
            yield from ((number, []) for number in range(before + 1, reader.line_num + 1))


def _read_counts(path: Path, bad: BadRows) -> pl.DataFrame:
    lines = ((number, line.decode("latin-1").split("\t")) for number, line in read_lines(path))
    return _numbered(path, lines, _COUNTS, bad)


def _numbered(
    path: Path, rows: Iterable[tuple[int, list[str]]], schema: Schema, bad: BadRows
) -> pl.DataFrame:
    """Make a table of rows of text that begin with a video's number. Rows of another form are bad.

    Args:
        path: the file they are from; some have a header.
        rows: line number and fields.
        schema: the columns; those that are to be numbers must be.
        bad: where bad rows are counted.
    """
    kept: dict[int | str, list[int | str]] = {}
    damaged: list[str] = []
    repeated: list[str] = []
    for number, fields in rows:
        try:
            pairs = zip(schema.values(), fields, strict=True)
            row = [field if kind == pl.String else _whole(field) for kind, field in pairs]
        except ValueError:
            if number > 1 or len(fields) != len(schema):  # else it is the header
                damaged.append(f"line {number:,}: {str(fields)[:60]}")
            continue
        if kept.setdefault(row[0], row) is not row:
            repeated.append(f"line {number:,}: {row[0]}")
    bad.add(path.name, "not " + ", ".join(schema), len(damaged), damaged[:SHOWN])
    bad.add(path.name, "a video listed before", len(repeated), repeated[:SHOWN])
    bad.check(path.name, len(kept) + bad.count(path.name))
    return pl.DataFrame(list(kept.values()), schema=schema, orient="row")
