import gzip
import json
import struct
import time

import numpy as np
import polars as pl
import pytest

from triptych.data import lines
from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns
from triptych.data.ids import IdMap
from triptych.data.interactions import TEST, TRAIN, VALID
from triptych.data.layouts import amazon
from triptych.data.layouts.amazon import Amazon2014, Amazon2018, Amazon2023, describe
from triptych.data.readers import interactions_from_frame
from triptych.errors import DataError

YEARS = (Amazon2014, Amazon2018, Amazon2023)
OLD = Columns("reviewerID", "asin", "overall", "unixReviewTime")
NEW = Columns("user_id", "parent_asin", "rating", "timestamp")

ROWS = [
    ("A1HK2FQW6KXQB2", "097293751X", 5.0, 1373932800),
    ("A19K65VY14D13R", "097293751X", 4.0, 1372464000),
    ("A1HK2FQW6KXQB2", "9729375011", 1.0, 1376697600),
]
ROWS_2023 = [
    ("AGKASBHYZPGTEPO6LWZPVJWB2BVA", "B006GBITXC", 3.0, 1452647382000),
    ("AGKASBHYZPGTEPO6LWZPVJWB2BVA", "B00TLEMSVK", 4.0, 1454675785000),
    ("AEXAMPLEEXAMPLEEXAMPLEEXAMPL", "B006GBITXC", 5.0, 1588615855070),
]


