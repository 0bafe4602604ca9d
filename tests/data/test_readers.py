import bz2
import csv
import gzip
import json
import lzma
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data import quotes, tables
from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns
from triptych.data.filters import Filters
from triptych.data.interactions import TEST, TRAIN, VALID
from triptych.data.lines import COMPRESSIONS, zstd
from triptych.data.readers import interactions_from_frame, read_interactions, read_item_table
from triptych.data.tables import read_header, read_table
from triptych.errors import ConfigError, DataError, TriptychError

ROWS = [(11, 5, 4.5, 100, 0), (11, 7, 3.0, 200, 1), (2, 5, 1.0, 300, 0), (11, 5, 2.0, 50, 0)]
NAMES = ("user_id", "item_id", "rating", "timestamp", "x_label")
ALL = Columns(rating="rating", timestamp="timestamp", label="x_label")


def text(separator, names=NAMES):
    return "".join(separator.join(map(str, row)) + "\n" for row in (names, *ROWS))


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table():
    return pl.DataFrame(ROWS, schema=list(NAMES), orient="row")


FORMATS = {
    "a.csv": lambda path: path.write_text(text(",")),
    "crlf.CSV": lambda path: path.write_bytes(b"\xef\xbb\xbf" + text(",").replace("\n", "\r\n").encode()),
    "blank.csv": lambda path: path.write_text(text(",").replace("\n", "\n\n")),
    "quoted.csv": lambda path: path.write_text(text(",").replace("user_id", '"user_id"')),
    "brackets[1].csv": lambda path: path.write_text(text(",")),
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(text(",").encode())),
    "a.csv.zst": lambda path: table().write_csv(path, compression="zstd"),
    "a.jsonl.zst": lambda path: table().write_ndjson(path, compression="zstd"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(table().write_ndjson().encode())),
    "a.tsv": lambda path: path.write_text(text("\t")),
    "a.inter": lambda path: path.write_text(text("\t")),
    "typed.inter": lambda path: path.write_text(
        text("\t", ("user_id:token", "item_id:token", "rating:float", "timestamp:float", "x_label:float"))
    ),
    "a.parquet": lambda path: table().write_parquet(path),
    "int32.parquet": lambda path: (
        table().cast({pl.Int64: pl.Int32, pl.Float64: pl.Float32}).write_parquet(path)
    ),
    "a.jsonl": lambda path: table().write_ndjson(path),
    "brackets[1].ndjson": lambda path: table().write_ndjson(path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_interactions(tmp_path, name):
    FORMATS[name](tmp_path / name)
    data, steps, listed = read_interactions(tmp_path / name, ALL)
    expected = interactions_from_frame(table(), ALL).interactions
    assert data.content_hash == expected.content_hash
    assert steps == [
        {"step": "read", "rows": 4},
        {"step": "duplicates", "kept": "first", "interactions_removed": 1},
    ]
    assert listed.ids.tolist() == [5, 7]
    assert data.users.ids.tolist() == [2, 11]
    assert data.rating.tolist() == [1.0, 2.0, 3.0]
    assert data.label.tolist() == [TRAIN, TRAIN, VALID]


def test_an_inter_file_gives_its_columns_unasked(tmp_path):
    data = read_interactions(write(tmp_path, "a.inter", text("\t"))).interactions
    assert data.rating is not None
    assert data.timestamp is not None
    assert data.label is not None
    plain = read_interactions(write(tmp_path, "a.csv", text(","))).interactions
    assert plain.rating is plain.timestamp is plain.label is None


@pytest.mark.parametrize("suffix", ["csv", "tsv", "inter"])
def test_text_ids_keep_their_spelling(tmp_path, suffix):
    separator = "," if suffix == "csv" else "\t"
    lines = [separator.join(row) for row in (("user", "item"), ("007", "1"), ("7", "2"), ("-3", "9"))]
    data = read_interactions(write(tmp_path, f"a.{suffix}", "\n".join(lines))).interactions
    assert data.users.ids.tolist() == ["-3", "007", "7"]
    assert data.items.ids.tolist() == [1, 2, 9]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(-(2**64), 2**64), st.sampled_from(["+1", "-0", "01", "1_0", "1.0", "²"])))
)
def test_ids_become_integers_only_if_that_loses_nothing(tmp_path_factory, ids):
    spelled = [str(raw) for raw in ids] or ["0"]
    path = tmp_path_factory.mktemp("ids") / "a.csv"
    path.write_text("user,item\n" + "".join(f"{raw},1\n" for raw in spelled), encoding="utf-8")
    column = read_table(path)["user"]
    assert [str(raw) for raw in column] == spelled
    fits = all(isinstance(raw, int) and -(2**63) <= raw < 2**63 for raw in ids)
    assert (column.dtype == pl.Int64) == fits


