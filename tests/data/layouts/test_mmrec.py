import gzip

import numpy as np
import polars as pl
import pytest

from triptych.data.bad_rows import BadRows
from triptych.data.ids import IdMap
from triptych.data.interactions import TEST, TRAIN, VALID
from triptych.data.layouts.mmrec import MMRec
from triptych.data.readers import interactions_from_frame
from triptych.errors import DataError, ShapeError

INTER = "userID\titemID\trating\ttimestamp\tx_label\n0\t0\t5.0\t10\t0\n0\t2\t4.0\t11\t1\n1\t0\t3.0\t12\t2\n"


def listed(*ids):
    return IdMap(np.array(ids), "item")


def write(folder, header_types=False):
    inter = INTER
    if header_types:
        head = "userID:token\titemID:token\trating:float\ttimestamp:float\tx_label:float"
        inter = head + INTER[INTER.index("\n") :]
    (folder / "baby.inter").write_text(inter)
    for at, modality in enumerate(("image", "text", "audio")):
        np.save(folder / f"{modality}_feat.npy", np.arange(6.0).reshape(3, 2) + at)
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nB00\t0\nB01\t1\nB02\t2\n")
    (folder / "u_id_mapping.csv").write_text("user_id\tuserID\nA\t0\nB\t1\n")


@pytest.mark.parametrize("typed", [False, True])
def test_everything_there_is_read(tmp_path, typed):
    write(tmp_path, typed)
    layout = MMRec.find(tmp_path)
    data = interactions_from_frame(*layout.read_interactions(BadRows())).interactions
    assert data.label.tolist() == [TRAIN, VALID, TEST]
    assert data.rating.tolist() == [5, 4, 3]
    assert data.timestamp.tolist() == [10, 11, 12]
    assert data.items.ids.tolist() == [0, 2]
    assert layout.modalities == ("audio", "image", "text")
    image = layout.read_features("image", listed(0, 2), listed(0, 2))
    assert image.values.tolist() == [[0, 1], [4, 5]]
    assert layout.read_features("audio", listed(2), listed(0, 2)).values.tolist() == [[6, 7]]
    assert layout.read_items(listed(2, 0), BadRows()).filter(
        pl.col("item_id").is_in(listed(2, 0).ids.tolist())
    ).rows() == [(0, "B00"), (2, "B02")]


@pytest.mark.parametrize(
    "text", ["asin,itemID\nB00,0\nB01,1\n007,2\n", "itemID\tasin\n0\tB00\n1\tB01\n2\t007\n"]
)
def test_the_mapping_may_have_commas_or_another_order(tmp_path, text):
    write(tmp_path)
    (tmp_path / "i_id_mapping.csv").write_text(text)
    assert MMRec.find(tmp_path).read_items(listed(2), BadRows()).filter(
        pl.col("item_id").is_in(listed(2).ids.tolist())
    ).rows() == [(2, "007")]


def test_rows_are_counted_by_the_mapping_else_by_the_last_item(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "image_feat.npy", np.arange(8.0).reshape(4, 2))
    with pytest.raises(ShapeError, match=r"image_feat\.npy: has 4 rows; wanted 3"):
        MMRec.find(tmp_path).read_features("image", listed(0, 2), listed(0, 2))
    (tmp_path / "i_id_mapping.csv").unlink()
    layout = MMRec.find(tmp_path)
    assert layout.read_items(listed(0), BadRows()) is None
    assert layout.read_features("image", listed(3), listed(0, 3)).values.tolist() == [[6, 7]]
    with pytest.raises(ShapeError, match=r"wanted 3, row k for item id k"):
        layout.read_features("image", listed(0, 2), listed(0, 2))


def test_items_without_numbers_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match=r"baby\.inter calls an item 'B00'; wanted item indices from 0"):
        MMRec.find(tmp_path).read_features("image", listed("B00"), listed("B00"))


