"""Every reader of files, each with honest files to damage: what a fuzzer needs to know of Triptych.

A target writes the bytes it is given in the place of one file, the others being in order, and reads all of
it. Reading may give anything or raise a `TriptychError`; whatever else comes out is a defect.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import safetensors.numpy
from mutator import mutate, mutate_json

from triptych.data.bad_rows import BadRows
from triptych.data.dataset import MANIFEST, Dataset
from triptych.data.feature_files import read_features
from triptych.data.ids import IdMap
from triptych.data.layouts import find_layout
from triptych.data.pictures import open_picture
from triptych.data.readers import interactions_from_frame, read_interactions, read_item_table
from triptych.errors import TriptychError
from triptych.fetch.unpack import unpack_zip
from triptych.files import checksums, read_json, write_json

CORPUS = Path(__file__).parent / "corpus"
"""Found cases: `corpus/READER/NAME`, one file each."""

Contents = Mapping[str, bytes]
"""File name -> content."""


@dataclass(frozen=True)
class Target:
    """One reader.

    Args:
        file: the name of the file that is damaged.
        seeds: honest contents of it.
        read: reads the folder with that file in it.
        beside: the other files.
        runs: how often it is tried by default; fewer where one try is slow.
        mutate: makes a damaged file of some.
    """

    file: str
    seeds: Sequence[bytes]
    read: Callable[[Path], object]
    beside: Contents = field(default_factory=dict)
    runs: int = 60
    mutate: Callable[[Sequence[bytes], random.Random], bytes] = mutate

    def lay_out(self, folder: Path) -> None:
        """Write the files beside the one that is damaged."""
        for name, content in self.beside.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def attempt(self, folder: Path, content: bytes) -> str | None:
        """Read a content; give the message of the error it was refused with, None if it was read."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        try:
            self.read(folder)
        except TriptychError as refused:
            return str(refused)
        return None


def found_cases(name: str) -> list[bytes]:
    """Give what once was a defect of a reader, or led a fuzzer to new code."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


# Layouts


def _read_layout(folder: Path) -> None:
    """Read all that is in a folder, as `prepare` does."""
    bad = BadRows(limit=1.0)
    layout = find_layout(folder)
    frame, columns = layout.read_interactions(bad)
    read = interactions_from_frame(frame, columns, file="table", bad=bad)
    layout.read_items(read.interactions.items, bad)
    for modality in layout.modalities:
        layout.read_features(modality, read.interactions.items, read.listed)


def _read_tables(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        _read_layout(folder)
        read_interactions(folder / name, bad=BadRows(limit=0.5))

    return read


def _read_items(name: str) -> Callable[[Path], object]:
    return lambda folder: read_item_table(folder / name, bad=BadRows(limit=1.0))


_ROWS = [(f"u{user}", f"i{item}", 1 + (user * item) % 5, 1_700_000_000 + 60 * user + item)
         for user in range(4) for item in range(user, 6)]  # fmt: skip


def _table(header: str, separator: str = ",", rows: Sequence[Sequence[object]] = _ROWS) -> bytes:
    lines = [header, *(separator.join(map(str, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


_SALES = _table("user_id,item_id,rating,timestamp")
_QUOTED = b'user_id;item_id;date\r\n"u,1";"i ""1""";2024-05-01\r\n"u\n2";i2;31.12.2023\r\n;i3;x\r\n'
_ITEMS = b'item_id,title,price\ni0,"Lamp, green",3.5\ni1,Chair,\ni2,"T""able",x\ni5,,1\n'
_JSON = b"".join(
    json.dumps({"user_id": user, "item_id": item, "rating": rating, "time": time, "of": {"s": [1]}}).encode()
    + b"\n"
    for user, item, rating, time in _ROWS
)
_TYPED = _table("user_id:token\titem_id:token\trating:float\ttimestamp:float", "\t")
_NUMBERED = [(user[1:], item[1:], rating, time) for user, item, rating, time in _ROWS]


