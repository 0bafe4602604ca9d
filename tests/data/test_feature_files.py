import io
import zipfile

import numpy as np
import polars as pl
import pytest
import safetensors.numpy

from triptych.data.feature_files import read_features
from triptych.data.ids import IdMap
from triptych.errors import ConfigError, DataError, ShapeError, TriptychError

NUMBERS = IdMap(np.array([0, 1, 3]), "item")  # item 2 was never interacted with
WORDS = IdMap(np.array(["a", "b", "c"]), "item")
ROWS = np.arange(8, dtype=np.float64).reshape(4, 2)
EDGES = {"row": np.array([0, 1, 3, 2]), "col": np.array([1, 0, 0, 3]), "weight": np.array([0.5, 0.25, 1, 2])}


def npy(path, array):
    np.save(path, array)


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)


def tensors(path, **arrays):
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def parquet(path, **columns):
    pl.DataFrame(columns).write_parquet(path)


DENSE = {
    "a.npy": lambda path: npy(path, ROWS),
    "half.npy": lambda path: npy(path, ROWS.astype(np.float16)),
    "fortran.npy": lambda path: npy(path, np.asfortranarray(ROWS)),
    "integers.npy": lambda path: npy(path, ROWS.astype(np.int16)),
    "a.npz": lambda path: npz(path, values=ROWS),
    "a.safetensors": lambda path: tensors(path, values=ROWS),
    "one.safetensors": lambda path: tensors(path, clip_embedding=ROWS),
    "list.parquet": lambda path: parquet(
        path, itemID=[3, 1, 0, 2], title=["x"] * 4, v=ROWS[[3, 1, 0, 2]].tolist()
    ),
    "array.parquet": lambda path: parquet(
        path, item_id=range(4), v=pl.Series(ROWS, dtype=pl.Array(pl.Float32, 2))
    ),
    "wide.parquet": lambda path: parquet(path, item=["0", "1", "2", "3"], f0=ROWS[:, 0], f1=ROWS[:, 1]),
}


@pytest.mark.parametrize("name", DENSE)
def test_every_format_gives_the_same_rows(tmp_path, name):
    DENSE[name](tmp_path / name)
    features = read_features(tmp_path / name, "image", NUMBERS)
    assert features.values.dtype == np.float32
    assert features.values.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert features.present.all()
    others = "unknown items" if name.endswith("parquet") else "items without interactions"
    assert features.source == f"{name} (1 rows of {others} ignored)"


def test_rows_follow_the_item_table(tmp_path):
    npy(tmp_path / "a.npy", ROWS)
    features = read_features(tmp_path / "a.npy", "image", WORDS, row_order=["c", "elsewhere", "a", "nowhere"])
    assert features.values.tolist() == [[4, 5], [0, 0], [0, 1]]
    assert features.present.tolist() == [True, False, True]
    with pytest.raises(ShapeError, match=r"image features a\.npy: has 4 rows; wanted 3, one for each row of"):
        read_features(tmp_path / "a.npy", "image", WORDS, row_order=["c", "b", "a"])
    with pytest.raises(DataError, match="describes none of the items"):
        read_features(tmp_path / "a.npy", "image", WORDS, row_order=["w", "x", "y", "z"])


def test_rows_of_text_ids_follow_their_order(tmp_path):
    npy(tmp_path / "a.npy", ROWS[:3])
    assert read_features(tmp_path / "a.npy", "text", WORDS).values.tolist() == ROWS[:3].tolist()
    npy(tmp_path / "b.npy", ROWS)
    with pytest.raises(ShapeError, match=r"has 4 rows; wanted 3, one for each item id in sorted order"):
        read_features(tmp_path / "b.npy", "text", WORDS)
    with pytest.raises(ShapeError, match=r"has 3 rows; wanted 4, row k for item id k up to the largest id 3"):
        read_features(tmp_path / "a.npy", "text", NUMBERS)
    negative = IdMap(np.array([-5, 0, 7]), "item")
    assert read_features(tmp_path / "a.npy", "text", negative).values.tolist() == ROWS[:3].tolist()