def review(user, item, rating, seconds):
    return {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": seconds}


def review_2014(user, item, rating, seconds):
    return {
        "reviewerID": user, "asin": item, "reviewerName": "Amanda Johnsen \"Amanda\"", "helpful": [0, 1],
        "reviewText": "Perfect, \u00e9ven for\nnew parents", "overall": rating, "summary": "Awesine",
        "unixReviewTime": seconds, "reviewTime": "07 16, 2013",
    }  # fmt: skip


def review_2018(user, item, rating, seconds):
    return {
        "overall": rating, "vote": "1,015", "verified": True, "reviewTime": "07 16, 2013", "reviewerID": user,
        "asin": item, "style": {"Format:": " Hardcover"}, "reviewerName": None, "reviewText": "Good",
        "summary": "Good", "unixReviewTime": seconds, "image": ["https://images.example/I/1._SY88.jpg"],
    }  # fmt: skip


def review_2023(user, item, rating, milliseconds):
    images = [{"small_image_url": "https://m.example/1.jpg", "attachment_type": "IMAGE"}]
    return {
        "rating": rating, "title": "Works, \"asin\": \"B0\"", "text": "Fine<br />", "images": images, "asin": "B0OTHER123",
        "parent_asin": item, "user_id": user, "timestamp": milliseconds, "helpful_vote": 0, "verified_purchase": True,
    }  # fmt: skip


def json_lines(review, rows):
    return "".join(json.dumps(review(*row)) + "\n" for row in rows)


def table(rows, *, header="", order=(0, 1, 2, 3)):
    return header + "".join(",".join(str(row[at]) for at in order) + "\n" for row in rows)


HEADER = "user_id,parent_asin,rating,timestamp"
ITEM_FIRST = (1, 0, 2, 3)
WITH_HISTORY = (
    HEADER + ",history\n" + "".join(table([row]).strip() + ",B000000001 B000000002\n" for row in ROWS_2023)
)
FILES = {
    "reviews_Baby_5.json.gz": (Amazon2014, json_lines(review_2014, ROWS)),
    "reviews_Baby.json": (Amazon2014, json_lines(review_2014, ROWS)),
    "ratings_Baby.csv": (Amazon2014, table(ROWS)),
    "Baby_5.json.gz": (Amazon2018, json_lines(review_2018, ROWS)),
    "Baby.json.xz": (Amazon2018, json_lines(review_2018, ROWS)),
    "Baby.csv": (Amazon2018, table(ROWS, order=ITEM_FIRST)),
    "Baby.csv.gz": (Amazon2018, table(ROWS, order=ITEM_FIRST)),
    "Baby.jsonl": (Amazon2023, json_lines(review_2023, ROWS_2023)),
    "Baby.jsonl.gz": (Amazon2023, json_lines(review_2023, ROWS_2023)),
    "Baby.csv.bz2": (Amazon2023, table(ROWS_2023, header=HEADER + "\n")),
    "Baby_with_history.csv": (Amazon2023, WITH_HISTORY),
    "marked.csv": (Amazon2023, "\ufeff" + WITH_HISTORY),
    "marked.json": (Amazon2018, "\ufeff" + json_lines(review_2018, ROWS)),
}


def write(folder, name, text):
    data = text if isinstance(text, bytes) else text.encode()
    path = folder / name
    with {".gz": gzip.open, ".bz2": lines.bz2.open, ".xz": lines.lzma.open}.get(path.suffix, open)(
        path, "wb"
    ) as file:
        file.write(data)
    return path


def ids(*raw):
    return IdMap(np.array(sorted(raw)), "item")


def found(path):
    # the one layout, of the three, that recognises a path; None if none does
    layouts = [layout for year in YEARS if (layout := year.find(path)) is not None]
    assert len(layouts) <= 1
    return layouts[0] if layouts else None


def numbers(frame, columns):
    names = [columns.user, columns.item, columns.rating, columns.timestamp]
    kinds = [pl.String, pl.String, pl.Float64, pl.Int64]
    return frame.select(pl.col(name).cast(kind) for name, kind in zip(names, kinds, strict=True)).rows()


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_known_and_read(tmp_path, name):
    year, text = FILES[name]
    layout, bad = found(write(tmp_path, name, text)), BadRows()
    assert type(layout) is year
    assert layout.files == {"interactions": tmp_path / name}
    frame, columns = layout.read_interactions(bad)
    assert columns == (NEW if year is Amazon2023 else OLD)
    assert frame.columns == [columns.user, columns.item, columns.rating, columns.timestamp]
    assert numbers(frame, columns) == (ROWS_2023 if year is Amazon2023 else ROWS)
    assert bad.all() == {}
    data = interactions_from_frame(frame, columns).interactions
    assert (data.n_users, data.n_items, len(data)) == (2, 2, 3)
    assert layout.read_items(data.items, bad) is None
    assert layout.modalities == ()


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_file_is_the_same_as_the_file(tmp_path, name):
    year, text = FILES[name]
    path = write(tmp_path, name, text)
    write(tmp_path, "README.md", "notes")
    write(tmp_path, "qa_Baby.json", '{"asin": "B1", "question": "?"}\n')
    assert found(tmp_path) == year.find(path)


def test_the_names_are_their_own():
    assert [year.name for year in YEARS] == ["amazon-2014", "amazon-2018", "amazon-2023"]
    assert len({year.title for year in YEARS}) == 3


@pytest.mark.parametrize(
    ("name", "text", "year"),
    [
        ("Baby_5.json", json_lines(review_2014, ROWS), Amazon2014),  # renamed
        ("reviews_Baby.json", json_lines(review_2018, ROWS), Amazon2018),
        ("reviews_Baby.json", json_lines(review_2023, ROWS_2023), Amazon2023),
        ("Baby.csv", table(ROWS), Amazon2014),
        ("ratings_Baby.csv", table(ROWS, order=ITEM_FIRST), Amazon2018),
        ("ratings_Baby.csv", table(ROWS_2023, header=HEADER + "\n"), Amazon2023),
        # ids of users and items that look alike: the other rows tell, and if none does, the name
        ("Baby.csv", table([("A123456789", "AB23456789", 5.0, 1), *ROWS]), Amazon2014),
        ("Baby.csv", table([("A123456789", "AB23456789", 5.0, 1)]), Amazon2018),
        ("ratings_Baby.csv", table([("A123456789", "AB23456789", 5.0, 1)]), Amazon2014),
        # lines that hold neither "helpful" nor "verified"
        ("Baby.json", json_lines(review, ROWS), Amazon2018),
        ("reviews_Baby.json", json_lines(review, ROWS), Amazon2014),
        # the first line may be among those that are left out
        ("Baby.json", '{"overall": 5\n' + json_lines(review_2018, ROWS), Amazon2018),
        ("ratings_Baby.csv", "A1,B1\n" + table(ROWS), Amazon2014),
    ],
)  # fmt: skip
def test_what_a_file_begins_with_tells_before_its_name(tmp_path, name, text, year):
    assert type(found(write(tmp_path, name, text))) is year


OTHERS = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n",
    "ratings_Baby.csv": "1,2,3.5,1112486027\n",
    "items.csv": "asin,title\nB000000001,Mug\n",
    "yelp.json": '{"review_id": "a", "user_id": "b", "business_id": "c", "stars": 4.0}\n',
    "meta_Baby.json": "{'asin': '0000031852', 'title': 'Tutu'}\n",
    "meta_Baby.jsonl": '{"parent_asin": "B000000001", "title": "Mug"}\n',
    "reviews_list.json": "[1, 2]\n",
    "reviews_deep.json": "[" * 100_000,
    "reviews_Baby.json.gz": "",
    "image_features_Baby.b": "B000000001",
    "Baby.inter": "user_id\titem_id\n1\t2\n",
    "Baby.json.txt": json_lines(review_2018, ROWS),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_and_folders_of_them_are_not_these(tmp_path, name):
    path = write(tmp_path, name, OTHERS[name])
    assert found(path) is None
    assert found(tmp_path) is None


def test_what_cannot_be_opened_is_not_these(tmp_path):
    assert found(tmp_path) is None
    assert found(tmp_path / "none.json") is None
    (tmp_path / "Baby.json").mkdir()
    (tmp_path / "Baby_5.json.gz").write_bytes(b"this is not gzip")
    assert found(tmp_path) is None


def test_finding_reads_no_more_than_the_beginning(tmp_path, monkeypatch):
    sizes = []

    class Counting:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def readline(self, limit):
            line = self.file.readline(limit)
            sizes.append(len(line))
            return line

    monkeypatch.setattr(lines, "open_bytes", lambda path: Counting(path.open("rb")))
    write(tmp_path, "Baby.json", json_lines(review_2018, ROWS * 1000))
    assert found(tmp_path) is not None
    assert len(sizes) == 3 * amazon._FIRST_LINES
    sizes.clear()
    write(tmp_path, "Baby.json", "[" + "1," * 1_000_000)
    assert found(tmp_path) is None
    assert max(sizes) == lines.FIRST_BYTES


def test_the_files_of_a_category_are_taken_together(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for folder, category in ((tmp_path, "Baby"), (other, "Toys_and_Games")):
        write(folder, f"reviews_{category}_5.json.gz", json_lines(review_2014, ROWS))
        write(folder, f"meta_{category}.json.gz", "{'asin': '097293751X'}\n")
    write(tmp_path, "meta_Toys.json.gz", "{'asin': '097293751X'}\n")
    write(tmp_path, "image_features_Baby.b", b"")
    expected = {
        "interactions": tmp_path / "reviews_Baby_5.json.gz",
        "items": tmp_path / "meta_Baby.json.gz",
        "image": tmp_path / "image_features_Baby.b",
    }
    assert found(tmp_path).files == expected
    assert found(tmp_path / "reviews_Baby_5.json.gz").files == expected
    assert found(tmp_path).modalities == ("image",)
    assert found(other).files == {
        "interactions": other / "reviews_Toys_and_Games_5.json.gz",
        "items": other / "meta_Toys_and_Games.json.gz",
    }


def test_two_years_in_one_folder_keep_their_item_files(tmp_path):
    write(tmp_path, "Video_Games.json.gz", json_lines(review_2018, ROWS))
    write(tmp_path, "meta_Video_Games.json.gz", '{"asin": "097293751X"}\n')
    write(tmp_path, "Video_Games.jsonl.gz", json_lines(review_2023, ROWS_2023))
    write(tmp_path, "meta_Video_Games.jsonl.gz", '{"parent_asin": "B006GBITXC"}\n')
    assert Amazon2014.find(tmp_path) is None
    for year, suffix in ((Amazon2018, "json.gz"), (Amazon2023, "jsonl.gz")):
        assert {role: file.name for role, file in year.find(tmp_path).files.items()} == {
            "interactions": f"Video_Games.{suffix}",
            "items": f"meta_Video_Games.{suffix}",
        }


def test_several_categories_are_named_and_one_file_asked_for(tmp_path):
    write(tmp_path, "reviews_Baby_5.json.gz", json_lines(review_2014, ROWS))
    path = write(tmp_path, "ratings_Beauty.csv", table(ROWS))
    with pytest.raises(
        DataError, match=r"files of 2 categories: Baby, Beauty; wanted one.*ratings_Beauty\.csv"
    ):
        Amazon2014.find(tmp_path)
    assert Amazon2014.find(path).files == {"interactions": path}
    assert Amazon2018.find(tmp_path) is None


def test_five_core_reviews_come_before_all_reviews_before_ratings(tmp_path):
    preferred = []
    for name, text in (
        ("ratings_Baby.csv", table(ROWS)),
        ("reviews_Baby.json.gz", json_lines(review_2014, ROWS)),
        ("reviews_Baby_5.json.gz", json_lines(review_2014, ROWS)),
        ("reviews_Baby_5.json", json_lines(review_2014, ROWS)),  # unpacked, the other kept
    ):
        write(tmp_path, name, text)
        preferred.append(found(tmp_path).files["interactions"].name)
    assert preferred == [
        "ratings_Baby.csv", "reviews_Baby.json.gz", "reviews_Baby_5.json.gz", "reviews_Baby_5.json",
    ]  # fmt: skip
    assert found(tmp_path / "ratings_Baby.csv").files == {"interactions": tmp_path / "ratings_Baby.csv"}


def split(folder, parts=("train", "valid", "test")):
    for part, row in zip(("train", "valid", "test"), ROWS_2023, strict=True):
        if part in parts:
            write(folder, f"Baby_Products.{part}.csv.gz", table([row], header=HEADER + "\n"))


def test_a_given_split_is_read_together(tmp_path):
    split(tmp_path)
    write(tmp_path, "Baby_Products.jsonl.gz", json_lines(review_2023, ROWS_2023))
    write(tmp_path, "Baby_Products_5.csv", table(ROWS_2023, header=HEADER + "\n"))
    write(tmp_path, "meta_Baby_Products.jsonl.gz", "{}")
    for path in (tmp_path, tmp_path / "Baby_Products.valid.csv.gz"):
        layout = found(path)
        assert set(layout.files) == {"train", "valid", "test", "items"}
        frame, columns = layout.read_interactions(BadRows())
        assert columns == Columns("user_id", "parent_asin", "rating", "timestamp", "label")
        assert numbers(frame, columns) == ROWS_2023
        assert frame["label"].to_list() == [TRAIN, VALID, TEST]
        data = interactions_from_frame(frame, columns).interactions
        assert sorted(data.label.tolist()) == [0, 1, 2]


def test_a_split_with_histories_has_other_columns_in_one_part(tmp_path):
    split(tmp_path, ("train", "test"))
    write(tmp_path, "Baby_Products.valid.csv", WITH_HISTORY)
    frame, _ = found(tmp_path).read_interactions(BadRows())
    assert frame["label"].to_list() == [0, 1, 1, 1, 2]
    assert "history" not in frame.columns


def test_a_part_without_its_others_is_refused(tmp_path):
    split(tmp_path, ("train",))
    message = r"train\.csv\.gz is one part.*Baby_Products\.valid\.csv and Baby_Products\.test\.csv are not beside it"
    for path in (tmp_path, tmp_path / "Baby_Products.train.csv.gz"):
        with pytest.raises(DataError, match=message):
            Amazon2023.find(path)


def test_a_part_with_another_header_is_named(tmp_path):
    split(tmp_path, ("train", "valid"))
    write(tmp_path, "Baby_Products.test.csv", "user,item\na,b\n")
    with pytest.raises(
        DataError, match=r"test\.csv begins with 'user,item'; wanted a header with user_id, parent_asin"
    ):
        found(tmp_path).read_interactions(BadRows())


def test_parts_without_rows_are_empty(tmp_path):
    split(tmp_path, ("train",))
    write(tmp_path, "Baby_Products.valid.csv", HEADER + "\n")
    write(tmp_path, "Baby_Products.test.csv", "\n\n")
    frame, _ = found(tmp_path).read_interactions(BadRows())
    assert frame["label"].to_list() == [0]


def test_broken_rows_of_a_table_are_counted_with_their_lines(tmp_path):
    text = table(ROWS * 100).encode().replace(b"\n", b"\r\n")
    broken = b"A1HK2FQW6KXQB2,097293751X,5.0\nA1HK2FQW6KXQB2,097293751X,5.0,1,2\n\n"
    path = write(tmp_path, "ratings_Baby.csv", b"\xef\xbb\xbf" + text + broken + b"A\xff2,097293751X,5.0,1")
    layout, bad = found(path), BadRows(limit=0.01)
    frame, columns = layout.read_interactions(bad)
    assert numbers(frame, columns) == ROWS * 100
    assert bad.all()[path.name] == {
        "left_out": {"not 4 fields of UTF-8": 3},
        "first_left_out": [
            "not 4 fields of UTF-8: line 301: 'A1HK2FQW6KXQB2,097293751X,5.0'",
            "not 4 fields of UTF-8: line 302: 'A1HK2FQW6KXQB2,097293751X,5.0,1,2'",
            "not 4 fields of UTF-8: line 304: 'A\ufffd2,097293751X,5.0,1'",
        ],
    }
    with pytest.raises(DataError, match=r"ratings_Baby\.csv: 3 of 303 rows cannot be used.*line 301"):
        layout.read_interactions(BadRows(limit=0.0099))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 50, 1000])
