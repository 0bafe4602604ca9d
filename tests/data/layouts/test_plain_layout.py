import gzip

import numpy as np
import polars as pl
import pytest

from triptych.data.bad_rows import BadRows
from triptych.data.columns import Columns
from triptych.data.ids import IdMap
from triptych.data.interactions import TEST, TRAIN
from triptych.data.layouts import LAYOUTS, Hints, find_layout
from triptych.data.layouts.plain import Tables
from triptych.data.readers import interactions_from_frame
from triptych.errors import DataError, ShapeError

SALES = "customer_id,sku,stars,date,split\nann,M1,5,2024-01-01,train\nann,M2,4,2024-01-02,test\nbob,M1,3,2024-01-03,train\n"
GOODS = "sku,name,price\nM1,Mug,3.5\nM2,Été,4\nM3,Pan,9\n"


def ids(*raw):
    return IdMap(np.array(raw), "item")


def write_shop(folder):
    (folder / "sales.csv").write_text(SALES)
    (folder / "goods.csv").write_text(GOODS, encoding="utf-8")
    (folder / "customers.csv").write_text("customer_id,age\nann,1\nbob,2\n")
    (folder / "README.csv").write_text("about,this\nx,y\n")
    np.save(folder / "image.npy", np.arange(6.0).reshape(3, 2))
    np.save(folder / "smell_feat.npy", np.arange(3.0).reshape(3, 1))
    pl.DataFrame({"sku": ["M2"], "vector": [[1.0, 2.0]]}).write_parquet(folder / "text.parquet")
    for name, file in (("photos", "M1.JPG"), ("tracks", "M1.flac"), ("notes", "M1.txt")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(b"x")


def write_mmrec(folder):
    (folder / "baby.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n0\t1\t1\n")
    np.save(folder / "image_feat.npy", np.ones((2, 2)))
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nB0\t0\nB1\t1\n")
    (folder / "u_id_mapping.csv").write_text("user_id\tuserID\nA\t0\n")


def write_mmrec_with_types(folder):
    (folder / "baby.inter").write_text("userID:token\titemID:token\tx_label:float\n0\t0\t0\n")
    np.save(folder / "text_feat.npy", np.ones((1, 2)))


def write_mmrec_bare(folder):
    (folder / "baby.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n")


def write_recbole(folder):
    (folder / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\n1\t2\t3\n")
    (folder / "ml.item").write_text("item_id:token\tmovie_title:token_seq\n2\tHeat\n")


def write_recbole_parts(folder):
    for item, part in enumerate(("train", "valid", "test")):
        (folder / f"ml.{part}.inter").write_text(f"user_id:token\titem_id:token\n1\t{item}\n")


def write_movielens_100k(folder):
    (folder / "u.data").write_text("196\t242\t3\t881250949\n")
    (folder / "u.item").write_bytes("1|Été (1995)|||".encode("latin-1") + b"|0" * 19)


def write_movielens_1m(folder):
    (folder / "ratings.dat").write_text("1::1193::5::978300760\n")
    (folder / "users.dat").write_text("1::F::1::10::48067\n")


def write_movielens_latest(folder):
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,978300760\n")
    (folder / "movies.csv").write_text('movieId,title,genres\n2,"A, B (1995)",Drama\n')
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,2,fun,978300760\n")
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n2,0114709,862\n")


def write_microlens(folder):
    (folder / "MicroLens-100k_pairs.csv").write_text("user,item,timestamp\n1,2,1583378629552\n")
    (folder / "MicroLens-100k_title_en.csv").write_text("2,A title\n")


def write_table(folder):
    pl.DataFrame({"user_id": [1], "item_id": [2]}).write_parquet(folder / "clicks[1].parquet")


def write_untyped_inter(folder):
    (folder / "a.inter").write_text("user_id\titem_id\trating\n1\t2\t3\n")


SAMPLES = {
    write_mmrec: "mmrec",
    write_mmrec_with_types: "mmrec",
    write_mmrec_bare: "mmrec",
    write_recbole: "recbole",
    write_recbole_parts: "recbole",
    write_movielens_100k: "movielens",
    write_movielens_1m: "movielens",
    write_movielens_latest: "movielens",
    write_microlens: "microlens",
    write_shop: "tables",
    write_table: "tables",
    write_untyped_inter: "tables",
}


@pytest.mark.parametrize("write", SAMPLES)
def test_each_sample_is_in_one_layout(tmp_path, write):
    write(tmp_path)
    found = [layout.name for layout in LAYOUTS if layout is not Tables and layout.find(tmp_path)]
    assert found == [SAMPLES[write]] * (SAMPLES[write] != "tables")
    layout = find_layout(tmp_path)
    assert layout.name == SAMPLES[write]
    assert interactions_from_frame(*layout.read_interactions(BadRows())).interactions


UNREADABLE = {
    "empty.csv": b"",
    "broken.parquet": b"PAR1" + bytes(30),
    "prose.jsonl": b"once upon a time\n",
    "cut.csv.gz": gzip.compress(b"user,item\n1,2\n")[:6],
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_table_that_cannot_be_read_is_named_not_passed_over(tmp_path, name):
    (tmp_path / "sales.csv").write_text("user,item\n1,2\n")
    (tmp_path / name).write_bytes(UNREADABLE[name])
    with pytest.raises(DataError, match=name):
        Tables.find(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_found_where_nothing_is(tmp_path, layout):
    assert layout.find(tmp_path) is None
    assert layout.find(tmp_path / "none") is None
    (tmp_path / "notes.md").write_text("user,item\n1,2\n")
    (tmp_path / "list.ndjson").write_text("[1]\n")
    (tmp_path / ".hidden.csv").write_text("user,item\n1,2\n")
    (tmp_path / "inner.csv").mkdir()
    assert layout.find(tmp_path) is None
    assert layout.find(tmp_path / "notes.txt") is None


def test_a_shop_is_found_with_all_it_has(tmp_path):
    write_shop(tmp_path)
    layout = Tables.find(tmp_path)
    assert {role: path.name for role, path in layout.files.items()} == {
        "interactions": "sales.csv",
        "items": "goods.csv",
        "image": "image.npy",
        "smell": "smell_feat.npy",
        "text": "text.parquet",
        "pictures": "photos",
        "sounds": "tracks",
    }
    data = interactions_from_frame(*layout.read_interactions(BadRows())).interactions
    assert data.users.ids.tolist() == ["ann", "bob"]
    assert data.rating.tolist() == [5, 4, 3]
    assert data.timestamp.tolist() == [1704067200 + 86400 * day for day in range(3)]
    assert data.label.tolist() == [TRAIN, TEST, TRAIN]
    items = layout.read_items(ids("M2", "M9"), BadRows()).filter(
        pl.col("item_id").is_in(ids("M2", "M9").ids.tolist())
    )
    assert items.rows() == [("M2", "Été", "4")]
    assert items.columns == ["item_id", "title", "price"]
    assert sorted(layout.modalities) == ["image", "smell", "text"]
    assert layout.media == {"image": tmp_path / "photos", "audio": tmp_path / "tracks"}
    image = layout.read_features("image", ids("M2"), ids("M1", "M2"))
    assert image.values.tolist() == [[2, 3]]
    text = layout.read_features("text", ids("M1", "M2"), ids("M1", "M2"))
    assert text.present.tolist() == [False, True]


def test_features_without_ids_follow_the_table_of_items(tmp_path):
    write_shop(tmp_path)
    (tmp_path / "goods.csv").write_text("sku,name\nM3,Pan\nM2,Cup\nM1,Mug\n")
    listed = ids("M1", "M2")
    layout = Tables.find(tmp_path)
    assert layout.read_features("smell", listed, listed).values.tolist() == [[2], [1]]
    (tmp_path / "goods.csv").write_text("sku,name\nM3,Pan\nM2,Cup,tea\nM1,Mug\n")
    with pytest.raises(ShapeError, match="has 3 rows; wanted 2, one for each row of the item table"):
        layout.read_features("smell", listed, listed)
    (tmp_path / "goods.csv").unlink()
    with pytest.raises(ShapeError, match="has 3 rows; wanted 2"):
        Tables.find(tmp_path).read_features("smell", listed, listed)


def test_items_may_be_replaced_by_any_table(tmp_path):
    from dataclasses import replace

    write_shop(tmp_path)
    layout = Tables.find(tmp_path)
    pl.DataFrame({"sku": ["M1"], "title": ["Other"]}).write_ndjson(tmp_path / "other.jsonl")
    other = replace(layout, files={**layout.files, "items": tmp_path / "other.jsonl"})
    assert other.read_items(ids("M1"), BadRows()).rows() == [("M1", "Other")]


@pytest.mark.parametrize(
    "name", ["sales.csv", "sales.tsv", "sales.csv.gz", "sales.jsonl", "sales.parquet", "sales.inter"]
)
def test_a_single_file_is_the_interactions_and_nothing_else(tmp_path, name):
    write_shop(tmp_path)
    frame = pl.read_csv(tmp_path / "sales.csv")
    path = tmp_path / name
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(SALES.encode()))
        case ".jsonl":
            frame.write_ndjson(path)
        case ".parquet":
            frame.write_parquet(path)
        case _:
            frame.write_csv(path, separator="," if name.endswith("csv") else "\t")
    layout = find_layout(path)
    assert (layout.name, dict(layout.files)) == ("tables", {"interactions": path})
    data = interactions_from_frame(*layout.read_interactions(BadRows())).interactions
    assert data.rating.tolist() == [5, 4, 3]
    assert layout.read_items(ids("M1"), BadRows()) is None
    assert layout.media == {}


def test_a_single_file_may_have_other_names_and_another_encoding(tmp_path):
    path = tmp_path / "verkäufe.csv"
    path.write_bytes("Kunde,Ware\nJörg,Täse\n".encode("latin-1"))
    frame, columns = find_layout(path, hints=Hints(encoding="latin-1")).read_interactions(BadRows())
    assert frame.rows() == [("Jörg", "Täse")]
    assert (columns.user, columns.item) == (None, None)
    with pytest.raises(DataError, match=r"no column has a well-known name for --user.*Kunde, Ware"):
        interactions_from_frame(frame, columns)
    hints = Hints(columns=Columns(user="Kunde", item="Ware"), encoding="latin-1")
    frame, columns = find_layout(path, hints=hints).read_interactions(BadRows())
    assert interactions_from_frame(frame, columns).interactions.users.ids.tolist() == ["Jörg"]


def test_what_is_said_comes_before_names(tmp_path):
    write_shop(tmp_path)
    said = Hints(columns=Columns(item="stars", rating="date"), item_column="price", title_column="sku")
    layout = find_layout(tmp_path, hints=said)
    _, columns = layout.read_interactions(BadRows())
    assert columns == Columns("customer_id", "stars", "date", "date", "split")
    assert layout.read_items(ids("3.5"), BadRows()).filter(
        pl.col("item_id").is_in(ids("3.5").ids.tolist())
    ).rows() == [("3.5", "M1", "Mug")]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "sales.csv").write_text("\ufeffuser,item,Time\r\n1,2,3\r\n", encoding="utf-8", newline="")
    layout = Tables.find(tmp_path)
    _, columns = layout.read_interactions(BadRows())
    assert (columns.user, columns.item, columns.timestamp) == ("user", "item", "Time")


def test_the_first_of_the_well_known_names_wins(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,score,Rating,when,created_at\n1,2,3,4,5,6\n")
    _, columns = Tables.find(tmp_path).read_interactions(BadRows())
    assert (columns.rating, columns.timestamp, columns.label) == ("Rating", "created_at", None)


AMBIGUOUS = {
    "orders.csv": ("user,item\n1,2\n", r"tables of interactions: orders\.csv, sales\.csv.*by itself"),
    "prices.csv": ("sku,price\nM1,2\n", r"tables of items: goods\.csv, prices\.csv.*--items"),
    "image_feat.npy": ("x", r"image features: image\.npy, image_feat\.npy"),
    "thumbnails/1.png": ("x", r"the pictures: photos, thumbnails"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_two_of_a_kind_are_named(tmp_path, name):
    write_shop(tmp_path)
    content, message = AMBIGUOUS[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        Tables.find(tmp_path)


def test_broken_lines_are_counted(tmp_path):
    write_shop(tmp_path)
    (tmp_path / "sales.csv").write_text(SALES + "bob,M2,3,2024-01-03,train,more\n")
    (tmp_path / "goods.csv").write_text(GOODS + "M4,a,b,c\n")
    layout, bad = Tables.find(tmp_path), BadRows(limit=0.3)
    assert layout.read_interactions(bad)[0].height == 3
    assert (
        layout.read_items(ids("M1", "M2"), bad)
        .filter(pl.col("item_id").is_in(ids("M1", "M2").ids.tolist()))
        .height
        == 2
    )
    assert bad.of("sales.csv")["left_out"] == bad.of("goods.csv")["left_out"] == {"too many fields": 1}
    with pytest.raises(DataError, match=r"sales\.csv: 1 of 4 rows"):
        layout.read_interactions(BadRows())
    (tmp_path / "goods.csv").write_text(GOODS + "M1,again,1\n")
    with pytest.raises(
        DataError,
        match=r"goods\.csv: 2 of 5 rows cannot be used.*repeated item: column 'sku' holds 'M1' in data row 4",
    ):
        layout.read_items(ids("M1"), bad)


SHOP_TIMES = ["Order Date", "orderedAt", "purchase_date", "purchased_at", "sale_date", "sold_at"]


@pytest.mark.parametrize("name", SHOP_TIMES)
def test_what_shops_call_the_time_of_a_sale_is_known(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"order_id,Customer ID,Product ID,when,{name}\n7,1,2,3,2024-01-01\n")
    frame, columns = Tables.find(tmp_path).read_interactions(BadRows())
    assert columns.timestamp == name
    assert interactions_from_frame(frame, columns).interactions.timestamp.tolist() == [1704067200]


MISTYPED = {
    "user": (Columns(user="costumer_id"), "costumer_id", "user", "customer_id"),
    "item": (Columns(user="customer_id", item="sku_"), "sku_", "item", "sku"),
}


@pytest.mark.parametrize("layout", [None, "tables"])
@pytest.mark.parametrize("role", MISTYPED)
def test_a_mistyped_column_is_named_where_no_table_has_it(tmp_path, role, layout):
    write_shop(tmp_path)
    said, name, option, near = MISTYPED[role]
    message = rf"no table in .* has a column '{name}' \(--{option}\); wanted one of .*age.*price.*Did you mean '{near}'"
    with pytest.raises(DataError, match=message):
        find_layout(tmp_path, layout, Hints(columns=said))


def test_what_a_table_with_the_said_columns_lacks_is_named(tmp_path):
    (tmp_path / "verkauf.csv").write_text("Kunde,Ware\na,1\n")
    (tmp_path / "waren.csv").write_text("Ware,Titel\n1,Tasse\n")
    with pytest.raises(DataError, match=r"verkauf\.csv: no column has a well-known name for --item"):
        find_layout(tmp_path, hints=Hints(columns=Columns(user="Kunde", timestamp="none")))
    for said in (Columns(), Columns(item="Ware")):  # either table could be meant
        with pytest.raises(DataError, match="does not look like any layout"):
            find_layout(tmp_path, hints=Hints(columns=said))


@pytest.mark.parametrize("values", [("11/12/2016", "3/4/2017"), ("evening", "noon"), ("yes", "no")])
def test_a_time_that_was_only_found_and_is_none_is_left_unread(tmp_path, values):
    rows = "".join(f"u{n},i{n},{value}\n" for n, value in enumerate(values))
    (tmp_path / "sales.csv").write_text(f"user,item,Order Date\n{rows}")
    found = Tables.find(tmp_path)
    assert found is not None
    assert found.read_interactions(BadRows())[1].timestamp is None
    said = Tables.find(tmp_path, Hints(columns=Columns(timestamp="Order Date")))
    assert said is not None
    assert said.read_interactions(BadRows())[1].timestamp == "Order Date"  # which is refused later


def test_tables_without_well_known_names_are_listed_with_the_way_out(tmp_path):
    (tmp_path / "auftraege.csv").write_text("Auftrag;Kundennummer\n1;a\n")
    (tmp_path / "zeilen.csv").write_text("Auftrag;Artikelnummer\n1;x\n")
    listed = r"auftraege\.csv \(Auftrag, Kundennummer\); zeilen\.csv \(Auftrag, Artikelnummer\)"
    way = "--user COLUMN --item COLUMN; if users and items are in different tables, join these first"
    with pytest.raises(DataError, match=f"by well-known names: {listed}.*{way}"):
        find_layout(tmp_path)
    said = Columns(user="Kundennummer", item="Artikelnummer")
    with pytest.raises(DataError, match=f"by --user Kundennummer and --item Artikelnummer: {listed}.*{way}"):
        find_layout(tmp_path, hints=Hints(columns=said))
    (tmp_path / "zeilen.csv").rename(tmp_path / "zeilen.xlsx")
    with pytest.raises(
        DataError, match=r"auftraege\.csv \(.*zeilen\.xlsx is a workbook: save its sheets as CSV"
    ):
        find_layout(tmp_path)


NO_TABLES = {
    "shop.zip": (b"PK\x03\x04", "shop.zip is an archive: unpack it, and give the folder"),
    "shop.xlsx": (b"PK\x03\x04", "shop.xlsx is a workbook: save its sheets as CSV"),
    "shop.json": (
        b'{\n "orders": [{"user": 1, "sku": 2}]\n}',
        "shop.json is one JSON document: save the list",
    ),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_a_file_that_only_holds_tables_is_called_what_it_is(tmp_path, name):
    content, message = NO_TABLES[name]
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=f"does not look like any layout.*{message}"):
            find_layout(path)