def test_missing_rows(tmp_path):
    broken = ROWS.copy()
    broken[1] = np.nan
    mask = np.array([True, False, True, True])
    tensors(tmp_path / "a.safetensors", values=broken, present=mask)
    parquet(tmp_path / "a.parquet", item=[0, 3, 1], v=[[0.0, 1.0], [6.0, 7.0], None])
    parquet(tmp_path / "b.parquet", item=[3, 0], x=[6, 0], y=[7.0, 1.0])
    for name in ("a.safetensors", "a.parquet", "b.parquet"):
        features = read_features(tmp_path / name, "image", NUMBERS)
        assert features.present.tolist() == [True, False, True]
        assert features.values.tolist() == [[0, 1], [0, 0], [6, 7]]
    tensors(tmp_path / "short.safetensors", values=ROWS, present=mask[:2])
    with pytest.raises(ShapeError, match=r"2 marks of presence"):
        read_features(tmp_path / "short.safetensors", "image", NUMBERS)


@pytest.mark.parametrize("extra", [{}, {"n": np.array(4)}, {"n": np.array(4), "cosine": np.ones(4)}])
@pytest.mark.parametrize(("suffix", "save"), [("npz", npz), ("safetensors", tensors)])
def test_a_given_graph(tmp_path, suffix, save, extra):
    save(tmp_path / f"knn.{suffix}", **EDGES, **extra)
    features = read_features(tmp_path / f"knn.{suffix}", "image", NUMBERS)
    assert features.values is None
    assert features.graph.row.tolist() == [0, 1, 2]
    assert features.graph.col.tolist() == [1, 0, 0]
    assert features.graph.weight.tolist() == [0.5, 0.25, 1]
    assert features.present.all()
    assert "(1 links of items without interactions ignored)" in features.source


def test_a_graph_follows_the_item_table_and_marks_linked_items_present(tmp_path):
    npz(tmp_path / "knn.npz", row=np.array([1]), col=np.array([0]), weight=np.ones(1))
    features = read_features(tmp_path / "knn.npz", "image", WORDS, row_order=["c", "b"])
    assert (features.graph.row.tolist(), features.graph.col.tolist()) == ([1], [2])
    assert features.present.tolist() == [False, True, True]


