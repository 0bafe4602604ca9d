import gzip

import numpy as np
import polars as pl
import pytest

from triptych.data.bad_rows import BadRows
from triptych.data.ids import IdMap
from triptych.data.interactions import TEST, TRAIN, VALID
from triptych.data.layouts.recbole import RecBole
from triptych.data.readers import interactions_from_frame
from triptych.errors import DataError, ShapeError

HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ROWS = ["a\t007\t5\t10\n", "a\t8\t4\t11\n", "b\t007\t3\t12\n"]


def ids(*raw):
    return IdMap(np.array(raw), "item")


def write(folder):
    (folder / "ml.inter").write_text(HEAD + "".join(ROWS))
    (folder / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:float\tclass:token_seq\n"
        '007\tThe "Été\t1995\tAction Drama\n8\tHeat\t\tComedy\n9\tUnused\t1990\tWar\n',
        encoding="utf-8",
    )
    (folder / "ml.user").write_text("user_id:token\tage:float\na\t9\n")
    (folder / "ml.itememb").write_text("iid:token\temb:float_seq\n007\t1 2\n")
    (folder / "ml.imageemb").write_text(
        "image_id:token\timage_emb:float_seq\n8\t1.5 -2\n007\t3 4e-3\nx\t0 0\n"
    )


def test_everything_there_is_read(tmp_path):
    write(tmp_path)
    layout = RecBole.find(tmp_path)
    data = interactions_from_frame(*layout.read_interactions(BadRows())).interactions
    assert data.items.ids.tolist() == ["007", "8"]
    assert data.rating.tolist() == [5, 4, 3]
    assert data.timestamp.tolist() == [10, 11, 12]
    assert data.label is None
    table = layout.read_items(ids("007", "8"), BadRows()).filter(
        pl.col("item_id").is_in(ids("007", "8").ids.tolist())
    )
    assert table.columns == ["item_id", "title", "release_year", "class"]
    assert table.select("item_id", "title", "class").rows() == [
        ("007", 'The "Été', "Action Drama"), ("8", "Heat", "Comedy"),
    ]  # fmt: skip


def test_embeddings_find_their_items(tmp_path):
    write(tmp_path)
    layout = RecBole.find(tmp_path)
    assert layout.modalities == ("image",)
    image = layout.read_features("image", ids("007", "12", "8"), ids("007", "12", "8"))
    assert image.present.tolist() == [True, False, True]
    assert image.values.tolist() == np.float32([[3, 4e-3], [0, 0], [1.5, -2]]).tolist()


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("8\t1 2\n9\t1\n", ShapeError, "embeddings of 2 lengths"),
        ("8\t1 2\n9\t1 x\n", DataError, "NaN"),
        ("8\t1 2\n8\t1 3\n", DataError, "lists item '8' more than once"),
        ("8\t1 2\t3\n", DataError, "cannot be read"),
        ("", ShapeError, "0 rows"),
    ],
)
def test_damaged_embeddings_are_named(tmp_path, rows, error, message):
    write(tmp_path)
    (tmp_path / "ml.imageemb").write_text("image_id:token\timage_emb:float_seq\n" + rows)
    with pytest.raises(error, match=rf"image features ml\.imageemb: .*{message}"):
        RecBole.find(tmp_path).read_features("image", ids("8", "9"), ids("8", "9"))


def test_a_title_is_found_by_its_name(tmp_path):
    write(tmp_path)
    (tmp_path / "ml.item").write_text("item_id:token\tsub_title:token\tTitle:token_seq\n8\tno\tyes\n")
    assert RecBole.find(tmp_path).read_items(ids("8"), BadRows())["title"].to_list() == ["yes"]
    (tmp_path / "ml.item").unlink()
    assert RecBole.find(tmp_path).read_items(ids("8"), BadRows()) is None


