"""Files as shops really export them: each is read rightly, or refused with a way out; nothing is lost silently."""

from __future__ import annotations

import json
import re
import sys

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
    products = "item,title\n12,Twelve\n 12 ,Again\n99,Other\nx,A word\n"
    sales = "user,item\na,12\na,13\n"
    data = make(write(tmp_path / "in", sales__csv=sales, products__csv=products), max_bad=0.3)
    assert data.titles == ["Twelve", ""]  # ids are read as text there, and found where the data's are numbers
    assert data.provenance["unusable"]["products.csv"]["left_out"] == {"repeated item": 1}
    assert data.provenance["items"]["unknown_items"] == 2
    assert data.provenance["items"]["items_without_row"] == 1
    other = write(tmp_path / "other", sales__csv=SALES, products__csv="item,title\nX,y\n")
    with pytest.raises(DataError, match=r"products\.csv: none of its 1 item ids, such as 'X',"):
        make(other)
    noughts = write(
        tmp_path / "noughts", sales__csv="user,item\na,0012\na,0013\n", products__csv="item,title\n12,y\n"
    )
    with pytest.raises(DataError, match="with the same noughts in front"):
        make(noughts)


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
    with pytest.raises(DataError, match=r"sales\.csv: 1 of 3 rows cannot be used: badly quoted: line 3: "):
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


