"""Files as shops really export them: each is read rightly, or refused with a way out; nothing is lost silently."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from triptych.data.columns import Columns
from triptych.data.filters import Filters
from triptych.errors import ConfigError, DataError, TriptychError
from triptych.preparation import prepare

SALES = "user,item\n" + "".join(f"u{user},i{item}\n" for user in range(3) for item in range(20))
PRODUCTS = "item,title\n" + "".join(f"i{item},Thing {item}\n" for item in range(20))


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def make(source, **options):
    return prepare(source, name="shop", **{"text": "none", **options})


def accounted(data):
    steps = data.provenance["steps"]
    return steps[0]["rows"] == len(data.interactions) + sum(
        step.get("interactions_removed", 0) for step in steps
    )


def test_a_data_set_is_no_export(tmp_path):
    make(write(tmp_path / "in", sales__csv=SALES)).save(tmp_path / "data")
    with pytest.raises(DataError, match=r"is a data set already.*encode, filter or split"):
        make(tmp_path / "data")


def test_tables_that_are_not_understood_are_named(tmp_path):
    stock = "sku,quantity\nA,1\n"
    folder = write(tmp_path / "in", sales__csv=SALES, products__csv=PRODUCTS, prices__csv="code,price\nA,2\n")
    assert make(folder).provenance["files_not_used"] == ["prices.csv"]
    write(folder, stock__csv=stock.replace("sku", "item"))
    with pytest.raises(DataError, match=r"tables of items: products\.csv, stock\.csv.*--items"):
        make(folder)
    assert make(folder, items_file=folder / "products.csv").titles[3] == "Thing 11"


def test_id_is_an_item_column_where_it_can_mean_nothing_else(tmp_path):
    folder = write(
        tmp_path / "in", sales__csv=SALES, products__csv=PRODUCTS.replace("item,title", "ID,Title")
    )
    assert make(folder).titles[:2] == ["Thing 0", "Thing 1"]


def test_rows_of_unknown_and_repeated_items_are_counted(tmp_path):
    products = "item,title\n12,Twelve\n 12 ,Again\n99,Other\n"
    data = make(write(tmp_path / "in", sales__csv="user,item\na,12\na,13\n", products__csv=products))
    # read as text, since " 12 " is no number; where the data's ids are numbers, both spell 12
    assert data.titles == ["Twelve", ""]
    assert data.provenance["items"] == {
        "rows": 3, "unknown_items": 1, "repeated_items": 1, "items_without_row": 1,
    }  # fmt: skip
    other = write(tmp_path / "other", sales__csv=SALES, products__csv="item,title\nX,y\n")
    with pytest.raises(DataError, match=r"products\.csv: none of its 1 item ids, such as 'X',"):
        make(other)


def test_repeated_and_empty_ids_of_items_are_left_out_and_counted(tmp_path):
    products = PRODUCTS + ",Nothing\ni3,Thing again\n"
    folder = write(tmp_path / "in", sales__csv=SALES, products__csv=products)
    data = make(folder, max_bad=0.1)
    assert data.titles[data.items.index(["i3"])[0]] == "Thing 3"
    assert data.provenance["unusable"]["products.csv"]["left_out"] == {
        "no usable item": 1,
        "repeated item": 1,
    }
    with pytest.raises(
        DataError,
        match=r"products\.csv: 2 of 22 rows .*repeated item: column 'item' holds 'i3' in data row 22",
    ):
        make(folder)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["20240501", "20231231"], [1714521600.0, 1703980800.0]),
        (["2005", "2024"], [1104537600.0, 1704067200.0]),
        (["1714521600000", "1714521600"], [1714521600.0, 1714521600.0]),
        (["1714521600000000", "1714521600000000000"], [1714521600.0, 1714521600.0]),
        (["0", "1"], [0.0, 1.0]),
    ],
)
def test_numbers_are_dates_or_seconds_by_their_size(tmp_path, times, seconds):
    rows = "".join(f"u,{item},{time}\n" for item, time in enumerate(times))
    data = make(write(tmp_path / "in", sales__csv="user,item,date\n" + rows))
    assert data.interactions.timestamp.tolist() == seconds


def test_a_day_that_is_none_is_no_time(tmp_path):
    rows = "".join(f"u,{item},{time}\n" for item, time in enumerate(["20240231", *["20240301"] * 199]))
    data = make(write(tmp_path / "in", sales__csv="user,item,date\n" + rows))
    assert data.provenance["unusable"]["sales.csv"]["left_out"] == {"no usable timestamp": 1}


def test_a_date_is_the_time_before_a_column_called_time(tmp_path):
    data = make(write(tmp_path / "in", sales__csv="user,item,date,time\na,1,2024-05-01,200\n"))
    assert data.provenance["columns"]["timestamp"] == "date"


def test_empty_rows_are_counted_and_harmless(tmp_path):
    data = make(write(tmp_path / "in", sales__csv=SALES + ",\n" * 30))
    assert data.provenance["unusable"]["sales.csv"]["left_out"] == {"empty row": 30}
    assert accounted(data)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_seen(tmp_path, separator):
    folder = write(
        tmp_path / "in",
        sales__csv=SALES.replace(",", separator),
        products__csv=PRODUCTS.replace(",", separator),
    )
    assert make(folder).titles[0] == "Thing 0"


def test_names_of_columns_may_have_blanks_and_capitals(tmp_path):
    folder = write(tmp_path / "in", sales__csv=SALES.replace("user,item", "Customer ID, Product ID"),
                   products__csv=PRODUCTS.replace("item,title", "Product ID,Title"))  # fmt: skip
    data = prepare(folder, name="shop", encoders={"text": "tfidf"})
    assert data.provenance["features"]["text"]["template"] == "{title}"
    named = prepare(write(folder, products__csv=PRODUCTS.replace("item,title", "item,Description")), name="shop",
                    encoders={"text": "tfidf"})  # fmt: skip
    assert named.provenance["features"]["text"]["template"] == "{Description}"


def test_a_byte_order_mark_and_a_bad_row_together(tmp_path):
    rows = "".join(f'"u{n}","i{n}"\n' for n in range(200))
    folder = write(
        tmp_path / "in", sales__csv=b"\xef\xbb\xbf" + ('"user","item"\n' + rows + "u,i,too,much\n").encode()
    )
    data = make(folder)
    assert data.provenance["columns"] == {"user": "user", "item": "item"}
    assert data.provenance["unusable"]["sales.csv"]["left_out"] == {"too many fields": 1}


def test_a_stray_quote_is_found_with_its_line(tmp_path):
    folder = write(tmp_path / "in", sales__csv='user,item,size\na,b,1\na,"12" disc",3\nc,d,5\n')
    with pytest.raises(DataError, match=r"sales\.csv cannot be read: line 3: "):
        make(folder)


def test_json_lines_of_changing_types_with_a_broken_one(tmp_path):
    lines = [
        json.dumps({"user": f"u{n}", "item": n % 7, "extra": "text" if n % 2 else "more"}) for n in range(300)
    ]
    lines[17] = '{"user": "u", "it'
    lines[30] = '{"user": "\\ud800", "item": 3}'
    data = make(write(tmp_path / "in", sales__jsonl="\n".join(lines)))
    bad = data.provenance["unusable"]["sales.jsonl"]
    assert bad["left_out"] == {"no JSON object": 2}
    assert "line 18" in bad["first_left_out"][0]
    assert "line 31" in bad["first_left_out"][1]


def test_titles_of_any_kind(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", sales__csv="user,item\na,1\na,2\n")
    pl.DataFrame({"item": [1, 2], "title": [["a", "hat"], ["tea"]]}).write_parquet(
        tmp_path / "in" / "items.parquet"
    )
    assert make(tmp_path / "in").titles == ["a, hat", "tea"]
    broken = pl.DataFrame({"item": [1, 2], "title": [b"\xff", b"tea"]})
    broken.write_parquet(tmp_path / "in" / "items.parquet")
    with pytest.raises(
        DataError, match=r"items\.parquet: column 'title' holds Binary values, which are no text"
    ):
        make(tmp_path / "in")


def test_labels_with_a_gap_and_ratings_beyond_reason(tmp_path):
    frame = pl.DataFrame({"user": ["a"] * 200, "item": range(200), "split": [0.0] * 199 + [float("nan")]})
    (tmp_path / "in").mkdir()
    frame.write_parquet(tmp_path / "in" / "sales.parquet")
    assert make(tmp_path / "in").provenance["unusable"]["sales.parquet"]["left_out"] == {"no usable label": 1}
    frame.select("user", "item", pl.Series("rating", [1.0] * 199 + [1e308])).write_parquet(
        tmp_path / "in" / "sales.parquet"
    )
    data = make(tmp_path / "in")
    assert data.provenance["unusable"]["sales.parquet"]["left_out"] == {"no usable rating": 1}
    assert np.isfinite(data.describe()["rating_values"]["mean"])


def test_what_was_only_found_and_is_of_no_use_is_skipped_and_said(tmp_path):
    folder = write(
        tmp_path / "in",
        sales__csv=SALES,
        products__csv="item,title\n" + "".join(f"i{n},\n" for n in range(20)),
    )
    write(folder / "logos", logo__png=b"x")
    data = prepare(folder, name="shop")
    assert data.features == {}
    assert data.provenance["skipped"] == [
        "image: nothing of any item in logos", "text: nothing of any item in {title}",
    ]  # fmt: skip
    with pytest.raises(TriptychError, match="no file in"):
        prepare(folder, name="shop", media={"image": folder / "logos"})


def test_a_file_is_found_by_its_name_whatever_folder_the_table_says(tmp_path):
    from PIL import Image

    folder = write(
        tmp_path / "in",
        sales__csv="user,item\na,1\na,2\n",
        items__csv="item,image_file\n1,pictures/x.png\n2,\n",
    )
    (folder / "pictures" / "b").mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(folder / "pictures" / "x.png")
    Image.new("RGB", (4, 4), "blue").save(folder / "pictures" / "b" / "y.png")
    assert make(folder).features["image"].present.tolist() == [True, False]
    assert make(folder).provenance["features"]["image"]["files_of_no_item"] == 1
    write(folder, items__csv="item,image_file\n1,pictures/x.png\n2,b/y.png\n")
    assert make(folder).features["image"].present.tolist() == [True, True]


def test_what_the_user_says_comes_before_what_is_found(tmp_path):
    folder = write(
        tmp_path / "in",
        umsatz__csv=SALES.replace("user,item", "kunde,artikel"),
        artikel__csv=PRODUCTS.replace("item,title", "artikel,name"),
    )
    data = make(folder, columns=Columns(user="kunde", item="artikel"))
    assert data.titles[0] == "Thing 0"
    with pytest.raises(DataError, match="does not look like"):
        make(folder)


@pytest.mark.parametrize("options", [{"since": np.inf}, {"until": -np.inf}, {"min_rating": np.nan}])
def test_bounds_are_finite(options):
    with pytest.raises(ConfigError, match="wanted a finite number"):
        Filters(**options)


@pytest.mark.parametrize("limit", [-1, 2, float("nan")])
def test_a_share_is_a_share(tmp_path, limit):
    with pytest.raises(ConfigError, match="wanted a share from 0 to 1"):
        make(write(tmp_path / "in", sales__csv=SALES), max_bad=limit)


@pytest.mark.parametrize("encoding", ["rot13", "klingon"])
def test_an_encoding_is_one_of_texts(tmp_path, encoding):
    with pytest.raises(ConfigError, match=f"the encoding '{encoding}'"):
        make(write(tmp_path / "in", sales__csv=SALES) / "sales.csv", encoding=encoding)


def test_all_files_of_a_data_set_can_be_read_by_others(tmp_path):
    from triptych.data.dataset import Dataset

    Dataset.demo().save(tmp_path / "data")
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*") if path.is_file()
    }
    assert set(modes.values()) == {0o644}, modes