def test_missing_rows_are_missing(tmp_path):
    write(tmp_path)
    (tmp_path / "baby_missing.csv").write_text("itemID,modality\n2,image\n1,image\n0,text\n")
    layout = MMRec.find(tmp_path)
    assert layout.modalities == ("audio", "image", "text")
    image = layout.read_features("image", listed(0, 2), listed(0, 2))
    assert image.present.tolist() == [True, False]
    assert image.values.tolist() == [[0, 1], [0, 0]]
    assert layout.read_features("audio", listed(0, 2), listed(0, 2)).present.all()
    (tmp_path / "baby_missing.csv").write_text("item,kind\n2,image\n")
    with pytest.raises(DataError, match=r"baby_missing\.csv has the columns item, kind"):
        layout.read_features("image", listed(0, 2), listed(0, 2))


@pytest.mark.parametrize("text", ["asin\titemID\nB00\tx\n", "itemID\n0\n", "a\tb\titemID\n1\t2\t0\n", ""])
def test_a_damaged_mapping_is_named(tmp_path, text):
    write(tmp_path)
    (tmp_path / "i_id_mapping.csv").write_text(text)
    with pytest.raises(DataError, match=r"i_id_mapping\.csv (cannot be read|is empty)"):
        MMRec.find(tmp_path).read_items(listed(0), BadRows())


def test_pickles_and_other_arrays_are_not_read(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "user_graph_dict.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text_feat.npy", np.array([{}], dtype=object), allow_pickle=True)
    layout = MMRec.find(tmp_path)
    assert "user_graph_dict" not in layout.modalities
    with pytest.raises(DataError, match=r"text_feat\.npy: cannot be read"):
        layout.read_features("text", listed(0, 2), listed(0, 2))


def test_broken_lines_are_counted_and_named(tmp_path):
    write(tmp_path)
    (tmp_path / "baby.inter").write_text(INTER + "1\t2\t3\t4\t5\t6\n")
    bad = BadRows(limit=0.5)
    assert MMRec.find(tmp_path).read_interactions(bad)[0].height == 3
    assert bad.of("baby.inter")["left_out"] == {"too many fields": 1}
    with pytest.raises(DataError, match=r"baby\.inter: 1 of 4 rows cannot be used.*line 5"):
        MMRec.find(tmp_path).read_interactions(BadRows())


def test_labels_without_types_are_enough_and_nothing_less(tmp_path):
    assert MMRec.find(tmp_path) is None
    path = tmp_path / "a.inter"
    path.write_text("\ufeff" + INTER, encoding="utf-8")
    assert dict(MMRec.find(tmp_path).files) == {"interactions": path}
    path.write_text("userID\titemID\n0\t1\n")
    assert MMRec.find(tmp_path) is None
    path.write_text("userID:token\titemID:token\tx_label:float\n0\t1\t0\n")
    assert MMRec.find(tmp_path) is None
    assert MMRec.find(path) is None


def test_of_two_the_one_with_the_folders_name_is_meant(tmp_path):
    write(tmp_path)
    (tmp_path / "old.inter").write_text(INTER)
    with pytest.raises(DataError, match=r"more than one data set: baby, old.*Give one of the \.inter files"):
        MMRec.find(tmp_path)
    folder = tmp_path.rename(tmp_path.with_name("baby"))
    assert MMRec.find(folder).files["interactions"] == folder / "baby.inter"


def test_compressed_files_say_the_same(tmp_path):
    write(tmp_path)
    (tmp_path / "baby_missing.csv").write_text("itemID,modality\n2,image\n")
    plain = MMRec.find(tmp_path)
    inter, items = plain.read_interactions(BadRows())[0], plain.read_items(listed(0), BadRows())
    for role in ("interactions", "mapping", "missing"):
        path = plain.files[role]
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert MMRec.find(tmp_path).files == plain.files  # which is there twice, counts once
    for role in ("interactions", "mapping", "missing"):
        plain.files[role].unlink()
    packed = MMRec.find(tmp_path)
    assert packed.files.keys() == plain.files.keys()
    assert packed.read_interactions(BadRows())[0].equals(inter)
    assert packed.read_items(listed(0), BadRows()).equals(items)
    assert packed.read_features("image", listed(0, 2), listed(0, 2)).present.tolist() == [True, False]
