"""Amazon reviews by category, as published in 2014, 2018 and 2023.

McAuley et al., SIGIR 2015; Ni, Li, McAuley, EMNLP 2019; Hou et al., 2024 (arXiv:2403.03952). All three name
their files after a category. Which of them a file of interactions is from is told by what it begins with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from triptych.data.bad_rows import SHOWN, BadRows
from triptych.data.columns import Columns
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap
from triptych.data.json_records import read_json_lines
from triptych.data.layouts.amazon_images import read_image_features
from triptych.data.layouts.base import Layout
from triptych.data.layouts.python_literals import parse_record
from triptych.data.lines import COMPRESSIONS, existing, first_lines, read_chunks, read_lines
from triptych.data.markup import without_markup
from triptych.data.split import PARTS
from triptych.errors import DataError

_INTERACTIONS = re.compile(
    r"(?:reviews_|ratings_)?(?P<category>[^.]+?)(?P<core>_5)?"
    r"(?:\.(?P<part>train|valid|test))?\.(?P<form>jsonl?|csv)"
    rf"(?:{'|'.join(map(re.escape, COMPRESSIONS))})?"
)

_FIRST_LINES = 20  # what recognising a file may read
_KEYS_2023 = ("user_id", "parent_asin", "rating", "timestamp")
_KEYS_BEFORE = ("reviewerID", "asin", "overall", "unixReviewTime")
_USER_FIRST = re.compile(rb"A[0-9A-Z]{9,20},[0-9A-Z]{10},[0-9.]+,[0-9]+")
_ITEM_FIRST = re.compile(rb"[0-9A-Z]{10},A[0-9A-Z]{9,20},[0-9.]+,[0-9]+")

_NAMED_ID = re.compile(rb"""asin["']\s*:\s*u?["']([^"']+)["']""")
_PRICE = re.compile(r"\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)")
_PICTURES = ("imageURLHighRes", "imageURL", "image", "imUrl", "images")
_SIZES = ("hi_res", "large", "thumb")
_NO_PICTURE = "/no-img"  # the address of the grey square that stands where a shop has no picture
_ITEM_COLUMNS = {
    name: pl.Float64 if name == "price" else pl.String
    for name in (
        "item_id", "title", "brand", "categories", "description",
        "image_url", "image_urls", "features", "price",
    )
}  # fmt: skip