def test_dense_rows_and_a_graph_in_one_file(tmp_path):
    tensors(tmp_path / "both.safetensors", values=ROWS, present=np.arange(4) > 0, **EDGES)
    features = read_features(tmp_path / "both.safetensors", "image", NUMBERS)
    assert features.dim == 2
    assert len(features.graph) == 3
    assert features.present.all()


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def archive_of(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def with_value(value):
    rows = ROWS.copy()
    rows[2, 1] = value
    return rows


def header(shape):
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD = {
    "object.npy": (saved(np.array([None]), allow_pickle=True), "Object arrays cannot be loaded.*pickles can run code"),
    "pickle.npy": (b"\x80\x04K\x01.", "cannot be read"),
    "object.npz": (archive_of("row.npy", saved(np.array([None]), allow_pickle=True)), "Object arrays"),
    "cut.npy": (saved(ROWS)[:-5], "cannot be read"),
    "huge.npy": (header((2**40, 2**10)), "cannot be read"),
    "empty.npy": (b"", "is empty"),
    "text.npy": (saved(np.array([["a"]] * 4)), "<U1 values"),
    "record.npy": (saved(np.zeros(4, dtype=[("a", "f4")])), r"shape \(4,\)"),
    "vector.npy": (saved(np.ones(4)), r"float64 values of shape \(4,\)"),
    "scalar.npy": (saved(np.float64(3)), r"shape \(\)"),
    "pictures.npy": (saved(np.ones((4, 2, 2))), r"shape \(4, 2, 2\); wanted a matrix"),
    "no_columns.npy": (saved(np.ones((4, 0))), r"shape \(4, 0\)"),
    "complex.npy": (saved(ROWS * 1j), "complex128"),
    "nan.npy": (saved(with_value(np.nan)), "NaN.* in 1 rows, first in row 2"),
    "inf.npy": (saved(with_value(np.inf)), "first in row 2"),
    "overflow.npy": (saved(with_value(1e200)), "first in row 2"),
    "cut.npz": (archive_of("values.npy", saved(ROWS))[:-10], "cannot be read"),
    "note.npz": (archive_of("values", b"hello"), "holds the arrays none"),
    "other.npz": (archive_of("x.npy", saved(np.ones(3))), "holds the arrays x; wanted a matrix 'values'"),
    "junk.safetensors": (b"not a tensor file at all", "damaged"),
    "weights.pt": (b"PK\3\4", r"suffix '\.pt'; wanted features: \.npy"),
    "junk.parquet": (b"PAR1PAR1", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_nothing_is_unpickled(tmp_path, suffix):
    content = saved(np.array([Bomb(tmp_path / "canary")]), allow_pickle=True)
    (tmp_path / f"a.{suffix}").write_bytes(content if suffix == "npy" else archive_of("values.npy", content))
    with pytest.raises(DataError, match="pickles can run code"):
        read_features(tmp_path / f"a.{suffix}", "image", NUMBERS)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TriptychError, match=f"(?s){name}.*{message}"):
        read_features(tmp_path / name, "image", NUMBERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": np.array(5)}, "has 5 graph rows; wanted 4"),
        ({"row": np.array([0, 1, 4, 2])}, "links rows 0 to 4; wanted rows from 0 to 3"),
        ({"col": np.array([0, -1, 3, 2])}, "links rows -1 to 3"),
        ({"row": EDGES["row"] / 2}, "float64 rows"),
        ({"weight": np.array([1, np.nan, 1, 1])}, "edge 1 -> 0 has weight nan"),
        ({"weight": np.ones(3)}, r"weight \(3,\); wanted three vectors"),
        ({"row": np.zeros(4, int), "col": np.ones(4, int)}, "same edge twice"),
    ],
)
def test_a_bad_graph_is_named(tmp_path, change, message):
    npz(tmp_path / "knn.npz", **{**EDGES, **change})
    with pytest.raises(DataError, match=rf"audio features knn\.npz: .*{message}"):
        read_features(tmp_path / "knn.npz", "audio", NUMBERS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": [0, 0], "v": [1.0, 2.0]}, "'item' lists item 0 more than once"),
        ({"item": [0, None], "v": [1.0, 2.0]}, "'item' has 1 empty or bad ids, first in data row 2"),
        ({"item": [0, 1], "v": [1.0, None]}, "first in row 1"),
        ({"item": [0, 1], "v": [[1.0, 2.0], [1.0]]}, "'v' holds 1 numbers in data row 2; wanted 2"),
        ({"item": [0, 1], "v": [[1.0], [None]]}, "first in row 1"),
        ({"item": [0, 1], "v": [["a"], ["b"]]}, r"the columns v \(List\(String\)\)"),
        ({"item": [0, 1], "v": [[1.0], [2.0]], "w": [[1.0], [2.0]]}, r"the columns v .*, w "),
        ({"item": [0, 1], "v": [1.0, 2.0], "title": ["x", "y"]}, r"title \(String\)"),
        ({"item": [0, 1]}, "the columns none"),
        ({"item": [8, 9], "v": [1.0, 2.0]}, "describes none of the items"),
        ({"item": [0, 1], "v": pl.Series([None, None], dtype=pl.List(pl.Float32))}, r"shape \(2, 0\)"),
        (
            {"v": [1.0, 2.0]},
            r"no column has a well-known name for item ids: .* Call it item_id, and no other so",
        ),
        ({"item": [0, 1], "v": pl.Series([[], []], dtype=pl.List(pl.Float32))}, r"shape \(2, 0\)"),
    ],
)
def test_a_bad_table_is_named(tmp_path, columns, message):
    parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(DataError, match=rf"image features a\.parquet: .*{message}"):
        read_features(tmp_path / "a.parquet", "image", NUMBERS)


def test_the_id_column_may_be_named_like_that_of_the_interactions(tmp_path):
    parquet(tmp_path / "a.parquet", asin=["x", "y", "z"], sku=["a", "b", "c"], v=ROWS[:3].tolist())
    features = read_features(tmp_path / "a.parquet", "image", WORDS, like="sku")
    assert features.present.all()


def test_a_modality_has_a_plain_name(tmp_path):
    npy(tmp_path / "a.npy", ROWS)
    with pytest.raises(ConfigError, match="the modality name"):
        read_features(tmp_path / "a.npy", "../image", NUMBERS)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "list.parquet"])
def test_damage_anywhere_gives_a_typed_error_or_features(tmp_path, name):
    DENSE[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    rng, messages = np.random.default_rng(0), []
    for _ in range(5 if name.endswith("parquet") else 60):  # Parquet is tried in a process of its own
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for at in rng.integers(0, len(damaged), 2):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        try:
            read_features(tmp_path / name, "image", NUMBERS)
        except TriptychError as error:
            messages.append(str(error))
    assert messages
    assert all(name in message for message in messages)
