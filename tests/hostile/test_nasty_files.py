"""Files made to exhaust, confuse or mislead: each is read rightly or refused with its name, soon and in little memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import triptych as tt
from triptych.data import feature_files, lines
from triptych.data.bad_rows import BadRows
from triptych.data.dataset import MANIFEST
from triptych.data.feature_files import read_features
from triptych.data.ids import IdMap
from triptych.data.json_records import DEEPEST, read_json_lines
from triptych.data.layouts import find_layout
from triptych.data.layouts.python_literals import parse_record
from triptych.data.layouts.recbole import _read_embeddings
from triptych.data.lines import read_chunks
from triptych.data.pictures import open_picture
from triptych.data.readers import read_interactions
from triptych.data.tables import MOST_COLUMNS, read_header, read_table
from triptych.data.times import read_moment
from triptych.errors import ConfigError, DataError, StorageError
from triptych.fetch.unpack import unpack_zip
from triptych.files import checksums, read_arrays, read_json, write_json
from triptych.testing import toy_dataset
from triptych.training.recipe import find_recipe, parse_settings
from triptych.training.space import find_space

ITEMS = IdMap(np.arange(6), "item")
CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(autouse=True)
def soon_and_in_little_memory() -> Iterator[None]:
    """Fail a test that takes long, or that holds much more than the process held before."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024  # KiB


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Tables


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter", "a.csv.gz"])
def test_a_hundred_thousand_columns(tmp_path: Path, name: str):
    separator = "," if "csv" in name else "\t"
    text = "\n".join(separator.join(f"{word}{n}" for n in range(100_000)) for word in ("column", "")).encode()
    path = put(tmp_path, name, gzip.compress(text) if name.endswith("gz") else text)
    with pytest.raises(DataError, match=rf"{name} cannot be read: 100,000 columns.*{MOST_COLUMNS:,}"):
        read_table(path)
    assert len(read_header(path)) == 100_000


@pytest.mark.parametrize(
    ("users", "items"),
    [
        ([-(2**63), -1, 0, 2**63 - 1], [0, 1, 2**62, 2**63 - 2]),
        (
            ["007", "7", "Nan", "0"],
            ["\u4e2d\u6587", "\u0645\U0001f600", "x" * 5000, "../../etc/passwd", "a b\tc", "-0", "NAN"],
        ),
        (["u\n1", 'q"u', "Null"], [str(2**63), str(-(2**70)), "1e3", "0x1F"]),
    ],
    ids=["numbers at both ends", "texts", "nearly numbers"],
)
def test_odd_ids_go_through_training_and_come_back(
    tmp_path: Path, users: list[int | str], items: list[int | str]
):
    file = io.StringIO(newline="")
    rows = csv.writer(file)
    rows.writerow(["user", "item"])
    rows.writerows([user, item] for user in users for item in items)
    data = tt.prepare(put(tmp_path, "sales.csv", file.getvalue()), name="odd", text="none")
    assert (data.users.ids.tolist(), data.items.ids.tolist()) == (sorted(users), sorted(items))
    run = tt.train(
        "popularity", tt.Split.by_ratio(data, rng=0), k=(1,), config=tt.TrainConfig(metric="recall@1")
    )
    run.save(tmp_path / "run")
    again = tt.load(tmp_path / "run")
    answers = again.recommend(users, k=len(items), exclude="train")
    assert [answer.user_id for answer in answers] == users
    assert answers == run.recommend(users, k=len(items), exclude="train")
    assert all({item.item_id for item in answer.items} < set(items) for answer in answers)


def test_a_hundred_thousand_fields_of_json(tmp_path: Path):
    record = json.dumps({f"k{n}": n for n in range(100_000)})
    assert read_table(put(tmp_path, "a.jsonl", record)).width == 100_000


def test_as_many_columns_as_are_looked_at(tmp_path: Path):
    header = ",".join(f"c{n}" for n in range(1000))
    assert read_table(put(tmp_path, "a.csv", f"{header}\n{',' * 998}7,x\n")).width == 1000


@pytest.mark.parametrize(
    "value", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[{}, [" * 70 + "]]" * 70]
)
def test_values_nested_deeply_are_bad_rows(tmp_path: Path, value: str):
    path = put(
        tmp_path, "a.jsonl", f'{{"user": "u", "item": {value}}}\n' + '{"user": "u", "item": "i"}\n' * 99
    )
    bad = BadRows()
    assert read_json_lines(path, bad=bad).height == 99
    assert "no JSON object" in bad.of("a.jsonl")["left_out"]


def test_values_nested_moderately_are_read_and_brackets_in_texts_do_no_harm(tmp_path: Path):
    nested = "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2)
    text = "[[[[ ]]] {{}{ ) ]" * 20
    path = put(
        tmp_path, "a.jsonl", json.dumps({"item": 1, "text": text}) + f'\n{{"item": 2, "deep": {nested}}}\n'
    )
    assert read_table(path)["text"].to_list() == [text, None]


