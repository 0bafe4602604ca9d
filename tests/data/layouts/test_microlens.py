import gzip

import numpy as np
import polars as pl
import pytest

from triptych.data.bad_rows import BadRows
from triptych.data.ids import IdMap
from triptych.data.layouts.microlens import MicroLens
from triptych.data.readers import interactions_from_frame
from triptych.errors import DataError, ShapeError


def item_ids(*ids):
    return IdMap(np.array(ids), "item")


def write(folder, size="100k"):
    prefix = f"MicroLens-{size}"
    (folder / f"{prefix}_pairs.csv").write_text(
        "user,item,timestamp\n36121,9580,1583378629552\n36121,3,1583378629553\n7,3,1583378629554\n"
    )
    (folder / f"{prefix}_title_en.csv").write_text('3,"Cats, dogs and ""us"""\n9580,Été 日本\n5,Other\n')
    (folder / f"{prefix}_likes_and_views.txt").write_text("3\t44\t2015\n9580\t7\t1\n5\t0\t0\n6\t1\t2\n")
    for name in (f"{prefix}_covers", "audios"):
        (folder / name).mkdir()
        (folder / name / "3.jpg").write_bytes(b"x")
    return prefix


@pytest.mark.parametrize("size", ["50k", "100k", "1M"])
def test_everything_there_is_found(tmp_path, size):
    prefix = write(tmp_path, size)
    layout, bad = MicroLens.find(tmp_path), BadRows(limit=0.0)
    data = interactions_from_frame(*layout.read_interactions(bad)).interactions
    assert data.users.ids.tolist() == [7, 36121]
    assert data.items.ids.tolist() == [3, 9580]
    assert data.timestamp.tolist() == [1583378629.554, 1583378629.553, 1583378629.552]
    table = (
        layout.read_items(item_ids(3, 6, 9580), bad)
        .filter(pl.col("item_id").is_in(item_ids(3, 6, 9580).ids.tolist()))
        .sort("item_id")
    )
    assert table.columns == ["item_id", "title", "likes", "views"]
    assert table.rows() == [(3, 'Cats, dogs and "us"', 44, 2015), (6, None, 1, 2), (9580, "Été 日本", 7, 1)]
    assert dict(layout.media) == {"image": tmp_path / f"{prefix}_covers", "audio": tmp_path / "audios"}
    assert layout.modalities == ()


def test_titles_may_have_a_header_and_a_byte_order_mark(tmp_path):
    prefix = write(tmp_path, "50k")
    (tmp_path / f"{prefix}_title_en.csv").unlink()
    (tmp_path / f"{prefix}_titles.csv").write_bytes(b"\xef\xbb\xbfitem,title\r\n3,One\r\n5,Two\r\n")
    (tmp_path / f"{prefix}_likes_and_views.txt").unlink()
    bad = BadRows(limit=0.0)
    assert MicroLens.find(tmp_path).read_items(item_ids(3, 5), bad).rows() == [(3, "One"), (5, "Two")]


def test_without_anything_beside_there_are_only_pairs(tmp_path):
    (tmp_path / "microlens-100k_pairs.csv").write_text("user,item\n1,2\n")
    layout = MicroLens.find(tmp_path)
    assert layout.read_items(item_ids(2), BadRows()) is None
    assert layout.media == {}
    assert layout.read_interactions(BadRows())[1].timestamp is None


def test_sequences_are_taken_apart(tmp_path):
    path = tmp_path / "MicroLens-50k_pairs.tsv"
    path.write_text("36121\t9580 3 12\n7\t3\nuser\tx y\n8\t1  2\n9\n")
    for layout in (MicroLens.find(tmp_path), MicroLens.find(path)):
        bad = BadRows(limit=0.6)
        frame, columns = layout.read_interactions(bad)
        assert frame.rows() == [(36121, 9580, 0), (36121, 3, 1), (36121, 12, 2), (7, 3, 0)]
        assert (columns.user, columns.item, columns.timestamp) == ("user", "item", None)
        assert bad.of(path.name)["left_out"] == {"not a user and videos": 3}
        assert "line 3" in bad.of(path.name)["first_left_out"][0]
    with pytest.raises(DataError, match="3 of 5 rows cannot be used"):
        MicroLens.find(path).read_interactions(BadRows())


def test_the_file_with_times_is_preferred(tmp_path):
    prefix = write(tmp_path)
    (tmp_path / f"{prefix}_pairs.tsv").write_text("36121\t9580\n")
    assert MicroLens.find(tmp_path).files["interactions"].suffix == ".csv"


