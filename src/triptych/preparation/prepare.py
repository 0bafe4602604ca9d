"""From files to a `Dataset`: read, attach what is known of the items, filter, and account for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triptych.data.dataset import Dataset, id_array
from triptych.data.feature_files import read_features
from triptych.data.features import ItemFeatures, check_modality, combine
from triptych.data.interactions import IdMap, RawId
from triptych.data.readers import Columns, interactions_from_frame, read_item_table, resolve_columns
from triptych.data.split import PARTS
from triptych.data.tables import naming, read_table
from triptych.errors import ConfigError, DataError
from triptych.files import sha256


def prepare(
    interactions_file: str | Path,
    *,
    name: str,
    columns: Columns | None = None,
    min_rating: float | None = None,
    label_meaning: Mapping[str, int] | None = None,
    core: int | None = None,
    items_file: str | Path | None = None,
    item_column: str | None = None,
    title_column: str | None = None,
    features: Sequence[tuple[str, str | Path]] = (),
) -> Dataset:
    """Make a data set of files. `provenance` says which files these were and what became of their rows.

    Args:
        interactions_file: a table with one interaction per row.
        name: how reports call the data set.
        columns: which of its columns means what; None to find users and items by their names.
        min_rating: drop interactions with a lower rating.
        label_meaning: label as text -> part of the split; see `read_label_meaning`.
        core: keep the k-core; None to keep all.
        items_file: a table with one row per item. Rows of unknown items are dropped, items without a
            row get nulls. Feature files without ids follow its order.
        item_column: its column of item ids; None for the name it has among the interactions, or a
            well-known one.
        title_column: its column of titles; None for `title` or `name`.
        features: modality and file; a modality may have one file of dense rows and one of a graph.

    Raises:
        DataError: a file is missing or damaged, or a value in it is wrong.
        ConfigError: settings that cannot go together.
    """
    for modality, _ in features:
        check_modality(modality)
    if core is not None and core < 1:
        raise ConfigError(
            f"a {core}-core", wanted="a whole number from 1 on", fix="Use --core 5, for example"
        )
    source = Path(interactions_file)
    frame = read_table(source)
    with naming(source.name):
        columns = resolve_columns(frame, columns or Columns(), source)
        interactions, counts = interactions_from_frame(
            frame, columns, min_rating=min_rating, label_meaning=label_meaning
        )
        # rows of feature files count all items of the file, also those that the threshold drops
        listed = IdMap(np.unique(id_array(frame[str(columns.item)])), "item")
    provenance: dict[str, Any] = {
        "interactions": _file(source)
        | counts.as_dict()
        | {"columns": asdict(columns), "min_rating": min_rating}
    }
    if label_meaning is not None:
        names = {code: part for part, code in PARTS.items()}
        meaning = {label: names.get(code, "left out") for label, code in label_meaning.items()}
        provenance["interactions"]["label_meaning"] = meaning

    item_table, row_order = pl.DataFrame({"item_id": interactions.items.ids}), None
    if items_file is not None:
        known = read_item_table(items_file, item=item_column, title=title_column, like=columns.item)
        row_order = known["item_id"].to_list()
        with naming(Path(items_file).name):
            item_table, drops = _align(known, interactions.items)
        provenance["items"] = _file(Path(items_file)) | drops

    keep = listed.index(interactions.items.ids.tolist())
    attached = {
        modality: read.take(keep)
        for modality, read in _read_all(features, listed, row_order, columns.item).items()
    }
    provenance["features"] = {
        modality: [_file(Path(file)) for of, file in features if of == modality] for modality in attached
    }
    whole = Dataset(name, interactions, item_table, attached, provenance)
    if core is None:
        return whole
    data = whole.core(core)
    provenance["core"] = {
        "k": core,
        "users_removed": whole.n_users - data.n_users,
        "items_removed": whole.n_items - data.n_items,
        "interactions_removed": len(whole.interactions) - len(data.interactions),
    }
    return data


def _read_all(
    files: Sequence[tuple[str, str | Path]], items: IdMap, row_order: Sequence[RawId] | None, like: str | None
) -> dict[str, ItemFeatures]:
    read: dict[str, ItemFeatures] = {}
    for modality, file in files:
        new = read_features(file, modality, items, row_order, like=like)
        read[modality] = combine(modality, read[modality], new) if modality in read else new
    return read


def _align(known: pl.DataFrame, items: IdMap) -> tuple[pl.DataFrame, dict[str, int]]:
    """Give each item its row of the item table, nulls where it has none, and count what did not match."""
    at = items.find(known["item_id"].to_list())
    if not (at >= 0).any():
        raise DataError(
            f"none of its {known.height:,} item ids, such as {known['item_id'][0]!r}, is in the interactions",
            wanted=f"ids such as {items.ids[0].item()!r}",
            fix="Name its id column with --item-column",
        )
    row_of_item = np.full(len(items), -1)
    row_of_item[at[at >= 0]] = np.flatnonzero(at >= 0)
    rows = pl.Series(row_of_item).replace(-1, None)
    table = known.select(pl.all().gather(rows)).with_columns(pl.Series("item_id", items.ids))
    counts = {
        "rows": known.height,
        "unknown_items": int((at < 0).sum()),
        "items_without_row": int((row_of_item < 0).sum()),
    }
    return table, counts


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": sha256(path)}