@pytest.mark.parametrize("depth", [1_000, 200_000])
@pytest.mark.parametrize("sign", ["[", '{"a":', "("])
def test_what_recursion_cannot_follow(tmp_path: Path, sign: str, depth: int):
    content = sign * depth
    with pytest.raises(DataError, match=r"a\.jsonl"):
        read_table(put(tmp_path, "a.jsonl", content))
    with pytest.raises(DataError, match=r"a\.jsonl"):
        read_header(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="neither JSON nor a Python literal"):
        parse_record(content.encode())


@pytest.mark.parametrize(
    "line",
    [b"-" * 900_000 + b"1", b"1" + b"+1" * 100_000, b"not " * 200_000 + b"1", b"lambda:" * 100_000 + b"1",
     b"{'a': " + b"9" * 5000 + b"}", b"f'" + b"{" * 1000, b"[x for x in ().__class__.__bases__]", b"__import__('os')"],
    ids=lambda line: line[:12].decode(),
)  # fmt: skip
def test_literals_that_are_programs_or_endless_are_no_records(line: bytes):
    with pytest.raises(ValueError, match=r"neither JSON|instead of"):
        parse_record(line)


SALES = "user,item,rating\nu1,i1,3\nu1,i2,4\nu2,i1,5\n"


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + SALES.encode(), SALES.replace("\n", "\r\n").encode(), b"\n\n" + SALES.encode(),
     SALES.encode("utf-16"), SALES.encode("utf-32"), SALES.replace("4\n", "4\r\n").encode(), SALES.encode().rstrip(b"\n"), SALES.replace("u1", '"u1"').encode()],
    ids=["byte order mark", "CRLF", "blank lines first", "UTF-16", "UTF-32", "both ends of lines", "no last end", "some quoted"],
)  # fmt: skip
def test_odd_but_honest_tables_say_the_same(tmp_path: Path, content: bytes):
    expected = read_interactions(put(tmp_path, "plain.csv", SALES)).interactions
    found = read_interactions(put(tmp_path, "odd.csv", content)).interactions
    assert found.content_hash == expected.content_hash


@pytest.mark.parametrize(
    "content",
    [b'user,item\n"u1,i1\nu2,i2\n', b'user,item\nu"1,i1\n"u"2,i2\n', b"user,item\n\0\0\0\n\0", b"\0" * 1000,
     b"\xff\xfeu\0s\0", b"user,user\n1,2\n", b"user,item\n", b",\n,\n", b'"', b"\x1f\x8b", b"PK\x03\x04"],
    ids=["open quote", "stray quotes", "NUL rows", "NUL only", "UTF-16", "a column twice", "no rows", "no names", "a quote", "gzip", "zip"],
)  # fmt: skip
def test_broken_tables_are_refused_by_name(tmp_path: Path, content: bytes):
    with pytest.raises(DataError, match=r"broken\.csv"):
        read_interactions(put(tmp_path, "broken.csv", content))


def test_damage_that_would_end_the_process_is_an_error(tmp_path: Path):
    """In these files polars meets a bitmap of 2^61 bytes, and aborts."""
    cases = sorted((CORPUS / "parquet").glob("abort-*"))
    assert cases
    for case in cases:
        path = put(tmp_path, "a.parquet", case.read_bytes())
        with pytest.raises(DataError, match=r"a\.parquet cannot be read: "):
            read_table(path)


# Folders that claim to be whole


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    """Edit a manifest, and bring its checksums up to date."""
    facts = read_json(folder / MANIFEST)
    (folder / MANIFEST).unlink()
    facts["files"] = checksums(folder)
    edit(facts)
    write_json(folder / MANIFEST, facts)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Save a small data set."""
    toy_dataset(3, 8).save(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["items.parquet", "interactions.parquet", "features/image.safetensors"])
def test_a_file_that_no_checksum_vouches_for(saved: Path, name: str):
    change(saved, lambda facts: facts["files"].pop(name))
    with pytest.raises(StorageError, match=rf"{name} does not exist among its files"):
        tt.Dataset.load(saved)


@pytest.mark.parametrize(
    ("user", "item", "words"),
    [([0, 3], [0, 1], "user index from 0 to 3, of 3"), ([-1, 0], [0, 1], "user index from -1"), ([0, 0], [0, 8], "item index"),
     ([0, 0], [1, 1], "repeat"), ([1, 0], [0, 0], "not sorted")],
)  # fmt: skip
def test_pairs_that_cannot_be(saved: Path, user: list[int], item: list[int], words: str):
    pl.DataFrame({"user": user, "item": item}).write_parquet(saved / "interactions.parquet")
    change(saved, lambda facts: None)
    with pytest.raises(StorageError, match=words):
        tt.Dataset.load(saved)


def test_damage_that_makes_polars_panic_is_an_error(saved: Path):
    """A panic is no `Exception`, and goes by all that catch those."""
    damaged = (CORPUS / "parquet" / "panic-range").read_bytes()
    put(saved, "interactions.parquet", damaged)
    change(saved, lambda facts: None)
    with pytest.raises(StorageError, match=r"interactions\.parquet"):
        tt.Dataset.load(saved)


# Bombs


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring the limits down to what a test can fill."""
    monkeypatch.setattr(lines, "_GROWN", 1 << 20)
    monkeypatch.setattr(feature_files, "_GROWN", 1 << 20)
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 20)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 1 << 16)