@pytest.mark.parametrize(
    ("user", "item"),
    [("userID", "itemID"), ("userId", "movieId"), ("user", "item"), ("uid", "iid"), ("reviewerID", "asin")],
)
def test_well_known_names_are_found(user, item):
    data = interactions_from_frame(pl.DataFrame({"rating": [1.0], item: [2], user: [3]})).interactions
    assert (data.users.ids.tolist(), data.items.ids.tolist()) == ([3], [2])


def test_a_guess_that_is_not_clear_lists_the_columns():
    frame = pl.DataFrame({"user_id": ["a"], "asin": ["b"], "parent_asin": ["c"]})
    with pytest.raises(DataError, match=r"user_id, asin, parent_asin.*--item COLUMN"):
        interactions_from_frame(frame)
    with pytest.raises(
        DataError, match=r"no column has a well-known name for --user.*who, asin.*--user COLUMN"
    ):
        interactions_from_frame(pl.DataFrame({"who": ["a"], "asin": ["b"]}))
    data = interactions_from_frame(frame, Columns(item="parent_asin")).interactions
    assert data.items.ids.tolist() == ["c"]
    with pytest.raises(DataError, match=r"no column 'score' \(--rating\).*user_id, asin, parent_asin"):
        interactions_from_frame(frame, Columns(item="asin", rating="score"))


def test_a_threshold_counts_what_it_drops():
    data, steps, listed = interactions_from_frame(table(), ALL, filters=Filters(min_rating=2.0))
    assert [step.get("interactions_removed") for step in steps] == [None, 1, 1]
    assert data.n_users == 1
    assert listed.ids.tolist() == [5, 7]
    with pytest.raises(ConfigError, match="--rating COLUMN"):
        interactions_from_frame(table(), filters=Filters(min_rating=2.0))
    with pytest.raises(DataError, match="no interactions"):
        interactions_from_frame(table(), ALL, filters=Filters(min_rating=9.0))


@pytest.mark.parametrize(
    "times",
    [
        [0, 86_400],
        [0.0, 86_400.0],
        ["0", "86400.0"],
        ["1970-01-01", "1970-01-02"],
        ["01.01.1970", "2.1.1970"],
        ["1970-01-01 00:00:00 UTC", "1970-01-02 00:00:00 UTC"],
        ["1970-01-01T01:00:00+01:00", "1970-01-02T00:00:00Z"],
        [date(1970, 1, 1), date(1970, 1, 2)],
        [datetime(1970, 1, 1), datetime(1970, 1, 2)],
        [datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 2, tzinfo=UTC)],
    ],
)
def test_times_are_numbers_or_dates(times):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "when": times})
    data = interactions_from_frame(frame, Columns(timestamp="when")).interactions
    assert data.timestamp.tolist() == [0.0, 86_400.0]
    assert data.timestamp.dtype == np.float64


