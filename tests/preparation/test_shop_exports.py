"""Exports as shops and databases write them: spaces, words for nothing, stray quotes, pictures in folders."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from triptych.data.bad_rows import BadRows
from triptych.data.tables import read_header, read_table
from triptych.errors import ConfigError, DataError
from triptych.preparation import prepare
from triptych.preparation.item_files import find_item_files

COLOURS = {"1": (250, 0, 0), "2": (0, 250, 0), "3": (0, 0, 250)}


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def paint(path: Path, item: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), COLOURS[item]).save(path)


@pytest.fixture
def sales(tmp_path) -> Path:
    return write(tmp_path / "sales.csv", "user,sku\na,1\nb,2\nc,3\n")


def test_a_folder_for_each_product_holds_its_pictures_alone(sales, tmp_path):
    for item in COLOURS:
        for number in ("1", "2", "3")[: 2 if item == "3" else 3]:
            paint(tmp_path / "pictures" / item / f"{number}.png", item)
    data = prepare(sales, name="shop")
    files, facts = find_item_files(data, "image", tmp_path / "pictures")
    assert [file.parent.name for file in files if file] == ["1", "2", "3"]
    assert facts["files_of_no_item"] == 5
    alone = tmp_path / "alone"
    for item in COLOURS:
        paint(alone / item / "front.png", item)
    assert [file.parent.name for file in find_item_files(data, "image", alone)[0] if file] == ["1", "2", "3"]


def test_folders_that_are_no_items_only_sort_pictures(sales, tmp_path):
    data = prepare(sales, name="shop")
    shards = tmp_path / "shards"
    paint(shards / "1" / "3.png", "3")  # a folder with an item's name, but each picture is there once
    paint(shards / "1" / "2.png", "2")
    paint(shards / "0" / "1.png", "1")
    files, _ = find_item_files(data, "image", shards)
    assert [file and file.name for file in files] == ["1.png", "2.png", "3.png"]
    paint(shards / "banners" / "1.png", "2")  # and now there are two of item 1
    files, facts = find_item_files(data, "image", shards)
    assert files[0] is None
    assert facts["first_ambiguous"] == ["1"]
    (shards / "banners" / "1.png").unlink()
    (shards / "0" / "1.png").unlink()
    assert find_item_files(data, "image", shards)[0][0] is None  # what its folder holds is others'


@pytest.mark.parametrize("main", [None, "12.png", "main/12.png", "12/12.png"])
def test_the_only_gallery_gives_its_pictures_to_no_other_item(tmp_path, main):
    sales = write(tmp_path / "sales.csv", "user,sku\na,1\nb,2\nc,3\nc,12\nd,4\n")
    for number in COLOURS:
        paint(tmp_path / "pictures" / "12" / f"{number}.png", number)
    paint(tmp_path / "pictures" / "2.png", "2")
    if main:
        paint(tmp_path / "pictures" / main, "1")
    files, facts = find_item_files(prepare(sales, name="shop"), "image", tmp_path / "pictures")
    named = [None if file is None else file.relative_to(tmp_path / "pictures").as_posix() for file in files]
    assert named == [None, "2.png", None, None, main]
    assert facts["first_ambiguous"] == ["1", "3", *(["12"] if main is None else [])]


def test_a_page_beside_a_picture_does_not_take_its_place(sales, tmp_path):
    media = tmp_path / "media"
    for item in COLOURS:
        paint(media / f"{item}.png", item)
    for name in ("1.html", "2.json", "3.flac", "1.mp3"):
        write(media / name, "no picture")
    data = prepare(sales, name="shop")
    assert [file and file.suffix for file in find_item_files(data, "image", media)[0]] == [".png"] * 3
    first, *_ = find_item_files(data, "audio", media)[0]
    assert first == media / "1.mp3"


def test_spaces_around_fields_are_no_part_of_them(tmp_path):
    folder = tmp_path / "x"
    write(folder / "sales.csv", "user, sku, date\n1, A1, 2024-01-05\n2,B1 ,2024-01-06 \n1,B1, 2024-01-07\n")
    write(folder / "products.csv", "sku, title, description\nA1, Mug , Holds tea\nB1,Lamp,Gives light\n")
    data = prepare(folder, name="x", encoders={"text": "tfidf"})
    assert data.items.ids.tolist() == ["A1", "B1"]
    assert data.titles == ["Mug", "Lamp"]
    assert data.interactions.timestamp is not None
    assert data.provenance["items"]["items_without_row"] == 0
    assert data.item_table["description"].to_list() == ["Holds tea", "Gives light"]


def test_words_for_no_customer_make_no_customer(tmp_path):
    rows = "".join(
        f"{user},x{place}\n" for place, user in enumerate(["NULL", "\\N", "nan", " ", "None", "12", "13"])
    )
    data = prepare(write(tmp_path / "s.csv", f"user,sku\n{rows}"), name="s", max_bad=0.8)
    assert data.users.ids.tolist() == ["12", "13"]
    assert data.provenance["unusable"]["s.csv"]["left_out"] == {"no usable user": 5}


def test_rows_between_two_stray_quotes_of_a_tsv_are_counted(tmp_path):
    rows = [f"u{n}\ti{n}\tmug {n}\n" for n in range(200)]
    rows[50], rows[150] = 'u50\ti50\t"Top mug\n', 'u150\ti150\tTV 42"\n'
    path = write(tmp_path / "sales.tsv", "user\titem\ttitle\n" + "".join(rows))
    with pytest.raises(DataError, match="101 of 200 rows cannot be used: badly quoted: line 52 to 152"):
        read_table(path, BadRows())
    bad = BadRows(limit=0.6)
    assert read_table(path, bad).height == 99
    assert bad.of("sales.tsv")["left_out"] == {"badly quoted": 101}
    kept = write(tmp_path / "text.tsv", 'user\titem\ttitle\na\tb\t"Two\nlines,\nor three"\n')
    assert read_table(kept)["title"].to_list() == ["Two\nlines,\nor three"]


def test_columns_of_shopify_are_known_by_name(tmp_path):
    write(tmp_path / "orders.csv", "Name,Customer ID,Lineitem sku\n#1,a,01\n#1,a,02\n#2,b,01\n#2,b,02\n")
    write(
        tmp_path / "products.csv",
        "Handle,Title,Body (HTML),Vendor,Variant SKU\nmug,Mug,<p>Holds tea</p>,Kiln,01\ncup,Cup,,Kiln,02\n",
    )
    data = prepare(tmp_path, name="shop", encoders={"text": "tfidf"})
    assert (data.users.ids.tolist(), data.items.ids.tolist()) == (["a", "b"], ["01", "02"])
    assert data.titles == ["Mug", "Cup"]
    assert data.provenance["features"]["text"]["template"] == "{title}. {Vendor}. {Body (HTML)}"


@pytest.mark.parametrize(
    ("header", "row"),
    [('user;sku;"Preis, netto";date', "a;b;1,50;2024-01-05"), ("user;sku;Preis (EUR, netto)", "a;b;1,50")],
)
def test_a_comma_in_a_name_parts_no_columns(tmp_path, header, row):
    path = write(tmp_path / "a.csv", f"{header}\n{row}\n")
    assert read_header(path) == [name.strip('"') for name in header.split(";")]
    assert read_table(path).rows()[0][:2] == ("a", "b")


def test_separators_at_the_ends_of_rows_are_nothing(tmp_path):
    path = write(tmp_path / "a.csv", "user,sku,date\na,x,2024-01-05,\nb,y,2024-01-06,,\n")
    assert read_table(path).rows() == [("a", "x", "2024-01-05"), ("b", "y", "2024-01-06")]


def test_a_header_that_is_no_utf8_asks_for_its_encoding(tmp_path):
    path = write(tmp_path / "a.csv", "user;sku;Größe\nmüller;b;1\n", "cp1252")
    with pytest.raises(DataError, match="its header is not utf-8, which another --encoding may read"):
        read_table(path)
    assert read_table(path, encoding="cp1252").columns == ["user", "sku", "Größe"]


def test_events_need_not_all_have_the_same_keys(tmp_path):
    lines = '{"event": "login", "user_id": 1}\n' + '{"user_id": 1, "product": "a"}\n' * 3
    write(tmp_path / "x" / "events.jsonl", lines)
    assert read_header(tmp_path / "x" / "events.jsonl") == ["event", "user_id", "product"]


def test_a_name_that_is_a_pattern_is_a_name(tmp_path):
    path = write(tmp_path / "a.csv", "user,sku,^.*$\na,1,2\n")
    assert read_table(path).columns == ["user", "sku", "^.*$"]


def test_names_of_files_that_are_no_utf8_end_in_no_trace(tmp_path):
    folder = tmp_path / "x"
    write(folder / "sales.csv", "user,sku\na,1\nb,2\n")
    odd = b"T\xfcr"
    for name in (b"x/" + odd + b".md", b"x/pictures/" + odd + b".png"):
        path = Path(str(tmp_path)) / name.decode("utf-8", "surrogateescape")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")
    data = prepare(folder, name="x")
    data.save(tmp_path / "out")
    assert data.provenance["files_not_used"] == ["T\ufffdr.md"]
    table = tmp_path / (odd.decode("utf-8", "surrogateescape") + ".csv")
    table.write_text("user,sku\na,1\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_table(table)


def test_dates_may_be_numbers_with_a_time(tmp_path):
    path = write(tmp_path / "a.csv", "user,sku,date\na,1,202401051022\nb,2,20240105102230\n")
    data = prepare(path, name="a")
    assert pl.Series(data.interactions.timestamp).to_list() == [1704450120.0, 1704450150.0]


def test_a_file_for_each_month_is_one_table(tmp_path):
    write(tmp_path / "orders-2024-02.csv", "sku,user,date\n2,a,2024-02-01\n2,b,2024-02-02\n")
    write(tmp_path / "orders-2024-10.csv", "user,sku,date\na,N-7,2024-10-03\n")  # no number: all are texts
    write(tmp_path / "orders-2024-09.csv", "user,sku,date\n")  # nothing was sold
    write(tmp_path / "goods.csv", "sku,title\n2,two\nN-7,seven\n")
    data = prepare(tmp_path, name="shop")
    assert data.interactions.items.ids.tolist() == ["2", "N-7"]
    assert len(data.interactions.user) == 3
    assert data.item_table["title"].to_list() == ["two", "seven"]
    named = {role: file["file"] for role, file in data.provenance["files"].items()}
    assert named == {
        "interactions": "orders-2024-02.csv",
        "interactions 2": "orders-2024-09.csv",
        "interactions 3": "orders-2024-10.csv",
        "items": "goods.csv",
    }


def test_parts_are_named_where_something_is_wrong_with_them(tmp_path):
    first = write(tmp_path / "part-1.csv", "user,sku\n")
    write(tmp_path / "part-2.csv", "user,sku\n")
    with pytest.raises(DataError, match=r"part-1\.csv holds no rows"):
        prepare(tmp_path, name="shop")
    write(first, "user,sku\na,1\nb,\n")
    with pytest.raises(DataError, match=r"part-1\.csv and 1 more: 1 of 2 rows cannot be used"):
        prepare(tmp_path, name="shop")


@pytest.mark.parametrize(
    ("name", "header"),
    [("orders-x.csv", "user,sku"), ("orders-2.csv", "user,sku,price"), ("views-2.csv", "user,sku")],
)
def test_tables_that_may_mean_different_things_are_not_put_together(tmp_path, name, header):
    write(tmp_path / "orders-1.csv", "user,sku\na,1\n")
    write(tmp_path / name, f"{header}\n{','.join('b' for _ in header.split(','))}\n")
    with pytest.raises(DataError, match=r"tables of interactions: .*names that differ in numbers alone"):
        prepare(tmp_path, name="shop")


SOLD = [{"user": "a", "sku": 1}, {"user": "b", "sku": 2, "tags": ["x", {"deep": True}]}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["sales.json", "sales.json.gz"])
def test_json_may_be_an_array_or_lines(tmp_path, monkeypatch, name, indent):
    monkeypatch.setattr("triptych.data.json_records.CHUNK_BYTES", 30)  # one element each
    pack = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack(b"\xef\xbb\xbf" + json.dumps(SOLD, indent=indent).encode()))
    assert prepare(tmp_path / name, name="shop").interactions.items.ids.tolist() == [1, 2]
    assert prepare(tmp_path, name="shop").provenance["columns_not_read"] == {name: ["tags"]}
    (tmp_path / name).write_bytes(pack("\n".join(map(json.dumps, SOLD)).encode()))
    assert prepare(tmp_path, name="shop").interactions.items.ids.tolist() == [1, 2]


def test_json_that_is_no_table_is_passed_over(sales, tmp_path):
    settings = {"user": {"sku": 1}}
    write(tmp_path / "settings.json", json.dumps(settings, indent=1))
    write(tmp_path / "numbers.json", "[1, 2]")
    write(tmp_path / "literals.json", "{'user': 1, 'sku': 2}\n")
    write(tmp_path / "README.txt", 'About these files\n\n"They\tare good')
    (tmp_path / "empty.txt").touch()
    unused = ["README.txt", "empty.txt", "literals.json", "numbers.json", "settings.json"]
    assert prepare(tmp_path, name="shop").provenance["files_not_used"] == unused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"user": 1, "sku": 2}, 3]', r"1 of 2 rows .*element 2: int instead of an object"),
        ('[{"user": 1, "sku": 2}', "cannot be read"),
        ('[{"user": 1, "sku": 2}] []', "goes on after the end"),
        ('[{"user": 1, "sku": }]', "cannot be read"),
    ],
)
def test_a_damaged_array_is_no_half_table(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_table(write(tmp_path / "sales.json", text))


def test_tables_of_marketplaces_end_in_txt(tmp_path):
    path = write(tmp_path / "orders.txt", "sku\tbuyer\tpurchase-date\n1\ta\t2024-01-31T10:00:00+00:00\n")
    data = prepare(path, name="shop")
    assert data.provenance["columns"] == {"user": "buyer", "item": "sku", "timestamp": "purchase-date"}


def test_parts_need_not_all_have_what_was_rarely_filled_in(tmp_path, monkeypatch):
    monkeypatch.setattr("triptych.data.tables._LINES_FOR_KEYS", 1)
    write(tmp_path / "events-1.jsonl", '{"user": "a", "sku": 1}\n')
    second = write(
        tmp_path / "events-2.jsonl", '{"user": "b", "sku": 2}\n{"user": "c", "sku": 1, "gift": true}\n'
    )
    assert len(prepare(tmp_path, name="shop").interactions.user) == 3
    write(
        tmp_path / "events-1.jsonl", '{"user": "a", "sku": 1}\n{"user": "d", "sku": 1, "gift": {"to": [1]}}\n'
    )
    write(second, '{"user": "b", "sku": 2}\n{"user": "c", "sku": 1, "gift": [1]}\n')
    with pytest.raises(DataError, match="kinds that do not go together"):
        prepare(tmp_path, name="shop")


ORDERS = "id,customer_id,product_id,created_at\n1,7,1,2024-01-05\n2,8,2,2024-01-06\n"
PEOPLE = {
    "customers.csv": "id,name\n1,Ann Smith\n2,Bob Jones\n",
    "dim_User_2024.csv": "id,name\n1,Ann Smith\n2,Bob Jones\n",
    "list.csv": "ID,name,E-Mail\n1,Ann Smith,ann@x.org\n2,Bob Jones,bob@x.org\n",
}


@pytest.mark.parametrize("name", PEOPLE)
def test_a_table_of_people_is_no_table_of_items(tmp_path, name):
    write(tmp_path / "orders.csv", ORDERS)
    write(tmp_path / name, PEOPLE[name])
    write(tmp_path / "catalogue.csv", "entity_no,product_title\n1,Mug\n2,Lamp\n")
    data = prepare(tmp_path, name="shop", text="none")
    assert data.titles is None
    assert data.provenance["files_not_used"] == sorted(["catalogue.csv", name])
    write(tmp_path / "things.csv", "id,title\n1,Mug\n2,Lamp\n")
    assert prepare(tmp_path, name="shop", text="none").titles == ["Mug", "Lamp"]


def test_a_table_with_the_item_column_comes_before_one_with_any_ids(tmp_path):
    write(tmp_path / "orders.csv", ORDERS)
    write(tmp_path / "suppliers.csv", "id,name\n1,Acme\n2,Omni\n")
    write(tmp_path / "products.csv", "product_id,title\n1,Mug\n2,Lamp\n")
    data = prepare(tmp_path, name="shop", text="none")
    assert data.titles == ["Mug", "Lamp"]
    assert data.provenance["files_not_used"] == ["suppliers.csv"]


@pytest.mark.parametrize(("user", "item"), [("client_id", "sku_id"), ("Account ID", "article_id")])
def test_more_names_of_ids_are_known_where_no_clearer_one_is_there(tmp_path, user, item):
    path = write(tmp_path / "a.csv", f"{user},{item}\na,1\n")
    assert prepare(path, name="shop").provenance["columns"] == {"user": user, "item": item}
    write(path, f"{user},{item},user,product_id\na,1,b,2\n")
    assert prepare(path, name="shop").provenance["columns"] == {"user": "user", "item": "product_id"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("floats", ["orders", "products"])
def test_an_id_is_the_same_with_a_point_on_either_side(tmp_path, suffix, floats):
    whole, pointed = [3, 1, 2, 3], [3.0, 1.0, None, 3.0]
    orders = pl.DataFrame({"user": [7.0, None, 8.0, 9.0], "sku": pointed if floats == "orders" else whole})
    ids = whole[:3] if floats == "orders" else [3.0, 1.0, 2.0]
    products = pl.DataFrame({"sku": ids, "title": ["three", "one", "two"]})
    for name, frame in (("orders", orders), ("products", products)):
        path = tmp_path / f"{name}.{suffix}"
        {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](path)
    data = prepare(tmp_path, name="shop", text="none", max_bad=0.5)
    kept = {"orders": {3: "three"}, "products": {2: "two", 3: "three"}}[floats]
    assert data.users.ids.tolist() == ([7, 9] if floats == "orders" else [7, 8, 9])
    assert dict(zip(data.items.ids.tolist(), data.titles, strict=True)) == kept
    data.save(tmp_path / "out")


def test_an_id_that_is_missing_in_one_month_leaves_those_of_others_as_they_are(tmp_path):
    write(tmp_path / "orders-1.csv", "user,sku\n7,1\n")
    write(tmp_path / "orders-2.csv", "user,sku\n7.0,2\n,3\n")
    data = prepare(tmp_path, name="shop", max_bad=0.5)
    assert (data.users.ids.tolist(), data.items.ids.tolist()) == ([7], [1, 2])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["4,5", "3", "1.234,56"], [4.5, 3.0, 1234.56]),
        (["0,125", "4", "5"], [0.125, 4.0, 5.0]),
        (["1.234", "4,5", "NULL"], [1234.0, 4.5]),
        (["4.5", "3", "2.25"], [4.5, 3.0, 2.25]),
        (["1,234", "950", "5"], [950.0, 5.0]),  # a thousand and more, or a little more than one
        (["4,5", "3.5", "5"], [3.5, 5.0]),
    ],
)
def test_decimal_commas_are_read_where_all_of_a_column_can_be_read_so(tmp_path, written, read):
    rows = "".join(f"u{n};i{n};{value}\n" for n, value in enumerate(written))
    data = prepare(write(tmp_path / "a.csv", f"user;sku;rating\n{rows}"), name="a", max_bad=0.5)
    assert data.interactions.rating.tolist() == read


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("damage", ["", "b;Topf;2;x;y\n"])
def test_a_first_line_of_excel_says_what_parts_the_fields(tmp_path, encoding, damage):
    path = write(
        tmp_path / "a.csv", f"sep=;\nuser;sku;a,b,c,d\na;Tür;1\nc;Tor;2\n{damage}d;Hut;3;\n", encoding
    )
    name = encoding.removesuffix("-sig")
    assert read_header(path, name) == ["user", "sku", "a,b,c,d"]
    assert read_table(path, BadRows(0.5), encoding=name)["sku"].to_list()[:2] == ["Tür", "Tor"]
    assert prepare(path, name="a", encoding=name, max_bad=0.5).items.ids.tolist() == ["Hut", "Tor", "Tür"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("damage", ["", "b;Topf;2;x;y\n"])
def test_titles_above_a_table_are_told_from_its_header(tmp_path, encoding, damage):
    text = f'Aufträge, "alle"\n\nvom 1.2.2025\nuser;sku;a,b\na;Tür;1\nc;Tor;2\n{damage}d;Hut;3\n'
    path, name, bad = write(tmp_path / "a.csv", text, encoding), encoding.removesuffix("-sig"), BadRows(0.5)
    assert read_header(path, name) == ["user", "sku", "a,b"]
    frame = read_table(path, bad, encoding=name)
    assert frame.rows() == [("a", "Tür", 1), ("c", "Tor", 2), ("d", "Hut", 3)]
    told = bad.of("a.csv")
    assert told["left_out"]["above the header"] == 2
    assert "above the header: 'Aufträge, \"alle\"'" in told["first_left_out"]
    if damage:
        assert "too many fields: line 7 holds more fields than the header" in told["first_left_out"]
    data = prepare(path, name="a", encoding=name, max_bad=0.5)
    assert data.items.ids.tolist() == ["Hut", "Tor", "Tür"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("user,sku\n1,2\n", ["user", "sku"]),
        ("user\na\nb\n", ["user"]),
        ("user\nsmith, john\ndoe, jane\n", ["user"]),  # two fields may be a sentence
        ("user\na,b,c\nd\n", ["user"]),  # the next line has another number of fields
        ("user,sku,n\n1,a,b,3\n2,b,c,3\n", ["user", "sku", "n"]),  # R leaves the row's name without a head
        ("\n" * 60 + "user,sku,n\n1,a,3\n", ["user", "sku", "n"]),
        ('id,words\n1,"soft; warm; light\nnice; new; red"\n', ["id", "words"]),  # lines of a field
        ("all\n" * 60 + "user,sku,n\n1,a,3\n", ["all"]),  # too far below
        ("all\nuser,sku,n\n", ["all"]),  # no row tells that this is a header
    ],
)
def test_without_titles_the_first_line_is_the_header(tmp_path, text, columns):
    assert read_header(write(tmp_path / "a.csv", text)) == columns


LIGHT = {"text": "tfidf"}


def test_what_shops_call_title_and_description_is_encoded(tmp_path):
    write(tmp_path / "orders.csv", "client_id,sku_id\na,1\nb,2\n")
    words = "product_name,product_description\n1,Blue mug,Holds hot tea\n2,Red lamp,Gives warm light\n"
    write(tmp_path / "products.csv", f"sku_id,{words}")
    data = prepare(tmp_path, name="shop", encoders=LIGHT)
    assert data.titles == ["Blue mug", "Red lamp"]
    assert data.provenance["features"]["text"]["template"] == "{title}. {product_description}"
    said = prepare(tmp_path, name="shop", encoders=LIGHT, text="{product_name}. {product_description}")
    assert said.features["text"].values.tolist() == data.features["text"].values.tolist()


def test_that_no_text_is_encoded_is_said_with_what_would_be(tmp_path):
    write(tmp_path / "orders.csv", "user,sku\na,1\nb,2\n")
    write(tmp_path / "products.csv", "sku,words\n1,Blue mug\n2,Red lamp\n")
    (said,) = prepare(tmp_path, name="shop").provenance["skipped"]
    assert said.startswith("text: no text encoded: no column is called one of title, brand")
    assert said.endswith('name columns with --text "{COLUMN}"')
    assert "skipped" not in prepare(tmp_path, name="shop", text="none").provenance
    assert "skipped" not in prepare(tmp_path / "orders.csv", name="shop").provenance


def test_texts_without_words_are_named_by_the_ids_of_their_items(tmp_path):
    write(tmp_path / "orders.csv", "user,sku\na,A-1\nb,B-2\nb,C-3\n")
    write(tmp_path / "products.csv", "sku,title\nA-1,Blue mug\nB-2,7\nC-3,Red lamp\n")
    facts = prepare(tmp_path, name="shop", encoders=LIGHT).provenance["features"]["text"]
    assert facts["first_left_out"] == ["no word of two letters: item B-2"]


def test_a_template_is_refused_before_pictures_are_encoded(tmp_path, monkeypatch):
    write(tmp_path / "orders.csv", "user,sku\na,1\nb,2\n")
    write(tmp_path / "products.csv", "sku,title\n1,Blue mug\n2,Red lamp\n")
    paint(tmp_path / "pictures" / "1.png", "1")
    monkeypatch.setattr("triptych.preparation.content.encode", None)  # which is not called
    with pytest.raises(ConfigError, match="names the column 'titel'"):
        prepare(tmp_path, name="shop", text="{titel}")


def test_what_excel_keeps_as_text_is_read_without_its_formula(tmp_path):
    path = write(tmp_path / "a.csv", 'user,sku\na,="00123"\nb,"=""B,7"""\nc,"=x"\n')
    assert read_table(path)["sku"].to_list() == ["00123", "B,7", "=x"]


ADVICE = {
    "user": (",1,5,2024-01-01", "or choose another column with --user, or let more"),
    "rating": (
        "a,1,good,2024-01-01",
        r"or choose another column with --rating \(none reads none\), or let more",
    ),
    "timestamp": ("a,1,5,once", r"or write the times clearly \(2024-01-31 is a date\), or choose another"),
}


@pytest.mark.parametrize("role", ADVICE)
def test_the_way_out_is_that_of_what_is_wrong(tmp_path, role):
    row, advice = ADVICE[role]
    path = write(tmp_path / "a.csv", f"user,sku,rating,date\nb,2,4,2024-01-02\n{row}\n")
    with pytest.raises(DataError, match=f"Repair these rows, {advice}"):
        prepare(path, name="a")


def test_an_empty_table_may_be_moved_away(sales, tmp_path):
    (tmp_path / "returns.csv").touch()
    with pytest.raises(DataError, match=r"returns\.csv is empty.*move it out of its folder"):
        prepare(tmp_path, name="shop")