class Amazon(Layout):
    """What the three generations share: files named by category, one record per line."""

    keys: ClassVar[tuple[str, str, str, str]]
    """What they call users, items, ratings and times; the columns of a table without a header as well."""
    table_order: ClassVar[tuple[str, ...]] = ()
    """The columns of a table without a header; () where tables have one."""
    lines_suffix: ClassVar[str] = ".json"
    """How names of files with one record per line end, before that of a compression."""

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Recognise a file of interactions, or a folder with those of one category, and what lies beside it.

        Of one category's files the three parts of a given split are taken before 5-core reviews, these before
        all reviews, and these before a table of ratings; `files` says which it was.

        Raises:
            DataError: a folder holds several categories, or a split is not whole.
        """
        candidates = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [
            (match, file)
            for file in candidates
            if (match := _INTERACTIONS.fullmatch(file.name)) and _generation(file) == cls.name
        ]
        if not found:
            return None
        categories = sorted({match["category"] for match, _ in found})
        if len(categories) > 1:
            raise DataError(
                f"{path} holds files of {len(categories)} categories: {', '.join(categories)}",
                wanted="one category",
                fix=f"Give the file you mean, such as {found[0][1]}",
            )
        match, file = min(found, key=lambda pair: _preference(pair[0]))
        return cls(_interaction_files(match, file) | cls._files_beside(file.parent, match["category"]))

    @classmethod
    def _files_beside(cls, folder: Path, category: str) -> dict[str, Path]:
        beside = {
            "items": existing(folder, f"meta_{category}{cls.lines_suffix}"),
            "image": existing(folder, f"image_features_{category}.b"),
        }
        return {role: file for role, file in beside.items() if file is not None}

    def read_interactions(self, bad: BadRows) -> tuple[pl.DataFrame, Columns]:
        """Read users, items, ratings and times, and the label of each row where a split is given.

        Columns are named as in files that name them. A table's values stay text.

        Raises:
            DataError: a file is damaged, or too many of its rows are bad.
        """
        if "interactions" in self.files:
            return self._read(self.files["interactions"], bad), Columns(*self.keys)
        parts = [
            self._read(self.files[part], bad).with_columns(pl.lit(label, dtype=pl.Int8).alias("label"))
            for part, label in PARTS.items()
        ]
        return pl.concat(parts), Columns(*self.keys, label="label")

    def _read(self, path: Path, bad: BadRows) -> pl.DataFrame:
        if _is_table(path):
            return _read_table(path, self.keys, self.table_order, bad)
        types = (pl.String, pl.String, pl.Float64, pl.Int64)
        return read_json_lines(path, dict(zip(self.keys, types, strict=True)), bad)

    def read_items(self, items: IdMap, bad: BadRows) -> pl.DataFrame | None:
        """Read what is known of some items; only lines that name one of them are parsed.

        Broken lines are therefore known of these items only, besides lines without any item id. An item's
        first whole line counts. Others that repeat it are left out and counted, but not held against the
        file, since those of 2018 repeat many.

        Columns: `item_id`, and of these what is known of any item: `title`, `brand`, `categories`,
        `description`, `image_url`, `image_urls` (all of them, the largest size of each, separated by spaces),
        `features` (its selling points), `price` (null where it is a range or no number).

        Raises:
            DataError: the file is damaged, or too many of its lines are bad.
        """
        if "items" not in self.files:
            return None
        return _read_items(self.files["items"], self.keys[1], items, bad)

    @property
    def modalities(self) -> tuple[str, ...]:
        """`image`, if there is a file of image features."""
        return ("image",) if "image" in self.files else ()

    def read_features(self, modality: str, items: IdMap, listed: IdMap) -> ItemFeatures:
        """Read image features; see `read_image_features`."""
        return read_image_features(self.files[modality], items)


class Amazon2014(Amazon):
    """`reviews_Baby_5.json.gz`, `ratings_Baby.csv`, `meta_Baby.json.gz`, `image_features_Baby.b`."""

    name = "amazon-2014"
    title = "Amazon reviews of 2014 (McAuley et al.)"
    keys = table_order = _KEYS_BEFORE


class Amazon2018(Amazon):
    """`Baby_5.json.gz`, `Baby.json.gz`, `Baby.csv` (which lists items before users), `meta_Baby.json.gz`."""

    name = "amazon-2018"
    title = "Amazon reviews of 2018 (Ni et al.)"
    keys = _KEYS_BEFORE
    table_order = ("asin", "reviewerID", "overall", "unixReviewTime")


class Amazon2023(Amazon):
    """`Baby_Products.jsonl.gz`, `meta_Baby_Products.jsonl.gz`, and the benchmark's tables.

    Those are `Baby_Products.csv`, or `.train.csv`, `.valid.csv` and `.test.csv`, with or without histories.
    An item is a `parent_asin`: all colours and sizes of a product. Times are in milliseconds.
    """

    name = "amazon-2023"
    title = "Amazon Reviews 2023 (Hou et al.)"
    keys = _KEYS_2023
    lines_suffix = ".jsonl"


def _is_table(path: Path) -> bool:
    return ".csv" in path.suffixes


def _preference(match: re.Match[str]) -> tuple[bool, ...]:
    return not match["part"], not match["core"], match["form"] == "csv"


def _interaction_files(match: re.Match[str], file: Path) -> dict[str, Path]:
    if not match["part"]:
        return {"interactions": file}
    stem = file.name[: match.start("part")]
    parts = {part: existing(file.parent, f"{stem}{part}.csv") for part in PARTS}
    missing = [f"{stem}{part}.csv" for part, found in parts.items() if found is None]
    if missing:
        raise DataError(
            f"{file.name} is one part of a split, and {' and '.join(missing)} are not beside it",
            wanted="all three parts",
            fix=f"Put them into {file.parent}, or rename the file to use it alone",
        )
    return {part: found for part, found in parts.items() if found is not None}


def _generation(path: Path) -> str | None:
    """Name the layout of a file of interactions by its first lines; None if it is none of these."""
    lines = first_lines(path, _FIRST_LINES)
    usual = Amazon2014.name if path.name.startswith(("reviews_", "ratings_")) else Amazon2018.name
    return _generation_of_table(lines, usual) if _is_table(path) else _generation_of_records(lines, usual)


def _generation_of_records(lines: Sequence[bytes], usual: str) -> str | None:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        keys = set(record) if isinstance(record, dict) else set()
        if keys.issuperset(_KEYS_2023):
            return Amazon2023.name
        if keys.issuperset(_KEYS_BEFORE):
            told = {"verified": Amazon2018.name, "helpful": Amazon2014.name}
            return next((name for key, name in told.items() if key in keys), usual)
        return None
    return None


def _generation_of_table(lines: Sequence[bytes], usual: str) -> str | None:
    if lines and lines[0].decode(errors="replace").startswith(",".join(_KEYS_2023)):
        return Amazon2023.name
    # many lines, since a few users have ids as long as those of items
    n_user_first = sum(_USER_FIRST.fullmatch(line) is not None for line in lines)
    n_item_first = sum(_ITEM_FIRST.fullmatch(line) is not None for line in lines)
    if n_user_first == n_item_first:
        return usual if n_user_first else None
    return Amazon2014.name if n_user_first > n_item_first else Amazon2018.name


def _read_table(path: Path, keys: Sequence[str], order: Sequence[str], bad: BadRows) -> pl.DataFrame:
    """Read a table without quotes as text.

    Args:
        path: the file, compressed or not.
        keys: the columns wanted.
        order: all of its columns; () to read that in the first line.
        bad: where rows with more or fewer fields, or with bytes that are no text, are counted.
    """
    frames = [pl.DataFrame(schema=dict.fromkeys(keys, pl.String))]
    n_rows = 0
    for chunk in read_chunks(path):
        lines = pl.DataFrame({"text": chunk.data.decode(errors="replace").split("\n")})
        rows = (
            lines.with_row_index("line", offset=chunk.first_line)
            .with_columns(pl.col("text").str.strip_chars())
            .filter(pl.col("text") != "")
        )
        if not rows.height:
            continue
        if not order:
            order, rows = _header(path, rows["text"][0], keys), rows[1:]
        whole = (rows["text"].str.count_matches(",", literal=True) == len(order) - 1) & (
            ~rows["text"].str.contains("\ufffd", literal=True)
        )
        frames.append(_fields(rows.filter(whole), order).select(keys))
        broken = rows.filter(~whole)
        shown = [f"line {line:,}: {text[:60]!r}" for line, text in broken.head(SHOWN).rows()]
        bad.add(path.name, f"not {len(order)} fields of UTF-8", broken.height, shown)
        n_rows += rows.height
    bad.check(path.name, n_rows, "Repair these lines")
    return pl.concat(frames)


def _header(path: Path, line: str, keys: Sequence[str]) -> list[str]:
    names = line.split(",")
    if not set(keys) <= set(names) or len(set(names)) < len(names):
        raise DataError(
            f"{path} begins with {line[:60]!r}",
            wanted=f"a header with {', '.join(keys)}, and no column twice",
            fix="Download it again, or check that it is of the same year as the others",
        )
    return names


def _fields(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    split = rows["text"].str.split_exact(",", len(names) - 1)
    return split.struct.rename_fields(list(names)).struct.unnest()


def _read_items(path: Path, key: str, items: IdMap, bad: BadRows) -> pl.DataFrame:
    wanted = {str(raw) for raw in items.ids.tolist()}
    wanted_bytes = {raw.encode() for raw in wanted}
    found: dict[str, dict[str, str | float | None]] = {}
    n_lines = n_repeated = 0
    for number, line in read_lines(path):
        n_lines += 1
        named = _NAMED_ID.findall(line)
        if not named:
            bad.add(path.name, "no item id", 1, [f"line {number:,}: {line[:40]!r}"])
        elif not wanted_bytes.isdisjoint(named):
            try:
                record = parse_record(line)
            except ValueError as error:
                bad.add(path.name, "no record", 1, [f"line {number:,}: {error}"])
                continue
            raw = str(record.get(key))
            n_repeated += raw in found
            if raw in wanted and raw not in found:
                found[raw] = {"item_id": raw, **describe(record)}
    bad.check(path.name, n_lines, "Repair these lines")
    bad.add(path.name, "repeated item", n_repeated)
    frame = pl.DataFrame(list(found.values()), schema=_ITEM_COLUMNS)
    return frame.select("item_id", *(column for column in frame.columns[1:] if frame[column].count()))


def describe(record: Mapping[str, Any]) -> dict[str, str | float | None]:
    """Bring an item's record, of any generation, to the columns of `Amazon.read_items` besides `item_id`."""
    pictures = next((urls for key in _PICTURES if (urls := _addresses(record.get(key)))), [])
    return {
        "title": _joined(record.get("title")),
        "brand": _joined(record.get("brand") or record.get("store")),
        "categories": _joined(record.get("categories") or record.get("category"), ", ", distinct=True),
        "description": _joined(record.get("description")),
        "image_url": pictures[0] if pictures else None,
        "image_urls": " ".join(pictures) or None,
        "features": _joined(record.get("features") or record.get("feature")),
        "price": _price(record.get("price")),
    }