@pytest.mark.usefixtures("small_limits")
def test_a_packed_table_that_grows_beyond_measure(tmp_path: Path):
    rows = "".join(f"u{n},i{n}\n" for n in range(60_000)).encode()
    honest = put(tmp_path, "honest.csv.gz", gzip.compress(b"user,item\n" + rows))
    assert read_table(honest).height == 60_000
    bomb = put(tmp_path, "bomb.csv.gz", gzip.compress(b"user,item\n" + b"u,i\n" * 1_000_000))
    with pytest.raises(DataError, match=r"bomb\.csv\.gz cannot be read: its .* unpack to more than"):
        read_table(bomb)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_without_end(tmp_path: Path, name: str):
    content = b'{"user": "' + b"x" * (3 << 20)
    path = put(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=rf"{name} holds more than 1,048,576 bytes in line 1"):
        list(read_chunks(path, 1 << 16))


@pytest.mark.usefixtures("small_limits")
def test_packed_features_that_grow_beyond_measure(tmp_path: Path):
    file = io.BytesIO()
    np.savez_compressed(file, values=np.zeros((6, 1 << 19), dtype=np.float32))
    with pytest.raises(DataError, match=r"bomb\.npz.* would become 12,"):
        read_features(put(tmp_path, "bomb.npz", file.getvalue()), "image", ITEMS)
    file = io.BytesIO()
    np.savez_compressed(file, values=np.random.default_rng(0).normal(size=(6, 1 << 17)))
    assert read_features(put(tmp_path, "honest.npz", file.getvalue()), "image", ITEMS).dim == 1 << 17


def npy(shape: str, order: str = "False", kind: str = "<f4", data: bytes = b"\0" * 64) -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "shape", ["(6, 9223372036854775807)", "(9223372036854775808, 2)", "(6, -1)", "(-6, -2)", "(6, 1 << 60)", "(6, 100000000000)",
              "(4294967296, 4294967296)", "(6,) * 40", "()", "(True, 2)", "6"],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_shapes_that_cannot_be(tmp_path: Path, shape: str, packed: bool):
    content, name = npy(shape), "image.npy"
    if packed:
        file, name = io.BytesIO(), "image.npz"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("values.npy", content)
        content = file.getvalue()
    with pytest.raises(DataError, match=f"image features {name}"):
        read_features(put(tmp_path, name, content), "image", ITEMS)


@pytest.mark.parametrize(
    "header",
    [{"values": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}},
     {"values": {"dtype": "F32", "shape": [6, 1], "data_offsets": [0, 2**63]}},
     {"values": {"dtype": "F32", "shape": [6, 1], "data_offsets": [24, 0]}},
     {"values": {"dtype": "F32", "shape": [6, 1], "data_offsets": [8, 32]}},
     {"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}, "b": {"dtype": "F32", "shape": [6], "data_offsets": [8, 32]}},
     {"values": {"dtype": "F99", "shape": [6], "data_offsets": [0, 24]}}, {"values": None}, {"__metadata__": 3}, {}],
    ids=lambda header: json.dumps(header)[:60],
)  # fmt: skip
def test_headers_of_tensors_that_cannot_be(tmp_path: Path, header: object):
    text = json.dumps(header).encode()
    path = put(tmp_path, "image.safetensors", struct.pack("<Q", len(text)) + text + b"\0" * 24)
    with pytest.raises((StorageError, DataError), match=r"image\.safetensors"):
        read_features(path, "image", ITEMS)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 100_000_001, 0])
def test_a_header_longer_than_its_file(tmp_path: Path, length: int):
    path = put(tmp_path, "image.safetensors", struct.pack("<Q", length) + b"{}" + b" " * 100)
    with pytest.raises(StorageError, match=r"image\.safetensors is damaged"):
        read_arrays(path)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (65_500, 65_500), (1, 2**31 - 1)])