def test_labels_by_word_number_or_given_meaning():
    frame = pl.DataFrame({"user": [1, 1, 1], "item": [1, 2, 3]})
    for labels, meaning in (
        ([0, 1, 2], None),
        ([0.0, 1.0, 2.0], None),
        (["train", "valid", "test"], None),
        (["a", "b", "c"], {"a": TRAIN, "b": VALID, "c": TEST}),
    ):
        labelled = frame.with_columns(pl.Series("part", labels))
        data = interactions_from_frame(labelled, Columns(label="part"), label_meaning=meaning).interactions
        assert data.label.tolist() == [TRAIN, VALID, TEST]
        assert data.label.dtype == np.int8
    with pytest.raises(ConfigError, match="--label COLUMN"):
        interactions_from_frame(frame, label_meaning={"0": TRAIN})


VALUES = [
    ("rating", [5, None], r"'rating' holds None in data row 2"),
    ("rating", [5.0, float("nan")], r"'rating' holds nan in data row 2"),
    ("rating", [5.0, float("inf")], r"'rating' holds inf in data row 2"),
    ("rating", ["good", "5"], r"'rating' holds 'good' in data row 1"),
    ("rating", [[1], [2]], r"'rating' holds List\(Int64\) values; wanted numbers"),
    ("timestamp", ["2024-01-01", "yesterday"], r"'timestamp' holds 'yesterday' in data row 2"),
    ("timestamp", ["5", "2024-01-01"], r"'timestamp' holds '2024-01-01' in data row 2"),
    ("timestamp", [datetime(2024, 1, 1), None], r"'timestamp' holds None in data row 2"),
    ("label", ["train", "dev"], r"'label' holds the unknown labels 'dev'.*--label-meaning"),
    ("label", [0, None], r"'label' holds None in data row 2"),
    ("label", [0.5, 1.0], r"unknown labels '0.5'"),
    ("user", ["a", None], r"no usable user: column 'user' holds None in data row 2"),
    ("user", ["", "b"], r"'user' holds '' in data row 1"),
    ("user", ["a", "a\0"], r"'user' holds 'a\\x00' in data row 2"),
    ("user", ["a\0b", "a"], r"'user' holds 'a\\x00b' in data row 1"),
    ("timestamp", [-5, 100], r"'timestamp' holds -5 in data row 1"),
    ("timestamp", [1e9, 5e10], r"'timestamp' holds 50000000000.0 in data row 2"),
    ("user", [1.5, 2.0], r"'user' holds Float64 values"),
    ("user", [True, False], r"'user' holds Boolean values"),
]


@pytest.mark.parametrize(("role", "values", "message"), VALUES)
def test_a_bad_value_is_named_with_column_and_row(tmp_path, role, values, message):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2]}).with_columns(pl.Series(role, values, strict=False))
    columns = Columns() if role == "user" else Columns(**{role: role})
    frame.write_parquet(tmp_path / "shop.parquet")
    with pytest.raises(DataError, match=r"shop\.parquet: .*" + message):
        read_interactions(tmp_path / "shop.parquet", columns)


def test_integers_beyond_64_bits_are_no_ids():
    frame = pl.DataFrame({"user": pl.Series([1, 2**63 + 5], dtype=pl.UInt64), "item": [1, 2]})
    with pytest.raises(DataError, match=r"'user' holds 9223372036854775813 in data row 2"):
        interactions_from_frame(frame)


def parquet_bytes():
    import io

    file = io.BytesIO()
    table().write_parquet(file)
    return file.getvalue()