@pytest.mark.parametrize("name", ["ratings_Baby.csv", "Baby_with_history.csv"])
def test_a_table_is_the_same_in_pieces_of_any_size(tmp_path, monkeypatch, chunk_bytes, name):
    layout = found(write(tmp_path, name, "\n" + FILES[name][1] + "A,B\n"))
    whole, _ = layout.read_interactions(BadRows(limit=1.0))
    bad = BadRows(limit=1.0)
    monkeypatch.setattr(amazon, "read_chunks", lambda path: lines.read_chunks(path, chunk_bytes))
    frame, _ = layout.read_interactions(bad)
    assert frame.equals(whole)
    assert whole.height == 3
    assert bad.all()[name]["first_left_out"][0].endswith(f"line {FILES[name][1].count(chr(10)) + 2}: 'A,B'")


def test_broken_reviews_are_counted_with_their_lines(tmp_path):
    text = "\ufeff" + json_lines(review_2014, ROWS * 50) + '{"reviewerID": "A1HK2F\n' + "\n[1]\n"
    path = write(tmp_path, "reviews_Baby_5.json.gz", text)
    layout, bad = found(path), BadRows(limit=0.05)
    frame, columns = layout.read_interactions(bad)
    assert numbers(frame, columns) == ROWS * 50
    assert bad.count(path.name) == 2
    assert "line 151: " in bad.all()[path.name]["first_left_out"][0]
    with pytest.raises(DataError, match=r"2 of 152 rows cannot be used"):
        layout.read_interactions(BadRows(limit=0.01))


