import gzip
import io
import struct
import tracemalloc

import numpy as np
import pytest

from triptych.data.ids import IdMap
from triptych.data.layouts import amazon_images
from triptych.data.layouts.amazon_images import DIM, RECORD, read_image_features
from triptych.errors import DataError


def ids(*raw):
    return IdMap(np.array(sorted(raw)), "item")


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(0, 5, (n, DIM)), 0).astype(np.float32)  # as a rectified layer gives


def record(asin, row, order="<"):
    return asin.encode() + struct.pack(f"{order}{DIM}f", *row.tolist())


@pytest.fixture
def shop(tmp_path):
    """Seven records, of which two repeat one item."""
    asins = ["0000031852", "B00JHONN1S", "019848710X", "B00JHONN1S", "B000000001", "B00JHONN1S", "B000000002"]
    matrix = rows(len(asins))
    path = tmp_path / "image_features_Baby.b"
    path.write_bytes(b"".join(record(asin, row) for asin, row in zip(asins, matrix, strict=True)))
    return path, matrix


@pytest.mark.parametrize("block_records", [1, 2, 3, 7, 512])
@pytest.mark.parametrize("compressed", [False, True])
def test_rows_come_to_their_items_whatever_the_block(shop, monkeypatch, block_records, compressed):
    path, matrix = shop
    if compressed:
        path.with_name("features.b.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path = path.with_name("features.b.gz")
    monkeypatch.setattr(amazon_images, "BLOCK_RECORDS", block_records)
    features = read_image_features(path, ids("B00JHONN1S", "019848710X", "B000000002", "B00MISSING"))
    assert features.present.tolist() == [True, True, True, False]  # 019..., B000..., B00J..., B00M...
    np.testing.assert_array_equal(features.values, np.vstack([matrix[[2, 6, 1]], np.zeros((1, DIM))]))
    assert features.values.dtype == np.float32
    assert features.source == f"{path.name} (2 repeated records and 2 records of other items ignored)"


def test_nothing_ignored_is_nothing_said(tmp_path):
    path = tmp_path / "a.b"
    path.write_bytes(record("B000000001", rows(1)[0]))
    assert read_image_features(path, ids("B000000001")).source == "a.b"


def test_ids_of_digits_only_find_integers(tmp_path):
    path = tmp_path / "a.b"
    path.write_bytes(record("1234567890", rows(1)[0]) + record("0000031852", rows(1)[0]))
    items = IdMap(np.array([31852, 1234567890]), "item")
    assert read_image_features(path, items).present.tolist() == [False, True]  # 31852 is not 0000031852


def test_a_record_has_16394_bytes():
    assert RECORD.itemsize == 16_394


def test_the_file_is_never_whole_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.b"
    row = rows(1)[0]
    path.write_bytes(b"".join(record(f"B{at:09}", row) for at in range(400)))
    monkeypatch.setattr(amazon_images, "BLOCK_RECORDS", 8)
    tracemalloc.start()
    try:
        features = read_image_features(path, ids("B000000007", "B000000399"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert features.coverage == 1.0
    assert peak < path.stat().st_size / 5


@pytest.mark.parametrize("n_bytes", [1, 9, 10, 16_393])
def test_an_early_end_is_said(shop, n_bytes):
    path, _ = shop
    path.write_bytes(path.read_bytes()[: 3 * RECORD.itemsize + n_bytes])
    with pytest.raises(
        DataError, match=rf"Baby\.b ends early: {n_bytes:,} bytes follow 3 whole records.*16,394"
    ):
        read_image_features(path, ids("B00JHONN1S"))


def test_an_early_end_of_compressed_data_is_said(shop):
    path, _ = shop
    cut = path.with_name("cut.b.gz")
    cut.write_bytes(gzip.compress(path.read_bytes(), 1)[:-2000])
    with pytest.raises(DataError, match=r"cut\.b\.gz ends early or is damaged in or after record 1"):
        read_image_features(cut, ids("B00JHONN1S"))


@pytest.mark.parametrize(
    "start", [b"B00\xe9000001", b"B00 000001", b"B000001\0\0\0", b"\0" * 10, b"B00\x00000001"]
)
def test_garbage_in_place_of_an_id_is_named_with_its_record(shop, monkeypatch, start):
    path, _ = shop
    damaged = bytearray(path.read_bytes())
    damaged[4 * RECORD.itemsize : 4 * RECORD.itemsize + len(start)] = start
    path.write_bytes(damaged)
    monkeypatch.setattr(amazon_images, "BLOCK_RECORDS", 3)
    with pytest.raises(DataError, match=r"record 5 begins with b'.*an item id of 10 letters and digits"):
        read_image_features(path, ids("0000031852"))


def test_another_width_is_found_by_its_misplaced_ids(tmp_path):
    path = tmp_path / "narrow.b"
    path.write_bytes(b"".join(b"B%09d" % at + np.ones(DIM - 1, "<f4").tobytes() for at in range(4)))
    with pytest.raises(DataError, match=r"record 2 begins with|ends early"):
        read_image_features(path, ids("B000000000"))


def test_the_wrong_byte_order_is_found(shop):
    path, matrix = shop
    path.write_bytes(record("B00JHONN1S", matrix[0], order=">"))
    with pytest.raises(
        DataError, match=r"item 'B00JHONN1S' has NaN, or numbers beyond 1,000,000.*little-endian"
    ):
        read_image_features(path, ids("B00JHONN1S"))


def test_numbers_that_are_none_matter_in_wanted_rows_only(shop):
    path, matrix = shop
    broken = matrix[0].copy()
    broken[17] = np.nan
    path.write_bytes(record("B000000001", broken) + record("B000000002", matrix[1]))
    with pytest.raises(DataError, match=r"'B000000001' has NaN"):
        read_image_features(path, ids("B000000001", "B000000002"))
    np.testing.assert_array_equal(read_image_features(path, ids("B000000002")).values, matrix[1:2])


def test_features_of_other_items_only_are_refused(shop):
    path, _ = shop
    with pytest.raises(DataError, match=r"describes none of the 1 items.*same category and year"):
        read_image_features(path, ids("B999999999"))


def test_the_published_way_of_reading_agrees(shop):
    """The oracle: ten bytes, then 4,096 floats, until nothing is left, as the data's page describes it."""
    path, _ = shop
    file, expected = io.BytesIO(path.read_bytes()), {}
    while asin := file.read(10):
        expected.setdefault(asin.decode(), struct.unpack(f"<{DIM}f", file.read(4 * DIM)))
    items = ids(*expected)
    values = read_image_features(path, items).values
    assert {raw: tuple(row) for raw, row in zip(items.ids.tolist(), values.tolist(), strict=True)} == expected
