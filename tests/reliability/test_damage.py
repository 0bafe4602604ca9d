"""R3: a file that was cut, changed in one bit, or put in another's place is noticed; nothing damaged is loaded."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych import Dataset, Split, load, train
from triptych.encode.cache import Cache, Row
from triptych.encode.encoder import EncoderSpec
from triptych.errors import StorageError
from triptych.files import read_arrays, read_json, write_arrays, write_json
from triptych.graph.store import GraphStore
from triptych.models.base import ModelInputs
from triptych.scorer import EmbeddingScorer
from triptych.testing import checkerboard, toy_dataset
from triptych.training.checkpoint import load_checkpoint
from triptych.training.config import TrainConfig
from triptych.training.trainer import CHECKPOINT

CONFIG = TrainConfig(epochs=2, batch_size=32, metric="recall@2")


@dataclass(frozen=True)
class Kept:
    """Something on the disk, and how to read it whole: the reader raises `StorageError` if it is damaged."""

    folder: Path
    read: Callable[[Path], Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    """Write one of each."""
    place = tmp_path_factory.mktemp("kept")
    run = train("lightgcn", checkerboard(8), settings={"embedding_dim": 4}, config=CONFIG, device="cpu", k=(2,),
                checkpoint_dir=place / "checkpoint", checkpoint_every=1)  # fmt: skip
    run.save(place / "run")
    toy_dataset().save(place / "data")
    return {
        "run": Kept(place / "run", load),
        "data": Kept(place / "data", Dataset.load),
        "checkpoint": Kept(place / "checkpoint", lambda folder: load_checkpoint(folder, CHECKPOINT)),
    }


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def is_noticed(kept: Kept, folder: Path) -> bool:
    try:
        kept.read(folder)
    except StorageError:
        return True
    return False


KINDS = ("run", "data", "checkpoint")


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_noticed(kept: dict[str, Kept], tmp_path: Path, kind: str):
    folder = tmp_path / "cut"
    shutil.copytree(kept[kind].folder, folder)
    kept[kind].read(folder)
    for path in files_of(folder):
        whole = path.read_bytes()
        for part in sorted({len(whole) * part // 64 for part in range(64)}):
            path.write_bytes(whole[:part])
            assert is_noticed(kept[kind], folder), (path.name, part)
        path.unlink()
        assert is_noticed(kept[kind], folder), path.name
        path.write_bytes(whole)
    kept[kind].read(folder)


def flip(kept: Kept, folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Change one bit at a time, as often in small files as in large ones; gives how many were noticed, by file."""
    noticed: Counter[str] = Counter()
    paths = files_of(folder)
    for turn in range(n):
        path = paths[turn % len(paths)]
        whole = path.read_bytes()
        place = rng.randrange(8 * len(whole))
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        assert is_noticed(kept, folder), (path.name, place)
        path.write_bytes(whole)
        noticed[path.name] += 1
    kept.read(folder)
    return noticed


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_noticed(kept: dict[str, Kept], tmp_path: Path, kind: str):
    shutil.copytree(kept[kind].folder, tmp_path / "flipped")
    flip(kept[kind], tmp_path / "flipped", 70, random.Random(kind))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_flipped_bits_are_noticed(kept: dict[str, Kept], tmp_path: Path, kind: str, capsys):
    shutil.copytree(kept[kind].folder, tmp_path / "flipped")
    noticed = flip(kept[kind], tmp_path / "flipped", 1000, random.Random(f"long {kind}"))
    with capsys.disabled():
        print(f"\n{kind}: {noticed.total()} of 1000 flipped bits noticed, in {dict(noticed)}")


@pytest.mark.parametrize("sealed", [write_json, write_arrays])
def test_every_single_bit_of_a_sealed_file_counts(tmp_path: Path, sealed):
    """All bits, not a sample, of files small enough for that."""
    path = tmp_path / "x.json"
    if sealed is write_json:
        write_json(path, {"schema_version": 1, "value": 0.25, "none": None, "deep": {"a": [1, 2]}})
        read = read_json
    else:
        write_arrays(path, {"a": np.arange(5.0), "b": np.array([True, False])})
        read = read_arrays
    whole, expected = path.read_bytes(), str(read(path))
    for place in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        try:
            # in padding or in the name of a key that nobody reads a bit may turn and all else be as it was
            assert str(read(path)) == expected, place
        except StorageError:
            continue
    path.write_bytes(whole)
    assert str(read(path)) == expected