@pytest.mark.parametrize(
    "name", ["reviews_Baby_5.json.gz", "Baby.csv.gz", "Baby.jsonl.gz", "Baby.csv.bz2", "Baby.json.xz"]
)
def test_an_early_end_of_compressed_reviews_is_said(tmp_path, name):
    year, text = FILES[name]
    path = write(tmp_path, name, text)
    whole = path.read_bytes()
    layout = year.find(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"ends early or is damaged"):
        layout.read_interactions(BadRows(limit=1.0))


def test_a_cut_file_is_still_recognised(tmp_path):
    path = write(tmp_path, "reviews_Baby_5.json.gz", json_lines(review_2014, ROWS * 100))
    path.write_bytes(path.read_bytes()[:-10])
    assert type(found(path)) is Amazon2014


META_2014 = [
    {
        "asin": "0000031852", "title": "Girls Ballet Tutu \\/ Zebra &amp; Hot  Pink", "price": 3.17,
        "imUrl": "http://ecx.example/images/I/51fAmVkTbyL._SY300_.jpg",
        "related": {"also_bought": ["B00JHONN1S", "B002BZX8Z6"], "also_viewed": ["B002BZX8Z6"]},
        "salesRank": {"Toys & Games": 211836}, "brand": "Coxlures", "description": "It's <b>pink</b>,\n\u2013 5' wide",
        "categories": [["Sports & Outdoors", "Other Sports"], ["Sports & Outdoors", "Dance"]],
    },
    {"asin": "B00JHONN1S", "categories": [["Baby"]], "imUrl": "http://g-ecx.example/x-site/icons/no-img-sm._CB192198896_.gif"},
    {"asin": "B002BZX8Z6", "title": "Not wanted"},
]  # fmt: skip
META_2018 = [
    {
        "asin": "0000031852", "title": "<span class=\"a-size\">Zelda</span>  <script>var t = new Date().getTime();</script>"
        "<!-- hidden --> &amp; Link", "brand": "by\n    Nintendo", "main_cat": "Video Games", "rank": [">#1 in Games"],
        "category": ["Video Games", "Wii", "</span></span></span>", "Wii"], "feature": ["Two players", "<b>Rated</b> E"],
        "description": ["", "First &lt;br&gt; part.", "Second part."], "price": "$1,012.99",
        "also_buy": ["B00JHONN1S"], "also_view": [], "tech1": "", "date": "", "similar_item": "<table class=\"x\"></table>",
        "imageURL": ["https://i.example/1._SS40_.jpg", "https://i.example/2._SS40_.jpg"],
        "imageURLHighRes": ["https://i.example/1.jpg", "https://i.example/2.jpg"],
    },
    {"asin": "B00JHONN1S", "title": "", "price": "$10.00 - $25.00", "imageURL": ["https://i.example/3._SS40_.jpg"], "imageURLHighRes": []},
]  # fmt: skip
META_2023 = [
    {
        "main_category": "Baby", "title": "Pacifier, 2 Pack", "average_rating": 4.6, "rating_number": 2,
        "features": ["BPA free", "Soft &amp; small"], "description": ["For sleep.", "For day."], "price": 10.99,
        "images": [
            {"thumb": "https://m.example/t1.jpg", "large": "https://m.example/l1.jpg", "variant": "MAIN", "hi_res": "https://m.example/h1.jpg"},
            {"thumb": "https://m.example/t2.jpg", "large": "https://m.example/l2.jpg", "variant": "PT01", "hi_res": None},
            {"thumb": "https://m.example/t3.jpg", "large": None, "variant": "PT02", "hi_res": None},
        ],
        "videos": [], "store": "NUK", "categories": ["Baby Products", "Pacifiers"], "details": {"ASIN": "B0"},
        "parent_asin": "0000031852", "bought_together": None,
    },
    {"title": None, "price": None, "images": [], "store": None, "categories": [], "parent_asin": "B00JHONN1S"},
]  # fmt: skip
WANTED = ids("0000031852", "B00JHONN1S", "B0UNLISTED")


