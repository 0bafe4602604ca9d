"""From files to a `Dataset`: find the layout, read, filter, attach what is known, encode; account for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triptych.data.arrays import RawId
from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns, resolve_columns
from triptych.data.conditions import Condition
from triptych.data.dataset import Dataset
from triptych.data.feature_files import read_features
from triptych.data.features import ItemFeatures, check_modality, combine
from triptych.data.filters import Filters, filter_pairs
from triptych.data.ids import IdMap
from triptych.data.layouts import MEDIA_ROLES, Hints, Layout, find_layout
from triptych.data.readers import interactions_from_frame, read_item_table
from triptych.data.split import PARTS
from triptych.data.tables import naming
from triptych.errors import ConfigError, DataError
from triptych.files import sha256
from triptych.memory import free_bytes, require_memory
from triptych.preparation.content import NONE, ContentObserver, add_content, choose_content, say_no_text
from triptych.preparation.needs import memory_to_read
from triptych.preparation.rows import choose_rows


def prepare(
    source: str | Path,
    *,
    name: str,
    layout: str | None = None,
    columns: Columns | None = None,
    rows: Sequence[str] = (),
    filters: Filters = Filters(),
    label_meaning: Mapping[str, int] | None = None,
    max_bad: float = 0.01,
    encoding: str = "utf-8",
    items_file: str | Path | None = None,
    item_column: str | None = None,
    title_column: str | None = None,
    features: Sequence[tuple[str, str | Path]] = (),
    text: str | None = None,
    media: Mapping[str, str | Path] | None = None,
    encoders: Mapping[str, str] | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
    thumbnails: bool = True,
    observer: ContentObserver | None = None,
) -> Dataset:
    """Make a data set of files. `provenance` says which files these were and what became of their rows.

    Args:
        source: a table of interactions, or a folder in a layout that `triptych.data.layouts` knows.
        name: how reports call the data set, and what folders of runs are called after: no path.
        layout: the layout's name; None to find out.
        columns: which columns mean what, where they are not those of the layout; "none" for one that is
            not to be read.
        rows: conditions on the columns of the table of interactions (`triptych.data.conditions`): only rows
            that meet all of them are interactions.
        filters: which interactions to keep.
        label_meaning: label as text -> part of the split; see `read_label_meaning`.
        max_bad: the share of a file's rows that may be left out because they cannot be used.
        encoding: of the text tables named here.
        items_file: a table with one row per item, in place of what the layout finds. Rows of unknown items
            are dropped, items without a row get nulls. Feature files without ids follow its order, as they
            do that of a table of items found in a shop's folder.
        item_column: its column of item ids; None for the name it has among the interactions, or a
            well-known one.
        title_column: its column of titles; None for a well-known one, such as `title` or `name`.
        features: modality and file; a modality may have one file of dense rows and one of a graph. They
            stand in for those the layout finds.
        text: a template of the texts to encode; None for the usual columns there are; "none" for none.
        media: modality, "image" or "audio" -> folder of files named by item id, beside those the layout
            finds; "none" for none.
        encoders: modality -> encoder; see `load_encoder`. "none" for a modality not to be encoded.
        cache_dir: where encoded contents are kept.
        device: of learned encoders.
        thumbnails: keep pictures small beside the data.
        observer: is told of the progress of encoding.

    Raises:
        DataError: a file is missing or damaged, a value in it is wrong, or no row meets the conditions.
        ConfigError: a name that is a path, a condition that cannot be read or does not fit the table,
            settings that cannot go together, or files that need more memory than is free.
    """
    _check_name(name)
    for modality in [*(modality for modality, _ in features), *(media or {})]:
        check_modality(modality)
    conditions = [Condition.parse(text) for text in rows]
    bad = BadRows(max_bad)
    given = {MEDIA_ROLES[modality] for modality in media or {} if modality in MEDIA_ROLES}
    if items_file is not None:
        given.add("items")
    hints = Hints(columns or Columns(), item_column, title_column, encoding, frozenset(given))
    found = find_layout(Path(source), layout, hints)
    found = _with_given(found, Path(source), items_file, features, media or {})
    if items_file is None:
        _check_item_columns(found)
    require_memory(
        memory_to_read(found, [file for _, file in features]),
        free_bytes(),
        f"reading {found.title}",
        fix="Prepare where there is more, or files with fewer rows or without columns that nobody needs",
    )
    frame, usual = found.read_interactions(bad)
    file = found.source_name or Path(source).name
    with naming(file):
        meaning = resolve_columns(frame, _merge(usual, columns))
    chosen = choose_rows(frame, conditions, found, file)
    read = interactions_from_frame(
        frame,
        meaning,
        file=file,
        filters=filters,
        label_meaning=label_meaning,
        bad=bad,
        rows=chosen.keep,
    )
    looked_at = {*asdict(meaning).values(), *(name for condition in conditions for name in condition.columns)}
    not_read = [name for name in frame.columns if name not in looked_at]
    del frame  # the largest thing in memory
    interactions, steps = filter_pairs(filters, read.interactions)
    table = _ItemTable.read(found, interactions.items, bad, items_file, meaning.item)
    attached, origins = _features(
        found, features, interactions.items, read.listed, table.row_order, meaning.item
    )
    provenance: dict[str, Any] = {
        "layout": found.name,
        "files": {role: describe_file(path) for role, path in found.files.items()},
        "columns": {role: column for role, column in asdict(meaning).items() if column},
        "columns_not_read": {file: not_read} if not_read else {},
        "files_not_used": list(found.unused),
        "unusable": bad.all(),
        "steps": [
            *read.steps[:1],
            *chosen.steps,
            *read.steps[1:],
            *steps,
        ],  # the first says how many there were
        "items": table.counts,
        "features": origins,
    }
    if label_meaning is not None:
        names = {code: part for part, code in PARTS.items()}
        provenance["label_meaning"] = {
            label: names.get(code, "left out") for label, code in label_meaning.items()
        }
    data = Dataset(name, interactions, table.rows, attached, provenance)
    contents = choose_content(data, found.media, text, media or {}, encoders or {})
    data = say_no_text(data, contents, text, encoders or {})
    return add_content(
        data, contents, cache_dir=cache_dir, device=device, thumbnails=thumbnails, observer=observer
    )


def _check_name(name: str) -> None:
    """Refuse a name that leads elsewhere where a path is made of it."""
    path = Path(name)
    if name in ("", "..") or path.name != name:
        better = "-".join(part for part in path.parts if part not in (path.anchor, "..")) or "shop"
        raise ConfigError(
            f"a data set named '{name}'",
            wanted="a name that a folder can have",
            fix=f"Call it '{better}' with --name",
        )


def _with_given(
    found: Layout,
    source: Path,
    items_file: str | Path | None,
    features: Sequence[tuple[str, str | Path]],
    media: Mapping[str, str | Path],
) -> Layout:
    """Put what the user names in the place of what was found."""
    replaced = {modality for modality, _ in features} & {*found.modalities}
    files = {role: path for role, path in found.files.items() if role not in replaced}
    if items_file is not None:
        files["items"] = Path(items_file)
    paths = [*files.values(), *(file for _, file in features), *map(Path, media.values())]
    named = {place for path in map(Path, paths) for place in (path.resolve(), *path.resolve().parents)}
    unused = tuple(name for name in found.unused if (source / name).resolve() not in named)
    return replace(found, files=files, unused=unused)


_ITEM_COLUMNS_OPEN = {"tables", "recbole"}
"""Layouts whose tables of items have the columns that the user says."""


def _check_item_columns(found: Layout) -> None:
    """Refuse to be told columns of a table of items that is not there, or whose columns are fixed."""
    said = {"--item-column": found.hints.item_column, "--title": found.hints.title_column}
    for option, column in said.items():
        if column is not None and not ("items" in found.files and found.name in _ITEM_COLUMNS_OPEN):
            raise ConfigError(
                f"{option} {column}, but no table of items with columns to choose from was found",
                wanted="a table of items",
                fix=f"Name it with --items FILE, or drop {option}",
            )


def describe_file(path: Path) -> dict[str, Any]:
    """Name a file or folder in plain JSON values, by its content and without its place."""
    return {"folder": path.name} if path.is_dir() else {"file": path.name, "sha256": sha256(path)}


def _merge(usual: Columns, given: Columns | None) -> Columns:
    """Take the given columns, and the layout's where none is given."""
    chosen = {}
    for role, column in asdict(usual).items():
        wanted = getattr(given, role) if given else None
        chosen[role] = None if wanted == NONE else wanted or column
    return Columns(**chosen)


