"""No file can make Triptych run code: the source has no way to, and files that try do nothing but be refused."""

from __future__ import annotations

import ast
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import triptych as tt
from triptych.cli.app import run as command
from triptych.data.content import ContentError
from triptych.data.feature_files import read_features
from triptych.data.ids import IdMap
from triptych.data.pictures import open_picture
from triptych.data.tables import is_table, read_header, read_table
from triptych.errors import TriptychError
from triptych.fetch.unpack import unpack_zip
from triptych.files import checksums, read_arrays, read_json, write_json
from triptych.runs import Run, train
from triptych.testing import toy_dataset
from triptych.testing.contract import StopAfter
from triptych.training.config import TrainConfig
from triptych.training.recipe import find_recipe
from triptych.training.space import find_space

SOURCE = Path(tt.__file__).parent

# The source

_MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "yaml", "ruamel",
    "code", "codeop", "runpy", "imp",
}  # fmt: skip
_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
_METHODS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "os.system", "os.popen", "subprocess.getoutput",
    "np.fromfile", "np.memmap", "pl.read_database_uri", "tarfile.open", "shutil.unpack_archive",
}  # fmt: skip
_LAST_WORDS = {"read_pickle", "extractall", "unsafe_load", "full_load", "load_module"}


def dangers(code: str) -> list[str]:
    """List what could run code that comes from a file, or write outside a folder, by line."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in _MODULES]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                name for name in whole if name in _METHODS or (node.module or "").split(".")[0] in _MODULES
            ]
        elif isinstance(node, ast.Call):
            names = _calls(node)
        found += [f"line {node.lineno}: {name}" for name in names]  # type: ignore[attr-defined]
    return found


def _calls(node: ast.Call) -> list[str]:
    name, words = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
    named = name in _CALLS | _METHODS or name.rpartition(".")[2] in _LAST_WORDS
    bad = [name] if named else []
    if name in ("np.load", "numpy.load") and "allow_pickle" not in words:
        bad.append(f"{name} without allow_pickle=False")
    for word, safe in (
        ("allow_pickle", False),
        ("shell", False),
        ("trust_remote_code", False),
        ("weights_only", True),
    ):
        if word in words and not _is(words[word], safe):
            bad.append(f"{name}({word}=...)")
    return bad


def _is(value: ast.expr | None, constant: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is constant


def test_the_source_has_no_way_to_run_what_it_reads():
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 150
    found = {path.relative_to(SOURCE).as_posix(): dangers(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "import joblib as j", "import dill.source", "from marshal import load",
     "from torch import load", "torch.load(x)", "torch.load(x, weights_only=True)", "eval(x)", "exec(x)", "__import__(x)",
     "np.load(x)", "np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=flag)", "numpy.load(x, None, True)",
     "subprocess.run(x, shell=True)", "subprocess.run(x, shell=y)", "os.system(x)", "import yaml", "yaml.full_load(x)",
     "pandas.read_pickle(x)", "archive.extractall(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)",
     "def f():\n  if x:\n    import shelve"],
)  # fmt: skip
def test_each_way_is_seen(code: str):
    assert len(dangers(code)) == 1


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "np.load(x, allow_pickle=False)", "ast.literal_eval(x)", "re.compile(x)", "Dataset.load(x)",
     "subprocess.run(x, shell=False)", "json.load(x)"],
)  # fmt: skip
def test_what_only_looks_like_it_is_left_alone(code: str):
    assert dangers(code) == []


# Files


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def hostile(mark: Path) -> dict[str, bytes]:
    """Make files that run code in those who read them carelessly."""
    pickled = pickle.dumps({"values": Trap(mark)})
    zipped, arrays, named = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"state": Trap(mark)}, zipped)
    np.save(arrays, np.array([Trap(mark)] * 6, dtype=object), allow_pickle=True)
    np.savez(named, values=np.array([Trap(mark)] * 6, dtype=object), allow_pickle=True)
    header = json.dumps(
        {
            "__metadata__": {"format": "pickle"},
            "values": {"dtype": "O", "shape": [6], "data_offsets": [0, 24]},
        }
    )
    return {
        "pickle": pickled,
        "old pickle": pickle.dumps(Trap(mark), protocol=0),
        "torch": zipped.getvalue(),
        "object array": arrays.getvalue(),
        "object arrays": named.getvalue(),
        "pickle in a header of tensors": struct.pack("<Q", len(header))
        + header.encode()
        + pickled[:24].ljust(24),
        "tensors that are a pickle": struct.pack("<Q", len(pickled)) + pickled,
        "YAML": f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n".encode(),
        "Python": f"__import__('pathlib').Path({str(mark)!r}).touch()\n".encode(),
    }


KINDS = list(hostile(Path("mark")))
ITEMS = IdMap(np.arange(6), "item")


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Name the file that must not come into being."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists()


def test_the_traps_are_live(tmp_path: Path):
    """Else the others would show nothing: each of these does run code in a careless reader."""
    mark = tmp_path / "live"
    files = hostile(mark)
    careless: dict[str, Callable[[bytes], object]] = {
        "pickle": pickle.loads,
        "old pickle": pickle.loads,
        "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
        "object array": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
        "object arrays": lambda data: dict(np.load(io.BytesIO(data), allow_pickle=True)),
        "Python": exec,
    }
    for kind, read in careless.items():
        read(files[kind])
        assert mark.exists(), kind
        mark.unlink()


@pytest.fixture(scope="module")
def split() -> tt.Split:
    """Give a small split."""
    return tt.Split.by_ratio(toy_dataset(4, 8), rng=0)


@pytest.fixture(scope="module")
def run(split: tt.Split) -> Run:
    """Give a small run."""
    return train("popularity", split, k=(2,), config=TrainConfig(metric="recall@2"), device="cpu")


NAMES = [
    "evil.csv", "evil.tsv", "evil.inter", "evil.item", "evil.parquet", "evil.jsonl", "evil.csv.gz", "evil.npy", "evil.npz",
    "evil.safetensors", "evil.pt", "evil.pkl", "evil.joblib", "evil.ckpt", "evil.yaml", "evil.toml", "evil.zip", "evil.jpg",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_refuses_by_name(tmp_path: Path, mark: Path, kind: str):
    readers: dict[str, Callable[[Path], object]] = {
        "prepare": lambda path: tt.prepare(path, name="x", text="none"),
        "table": read_table,
        "features": lambda path: read_features(path, "image", ITEMS),
        "tensors": read_arrays,
        "JSON": read_json,
        "recipe": lambda path: find_recipe(str(path)),
        "space": lambda path: find_space(str(path)),
        "archive": lambda path: unpack_zip(path, tmp_path / "out"),
        "run": tt.load,
        "data set": tt.Dataset.load,
    }
    content = hostile(mark)[kind]
    for name in NAMES:
        path = tmp_path / name
        path.write_bytes(content)
        for what, read in readers.items():
            if what == "archive" and zipfile.is_zipfile(path):
                continue  # an archive indeed, whose members are only written
            if what in ("prepare", "table") and name.endswith("parquet") and kind != "pickle":
                continue  # each costs a process
            if what == "table" and kind == "old pickle":
                with suppress(TriptychError):  # it is text, and may pass for a table of one column
                    read(path)
                continue
            with pytest.raises(TriptychError) as refused:
                read(path)
            if not (what in ("recipe", "space") and not name.endswith(".toml")):
                assert name in str(refused.value), (what, str(refused.value))
        with pytest.raises(ContentError, match=name):
            open_picture(path)
        if is_table(path):
            with suppress(TriptychError):
                read_header(path)


def resign(folder: Path, marker: str) -> None:
    """Bring the checksums of a folder up to date with what was done to it."""
    facts = read_json(folder / marker)
    (folder / marker).unlink()
    write_json(folder / marker, {**facts, "files": checksums(folder)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "file",
    ["history.safetensors", "model.safetensors", "data/items.parquet", "data/manifest.json", "run.json"],
)
def test_a_run_with_a_hostile_file_is_refused(tmp_path: Path, mark: Path, run: Run, kind: str, file: str):
    folder = tmp_path / "run"
    run.save(folder)
    file = file if (folder / file).is_file() else "embeddings.safetensors"
    (folder / file).write_bytes(hostile(mark)[kind])
    with pytest.raises(TriptychError, match=Path(file).name):
        tt.load(folder)
    if file != "run.json":
        if file.startswith("data/") and file != "data/manifest.json":
            resign(folder / "data", "manifest.json")
        resign(folder, "run.json")
        with pytest.raises(TriptychError, match=Path(file).name):
            tt.load(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_with_hostile_features_is_refused(tmp_path: Path, mark: Path, kind: str, split: tt.Split):
    split.data.save(tmp_path / "data")
    (tmp_path / "data" / "features" / "image.safetensors").write_bytes(hostile(mark)[kind])
    resign(tmp_path / "data", "manifest.json")
    with pytest.raises(TriptychError, match=r"image\.safetensors"):
        tt.Dataset.load(tmp_path / "data")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_checkpoint_is_refused_and_a_hostile_cache_built_again(
    tmp_path: Path, mark: Path, kind: str, split: tt.Split
):
    config = TrainConfig(epochs=3, batch_size=16, metric="recall@2")
    options = {"k": (2,), "config": config, "device": "cpu", "checkpoint_every": 1}
    settings = {"embedding_dim": 4, "n_neighbors": 2}
    folder, cache, content = tmp_path / "checkpoint", tmp_path / "cache", hostile(mark)[kind]
    whole = train("freedom", split, settings=settings, graph_cache=cache, **options)
    with pytest.raises(KeyboardInterrupt):
        train("freedom", split, settings=settings, checkpoint_dir=folder, observer=StopAfter(1), **options)
    kept = list(cache.iterdir())
    assert kept
    for path in kept:
        path.write_bytes(content)
    again = train("freedom", split, settings=settings, graph_cache=cache, **options)
    assert torch.equal(again.scorer.arrays()["items"], whole.scorer.arrays()["items"])
    assert all(path.read_bytes() != content for path in kept)
    for path in sorted(folder.iterdir()):
        path.write_bytes(content)
        with pytest.raises(TriptychError, match="checkpoint"):
            train("freedom", split, settings=settings, checkpoint_dir=folder, resume=True, **options)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Write a small honest export."""
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = "".join(f"u{user},i{item}\n" for user in range(4) for item in range(6))
    (folder / "sales.csv").write_text("user,item\n" + rows)
    (folder / "items.csv").write_text("item,title\n" + "".join(f"i{item},Thing\n" for item in range(6)))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["image.npy", "text.npz", "audio.safetensors"])
