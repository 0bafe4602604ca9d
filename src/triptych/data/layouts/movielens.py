"""MovieLens: 100k (`u.data`), 1m and 10m (`ratings.dat`), 20m and later (`ratings.csv`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from triptych.data.bad_rows import SHOWN, BadRows
from triptych.data.columns import Columns
from triptych.data.dialect import table_suffix
from triptych.data.ids import IdMap
from triptych.data.layouts.base import Layout
from triptych.data.lines import Chunk, existing, first_lines, read_chunks, read_lines, unpacked_name
from triptych.errors import DataError

Schema = Mapping[str, type[pl.DataType]]

_ITEM_FILES = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
_SEPARATORS = {".data": "\t", ".item": "|", ".dat": "::", ".csv": ","}
_CSV_HEADER = "userId,movieId,rating,timestamp"
_RATINGS: Schema = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
_MOVIES: Schema = {"item_id": pl.Int64, "title": pl.String, "categories": pl.String}
_FLAGS = [f"flag {at}" for at in range(19)]
_FLAGGED_MOVIES: Schema = {
    "item_id": pl.Int64, **dict.fromkeys(("title", "date", "video_date", "url", *_FLAGS), pl.String),
}  # fmt: skip
_NO_GENRES = "(no genres listed)"
_YEAR = r"\((\d{4})(?:[-–]\s*\d{0,4}\s*)?\)\s*$"  # also "(2006–2007)" and "(1998- )"
_UNIT = "\x1f"  # ASCII's unit separator: polars wants one byte, and texts do not hold this one


@dataclass(frozen=True)
class MovieLens(Layout):
    """A folder as GroupLens packs it, or its file `u.data` or `ratings.dat` alone."""

    name: ClassVar[str] = "movielens"
    title: ClassVar[str] = "MovieLens (100k, 1m, 10m, 20m, 25m, 32m, latest)"

    @classmethod
    def find(cls, path: Path) -> MovieLens | None:
        """Recognise a file of ratings by its name and its first line."""
        if path.is_file():  # ratings.csv alone is a table like others
            alone = unpacked_name(path) in ("u.data", "ratings.dat") and _holds_ratings(path)
            return cls({"interactions": path}) if alone else None
        there = {name: file for name in _ITEM_FILES if (file := existing(path, name))}
        found = {name: file for name, file in there.items() if _holds_ratings(file)}
        if len(found) > 1:
            raise DataError(
                f"{path} holds more than one MovieLens data set: {', '.join(found)}",
                wanted="one file of ratings",
                fix="Keep each data set in a folder of its own",
            )
        if not found:
            return None
        ((name, file),) = found.items()
        beside = {"items": existing(path, _ITEM_FILES[name]), "genres": existing(path, "u.genre")}
        return cls({"interactions": file, **{role: other for role, other in beside.items() if other}})

    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read the ratings; a line that is not two ids, a rating and a time is a bad row."""
        columns = Columns(user="user_id", item="item_id", rating="rating", timestamp="timestamp")
        return _read_rows(self.files["interactions"], _RATINGS, bad), columns

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read `title` as it is written, `categories` (the genres), and `year`, if a title ends with it."""
        path = self.files.get("items")
        if path is None:
            return None
        movies = self._read_flagged(path, bad) if table_suffix(path) == ".item" else _read_movies(path, bad)
        first = movies["item_id"].is_first_distinct()
        bad.add(path.name, "a movie listed before", int((~first).sum()))
        bad.check(path.name, int(first.sum()) + bad.count(path.name))
        known = pl.Series(items.find(movies["item_id"].to_list()) >= 0)
        year = pl.col("title").str.extract(_YEAR).cast(pl.Int64).alias("year")
        return movies.filter(first & known).with_columns(year)

    def _read_flagged(self, path: Path, bad: BadRows) -> pl.DataFrame:
        """Read `u.item`, which marks genres by flags in the order of `u.genre`."""
        movies = _read_rows(path, _FLAGGED_MOVIES, bad)
        if "genres" not in self.files:
            return movies.select("item_id", "title")
        genres = zip(_FLAGS, _read_genres(self.files["genres"]), strict=True)
        marked = [pl.when(pl.col(flag) == "1").then(pl.lit(genre)) for flag, genre in genres]
        joined = pl.concat_str(marked, separator=", ", ignore_nulls=True).replace("", None)
        return movies.select("item_id", "title", joined.alias("categories"))


def _read_movies(path: Path, bad: BadRows) -> pl.DataFrame:
    genres = pl.col("categories").replace(_NO_GENRES, None).str.replace_all("|", ", ", literal=True)
    return _read_rows(path, _MOVIES, bad).with_columns(genres)


def _read_genres(path: Path) -> list[str]:
    """Read lines such as `Action|1` into names by number."""
    lines = [line.decode("latin-1").rpartition("|") for _, line in read_lines(path)]
    numbered = {number: name for name, _, number in lines}
    wanted = [str(at) for at in range(len(_FLAGS))]
    if sorted(numbered) != sorted(wanted):
        raise DataError(
            f"{path} gives genres the numbers {', '.join(sorted(numbered))}",
            wanted=f"{len(wanted)} lines GENRE|NUMBER, numbered from 0",
            fix="Restore the file from its archive",
        )
    return [numbered[number] for number in wanted]


def _holds_ratings(path: Path) -> bool:
    """Tell by the first line whether a file of the right name is what it seems."""
    line = b"".join(first_lines(path)).decode(errors="replace")
    if table_suffix(path) == ".csv":
        return line == _CSV_HEADER
    fields = line.split(_SEPARATORS[table_suffix(path)])
    return len(fields) == len(_RATINGS) and fields[0].isdecimal() and fields[1].isdecimal()


def _read_rows(path: Path, schema: Schema, bad: BadRows) -> pl.DataFrame:
    """Read a file of one record a line; lines of another shape are bad rows and named by their numbers.

    Args:
        path: the file, compressed or not. CSV files have a header and may quote, the others do neither.
        schema: the fields of a line; those that are to be numbers must be.
        bad: where bad rows are counted.
    """
    numeric = [name for name, kind in schema.items() if kind != pl.String]
    frames = [pl.DataFrame(schema=schema)]
    for first_line, data in read_chunks(path):
        is_header = table_suffix(path) == ".csv" and first_line == 1
        chunk = Chunk(2, data.partition(b"\n")[2]) if is_header else Chunk(first_line, data)
        text = _fields(chunk, path, list(schema), bad)
        typed = text.with_columns(pl.col(name).cast(schema[name], strict=False) for name in numeric)
        good = typed.select(pl.all_horizontal(pl.col(numeric).is_not_null())).to_series()
        wrong = text.filter(~good).select("line", *numeric)
        shown = [f"line {row[0]:,}: {', '.join(map(str, row[1:]))}" for row in wrong.head(SHOWN).rows()]
        bad.add(path.name, "no number where one belongs", wrong.height, shown)
        frames.append(typed.filter(good).drop("line"))
    rows = pl.concat(frames)
    bad.check(path.name, rows.height + bad.count(path.name))
    return rows


def _fields(chunk: Chunk, path: Path, names: list[str], bad: BadRows) -> pl.DataFrame:
    """Split the lines of a chunk into text fields, with the numbers of the lines in a last column `line`."""
    suffix = table_suffix(path)
    text, separator = _decode(chunk.data).replace("\r\n", "\n"), _SEPARATORS[suffix]
    n_lines = text.count("\n") + (not text.endswith("\n"))
    # polars refuses lines that are too long but fills up those that are too short, so separators are counted
    if text.count(separator) == n_lines * (len(names) - 1) and not (suffix == ".csv" and '"' in text):
        try:
            frame = pl.read_csv(
                io.BytesIO(text.replace(separator, _UNIT).encode()),
                separator=_UNIT,
                has_header=False,
                quote_char=None,
                schema=dict.fromkeys(names, pl.String),
            )
            return frame.with_columns(line=pl.int_range(pl.len()) + chunk.first_line)
        except pl.exceptions.PolarsError:
            pass
    return _fields_by_line(chunk.first_line, text, path, names, bad)


def _fields_by_line(first_line: int, text: str, path: Path, names: list[str], bad: BadRows) -> pl.DataFrame:
    """Do what `_fields` does line by line, leaving out lines with another number of fields."""
    suffix = table_suffix(path)
    rows: list[list[str | int | None]] = []
    misshapen: list[str] = []
    for number, line in enumerate(text.split("\n"), start=first_line):
        if not line.strip():
            continue
        fields = _unquote(line) if suffix == ".csv" else line.split(_SEPARATORS[suffix])
        if len(fields) == len(names):
            rows.append([*(field or None for field in fields), number])
        else:
            misshapen.append(f"line {number:,}: {len(fields)}")
    bad.add(path.name, f"not {len(names)} fields", len(misshapen), misshapen[:SHOWN])
    schema = {**dict.fromkeys(names, pl.String), "line": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _unquote(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return []


def _decode(data: bytes) -> str:
    """Read UTF-8, which the younger files are in, or latin-1, which the older ones are in."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