def test_parts_get_labels(tmp_path):
    for part, row in zip(("train", "valid", "test"), ROWS, strict=True):
        (tmp_path / f"ml.{part}.inter").write_text(HEAD + row)
    layout = RecBole.find(tmp_path)
    data = interactions_from_frame(*layout.read_interactions(BadRows())).interactions
    assert data.label.tolist() == [TRAIN, VALID, TEST]
    assert data.items.ids.tolist() == ["007", "8"]
    assert data.rating.tolist() == [5, 4, 3]
    assert layout.modalities == ()
    (tmp_path / "ml.valid.inter").unlink()
    (tmp_path / "ml.item").write_text("item_id:token\tname:token_seq\n8\tx\n")
    layout = RecBole.find(tmp_path)
    data = interactions_from_frame(*layout.read_interactions(BadRows())).interactions
    assert data.label.tolist() == [TRAIN, TEST]
    assert layout.read_items(ids("8"), BadRows()).rows() == [(8, "x")]


def test_whole_and_parts_together_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "ml.train.inter").write_text(HEAD + ROWS[0])
    with pytest.raises(DataError, match=r"whole and split: ml\.inter, ml\.train\.inter"):
        RecBole.find(tmp_path)


def test_two_data_sets_in_one_folder(tmp_path):
    write(tmp_path)
    (tmp_path / "amazon.inter").write_text(HEAD + ROWS[0])
    with pytest.raises(DataError, match="more than one data set: amazon, ml"):
        RecBole.find(tmp_path)
    folder = tmp_path.rename(tmp_path.with_name("ml"))
    assert RecBole.find(folder).files["items"] == folder / "ml.item"


def test_broken_lines_are_counted_and_named(tmp_path):
    write(tmp_path)
    (tmp_path / "ml.inter").write_text(HEAD + ROWS[0] + "a\tb\tc\td\te\n")
    bad = BadRows(limit=0.5)
    assert RecBole.find(tmp_path).read_interactions(bad)[0].height == 1
    assert bad.of("ml.inter")["left_out"] == {"too many fields": 1}
    with pytest.raises(DataError, match=r"ml\.inter: 1 of 2 rows cannot be used.*line 3"):
        RecBole.find(tmp_path).read_interactions(BadRows())


def test_unknown_names_are_left_to_the_user(tmp_path):
    write(tmp_path)
    (tmp_path / "ml.inter").write_text(HEAD.replace("item_id", "thing") + ROWS[0])
    frame, columns = RecBole.find(tmp_path).read_interactions(BadRows())
    assert (columns.user, columns.item, columns.rating) == (None, None, "rating")
    with pytest.raises(DataError, match="no column has a well-known name for --item"):
        interactions_from_frame(frame, columns)
    assert RecBole.find(tmp_path).read_items(ids("8"), BadRows()).filter(
        pl.col("item_id").is_in(ids("8").ids.tolist())
    )["title"].to_list() == ["Heat"]


def test_beside_features_of_mmrec_it_is_mmrec(tmp_path):
    write(tmp_path)
    (tmp_path / "image_feat.npy").write_bytes(b"x")
    assert RecBole.find(tmp_path) is None


def test_types_make_the_layout(tmp_path):
    assert RecBole.find(tmp_path) is None
    path = tmp_path / "a.inter"
    path.write_text("user:x\titem\n1\t2\n")
    assert RecBole.find(tmp_path) is None
    path.write_text("\ufeffuser:token\titem:token\r\n1\t2\r\n", encoding="utf-8")
    assert RecBole.find(tmp_path).read_interactions(BadRows())[0].rows() == [(1, 2)]
    assert RecBole.find(path) is None


@pytest.mark.parametrize("split", [False, True])
def test_compressed_files_say_the_same(tmp_path, split):
    write(tmp_path)
    if split:
        (tmp_path / "ml.inter").unlink()
        for part, row in zip(("train", "valid", "test"), ROWS, strict=True):
            (tmp_path / f"ml.{part}.inter").write_text(HEAD + row)
    plain = RecBole.find(tmp_path)
    known = ids("007", "8")
    inter, items = plain.read_interactions(BadRows())[0], plain.read_items(known, BadRows())
    image = plain.read_features("image", known, known)
    for path in plain.files.values():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = RecBole.find(tmp_path)
    assert packed.files.keys() == plain.files.keys()
    assert packed.read_interactions(BadRows())[0].equals(inter)
    assert packed.read_items(known, BadRows()).equals(items)
    assert packed.read_features("image", known, known).values.tolist() == image.values.tolist()
    packed.files["image"].write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(DataError, match=r"ml\.imageemb\.gz: cannot be read"):
        packed.read_features("image", known, known)