def _parquet(columns: Mapping[str, Sequence[object]]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(dict(columns), strict=False).write_parquet(file)
    return file.getvalue()


_SALES_PARQUET = _parquet(
    dict(zip(("user", "item", "rating", "time"), zip(*_ROWS, strict=True), strict=True))
)

_REVIEWS = b"".join(
    json.dumps({"reviewerID": f"A{user:013}", "asin": f"B{item:09}", "overall": 5.0, "unixReviewTime": 1_400_000_000 + item,
                "helpful": [0, 1], "reviewText": "caf\u00e9 \\/"}).encode() + b"\n"
    for user in range(3) for item in range(4)
)  # fmt: skip
_META = (
    b"{'asin': 'B000000000', 'title': 'Teether \\'blue\\'', 'price': 7.5, 'imUrl': 'http://x.y/a.jpg', "
    b"'categories': [['Baby', 'Toys']], 'related': {'also_bought': ['B000000001']}}\n"
    b"{'asin': 'B000000001', 'description': u'<b>soft</b> &amp; caf\\xe9', 'salesRank': {'Baby': 12}}\n"
    b'{"asin": "B000000002", "brand": "Acme", "image": ["http:\\/\\/x.y\\/b.jpg"], "price": "$1,299.00"}\n'
)
_RATINGS = b"".join(b"A%013d,B%09d,4.0,1400000%03d\n" % (u, i, 9 * u + i) for u in range(3) for i in range(4))
_NEWER = b"user_id,parent_asin,rating,timestamp,history\n" + b"".join(
    b"AE%011d,B%09d,4.0,1600000000%03d,\n" % (u, i, 9 * u + i) for u in range(3) for i in range(4)
)
_IMAGES = b"".join(
    b"B%09d" % item + np.linspace(0, item + 1, 4096, dtype="<f4").tobytes() for item in range(2)
)

_U_DATA = _table("1\t1\t3\t881250949", "\t", _NUMBERED)
_U_ITEM = b"".join(
    b"%d|Film %d (199%d)|01-Jan-1995||http://x.y|%s\n" % (i, i, i, b"|".join([b"0", b"1"] + [b"0"] * 17))
    for i in range(6)
)
_U_GENRE = b"".join(b"genre %d|%d\n" % (number, number) for number in range(19))
_RATINGS_DAT = _table("1::1::3::881250949", "::", _NUMBERED)
_MOVIES_DAT = b"0::Toy Story (1995)::Animation|Comedy\n1::Caf\xe9 (1997)::Drama\n2::A::B (2001)::Drama\n"
_RATINGS_CSV = _table("userId,movieId,rating,timestamp", ",", _NUMBERED)
_MOVIES_CSV = b'movieId,title,genres\n0,"Story, A (1995)",Comedy|Drama\n1,Heat (1995),(no genres listed)\n'

_PAIRS = _table(
    "user,item,timestamp", ",", [(user, int(item) + 1, time) for user, item, _, time in _NUMBERED]
)
_SEQUENCES = b"1\t1 2 3\n2\t3 1\n3\t6 5 4 1\n"
_TITLES = b'item,title\n1,"One, two"\n2,"Say ""hi"""\n3,\xe4\xb8\xad\n'

_MMREC = _table(
    "userID\titemID\trating\ttimestamp\tx_label",
    "\t",
    [(*row, place % 3) for place, row in enumerate(_NUMBERED)],
)
_MAPPING = b"asin\titemID\n" + b"".join(b"B%d\t%d\n" % (item, item) for item in range(6))
_EMBEDDINGS = b"aid:token\taid_emb:float_seq\n" + b"".join(b"i%d\t0.5 -1 %d\n" % (i, i) for i in range(6))


# Features


def _read_features(folder: Path, name: str) -> None:
    items = IdMap(np.arange(6), "item")
    read_features(folder / name, "image", items)


def _saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


_VALUES = np.arange(18, dtype=np.float32).reshape(6, 3)
_PRESENT = np.array([1, 1, 0, 1, 1, 1], dtype=bool)
_GRAPH = {
    "row": np.array([0, 1, 2]),
    "col": np.array([1, 2, 0]),
    "weight": np.array([1.0, 0.5, 0.25]),
    "n": np.array(6),
}
_LISTS = _parquet({"item_id": list(range(6)), "vector": _VALUES.tolist()})


# Folders that Triptych wrote


def _dataset() -> dict[str, bytes]:
    """Save a small data set, and give its files."""
    import tempfile

    from triptych.testing.data import toy_dataset

    with tempfile.TemporaryDirectory() as folder:
        toy_dataset(3, 8).save(Path(folder) / "data")
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def _unsealed(content: bytes) -> bytes:
    """Take the checksum out of a JSON file; such files are of an older version, and believed."""
    facts = json.loads(content)
    facts.pop("checksum", None)
    return json.dumps(facts, indent=2).encode()


def _load_resigned(folder: Path) -> None:
    """Load a data set whose manifest was brought up to date with a damaged file: its checksums are right."""
    path = folder / "data" / MANIFEST
    facts = {**read_json(path), "files": {}}
    path.unlink()
    write_json(path, {**facts, "files": checksums(folder / "data")})
    Dataset.load(folder / "data")


def _read_recipe(folder: Path) -> None:
    from triptych.training.recipe import find_recipe

    find_recipe(str(folder / "mine.toml")).configs()


def _read_space(folder: Path) -> None:
    from triptych.training.space import find_space

    find_space(str(folder / "mine.toml"))


def _run() -> dict[str, bytes]:
    """Save a small run, and give its files."""
    import tempfile

    from triptych.data.split import Split
    from triptych.runs import train
    from triptych.testing.data import toy_dataset
    from triptych.training.config import TrainConfig

    split = Split.by_ratio(toy_dataset(4, 8), rng=0)
    with tempfile.TemporaryDirectory() as folder:
        run = train("popularity", split, k=(2,), config=TrainConfig(metric="recall@2"), device="cpu")
        run.save(Path(folder) / "run")
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def _load_run(folder: Path) -> None:
    from triptych.runs import load

    load(folder / "run").recommend(["u000", "u001"], k=2)


# Pictures and archives


def _pictures() -> list[bytes]:
    from PIL import Image

    picture = Image.effect_mandelbrot((12, 9), (-2, -1.5, 1, 1.5), 20)
    files = []
    for form, mode in (("PNG", "L"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGBA"),
                       ("TIFF", "I;16"), ("TIFF", "F"), ("PPM", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB")):  # fmt: skip
        file = io.BytesIO()
        picture.convert("I" if mode == "I;16" else mode).save(file, form)
        files.append(file.getvalue())
    return files


def _zip(compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("shop/sales.csv", _SALES)
        archive.writestr("shop/deep/items.csv", _ITEMS)
    return file.getvalue()


def _unpack(folder: Path) -> None:
    """Unpack, and see that nothing came into being beside the folder."""
    before = {path.name for path in folder.iterdir()}
    try:
        unpack_zip(folder / "a.zip", folder / "out", max_bytes=1 << 20)
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
        assert {path.name for path in folder.iterdir()} == before


def _first_of(files: Mapping[str, bytes], *names: str) -> list[bytes]:
    return [files[name] for name in names]


def targets() -> dict[str, Callable[[], Target]]:
    """Name the readers, each with what makes its target."""
    recbole = {"shop.inter": _TYPED}
    mmrec = {"shop.inter": _MMREC, "image_feat.npy": _npy(_VALUES)}
    baby = {"reviews_Baby_5.json": _REVIEWS}
    small = {"u.data": _U_DATA, "u.item": _U_ITEM, "u.genre": _U_GENRE}
    micro = {"MicroLens-50k_pairs.csv": _PAIRS}

    def layout(file: str, *seeds: bytes, **rest: bytes | Contents | int) -> Callable[[], Target]:
        beside = {name: content for name, content in dict(rest.pop("beside", {})).items() if name != file}
        return lambda: Target(file, seeds, _read_layout, beside, **rest)  # type: ignore[arg-type]

    def table(file: str, *seeds: bytes, runs: int = 60) -> Callable[[], Target]:
        return lambda: Target(file, seeds, _read_tables(file), runs=runs)

    def items(file: str, *seeds: bytes) -> Callable[[], Target]:
        return lambda: Target(file, seeds, _read_items(file))

    def features(file: str, *seeds: bytes, runs: int = 60) -> Callable[[], Target]:
        return lambda: Target(file, seeds, lambda folder: _read_features(folder, file), runs=runs)

    def dataset_manifest() -> Target:
        files = _dataset()
        name = f"data/{MANIFEST}"
        seeds = [_unsealed(files.pop(name))]
        return Target(name, seeds, lambda folder: Dataset.load(folder / "data"), files, mutate=mutate_json)

    def dataset_features() -> Target:
        files = _dataset()
        name = "data/features/image.safetensors"
        seeds = [safetensors.numpy.save(safetensors.numpy.load(files.pop(name)))]
        return Target(name, seeds, _load_resigned, files)

    def run_record() -> Target:
        files = _run()
        seeds = [_unsealed(files.pop("run/run.json"))]
        return Target("run/run.json", seeds, _load_run, files, mutate=mutate_json)

    def recipe() -> Target:
        seeds = [
            b'model = "freedom"\nplugins = ["sand"]\nsource = "me"\n[settings]\nn_layers = 2\nsand.align_weight = 0.1\n',
            b'model = "lightgcn"\n[settings]\nlearning_rate = 1e-3\nmetric = "recall@20"\n',
        ]
        return Target("mine.toml", seeds, _read_recipe)

    def space() -> Target:
        seeds = [
            b'model = "layergcn"\nsource = "me"\n[space]\nedge_dropout = [0.0, 0.1]\n'
            b"learning_rate = {low = 1e-4, high = 1e-2, log = true}\n"
        ]
        return Target("mine.toml", seeds, _read_space)

    def picture() -> Target:
        return Target("a.jpg", _pictures(), lambda folder: open_picture(folder / "a.jpg"))

    def archive() -> Target:
        return Target("a.zip", [_zip(kind) for kind in (0, 8, 12, 14)], _unpack)

    return {
        "csv": table("sales.csv", _SALES, _QUOTED),
        "tsv": table("sales.tsv", _SALES.replace(b",", b"\t"), _QUOTED),
        "csv-gz": table("sales.csv.gz", gzip.compress(_SALES, mtime=0)),
        "jsonl": table("sales.jsonl", _JSON),
        "json": table("sales.json", b"[" + b",".join(_JSON.splitlines()) + b"]", _JSON),
        "jsonl-xz": layout("reviews_Baby_5.json.xz", lzma.compress(_REVIEWS), beside={}),
        "jsonl-bz2": layout("reviews_Baby_5.json.bz2", bz2.compress(_REVIEWS), beside={}),
        "parquet": table("sales.parquet", _SALES_PARQUET, runs=5),
        "items-csv": items("items.csv", _ITEMS),
        "items-jsonl": items("items.jsonl", _JSON),
        "amazon-reviews": layout("reviews_Baby_5.json", _REVIEWS, beside={}),
        "amazon-ratings": layout("ratings_Baby.csv", _RATINGS, beside={}),
        "amazon-2023": layout("Baby_Products.csv", _NEWER, beside={}),
        "amazon-meta": layout("meta_Baby.json", _META, beside=baby),
        "amazon-images": layout("image_features_Baby.b", _IMAGES, beside=baby),
        "recbole-inter": layout("shop.inter", _TYPED, beside={}),
        "recbole-item": layout("shop.item", b"item_id:token\tmovie_title:token_seq\ni0\tA lamp\ni1\t\n", beside=recbole),
        "recbole-emb": layout("shop.imageemb", _EMBEDDINGS, beside=recbole),
        "mmrec-inter": layout("shop.inter", _MMREC, beside=mmrec),
        "mmrec-mapping": layout("i_id_mapping.csv", _MAPPING, beside=mmrec),
        "mmrec-missing": layout("shop_missing.csv", b"itemID,modality\n2,image\n3,text\n", beside=mmrec),
        "movielens-data": layout("u.data", _U_DATA, beside=small),
        "movielens-item": layout("u.item", _U_ITEM, beside=small),
        "movielens-genre": layout("u.genre", _U_GENRE, beside=small),
        "movielens-dat": layout("ratings.dat", _RATINGS_DAT, beside={"movies.dat": _MOVIES_DAT}),
        "movielens-movies": layout("movies.dat", _MOVIES_DAT, beside={"ratings.dat": _RATINGS_DAT}),
        "movielens-csv": layout("movies.csv", _MOVIES_CSV, beside={"ratings.csv": _RATINGS_CSV}),
        "microlens-pairs": layout("MicroLens-50k_pairs.csv", _PAIRS, beside={}),
        "microlens-sequences": layout("MicroLens-50k_pairs.tsv", _SEQUENCES, beside={}),
        "microlens-titles": layout("MicroLens-50k_titles.csv", _TITLES, beside=micro),
        "microlens-counts": layout("MicroLens-50k_likes_and_views.txt", b"1\t3\t40\n2\t0\t1\n", beside=micro),
        "npy": features("image.npy", _npy(_VALUES), _npy(np.asfortranarray(_VALUES.astype(">f8")))),
        "npz": features("image.npz", _saved(values=_VALUES, present=_PRESENT), _saved(**_GRAPH)),
        "safetensors": features(
            "image.safetensors",
            safetensors.numpy.save({"values": _VALUES, "present": _PRESENT}),
            safetensors.numpy.save(_GRAPH),
        ),
        "features-parquet": features("image.parquet", _LISTS, runs=5),
        "dataset-manifest": dataset_manifest,
        "dataset-features": dataset_features,
        "run-record": run_record,
        "recipe": recipe,
        "space": space,
        "picture": picture,
        "zip": archive,
    }  # fmt: skip