def items_of(layout, folder, name, text, bad=None, wanted=WANTED):
    frame = layout({"items": write(folder, name, text)}).read_items(wanted, bad or BadRows())
    return {row["item_id"]: row for row in frame.rows(named=True)}


def test_items_of_2014(tmp_path):
    text = "".join(f"{record!r}\n" for record in META_2014[:2]) + json.dumps(META_2014[2]) + "\n"
    text = (
        text.replace("'title': 'Girls", "u'title': u'Girls")
        .replace("'asin': 'B00J", "u'asin': u'B00J")
        .replace("\\\\/", "\\/")
    )  # as in the files
    rows = items_of(Amazon2014, tmp_path, "meta_Baby.json.gz", text)
    picture = META_2014[0]["imUrl"]
    assert rows == {
        "0000031852": {
            "item_id": "0000031852",
            "title": "Girls Ballet Tutu \\/ Zebra & Hot Pink",
            "brand": "Coxlures",
            "categories": "Sports & Outdoors, Other Sports, Dance",
            "description": "It's pink , – 5' wide",
            "image_url": picture,
            "image_urls": picture,
            "price": 3.17,
        },
        "B00JHONN1S": dict.fromkeys(
            ("title", "brand", "description", "image_url", "image_urls", "price"), None
        )
        | {"item_id": "B00JHONN1S", "categories": "Baby"},
    }