def _joined(value: Any, separator: str = " ", *, distinct: bool = False) -> str | None:
    texts = [text for part in _strings(value) if (text := without_markup(_sound(part)))]
    return separator.join(dict.fromkeys(texts) if distinct else texts) or None


def _strings(value: Any) -> Iterator[str]:
    """Give the strings of lists in lists, in order; without recursion, since lists may be nested deeply."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, list | tuple):
            left.extend(reversed(part))


def _sound(text: str) -> str:
    """Join surrogate pairs that were escaped one by one; those without a partner become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _addresses(value: Any) -> list[str]:
    """Give each picture's address, that of the largest size where there are several."""
    parts = value if isinstance(value, list | tuple) else [value]
    best = (_largest(part) if isinstance(part, dict) else part for part in parts)
    told = ("%20".join(_sound(part).split()) for part in best if isinstance(part, str))
    return [address for address in dict.fromkeys(told) if address and _NO_PICTURE not in address]


def _largest(picture: Mapping[str, Any]) -> Any:
    return next((picture[size] for size in _SIZES if picture.get(size)), None)


def _price(value: Any) -> float | None:
    if isinstance(value, str):
        match = _PRICE.fullmatch(value.strip())
        value = float(match[1].replace(",", "")) if match else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return float(value) if known else None
