"""Tables written piece by piece are those written at once, and are whole or absent."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from triptych.data import frames
from triptych.data.frames import write_frames
from triptych.errors import ConfigError

READ = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
TABLE = pl.DataFrame({"id": range(1000), "name": [None if n % 7 == 0 else f'"{n}", n' for n in range(1000)]})


@pytest.mark.parametrize("suffix", READ)
def test_pieces_make_the_whole(suffix: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(frames, "_PIECE", 90)
    path = tmp_path / "new" / f"table{suffix}"
    assert write_frames(path, TABLE.iter_slices(37), TABLE.schema) == 1000
    assert READ[suffix](path).equals(TABLE)
    write_frames(path, [TABLE[:3]], TABLE.schema)
    assert READ[suffix](path).equals(TABLE[:3])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_few_rows_are_held_at_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(frames, "_PIECE", 90)
    written: list[int] = []
    original = pl.DataFrame.write_parquet

    def write(self, *arguments):
        written.append(self.height)
        original(self, *arguments)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", write)
    write_frames(tmp_path / "table.parquet", TABLE.iter_slices(40), TABLE.schema)
    assert written == [0, *[120] * 8, 40]


def test_no_rows_are_a_table_too(tmp_path: Path):
    assert write_frames(tmp_path / "table.parquet", [], TABLE.schema) == 0
    assert pl.read_parquet(tmp_path / "table.parquet").equals(TABLE[:0])
    write_frames(tmp_path / "table.csv", [], TABLE.schema)
    assert (tmp_path / "table.csv").read_text() == "id,name\n"


@pytest.mark.parametrize("suffix", READ)
def test_half_a_table_is_none(suffix: str, tmp_path: Path):
    def breaking():
        yield TABLE
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_frames(tmp_path / f"table{suffix}", breaking(), TABLE.schema)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"\.parquet, \.csv, \.jsonl"):
        write_frames(tmp_path / "table.xlsx", [TABLE], TABLE.schema)