BAD_FILES = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n\n", "cannot be read"),
    "header.csv": (b"user,item\n", "holds no rows"),
    "long.csv": (b"user,item\n1,2\n3,4,5\n", "1 of 2 rows.*line 3 holds more fields"),
    "short.csv": (b"user,item\n1,2\n3\n", "'item' holds None in data row 2"),
    "quote.csv": (b'user,item\n"1,2\n3,4\n', "2 of 2 rows.*badly quoted: line 2 to 3: unexpected end"),
    "quote.csv.gz": (gzip.compress(b'user,item\n1,"2" x\n3,4\n5,"6" x\n'), "2 of 3 rows.*line 2:.*line 4:"),
    "latin.csv": (b"user,item\n\xe9,2\n", "not utf-8: line 2, which another encoding may read"),
    "twice.csv": (b"user,item,item\n1,2,3\n", "names 'item' twice"),
    "twice.inter": (b"user:token\titem:token\titem:float\n1\t2\t3\n", "names 'item' twice"),
    "twice.tsv": (b"user\titem\t\titem\n1\t2\t3\t4\n", "names 'item' twice"),
    "long-twice.csv": (b"user,item,item\n1,2,3,4\n", "names 'item' twice"),
    "cut.csv.gz": (gzip.compress(text(",").encode() * 50)[:-30], "cannot be read"),
    "cut.parquet": (parquet_bytes()[:-20], "cannot be read"),
    "junk.parquet": (b"PAR1" + bytes(30) + b"PAR1", "cannot be read"),
    "rows.parquet": (b"user,item\n1,2\n", "cannot be read"),
    "cut.jsonl": (b'{"user": 1, "item": 2}\n{"user": 3, "it', "1 of 2 rows.*line 2"),
    "list.jsonl": (b"[1, 2]\n", "1 of 1 rows.*line 1: list instead of an object"),
    "prose.jsonl": (b"once upon a time\n", "1 of 1 rows.*line 1: Expecting value"),
    "table.xlsx": (b"PK\3\4", r"suffix '\.xlsx'; wanted a table: \.csv.*\.parquet"),
    "model.pkl": (b"\x80\x04.", r"suffix '\.pkl'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, name):
    content, message = BAD_FILES[name]
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=f"(?s){name}.*{message}"):
        read_interactions(path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_no_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv is a folder"):
        read_table(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.inter", "a.parquet", "a.jsonl"])
def test_damage_anywhere_gives_a_typed_error_or_a_table(tmp_path, name):
    FORMATS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    rng, messages = np.random.default_rng(0), []
    for _ in range(5 if name.endswith("parquet") else 60):  # Parquet is tried in a process of its own
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for at in rng.integers(0, len(damaged), 2):
            damaged[at] = rng.integers(0, 256)
        path = write(tmp_path, name, bytes(damaged))
        try:
            read_interactions(path)
        except TriptychError as error:
            messages.append(str(error))
    assert messages
    assert all(name in message for message in messages)


def test_a_panic_in_the_parquet_reader_is_an_error_like_others(tmp_path, monkeypatch):
    def panic(path, bad, encoding):
        raise pl.exceptions.PanicException("assertion failed")

    FORMATS["a.parquet"](tmp_path / "a.parquet")
    monkeypatch.setitem(tables._READERS, ".parquet", panic)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read: assertion failed"):
        read_table(tmp_path / "a.parquet")


def test_item_table_names_its_columns(tmp_path):
    path = tmp_path / "items.jsonl"
    rows = [{"itemID": 3, "asin": "B1", "name": "Mug"}, {"itemID": 1, "asin": "B2", "name": None}]
    path.write_text("\n".join(map(json.dumps, rows)))
    items = read_item_table(path, like="itemID")
    assert items.columns == ["item_id", "title", "asin"]
    assert items.rows() == [(3, "Mug", "B1"), (1, None, "B2")]
    assert read_item_table(path, item="asin", title="itemID").rows() == [
        ("B1", "3", "Mug"),
        ("B2", "1", None),
    ]
    with pytest.raises(
        DataError,
        match=r"items\.jsonl: more than one column could be meant for --item-column:.*Name it with --item-column COLUMN",
    ):
        read_item_table(path)
    with pytest.raises(DataError, match=r"no column 'titel' \(--title\).*"):
        read_item_table(path, item="asin", title="titel")


def test_recbole_item_files_are_item_tables(tmp_path):
    path = write(tmp_path, "ml.item", 'item_id:token\tmovie_title:token_seq\n1\tThe "X" Files\n2\tHeat\n')
    items = read_item_table(path, title="movie_title")
    assert items.rows() == [(1, 'The "X" Files'), (2, "Heat")]


def test_an_item_with_two_rows_is_refused(tmp_path):
    path = write(tmp_path, "items.csv", "item,title\n5,a\n6,b\n5,c\n")
    with pytest.raises(
        DataError,
        match=r"items\.csv: 1 of 3 rows cannot be used: repeated item: column 'item' holds 5 in data row 3",
    ):
        read_item_table(path)


@pytest.mark.parametrize(
    ("names", "title", "expected"),
    [
        ("sku,name,title,item_id", None, {"item_id": "a", "title": "c", "name": "b", "item_id_2": "d"}),
        (
            "sku,Name,item_id_2,item_id",
            None,
            {"item_id": "a", "title": "b", "item_id_2": "c", "item_id_3": "d"},
        ),
        ("sku,label,title,name", "label", {"item_id": "a", "title": "b", "title_2": "c", "name": "d"}),
    ],
)
def test_no_column_of_an_item_table_is_lost(tmp_path, names, title, expected):
    path = write(tmp_path, "items.csv", f"{names}\na,b,c,d\n")
    assert read_item_table(path, like="sku", title=title).row(0, named=True) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (",user,item\n0,u1,i1\n", {"column_1": 0, "user": "u1", "item": "i1"}),
        ("user;item;\nu1;i1;\n", {"user": "u1", "item": "i1", "column_3": None}),
        (
            "user,column_3,,\nu1,i1,x,y\n",
            {"user": "u1", "column_3": "i1", "column_3_2": "x", "column_4": "y"},
        ),
        (
            ',user,,"item"\nx,u1,y,i1\nx,u2,y,i2,z\n',
            {"column_1": "x", "user": "u1", "column_3": "y", "item": "i1"},
        ),
        ("user,a_duplicated_0\nu1,i1\n", {"user": "u1", "a_duplicated_0": "i1"}),
    ],
)
def test_a_column_without_a_name_is_named_by_its_place(tmp_path, content, expected):
    path = write(tmp_path, "a.csv", content)
    assert read_table(path, BadRows(limit=0.5)).row(0, named=True) == expected
    assert tables.read_header(path) == list(expected)