def test_items_of_2018(tmp_path):
    text = "".join(json.dumps(record) + "\n" for record in META_2018)
    rows = items_of(Amazon2018, tmp_path, "meta_Video_Games.json.gz", text)
    assert rows["0000031852"] == {
        "item_id": "0000031852",
        "title": "Zelda & Link",
        "brand": "by Nintendo",
        "categories": "Video Games, Wii",
        "description": "First part. Second part.",
        "image_url": "https://i.example/1.jpg",
        "image_urls": "https://i.example/1.jpg https://i.example/2.jpg",
        "features": "Two players Rated E",
        "price": 1012.99,
    }
    assert {name: value for name, value in rows["B00JHONN1S"].items() if value is not None} == {
        "item_id": "B00JHONN1S",
        "image_url": "https://i.example/3._SS40_.jpg",
        "image_urls": "https://i.example/3._SS40_.jpg",
    }


def test_items_of_2023(tmp_path):
    text = "\ufeff" + "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in META_2023)
    rows = items_of(Amazon2023, tmp_path, "meta_Baby_Products.jsonl.gz", text)
    assert rows["0000031852"] == {
        "item_id": "0000031852",
        "title": "Pacifier, 2 Pack",
        "brand": "NUK",
        "categories": "Baby Products, Pacifiers",
        "description": "For sleep. For day.",
        "image_url": "https://m.example/h1.jpg",
        "image_urls": "https://m.example/h1.jpg https://m.example/l2.jpg https://m.example/t3.jpg",
        "features": "BPA free Soft & small",
        "price": 10.99,
    }
    assert set(rows) == {"0000031852", "B00JHONN1S"}


