"""A data set in the files of other toolboxes, so that it can be trained there and compared.

What a toolbox has no place for is left out and named, in what the functions return and in the folder itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triptych.data.arrays import LabelArray
from triptych.data.dataset import Dataset
from triptych.data.features import Matrix
from triptych.data.ids import IdMap
from triptych.data.interactions import LEFT_OUT
from triptych.data.layouts.mmrec import FEATURES, ITEM, LABEL, MAPPING, MODALITY, RAW
from triptych.data.split import PARTS, Split
from triptych.errors import ConfigError, DataError
from triptych.files import checksums, new_folder, write_json

MARKER = "triptych-export.json"
"""The file that says what was exported; only folders that hold it are ever replaced."""

KIND = "export"
SCHEMA_VERSION = 1

_BREAKS = r"[\t\r\n]"  # these part fields and rows, and RecBole's files know no quoting


def export_mmrec(
    data: Dataset, folder: str | Path, *, split: Split | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write a data set as MMRec reads it; the folder's name is the name it has there.

    - `NAME.inter`: userID, itemID (the indices of `data`), rating and timestamp if known, x_label.
    - `MODALITY_feat.npy`: (I, F) float32. MMRec has no notion of a missing row: such rows are zero, and
      `NAME_missing.csv` lists them for others.
    - `i_id_mapping.csv`, `u_id_mapping.csv`: raw ids and indices.

    Args:
        data: what to write.
        folder: a folder still to be made.
        split: how it is split; None for the labels of `data`. What is in no part is not written.
        overwrite: replace a folder that was exported before.

    Returns: the facts that `triptych-export.json` holds: `files`, `counts` and `not_carried`.

    Raises:
        ConfigError: there is no split, or it is one of other data.
        StorageError: something is in the folder's place.
    """
    label = _label(data, split)
    if label is None:
        raise ConfigError(
            f"'{data.name}' is not split",
            wanted="a part for each interaction, since MMRec reads only data that is split",
            fix="Split it first, for example with --split ratio",
        )
    folder = Path(folder).resolve()
    with _export(data, folder, "mmrec", label, overwrite) as (new, facts):
        indices = {"userID": data.interactions.user, ITEM: data.interactions.item}
        frame = _interactions(data, indices).with_columns(pl.Series(LABEL, label))
        frame.filter(pl.col(LABEL) != LEFT_OUT).write_csv(new / f"{folder.name}.inter", separator="\t")
        _write_mapping(new / MAPPING, RAW, ITEM, data.items)
        _write_mapping(new / "u_id_mapping.csv", "user_id", "userID", data.users)
        missing = []
        for modality, values, present in _dense(data):
            np.save(new / f"{modality}{FEATURES}", values)
            absent = np.flatnonzero(~present)
            missing.append(pl.DataFrame({ITEM: absent}).with_columns(pl.lit(modality).alias(MODALITY)))
        if any(rows.height for rows in missing):
            pl.concat(missing).write_csv(new / f"{folder.name}_missing.csv")
        facts["not_carried"] |= {
            "item_columns": data.item_table.columns[1:],
            "missing_features": {rows[MODALITY][0]: rows.height for rows in missing if rows.height},
        }
    return facts