BETWEEN = [f"s{n},x{n},{n}" for n in range(4, 9)]


@pytest.mark.parametrize("field", ['"5" tablet"', '"5\\" tablet"', '"5"tablet"', '"5\\" or 7\\" tablet"'])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
def test_rows_between_two_badly_quoted_ones_are_kept(tmp_path, field, name):
    lines = ["s,name,n", f"s3,{field},3", *BETWEEN, f"s9,{field},9", "s10,z,10"]
    text = "".join(f"{line}\n" for line in lines).replace(",", "\t" if "tsv" in name else ",")
    path = write(tmp_path, name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    bad = BadRows(limit=0.5)
    frame = read_table(path, bad)
    assert frame["s"].to_list() == ["s4", "s5", "s6", "s7", "s8", "s10"]
    assert frame["name"].to_list() == ["x4", "x5", "x6", "x7", "x8", "z"]
    assert bad.of(name)["left_out"] == {"badly quoted": 2}
    assert [shown.split(":")[1] for shown in bad.of(name)["first_left_out"]] == [" line 2", " line 8"]
    with pytest.raises(DataError, match=f"{name}: 2 of 8 rows cannot be used: badly quoted: line 2"):
        read_table(path)


def test_lines_within_a_badly_quoted_row_are_counted_one_by_one(tmp_path):
    path = write(tmp_path, "a.csv", 's,name\n1,"5\n2,x\n3,"y" z\n4,"6"\n')
    bad = BadRows(limit=0.9)
    assert read_table(path, bad).rows() == [(4, 6)]
    assert bad.of("a.csv")["left_out"] == {"badly quoted": 3}
    assert "line 2 to 4" in bad.of("a.csv")["first_left_out"][0]


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd.compress}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_tables_are_read_as_others_are(tmp_path, suffix):
    path = tmp_path / f"a.csv{suffix}"
    text = 's,name\nä1,"5" tablet"\nä2,"a ""b""\nc,"\nä3,x\n'
    path.write_bytes(COMPRESS[suffix](text.encode("latin-1")))
    bad = BadRows(limit=0.5)
    assert read_header(path, "latin-1") == ["s", "name"]
    assert read_table(path, bad, encoding="latin-1").rows() == [("ä2", 'a "b"\nc,'), ("ä3", "x")]
    assert bad.of(path.name)["left_out"] == {"badly quoted": 1}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compressed_tables_that_end_early_are_refused(tmp_path, suffix, kind):
    lines = {"csv": "user,item\n" + "1,2\n" * 50_000, "jsonl": '{"user": 1, "item": 2}\n' * 50_000}
    whole = COMPRESS[suffix](lines[kind].encode())
    path = tmp_path / f"a.{kind}{suffix}"
    path.write_bytes(whole)
    assert read_table(path).height == 50_000
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a"):
        read_table(path)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.lists(st.text(st.sampled_from('ab",\\ \n'), max_size=6).map("x".__add__), min_size=2, max_size=2),
        min_size=1,
    )
)
def test_what_is_quoted_rightly_is_read_as_it_was_written_but_for_spaces_around_it(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("quoted") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("user", "item"), *rows])
    assert read_table(path).rows() == [tuple(field.strip() for field in row) for row in rows]