def test_columns_of_which_nothing_is_known_are_left_out(tmp_path):
    rows = items_of(Amazon2014, tmp_path, "meta_Baby.json", "{'asin': 'B00JHONN1S', 'title': 'Mug'}\n")
    assert list(rows.values()) == [{"item_id": "B00JHONN1S", "title": "Mug"}]
    assert items_of(Amazon2014, tmp_path, "meta_Baby.json", "{'asin': 'B9', 'title': 'Mug'}\n") == {}


@pytest.mark.parametrize(
    ("value", "price"),
    [
        (3.17, 3.17),
        (5, 5.0),
        (0, 0.0),
        ("12.5", 12.5),
        ("$ 1,299.00", 1299.0),
        (" $3.00 ", 3.0),
        ("$10.00 - $25.00", None),
        ("from 14.99", None),
        ("—", None),
        ("", None),
        (".a-box-inner{background-color:#fff}", None),
        (None, None),
        (True, None),
        (-1.0, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**4000, None),
        ("9" * 500, None),
        ([3.0], None),
        ("١٢", None),
    ],
)
def test_prices_are_numbers_or_null(value, price):
    assert describe({"price": value})["price"] == price


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("I <3 it", "I <3 it"),
        ("one<br/>two<BR>three</p >", "one two three"),
        ("&lt;b&gt;bold&lt;/b&gt; &quot;x&quot; &#39;y&#39; &nbsp; z", "bold \"x\" 'y' z"),
        ("<style>p { color: red }</style>red", "red"),
        ("<script>never closed", None),
        ("<SCRIPT a='b'>x</script >left", "left"),
        ("tag <b never closed", "tag <b never closed"),
        (" \t\n\u00a0 ", None),
        ("\ud83d\ude00 pair, \ud83d alone", "😀 pair, \ufffd alone"),
        (["one", ["two", [3, None, {"x": "y"}]], ("three",)], "one two three"),
        ({"x": "y"}, None),
        (7, None),
    ],
)
def test_texts_lose_their_markup(raw, plain):
    assert describe({"title": raw})["title"] == plain


def test_markup_takes_time_in_proportion_to_its_length():
    start = time.process_time()
    for junk in (
        "<script",
        "<script>",
        "<!--",
        "<",
        "<a ",
        "</script",
        "<style></style " * 3,
        "&lt;script&gt;",
    ):
        describe({"title": junk * 30_000})
    assert time.process_time() - start < 5


def test_deeply_nested_lists_are_no_recursion():
    value = "x"
    for _ in range(100_000):
        value = [value]
    assert describe({"description": value})["description"] == "x"
    while isinstance(value, list):  # taken apart, since Python frees nested lists by recursion
        value = value.pop()