@dataclass(frozen=True)
class _ItemTable:
    """The item table of a data set, and how it came about.

    Args:
        rows: one row per item, in index order.
        row_order: raw ids in the order of the file, where feature files follow it.
        counts: what did not match.
    """

    rows: pl.DataFrame
    row_order: list[RawId] | None
    counts: dict[str, int]

    @classmethod
    def read(
        cls,
        found: Layout,
        items: IdMap,
        bad: BadRows,
        file: str | Path | None,
        like: str | None,
    ) -> _ItemTable:
        if file is None:
            known = found.read_items(items, bad)
            if known is None:
                return cls(pl.DataFrame({"item_id": items.ids}), None, {})
            with naming(found.files["items"].name if "items" in found.files else found.title):
                rows, counts = _align(known, items)
            return cls(rows, known["item_id"].to_list() if found.items_in_order else None, counts)
        said = found.hints
        known = read_item_table(
            file, item=said.item_column, title=said.title_column, like=like, bad=bad, encoding=said.encoding
        )
        with naming(Path(file).name):
            rows, counts = _align(known, items)
        return cls(rows, known["item_id"].to_list(), counts)


def _align(known: pl.DataFrame, items: IdMap) -> tuple[pl.DataFrame, dict[str, int]]:
    """Give each item its row of the item table, nulls where it has none, and count what did not match."""
    at = items.find(known["item_id"].to_list())
    if not (at >= 0).any():
        example = f", such as {known['item_id'][0]!r}," if known.height else ""
        theirs, ours = ({str(raw).lstrip("0") for raw in ids} for ids in (known["item_id"], items.ids))
        raise DataError(
            f"none of its {known.height:,} item ids{example} is in the interactions",
            wanted=f"ids such as {items.ids[0].item()!r}",
            fix="Write the ids of both tables with the same noughts in front, as text"
            if theirs & ours
            else "Name its id column with --item-column",
        )
    row_of_item = np.full(len(items), -1)
    row_of_item[at[at >= 0][::-1]] = np.flatnonzero(at >= 0)[::-1]  # of rows of one item, the first
    rows = pl.Series(row_of_item).replace(-1, None)
    table = known.select(pl.all().gather(rows)).with_columns(pl.Series("item_id", items.ids))
    counts = {
        "rows": known.height,
        "unknown_items": int((at < 0).sum()),
        "repeated_items": int((at >= 0).sum() - (row_of_item >= 0).sum()),
        "items_without_row": int((row_of_item < 0).sum()),
    }
    return table, counts


def _features(
    found: Layout,
    given: Sequence[tuple[str, str | Path]],
    items: IdMap,
    listed: IdMap,
    row_order: list[RawId] | None,
    like: str | None,
) -> tuple[dict[str, ItemFeatures], dict[str, Any]]:
    """Read ready features, those that are given before those that were found; and say where each is from."""
    keep = listed.index(items.ids.tolist())
    features: dict[str, ItemFeatures] = {}
    origins: dict[str, Any] = {}
    for modality, file in given:
        # rows of feature files count all items of the table, also those that a filter dropped
        new = read_features(file, modality, listed, row_order, like=like).take(keep)
        features[modality] = combine(modality, features[modality], new) if modality in features else new
        origins.setdefault(modality, {"files": []})["files"].append(describe_file(Path(file)))
    for modality in found.modalities:
        if modality not in features:
            features[modality] = found.read_features(modality, items, listed)
            origins[modality] = {"layout": found.name}
    return features, origins