def test_broken_lines_are_counted_and_named(tmp_path):
    prefix = write(tmp_path)
    titles, counts = f"{prefix}_title_en.csv", f"{prefix}_likes_and_views.txt"
    (tmp_path / titles).write_text('1,a\n2,b,c\nx,d\n1,e\n"3",f\n')
    (tmp_path / counts).write_text("1\t2\t3\n\n4\t5\n6\tmany\t7\n99999999999999999999\t1\t2\n")
    bad = BadRows(limit=0.8)
    table = MicroLens.find(tmp_path).read_items(item_ids(1, 2, 3), bad).sort("item_id")
    assert table.rows() == [(1, "a", 2, 3), (3, "f", None, None)]
    assert bad.of(titles)["left_out"] == {"not item_id, title": 2, "a video listed before": 1}
    assert bad.of(titles)["first_left_out"][0].startswith("not item_id, title: line 2: ")
    assert bad.of(counts)["left_out"] == {"not item_id, likes, views": 3}
    assert "line 3" in bad.of(counts)["first_left_out"][0]
    with pytest.raises(DataError, match=f"{titles}: 3 of 5 rows"):
        MicroLens.find(tmp_path).read_items(item_ids(1), BadRows())


def test_a_quote_that_is_never_closed_costs_the_lines_it_takes(tmp_path):
    prefix = write(tmp_path)
    name = f"{prefix}_title_en.csv"
    (tmp_path / name).write_text('1,a\n2,"two\nlines"\n3,"x"y\n4,b\n5,"open\n6,c\n7,d\n')
    bad = BadRows(limit=0.7)
    table = MicroLens.find(tmp_path).read_items(item_ids(1, 2, 3, 4, 5, 6, 7), bad).sort("item_id")
    assert table.filter(table["title"].is_not_null())["title"].to_list() == ["a", "two\nlines", "b"]
    assert bad.of(name)["left_out"] == {"not item_id, title": 4}
    assert [text.partition(": line ")[2] for text in bad.of(name)["first_left_out"]] == [
        "4: []", "6: []", "7: []", "8: []",
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"1,caf\xe9\n", b""])
def test_titles_that_cannot_be_read_are_named(tmp_path, content):
    prefix = write(tmp_path)
    (tmp_path / f"{prefix}_title_en.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"MicroLens-100k_title_en\.csv (cannot be read|is empty)"):
        MicroLens.find(tmp_path).read_items(item_ids(1), BadRows())


def test_a_bad_row_of_pairs_is_counted(tmp_path):
    prefix = write(tmp_path)
    (tmp_path / f"{prefix}_pairs.csv").write_text("user,item,timestamp\n1,2,3\n1,2,3,4\n")
    bad = BadRows(limit=0.5)
    assert MicroLens.find(tmp_path).read_interactions(bad)[0].height == 1
    assert bad.of(f"{prefix}_pairs.csv")["left_out"] == {"too many fields": 1}
    with pytest.raises(DataError, match=rf"{prefix}_pairs\.csv: 1 of 2 rows cannot be used"):
        MicroLens.find(tmp_path).read_interactions(BadRows())


def test_the_publishers_features_count_videos_from_one(tmp_path):
    prefix = write(tmp_path)
    folder = tmp_path / "extracted_modality_features"
    folder.mkdir()
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(folder / f"{prefix}_image_features_CLIPRN50.npy", rows)
    np.save(folder / f"{prefix}_title_en_text_features_BgeM3.npy", rows + 1)
    np.save(tmp_path / f"{prefix}_video_features_VideoMAE.npy", rows[:2])
    layout = MicroLens.find(tmp_path)
    assert sorted(layout.modalities) == ["image", "text", "video"]
    listed = item_ids(1, 3)
    assert layout.read_features("image", listed, listed).values.tolist() == [[0, 1], [4, 5]]
    assert layout.read_features("text", item_ids(3), listed).values.tolist() == [[5, 6]]
    with pytest.raises(ShapeError, match="has 2 rows; wanted 3"):
        layout.read_features("video", listed, listed)
    with pytest.raises(DataError, match=r"MicroLens-100k_pairs\.csv calls a video 'x'"):
        layout.read_features("image", item_ids("x"), item_ids("x"))


def test_two_sizes_in_one_folder_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "MicroLens-50k_pairs.tsv").write_text("1\t2\n")
    with pytest.raises(DataError, match=r"MicroLens-100k, MicroLens-50k.*a folder of its own"):
        MicroLens.find(tmp_path)


def test_compressed_files_say_the_same(tmp_path):
    prefix = write(tmp_path)
    plain = MicroLens.find(tmp_path)
    pairs, items = plain.read_interactions(BadRows())[0], plain.read_items(item_ids(3), BadRows())
    for role in ("interactions", "titles", "counts"):
        path = plain.files[role]
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = MicroLens.find(tmp_path)
    assert packed.files.keys() == plain.files.keys()
    assert packed.read_interactions(BadRows())[0].equals(pairs)
    assert packed.read_items(item_ids(3), BadRows()).equals(items)
    assert MicroLens.find(packed.files["interactions"]) is not None
    titles = tmp_path / f"{prefix}_title_en.csv.gz"
    titles.write_bytes(titles.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"title_en\.csv\.gz cannot be read"):
        packed.read_items(item_ids(3), BadRows())


def test_compressed_sequences_are_taken_apart(tmp_path):
    path = tmp_path / "MicroLens-50k_pairs.tsv.gz"
    path.write_bytes(gzip.compress(b"36121\t9580 3\n"))
    frame, _ = MicroLens.find(tmp_path).read_interactions(BadRows())
    assert frame.select("user", "item").rows() == [(36121, 9580), (36121, 3)]