def test_hostile_features_in_an_export_are_refused_at_the_command_line(
    shop: Path, mark: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]
):
    (shop / name).write_bytes(hostile(mark)[kind])
    status = command(["prepare", str(shop), "--out", str(shop.parent / "data"), "--text", "none"])
    said = capsys.readouterr().err
    assert (status, name in said) == (2, True), said
    assert not (shop.parent / "data").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_pictures_are_counted_as_missing(shop: Path, mark: Path, kind: str):
    (shop / "pictures").mkdir()
    for item in range(5):
        (shop / "pictures" / f"i{item}.jpg").write_bytes(hostile(mark)[kind])
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(shop / "pictures" / "i5.jpg")
    data = tt.prepare(shop, name="shop", text="none")
    assert data.features["image"].present.tolist() == [False] * 5 + [True]


COMMANDS = (
    ["train", "{file}", "{data}"],
    ["train", "popularity", "{file}"],
    ["evaluate", "{file}"],
    ["recommend", "{file}", "u000"],
    ["similar", "{file}", "i000"],
    ["describe", "{file}"],
    ["doctor", "{file}"],
    ["diagnose", "{file}", "{data}"],
    ["split", "{file}", "--out", "{out}"],
    ["encode", "{file}", "--out", "{out}", "--encoder", "text=tfidf"],
    ["export", "{file}", "--to", "mmrec", "--out", "{out}"],
    ["fuse", "{file}", "{file}", "--out", "{out}"],
    ["prepare", "{file}", "--out", "{out}"],
    ["prepare", "{sales}", "--features", "image={file}", "--out", "{out}"],
    ["prepare", "{sales}", "--items", "{file}", "--out", "{out}"],
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_commands_given_a_hostile_file_say_which(
    shop: Path, mark: Path, arguments: list[str], split: tt.Split, capsys: pytest.CaptureFixture[str]
):
    split.data.save(shop.parent / "data")
    contents, names = hostile(mark), ("evil.pt", "evil.npy", "evil.toml")
    for kind, name in zip(KINDS[COMMANDS.index(arguments) % 3 :: 3], names, strict=True):
        file = shop.parent / name
        file.write_bytes(contents[kind])
        places = {"file": file, "data": shop.parent / "data", "out": shop.parent / "out"}
        status = command([argument.format(**places, sales=shop / "sales.csv") for argument in arguments])
        said = capsys.readouterr().err
        assert status == 2, (kind, name, said)
        assert name in said, (kind, name, said)
        assert not (shop.parent / "out").exists()