def export_recbole(
    data: Dataset, folder: str | Path, *, split: Split | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write a data set as RecBole's atomic files; the folder's name is the name it has there.

    - `NAME.inter`: user_id, item_id (raw ids), rating and timestamp if known. If the data is split, instead
      `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter`, as far as they have rows, which RecBole
      reads with `benchmark_filename: [train, valid, test]`.
    - `NAME.item`: item_id and the columns of the item table that hold numbers or text. Tabs and line breaks
      in texts become spaces; `texts_changed` counts these texts.
    - `NAME.MODALITYemb`: MODALITY_id, MODALITY_emb (numbers apart by spaces) of the items that have it.

    Args:
        data: what to write.
        folder: a folder still to be made.
        split: how it is split; None for the labels of `data`, if any. What is in no part is not written.
        overwrite: replace a folder that was exported before.

    Returns: the facts that `triptych-export.json` holds: `files`, `counts` and `not_carried`.

    Raises:
        ConfigError: the split is one of other data.
        DataError: an id holds a tab or a line break.
        StorageError: something is in the folder's place.
    """
    label = _label(data, split)
    for ids in (data.users, data.items):
        _refuse_breaks(ids)
    folder = Path(folder).resolve()
    with _export(data, folder, "recbole", label, overwrite) as (new, facts):
        raw = {
            "user_id": data.users.ids[data.interactions.user],
            "item_id": data.items.ids[data.interactions.item],
        }
        frame = _interactions(data, raw)
        if label is None:
            _write_atomic_file(new / f"{folder.name}.inter", frame)
        else:
            parts = {part: frame.filter(pl.Series(label == code)) for part, code in PARTS.items()}
            for part, rows in parts.items():
                if rows.height:
                    _write_atomic_file(new / f"{folder.name}.{part}.inter", rows)
        table, n_changed = _item_table(data.item_table)
        _write_atomic_file(new / f"{folder.name}.item", table)
        for modality, values, present in _dense(data):
            vectors = pl.Series(values[present]).cast(pl.List(pl.String)).list.join(" ")
            columns = {f"{modality}_id": data.items.ids[present], f"{modality}_emb": vectors}
            _write_atomic_file(new / f"{folder.name}.{modality}emb", pl.DataFrame(columns), "float_seq")
        facts["not_carried"] |= {
            "item_columns": [name for name in data.item_table.columns if name not in table.columns],
            "texts_changed": n_changed,
        }
    return facts


@contextmanager
def _export(
    data: Dataset, folder: Path, layout: str, label: LabelArray | None, overwrite: bool
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a new folder and the facts to complete; then write these into it."""
    n_left_out = 0 if label is None else int((label == LEFT_OUT).sum())
    counts: dict[str, int] = {"users": data.n_users, "items": data.n_items}
    counts["interactions"] = len(data.interactions) - n_left_out
    if label is not None:
        counts |= {part: int((label == code).sum()) for part, code in PARTS.items()}
    facts: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "layout": layout,
        "name": folder.name,
        "content_hash": data.content_hash,
        "counts": counts,
        "not_carried": {
            "interactions_left_out": n_left_out,
            "item_graphs": sorted(name for name, of in data.features.items() if of.graph is not None),
            "thumbnails": data.thumbnails is not None,
        },
    }
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as new:
        yield new, facts
        facts["files"] = checksums(new)
        write_json(new / MARKER, facts)


def _label(data: Dataset, split: Split | None) -> LabelArray | None:
    if split is None:
        return data.interactions.label
    if split.data.interactions.content_hash != data.interactions.content_hash:
        raise ConfigError(
            f"a split of '{split.data.name}' with {len(split.part):,} interactions, which are not those of "
            f"'{data.name}'",
            wanted="a split of the data that is exported",
            fix="Split this data",
        )
    return split.part


def _interactions(data: Dataset, ids: dict[str, np.ndarray[Any, Any]]) -> pl.DataFrame:
    optional = {"rating": data.interactions.rating, "timestamp": data.interactions.timestamp}
    return pl.DataFrame({**ids, **{name: column for name, column in optional.items() if column is not None}})


def _dense(data: Dataset) -> Iterator[tuple[str, Matrix, np.ndarray[Any, Any]]]:
    """Give the modalities with dense rows: name, rows, and which items have one."""
    for modality, features in sorted(data.features.items()):
        if features.values is not None:
            yield modality, features.values, features.present


def _write_mapping(path: Path, raw: str, number: str, ids: IdMap) -> None:
    pl.DataFrame({raw: ids.ids, number: np.arange(len(ids))}).write_csv(path, separator="\t")


def _write_atomic_file(path: Path, frame: pl.DataFrame, text: str = "token_seq") -> None:
    """Write a table with types in its header: ids are tokens, numbers floats, the rest is `text`."""
    kinds = {
        name: "token" if name.endswith("_id") else "float" if kind.is_numeric() else text
        for name, kind in frame.schema.items()
    }
    typed = frame.rename({name: f"{name}:{kind}" for name, kind in kinds.items()})
    typed.write_csv(path, separator="\t", quote_style="never")


def _item_table(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Keep columns of numbers and text, with breaks in texts made spaces, and count the texts changed."""
    kept = table.select(
        column.cast(pl.Int8) if column.dtype == pl.Boolean else column
        for column in table
        if (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean))
        and ":" not in column.name and not set("\t\r\n") & set(column.name)
    )  # fmt: skip
    texts = pl.selectors.string()
    n_changed = sum(int(column.str.contains(_BREAKS).sum()) for column in kept.select(texts))
    return kept.with_columns(texts.str.replace_all(_BREAKS, " ")), n_changed


def _refuse_breaks(ids: IdMap) -> None:
    broken = [raw for raw in ids.ids.tolist() if isinstance(raw, str) and set("\t\r\n") & set(raw)]
    if broken:
        raise DataError(
            f"{len(broken):,} {ids.kind} ids hold a tab or a line break, such as {broken[0]!r}",
            wanted="ids that RecBole's files can hold",
            fix="Rename these ids",
        )