def test_lines_of_other_items_are_not_parsed(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(amazon, "parse_record", lambda line: parsed.append(line) or json.loads(line))
    records = [
        {"asin": f"B{at:09}", "also_buy": ["B000000007", "B000000011"], "title": f"Item {at}"}
        for at in range(500)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records).replace("{", "{broken", 1)
    rows = items_of(Amazon2018, tmp_path, "meta_Baby.json", text, wanted=ids("B000000007", "B000000011"))
    assert [row["title"] for row in rows.values()] == ["Item 7", "Item 11"]
    assert len(parsed) == 2


def test_an_id_that_is_only_quoted_is_not_the_item(tmp_path):
    lines = [
        "{'asin': 'B000000001', 'title': 'see \"asin\": \"B00JHONN1S\" instead'}",
        "{'title': 'see \"asin\": \"B000000001\" instead', 'asin': 'B00JHONN1S'}",
        "{'title': 'list', 'asin': ['0000031852'], 'x': {'asin': '0000031852'}}",
    ]
    rows = items_of(Amazon2014, tmp_path, "meta_Baby.json", "\n".join(lines))
    assert list(rows.values()) == [{"item_id": "B00JHONN1S", "title": 'see "asin": "B000000001" instead'}]


def test_broken_lines_of_items_are_counted_against_all_lines(tmp_path):
    good = "".join(f"{{'asin': 'B{at:09}'}}\n" for at in range(96))
    broken = "{'asin': 'B00JHONN1S', 'title': \n{'title': 'no id'}\n\n{'asin': '0000031852', 'title': f()}\n"
    whole = "{'asin': 'B00JHONN1S', 'title': 'Mug'}\n"
    bad = BadRows(limit=0.03)
    rows = items_of(Amazon2014, tmp_path, "meta_Baby.json", good + broken + whole, bad)
    assert list(rows.values()) == [{"item_id": "B00JHONN1S", "title": "Mug"}]  # the first whole line counts
    assert bad.all()["meta_Baby.json"] == {
        "left_out": {"no record": 2, "no item id": 1},
        "first_left_out": [
            "no record: line 97: neither JSON nor a Python literal: b\"{'asin': 'B00JHONN1S', 'title':\"",
            "no item id: line 98: b\"{'title': 'no id'}\"",
            "no record: line 100: neither JSON nor a Python literal: b\"{'asin': '0000031852', 'title': f()}\"",
        ],
    }
    with pytest.raises(DataError, match=r"meta_Baby\.json: 3 of 100 rows cannot be used.*line 97"):
        items_of(Amazon2014, tmp_path, "meta_Baby.json", good + broken + whole, BadRows(limit=0.0299))


def test_repeated_items_are_counted_but_not_held_against_the_file(tmp_path):
    text = "".join(
        json.dumps({"asin": "B00JHONN1S", "title": title}) + "\n" for title in ("first", "second", "third")
    )
    bad = BadRows(limit=0.0)
    rows = items_of(Amazon2018, tmp_path, "meta_Baby.json", text, bad)
    assert rows["B00JHONN1S"]["title"] == "first"
    assert bad.all()["meta_Baby.json"]["left_out"] == {"repeated item": 2}


def test_an_early_end_of_the_item_file_is_said(tmp_path):
    path = write(tmp_path, "meta_Baby.json.gz", "{'asin': 'B00JHONN1S'}\n" * 1000)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"meta_Baby\.json\.gz ends early or is damaged"):
        Amazon2014({"items": path}).read_items(WANTED, BadRows())


def test_image_features_are_read_for_the_items_wanted(tmp_path):
    write(tmp_path, "reviews_Baby_5.json.gz", json_lines(review_2014, ROWS))
    rows = np.arange(3 * 4096, dtype=np.float32).reshape(3, 4096)
    asins = [b"0000000000", b"097293751X", b"9729375011"]
    data = b"".join(
        asin + struct.pack("<4096f", *row.tolist()) for asin, row in zip(asins, rows, strict=True)
    )
    write(tmp_path, "image_features_Baby.b.gz", data)
    layout = found(tmp_path)
    features = layout.read_features(
        "image", ids("9729375011", "B0UNLISTED"), ids("097293751X", "9729375011", "B0UNLISTED")
    )
    assert features.present.tolist() == [True, False]
    np.testing.assert_array_equal(features.values[0], rows[2])