def test_json_without_a_seal_is_read_and_with_half_of_one_is_not(tmp_path: Path):
    path = tmp_path / "x.json"
    write_json(path, {"schema_version": 1, "value": 1})
    sealed = path.read_text()
    for changed in (sealed.replace("checksum", "checksun"), sealed.replace("sha256:", "sha257:")):
        path.write_text(changed)
        with pytest.raises(StorageError, match="checksum"):
            read_json(path)
    path.write_text("".join(line for line in sealed.splitlines(keepends=True) if "checksum" not in line))
    assert read_json(path) == {"schema_version": 1, "value": 1}
    write_json(path, {"a url by an item called checksum": 1})
    assert "sha256" not in path.read_text()


def test_json_nested_without_end_is_damage(tmp_path: Path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(StorageError, match=r"is damaged: .*recursion"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("side", ["users", "items"])
def test_a_scorer_of_another_size_than_the_data_is_refused(kept: dict[str, Kept], tmp_path: Path, side: str):
    """All files whole and sealed, but not of one training."""
    run = load(kept["run"].folder)
    vectors = run.scorer.embeddings
    fewer = EmbeddingScorer(vectors._replace(**{side: getattr(vectors, side)[:-1]}))
    replace(run, scorer=fewer).save(tmp_path / "run")
    users, items = (8 - (side == name) for name in ("users", "items"))
    with pytest.raises(StorageError) as refused:
        load(tmp_path / "run")
    assert (
        f"scores {items} items for {users} users, but its data set has 8 items and 8 users"
        in refused.value.found
    )


def test_features_of_other_makers_are_read(tmp_path: Path):
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_arrays(tmp_path / "x.safetensors")["x"].tolist() == [1, 1, 1]


def test_swapped_checkpoints_are_refused(tmp_path: Path):
    """Of other settings and of another seed; both files together, or the tensors alone."""
    board = checkerboard(8)

    def learn(name: str, *, resume: bool = False, **options: Any) -> Any:
        arguments = {"settings": {"embedding_dim": 4}, "seed": 1, **options}
        return train("lightgcn", board, config=CONFIG, device="cpu", k=(2,), checkpoint_dir=tmp_path / name,
                     checkpoint_every=1, resume=resume, **arguments)  # fmt: skip

    others = {"layers": {"settings": {"embedding_dim": 4, "n_layers": 1}}, "seed": {"seed": 2}}
    learn("mine")
    for name, options in others.items():
        learn(name, **options)
        with pytest.raises(StorageError, match="was written with another"):
            learn(name, resume=True)
        own = (tmp_path / name / "checkpoint.json").read_bytes()
        (tmp_path / name / "checkpoint.json").write_bytes(
            (tmp_path / "mine" / "checkpoint.json").read_bytes()
        )
        with pytest.raises(StorageError, match="checksum is not the one"):
            learn(name, resume=True)
        (tmp_path / name / "checkpoint.json").write_bytes(own)
        learn(name, resume=True, **options)


def damaged_copies(path: Path, rng: random.Random, n: int) -> list[bytes]:
    whole = path.read_bytes()
    copies = [whole[: len(whole) * part // 16] for part in range(16)]
    for _ in range(n):
        broken = bytearray(whole)
        broken[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        copies.append(bytes(broken))
    return copies


def test_a_damaged_graph_cache_is_built_again(tmp_path: Path):
    split = Split.by_ratio(toy_dataset(), rng=0)

    def graph() -> list[list[float]]:
        store: GraphStore = ModelInputs.from_split(split, tmp_path).graphs
        return [part.tolist() for part in store.items("image", 3, weighting="cosine").edges()]

    expected = graph()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    for broken in damaged_copies(path, random.Random(3), 200):
        path.write_bytes(broken)
        assert graph() == expected
        # built again, or the bit was in what nobody reads, such as the name of the checksum
        assert path.read_bytes() in {whole, broken}
        path.write_bytes(whole)


def test_a_damaged_cache_of_encoded_rows_is_not_believed(tmp_path: Path):
    spec = EncoderSpec("x", "1", {})
    row = Row(np.arange(4, dtype=np.float32), cut=False)
    with Cache(tmp_path, spec) as cache:
        cache.add({b"0123456789abcdef": row})
    (path,) = tmp_path.glob("*/*.safetensors")
    whole = path.read_bytes()
    for broken in damaged_copies(path, random.Random(5), 200):
        path.write_bytes(broken)
        found = Cache(tmp_path, spec).find([b"0123456789abcdef"])
        assert all(np.array_equal(again.values, row.values) and not again.cut for again in found.values())
        path.write_bytes(whole)
    assert torch.equal(*(torch.from_numpy(r.values) for r in (row, *Cache(tmp_path, spec).find([b"0123456789abcdef"]).values())))  # fmt: skip