def test_a_picture_of_billions_of_pixels(tmp_path: Path, size: tuple[int, int]):
    with pytest.raises(DataError, match=r"bomb\.png"):
        open_picture(put(tmp_path, "bomb.png", png(*size)))


def test_an_archive_within_an_archive_is_only_a_file(tmp_path: Path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())
    assert unpack_zip(tmp_path / "a.zip", tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["inner.zip"]


def test_overlapping_members_count_as_often_as_they_are_named(tmp_path: Path):
    """Many names for one piece of packed data: a bomb without nesting."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f000", bytes(100_000))
    data = file.getvalue()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    entries = b"".join(entry.replace(b"f000", b"f%03d" % n) for n in range(900))
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 900, 900, len(entries))
    path = put(tmp_path, "a.zip", data[:start] + entries + bytes(tail))
    with pytest.raises(StorageError, match=r"a\.zip is not unpacked: .* would become 90,000,000"):
        unpack_zip(path, tmp_path / "a")
    with pytest.raises(StorageError, match=r"a\.zip is not unpacked"):
        unpack_zip(path, tmp_path / "a", max_ratio=1e9)
    assert not (tmp_path / "a").exists()


# One file that is two things


def test_a_file_is_what_it_is_read_as(tmp_path: Path):
    picture = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(picture, "PNG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("values.npy", npy("(6, 2)"))
    both = picture.getvalue() + archive.getvalue()
    assert open_picture(put(tmp_path, "both.png", both)).size == (4, 3)
    with pytest.raises(DataError, match=r"both\.npz"):  # numpy looks at the first bytes, as it should
        read_features(put(tmp_path, "both.npz", both), "image", ITEMS)
    with pytest.raises(DataError, match=r"both\.csv"):
        read_interactions(put(tmp_path, "both.csv", both))


@pytest.mark.parametrize(
    "name",
    [
        "sales.csv",
        "sales.parquet",
        "sales.jsonl",
        "sales.csv.gz",
        "sales.jsonl.xz",
        "sales.jsonl.zst",
        "sales.csv.zst",
    ],
)
@pytest.mark.parametrize(
    "content",
    [b"<html><body>Not found</body></html>", b"%PDF-1.7\n", b"\x7fELF" + bytes(200), bytes(range(256))],
)
def test_what_is_no_table_by_any_name(tmp_path: Path, name: str, content: bytes):
    with pytest.raises(DataError, match=name):
        read_interactions(put(tmp_path, name, content))


def test_a_column_named_by_half_a_character_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'{"user_id": 1, "\\ud800": 2}\n')
    with pytest.raises(DataError, match="surrogates not allowed"):
        read_header(tmp_path / "a.jsonl")


def test_embeddings_that_look_packed_and_are_cut_are_refused(tmp_path: Path):
    path = tmp_path / "a.itememb"
    path.write_bytes(gzip.compress(b"iid:token\temb:float_seq\n1\t0.5 0.5\n" * 50)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        _read_embeddings(path)


# Recipes


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"model = \xff", b'model = "lightgcn"\n[settings]\nn_layers = ' + b"9" * 5000, b"a = " + b"[" * 5000,
     b'model = "lightgcn"\nplugins = ["sand"]\n[settings]\nsand = 3', b'model = "lightgcn"\n[settings]\nlearning_rate = nan',
     b'model = "lightgcn"\n[settings]\n"" = 1', b"\0", b'model = "../../etc/passwd"', b'model = "lightgcn"\nmodel = "vbpr"'],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_recipes_that_are_none(tmp_path: Path, content: bytes):
    path = put(tmp_path, "evil.toml", content)
    with pytest.raises(ConfigError):
        find_recipe(str(path)).configs()
    with pytest.raises(ConfigError):
        find_space(str(path))


def test_a_setting_of_endless_digits_is_text():
    digits = "9" * 5000
    assert parse_settings([f"field={digits}", "deep=" + "[" * 5000]) == {"field": digits, "deep": "[" * 5000}


def test_a_folder_of_rubbish_by_well_known_names(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = [
        "u.data",
        "ratings.csv",
        "shop.inter",
        "a.csv",
        "reviews_Baby_5.json.gz",
        "image_feat.npy",
        "x.parquet",
    ]
    for number, name in enumerate(names):
        put(tmp_path, name, rng.bytes(200 * number + 1))
    found = find_layout(tmp_path)
    assert found.name == "mmrec"  # by its names; what is in the files is seen when they are read
    with pytest.raises(DataError, match=r"shop\.inter"):
        found.read_interactions(BadRows(limit=1.0))
    with pytest.raises(DataError):
        find_layout(tmp_path, "tables").read_interactions(BadRows(limit=1.0))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "2024-13-01", "9" * 5000, "\0", ""])
def test_moments_that_are_none(text: str):
    with pytest.raises(ConfigError, match="the time"):
        read_moment(text)