def test_pieces_of_a_text_share_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(quotes, "_PART_BYTES", 16)
    rows = "".join(f'{n},"a\n""b"", c\nd"\n' for n in range(9))
    assert read_table(write(tmp_path, "a.csv", "n,text\n" + rows))["text"].to_list() == ['a\n"b", c\nd'] * 9
    path = write(tmp_path, "b.csv", "n,text\n" + rows + '9,"5" x"\n' + rows + '9,"5" x"\n')
    bad = BadRows(limit=0.5)
    assert read_table(path, bad).height == 18
    assert bad.count("b.csv") == 2


DAY = 86_400.0


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([19700102, 0, 19700103], [DAY, None, 2 * DAY]),
        ([19700102, 0, 0, 0], [DAY, None, None, None]),
        (["19700102", "00000000", "19700103", "99991231"], [DAY, None, 2 * DAY, None]),
        ([19700102.0, 19700103.0, 19709999.0], [DAY, 2 * DAY, None]),
        ([19700102, 19700103, 19700231], [DAY, 2 * DAY, None]),
        ([19700102, 19700103, 1700000000], [DAY, 2 * DAY, None]),
        ([1971, 1970, 0], [365 * DAY, 0.0, None]),
        ([20240131, 1_700_000_000, 1_700_000_001], [20240131.0, 1.7e9, 1_700_000_001.0]),
        ([0, 2000, 5, 6, 7], [0.0, 2000.0, 5.0, 6.0, 7.0]),
        ([19700102.5, 19700103.5], [19700102.5, 19700103.5]),
    ],
)
def test_days_and_years_are_told_by_most_of_their_column(times, expected):
    frame = pl.DataFrame({"user": range(len(times)), "item": range(len(times)), "when": times})
    bad = BadRows(limit=1.0)
    data = interactions_from_frame(frame, Columns(timestamp="when"), bad=bad).interactions
    assert dict(zip(data.users.ids.tolist(), data.timestamp.tolist(), strict=True)) == {
        user: time for user, time in enumerate(expected) if time is not None
    }
    unusable = expected.count(None)
    assert bad.of("table").get("left_out", {}) == ({"no usable timestamp": unusable} if unusable else {})