NAMES = {
    "by the folder": (["zeta/main.png", "alpha/main.png"], ["zeta/main.png", "alpha/main.png"]),
    "by what follows unknown folders": (["C:\\shop\\b\\x.png", "/old/c/x.png"], ["a/b/x.png", "a/c/x.png"]),
    "the path itself before a longer one": (["x.png", "thumbs/x.png"], ["x.png", "thumbs/x.png"]),
    "the folder that is given counts": (["pictures/x.png", "b/x.png"], ["x.png", "b/x.png"]),
    "without suffix": (["zeta/main", "alpha/main"], ["zeta/main.jpg", "alpha/main.png"]),
    "one file by two names": (["x.png", "pictures/x.png"], ["x.png", "x.png"]),
    "more than one could be meant": (["main.png", "zeta/main.png"], [None, "zeta/main.png", "alpha/main.png"]),
    "the file of another": (["zeta/main.png", "alpha/main.png"], [None, "alpha/main.png"]),
    "a file that lost its folder": (["zeta/main.png", "alpha/main.png"], [None, None, "main.png"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_named_files_are_told_apart_by_their_folders(tmp_path, kind):
    from PIL import Image

    names, files = NAMES[kind]
    folder = write(tmp_path / "in", sales__csv="user,item\na,1\na,2\nb,3\n")
    there = [file for file in dict.fromkeys([*files, "3.png"]) if file]
    for colour, file in zip(("red", "lime", "blue", "white"), there, strict=False):
        (folder / "pictures" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(folder / "pictures" / file, "PNG")
    pl.DataFrame({"item": [1, 2, 3], "image_file": [*names, "3.png"]}).write_csv(tmp_path / "items.csv")
    data = make(folder, items_file=tmp_path / "items.csv", media={"image": folder / "pictures"})
    items, facts = data.features["image"], data.provenance["features"]["image"]
    for item, file in enumerate(files[:2]):
        assert items.present[item] == (file is not None)
        if file is not None:
            (folder / "alone").mkdir(exist_ok=True)
            (folder / "alone" / "1.png").write_bytes((folder / "pictures" / file).read_bytes())
            alone = make(folder / "sales.csv", media={"image": folder / "alone"}).features["image"]
            assert (items.values[item] == alone.values[0]).all()
    assert facts.get("ambiguous", 0) == files[:2].count(None)
    assert facts.get("first_ambiguous", []) == [
        name for name, file in zip(names, files[:2], strict=True) if file is None
    ]


def test_if_all_names_are_ambiguous_that_is_said(tmp_path):
    folder = write(
        tmp_path / "in",
        sales__csv="user,item\na,1\na,2\n",
        items__csv="item,image_file\n1,main.png\n2,main.png\n",
    )
    for name in ("zeta", "alpha"):
        (folder / "pictures" / name).mkdir(parents=True)
        write(folder / "pictures" / name, main__png=b"x")
    said = "which file is meant is not clear for 2 items"
    assert make(folder).provenance["skipped"] == [f"image: nothing of any item in pictures; {said}"]
    with pytest.raises(DataError, match=f"belongs to an item; {said}"):
        make(folder, media={"image": folder / "pictures"})


def test_found_content_that_cannot_be_used_is_skipped_and_said(tmp_path, monkeypatch):
    bare = {"sales__csv": SALES, "products__csv": "item,title\n" + "".join(f"i{n},!?\n" for n in range(20))}
    folder = write(tmp_path / "in", **bare)
    write(folder / "pictures", i3__png=b"<html>not found</html>")
    write(folder / "sounds", i3__wav=b"RIFF")
    monkeypatch.setitem(sys.modules, "soundfile", None)  # as if the extra were not installed
    monkeypatch.setattr("triptych.preparation.content.find_spec", lambda _: None)
    data = prepare(folder, name="shop")
    assert data.features == {}
    image, audio, text = data.provenance["skipped"]
    assert re.match(r"image: none of 20 items has a picture that can be used: .*i3\.png", image)
    assert re.match(r"audio: this needs soundfile, .*pip install 'triptych\[audio\]'", audio)
    assert re.match("text: none of 20 items has a text that can be used: no word of two letters", text)
    asked = {
        "image": {"media": {"image": folder / "pictures"}},
        "audio": {"encoders": {"audio": "mfcc"}},
        "text": {"text": "{title}"},
    }
    for modality, options in asked.items():
        with pytest.raises(
            TriptychError, match=f"needs soundfile|none of 20 items has a ({modality}|picture)"
        ):
            prepare(folder, name="shop", **options)


def test_found_content_does_not_hide_a_want_of_memory_or_a_wrong_setting(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", sales__csv=SALES, products__csv=PRODUCTS)
    with pytest.raises(ConfigError, match="warp"):
        prepare(folder, name="shop", device="warp")
    monkeypatch.setattr("triptych.preparation.content.find_spec", lambda _: None)
    monkeypatch.setattr("triptych.encode.run.free_bytes", lambda: 0)
    with pytest.raises(ConfigError, match="encoding 20 texts together needs about"):
        prepare(folder, name="shop")


def test_a_text_column_of_bytes_is_skipped_unless_it_is_asked_for(tmp_path):
    folder = write(tmp_path / "in", sales__csv="user,item\na,1\na,2\n")
    pl.DataFrame({"item": [1, 2], "description": [b"\xff", b"tea"]}).write_parquet(folder / "items.parquet")
    (said,) = prepare(folder, name="shop").provenance["skipped"]
    assert said.startswith("text: column 'description' holds Binary values")
    with pytest.raises(DataError, match="holds Binary values"):
        prepare(folder, name="shop", text="{description}")


def test_the_rows_of_features_follow_the_found_table_of_items(tmp_path):
    folder = write(
        tmp_path / "in", sales__csv="user,item\na,1\na,2\nb,3\n", products__csv="item,title\n3,C\n1,A\n2,B\n"
    )
    np.save(tmp_path / "vectors.npy", np.array([[3.0], [1.0], [2.0]]))
    np.save(folder / "other.npy", np.zeros((3, 1)))
    given = {"features": [("image", tmp_path / "vectors.npy")]}
    by_found = make(folder, **given)
    by_items = make(folder, **given, items_file=folder / "products.csv")
    for data in (by_found, by_items):
        assert data.features["image"].values.tolist() == [[1], [2], [3]]
        assert data.provenance["files_not_used"] == ["other.npy"]
    (folder / "other.npy").unlink()
    np.save(folder / "image.npy", np.array([[3.0], [1.0], [2.0]]))
    assert make(folder).features["image"].values.tolist() == [[1], [2], [3]]
    assert make(folder).provenance["files"].keys() == {"interactions", "items", "image"}
    replaced = make(folder, **given).provenance
    assert replaced["files"].keys() == {"interactions", "items"}
    assert replaced["files_not_used"] == []
    assert [file["file"] for file in replaced["features"]["image"]["files"]] == ["vectors.npy"]


def test_whatever_lies_in_the_folder_and_is_not_used_is_named(tmp_path):
    folder = write(
        tmp_path / "in",
        sales__csv=SALES,
        products__csv=PRODUCTS,
        **{"old.json": "[]", "stock.xlsx": b"PK", "old.csv.7z": b"x", "vectors.npy": b"x", ".hidden": "x"},
    )
    write(folder / "notes", about__txt="x")
    write(folder / "photos", i1__png=b"x")
    unused = ["notes", "old.csv.7z", "old.json", "stock.xlsx", "vectors.npy"]
    for switch in ({}, {"media": {"image": "none"}}):
        assert make(folder, **switch).provenance["files_not_used"] == unused
    with pytest.raises(DataError, match="vectors"):  # named, so that it is used
        make(folder, features=[("image", folder / "vectors.npy")])


def test_pictures_may_lie_in_folders_below(tmp_path):
    from PIL import Image

    folder = write(tmp_path / "in", sales__csv=SALES)
    for item in (3, 4):
        (folder / "pictures" / f"shelf{item}").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "pictures" / f"shelf{item}" / f"i{item}.png")
    write(folder / "__MACOSX", **{"._i3.png": b"x"})
    data = make(folder)
    assert data.features["image"].present.sum() == 2
    assert data.provenance["files_not_used"] == ["__MACOSX"]
    write(folder / "photos", i1__png=(folder / "pictures" / "shelf3" / "i3.png").read_bytes())
    nearer = make(folder)  # what holds pictures itself comes before what has some below it
    assert nearer.provenance["files"]["pictures"] == {"folder": "photos"}
    assert nearer.provenance["files_not_used"] == ["__MACOSX", "pictures"]


@pytest.mark.parametrize("option", ["item_column", "title_column"])
def test_a_column_of_no_table_is_refused(tmp_path, option):
    folder = write(tmp_path / "in", sales__csv=SALES, products__csv=PRODUCTS)
    flag = {"item_column": "--item-column", "title_column": "--title"}[option]
    for source in (folder / "sales.csv", write(tmp_path / "alone", sales__csv=SALES)):
        with pytest.raises(
            ConfigError, match=rf"{flag} item, but no table of items .*--items FILE, or drop {flag}"
        ):
            make(source, **{option: "item"})
    assert make(folder, **{option: "item"}).provenance["items"]["rows"] == 20
    movies = write(tmp_path / "movies", **{
        "ratings.csv": "userId,movieId,rating,timestamp\n1,2,3.5,978300760\n",
        "movies.csv": "movieId,title,genres\n2,A (1995),Drama\n",
    })  # fmt: skip
    with pytest.raises(ConfigError, match=f"{flag} title"):
        make(movies, **{option: "title"})
    atomic = write(tmp_path / "atomic", **{
        "x.inter": "user_id:token\titem_id:token\n1\t2\n", "x.item": "item_id:token\tid:token\n9\t2\n",
    })  # fmt: skip
    assert make(atomic, item_column="id", title_column="item_id").titles == ["9"]


CONTRADICTIONS = [
    {"text": "none", "encoders": {"text": "tfidf"}},
    {"text": "{title}", "encoders": {"text": "none"}},
    {"media": {"image": "pics"}, "encoders": {"image": "none"}},
    {"media": {"image": "none"}, "encoders": {"image": "descriptor"}},
]


@pytest.mark.parametrize("options", CONTRADICTIONS)
def test_what_is_switched_off_has_no_encoder(tmp_path, options):
    folder = write(tmp_path / "in", sales__csv=SALES, products__csv=PRODUCTS)
    with pytest.raises(ConfigError, match="wanted something to encode and what encodes it, or none of both"):
        make(folder, **options)
    assert make(folder, encoders={"text": "none"}).features == {}
    with pytest.raises(ConfigError, match="Did you mean 'image'"):
        make(folder, encoders={"imgae": "none"})


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


def test_all_files_of_a_data_set_can_be_read_by_others(shop, tmp_path):
    shop.save(tmp_path / "data")
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*") if path.is_file()
    }
    assert set(modes.values()) == {0o644}, modes
