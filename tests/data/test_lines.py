import bz2
import gzip
import json
import lzma

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.bad_rows import BadRows
from triptych.data.json_records import read_json_lines
from triptych.data.lines import read_chunks, read_lines
from triptych.errors import DataError

FIELDS = {"user": pl.String, "stars": pl.Float64, "time": pl.Int64, "tags": pl.List(pl.String)}
GOOD = b'{"user": "a", "stars": 5, "time": 7, "tags": ["x", "y"], "other": {"deep": [1]}}\n'


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=30),
    st.integers(1, 9),
)
def test_pieces_are_whole_lines_in_order(tmp_path_factory, lines, chunk_bytes):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    content = b"\n".join([b"first", *lines])
    path.write_bytes(content)
    chunks = list(read_chunks(path, chunk_bytes))
    assert b"".join(chunk.data for chunk in chunks) == content
    assert all(chunk.data.endswith(b"\n") for chunk in chunks[:-1])
    for chunk in chunks:
        assert content.split(b"\n")[chunk.first_line - 1] == chunk.data.split(b"\n")[0]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_compressed_or_not_with_or_without_a_byte_order_mark(tmp_path, suffix, pack):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(b"\xef\xbb\xbf" + b'\n{"user": 1}\r\n  \n{"user": 2}'))
    assert list(read_lines(path)) == [(2, b'{"user": 1}'), (4, b'{"user": 2}')]
    assert read_json_lines(path)["user"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_an_early_end_is_an_error_that_says_where(tmp_path, suffix, pack):
    path = tmp_path / f"a.jsonl{suffix}"
    whole = pack(b"".join(json.dumps({"n": n, "word": str(n) * 9}).encode() + b"\n" for n in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"a\.jsonl.* ends early or is damaged in or after line \d.*Download or copy it again"
    ):
        read_json_lines(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="ends early or is damaged"):
        read_json_lines(path)


def test_utf16_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"user": 1}'.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read_json_lines(path)


def test_only_the_fields_asked_for_in_their_types(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b'{"user": "b"}\n')
    frame = read_json_lines(path, FIELDS)
    assert frame.schema == pl.Schema(FIELDS)
    assert frame.rows() == [("a", 5.0, 7, ["x", "y"]), ("b", None, None, None)]


DAMAGED = [
    (b"not json\n", "Expecting value"),
    (b'{"user": "c", "stars"\n', "Expecting"),
    (b"[1, 2]\n", "list instead of an object"),
    (b'{"user": "\xff"}\n', "utf-8"),
    (b"\0\0\0\0\n", "Expecting value"),
    (b'{"user": "c"}{"user": "d"}\n', "Extra data"),
]


@pytest.mark.parametrize(("line", "why"), DAMAGED)
def test_a_broken_line_is_left_out_counted_and_shown(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * 3 + line + GOOD * 6)
    bad = BadRows(limit=0.1)
    frame = read_json_lines(path, FIELDS, bad)
    assert frame.rows() == [("a", 5.0, 7, ["x", "y"])] * 9
    assert bad.all()["a.jsonl"]["left_out"] == {"no JSON object": 1}
    (example,) = bad.all()["a.jsonl"]["first_left_out"]
    assert example.startswith("no JSON object: line 4: ")
    assert why in example
    with pytest.raises(DataError, match=r"a\.jsonl: 1 of 10 rows cannot be used: no JSON object: line 4"):
        read_json_lines(path, FIELDS, BadRows(limit=0.09))
    with pytest.raises(DataError, match="line 4"):
        read_json_lines(path, FIELDS)


def test_line_numbers_hold_across_pieces(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b"oops\n" if n in (3, 40, 99) else GOOD for n in range(1, 101)))
    for chunk_bytes in (50, 1000, 1 << 20):
        monkeypatch.setattr(
            "triptych.data.lines.read_chunks", lambda file, size=chunk_bytes: read_chunks(file, size)
        )
        bad = BadRows(limit=0.05)
        assert read_json_lines(path, FIELDS, bad).height == 97
        shown = bad.of("a.jsonl")["first_left_out"]
        assert [text.split(":")[1].strip() for text in shown] == ["line 3", "line 40", "line 99"]


def test_values_of_another_type_are_null_and_cost_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        {"user": 5, "stars": "4.5", "time": "x", "tags": "y"},
        {"user": ["a"], "stars": True, "time": 3, "tags": [1, None, "z"]},
        {"user": {"a": 1}, "stars": None, "time": None, "tags": []},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_json_lines(path, FIELDS).rows() == [
        ("5", 4.5, None, None),
        ('["a"]', 1.0, 3, ["1", None, "z"]),
        ('{"a": 1}', None, None, []),
    ]


def test_counts_are_kept_by_file_and_reason():
    bad = BadRows(limit=0.5)
    bad.add("a", "torn", 0)
    assert bad.all() == {}
    bad.add("a", "torn", 2, ["line 1: x", "line 2: y"])
    bad.add("a", "odd", 9, (f"line {n}" for n in range(9)))
    assert bad.count("a") == 11
    assert bad.of("a")["left_out"] == {"torn": 2, "odd": 9}
    assert bad.of("a")["first_left_out"] == [
        "torn: line 1: x",
        "torn: line 2: y",
        "odd: line 0",
        "odd: line 1",
        "odd: line 2",
    ]
    bad.check("a", 22)
    bad.check("b", 0)
    with pytest.raises(DataError, match=r"a: 11 of 21 rows.*--max-bad"):
        bad.check("a", 21)
