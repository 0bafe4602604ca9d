"""A checkpoint on disk is the old one, the new one, or refused; never something in between."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
import torch

from triptych import files
from triptych.errors import StorageError
from triptych.training.checkpoint import flatten, load_checkpoint, save_checkpoint, unflatten

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False]), "empty": torch.empty(0)}


def save(folder: Path, value: float) -> None:
    save_checkpoint(folder, "c", {"x": torch.full((50,), value), **TENSORS}, {"value": value})


def load(folder: Path) -> float:
    tensors, facts = load_checkpoint(folder, "c")
    assert torch.equal(tensors["x"], torch.full((50,), facts["value"]))
    return facts["value"]


def test_round_trip_and_one_generation_on_disk(tmp_path: Path):
    for value in (1.0, 2.0, 3.0):
        save(tmp_path, value)
    tensors, facts = load_checkpoint(tmp_path, "c")
    assert facts == {"value": 3.0}
    assert all(
        torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
        for name, tensor in TENSORS.items()
    )
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_any_failing_system_call_leaves_a_whole_checkpoint(tmp_path: Path, monkeypatch, error: int):
    """The n-th fsync or rename fails, for every n: what can be loaded is the old or the new state."""
    real = {"fsync": os.fsync, "replace": Path.replace}
    n_calls = 0

    def count_and_fail(name):
        def call(*arguments):
            nonlocal n_calls
            n_calls += 1
            if n_calls == fail_at:
                raise OSError(error, os.strerror(error))
            return real[name](*arguments)

        return call

    failures = 0
    for fail_at in range(1, 50):
        folder = tmp_path / str(fail_at)
        monkeypatch.undo()
        save(folder, 1.0)
        n_calls = 0
        monkeypatch.setattr(os, "fsync", count_and_fail("fsync"))
        monkeypatch.setattr(Path, "replace", count_and_fail("replace"))
        try:
            save(folder, 2.0)
        except OSError:
            failures += 1
            assert load(folder) in (1.0, 2.0)
            assert not list(folder.glob(".partial-*"))
            monkeypatch.undo()
            save(folder, 3.0)
            assert load(folder) == 3.0
            assert len(list(folder.iterdir())) == 2, "a later save leaves nothing of the failed one"
        else:
            break
    assert failures >= 6  # two files: flush, rename, flush the folder


def test_every_truncation_is_refused(tmp_path: Path):
    save(tmp_path, 1.0)
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for part in range(64):
            path.write_bytes(whole[: len(whole) * part // 64])
            with pytest.raises(StorageError, match="damaged"):
                load(tmp_path)
        path.write_bytes(whole)
    assert load(tmp_path) == 1.0


def test_every_flipped_bit_of_the_tensors_is_refused(tmp_path: Path):
    save(tmp_path, 1.0)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        place = rng.randrange(len(whole) * 8)
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(StorageError, match="checksum"):
            load(tmp_path)


def test_tensors_of_another_checkpoint_are_refused(tmp_path: Path):
    save(tmp_path / "one", 1.0)
    save(tmp_path / "two", 2.0)
    (tmp_path / "one" / "c-1.safetensors").write_bytes((tmp_path / "two" / "c-1.safetensors").read_bytes())
    with pytest.raises(StorageError, match="checksum"):
        load(tmp_path / "one")


def test_a_named_file_outside_the_folder_is_not_read(tmp_path: Path):
    save(tmp_path / "in", 1.0)
    facts = files.read_json(tmp_path / "in" / "c.json")
    (tmp_path / "in" / "c-1.safetensors").rename(tmp_path / "out.safetensors")
    facts["tensors"]["file"] = "../out.safetensors"
    files.write_json(tmp_path / "in" / "c.json", facts)
    with pytest.raises(StorageError, match="missing"):
        load(tmp_path / "in")


def test_missing(tmp_path: Path):
    with pytest.raises(StorageError, match="does not exist"):
        load(tmp_path)


def test_flatten_parts_tensors_from_the_rest():
    nest = {
        "state": {0: {"step": torch.tensor(3.0), "m": torch.ones(2)}, 12: {}},
        "groups": [{"lr": 0.1, "params": [0, 1]}],
    }
    tensors, rest = flatten(nest)
    assert set(tensors) == {"/state/0/step", "/state/0/m"}
    back = unflatten(rest, tensors)
    assert back["groups"] == nest["groups"]
    assert back["state"][0]["m"] is nest["state"][0]["m"]
    assert back["state"][12] == {}
