import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock, Timeout

from triptych import files
from triptych.errors import StorageError
from triptych.files import atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class CrashError(Exception):
    pass


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    for text in ("old", "new"):
        files.write_atomic(tmp_path / "a" / "x.txt", lambda file, text=text: file.write_text(text))
    assert (tmp_path / "a" / "x.txt").read_text() == "new"
    assert names(tmp_path / "a") == ["x.txt"]
    assert (tmp_path / "a" / "x.txt").stat().st_mode & 0o777 == 0o644


def test_files_are_as_open_as_the_user_has_them(tmp_path):
    """Those that are there keep their rights; new ones go by the umask, which is asked for at the start."""
    path = tmp_path / "x.txt"
    files.write_text(path, "old")
    path.chmod(0o600)
    files.write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600
    program = "from pathlib import Path; from triptych.files import write_text; write_text(Path('y.txt'), '')"
    call = f'umask 077 && exec {sys.executable} -c "{program}"'
    subprocess.run(["sh", "-c", call], cwd=tmp_path, check=True)
    assert (tmp_path / "y.txt").stat().st_mode & 0o777 == 0o600


def test_a_crash_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def half(file):
        file.write_text("ne")
        raise CrashError

    with pytest.raises(CrashError):
        files.write_atomic(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("step", ["_flush", "replace"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((atomic, step) if step == "_flush" else (type(path), step)), full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"new": 1})
    monkeypatch.undo()
    assert files.read_json(path) == {"old": 1}
    assert names(tmp_path) == ["x.json"]


def test_what_is_made_elsewhere_is_moved_into_place(tmp_path):
    (tmp_path / "disk").mkdir()
    link, part = tmp_path / "x.txt", tmp_path / "x.txt.part"
    link.symlink_to(tmp_path / "disk" / "x.txt")
    (tmp_path / "disk" / "x.txt").write_text("old")
    part.write_text("new")
    part.chmod(0o600)
    files.move_into_place(part, link)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "x.txt").read_text() == "new"
    assert link.stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["disk", "x.txt"]


def test_what_cannot_be_moved_into_place_stays_where_it_is(tmp_path, monkeypatch):
    path, part = tmp_path / "x.txt", tmp_path / "x.txt.part"
    path.write_text("old")
    part.write_text("new")

    def crash(_):
        raise CrashError

    monkeypatch.setattr(atomic, "_flush", crash)
    with pytest.raises(CrashError):
        files.move_into_place(part, path)
    assert (path.read_text(), part.read_text()) == ("old", "new")


def test_a_lock_has_one_holder_and_leaves_nothing(tmp_path):
    path = tmp_path / "x.lock"
    with files.locked(path, "fetching x"):
        words = f"another process is fetching x: process {os.getpid()} on"
        with pytest.raises(StorageError, match=words), files.locked(path, "fetching x"):
            pass
        assert names(tmp_path) == ["x.lock"]
    assert names(tmp_path) == []
    path.write_text("process 1 on a machine that was switched off")
    with files.locked(path, "fetching x"):
        assert f"process {os.getpid()} on" in path.read_text()


def test_a_holder_that_leaves_while_it_is_asked_after(tmp_path, monkeypatch):
    def taken(lock, **_):
        raise Timeout(lock.lock_file)

    monkeypatch.setattr(FileLock, "acquire", taken)
    with (
        pytest.raises(StorageError, match="another process is fetching x: one"),
        files.locked(tmp_path / "x", "fetching x"),
    ):
        pass


def fill(path, text, **options):
    with files.new_folder(path, marker="mark", **options) as folder:
        (folder / "mark").write_text(text)


def test_new_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(FileNotFoundError), files.new_folder(path, marker="mark") as folder:
        (folder / "mark").write_bytes((folder / "not there").read_bytes())
    assert names(tmp_path) == []
    fill(path, "one")
    with pytest.raises(StorageError, match="--overwrite"):
        fill(path, "two")
    fill(path, "two", overwrite=True)
    assert (path / "mark").read_text() == "two"
    assert names(tmp_path) == ["out"]


def test_a_crash_while_overwriting_keeps_the_old_folder(tmp_path):
    path = tmp_path / "out"
    fill(path, "old")
    with pytest.raises(CrashError), files.new_folder(path, marker="mark", overwrite=True):
        raise CrashError
    assert (path / "mark").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_where_folders_cannot_trade_places_a_failed_last_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    path = tmp_path / "out"
    fill(path, "old")
    monkeypatch.setattr(atomic, "_exchange", lambda *_: (path / "no such step").stat())
    rename = type(path).replace
    calls = []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(type(path), "replace", second_fails)
    with pytest.raises(OSError, match="Input/output"):
        fill(path, "new", overwrite=True)
    assert (path / "mark").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_new_folder_takes_an_empty_folder_and_refuses_foreign_ones(tmp_path):
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "x")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for foreign in ("home", "file"):
        with pytest.raises(StorageError, match="not made by this command"):
            fill(tmp_path / foreign, "x", overwrite=True)
    assert names(tmp_path / "home") == ["diary.txt"]


@pytest.mark.parametrize("state", ["missing", "empty", "full"])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, state):
    """As where data lie on another disk: the old content must not stay behind there."""
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "data", tmp_path / "data"
    link.symlink_to(target)
    if state != "missing":
        target.mkdir()
    if state == "full":
        (target / "marker").write_text("old")
    with files.new_folder(link, marker="marker", overwrite=True) as folder:
        assert folder.is_relative_to(tmp_path / "disk"), "so that the last step is a renaming"
        (folder / "marker").write_text("new")
    assert link.is_symlink()
    assert (target / "marker").read_text() == "new"
    file = tmp_path / "file"
    file.symlink_to(target / "x.txt")
    files.write_atomic(file, lambda path: path.write_text("text"))
    assert file.is_symlink()
    assert (target / "x.txt").read_text() == "text"
    assert names(tmp_path / "disk") == ["data"]


def test_sweep_removes_leftovers_only(tmp_path):
    (tmp_path / ".partial-a").mkdir()
    (tmp_path / ".partial-b").write_text("x")
    (tmp_path / "kept").write_text("x")
    files.sweep(tmp_path)
    assert names(tmp_path) == ["kept"]


def test_json_refuses_nan_and_reports_damage(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"loss": float("nan")})
    assert names(tmp_path) == []
    for text in ("{", "[1]", "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(StorageError, match=r"x\.json is damaged"):
            files.read_json(path)
    with pytest.raises(StorageError, match="does not exist"):
        files.read_json(tmp_path / "y.json")


def test_arrays_round_trip_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {"a": np.arange(6).reshape(2, 3).T, "b": np.array([True, False])}
    files.write_arrays(path, arrays)
    read = files.read_arrays(path)
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(StorageError, match=r"x\.safetensors is damaged"):
            files.read_arrays(path)
    with pytest.raises(StorageError, match="does not exist"):
        files.read_arrays(tmp_path / "y.safetensors")


def test_a_safetensors_type_numpy_lacks_is_refused(tmp_path):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StorageError, match="bfloat16"):
        files.read_arrays(path)


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "stored"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"0123456789")
    (folder / "deep" / "b").write_bytes(b"abc")
    return folder


def test_verify_accepts_what_is_whole(stored):
    expected = files.checksums(stored)
    assert sorted(expected) == ["a", "deep/b"]
    files.verify(stored, expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a").write_bytes(b"0123456780"),
        lambda folder: (folder / "a").write_bytes(b"01234"),
        lambda folder: (folder / "deep" / "b").unlink(),
    ],
    ids=["flipped", "truncated", "missing"],
)
def test_verify_detects_damage(stored, damage):
    expected = files.checksums(stored)
    damage(stored)
    with pytest.raises(StorageError, match="damaged"):
        files.verify(stored, expected)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "deep/../../outside", "link"])
def test_verify_stays_in_its_folder(stored, name):
    outside = stored.parent / "outside"
    outside.write_text("x")
    (stored / "link").symlink_to(outside)
    facts = {"bytes": 1, "sha256": files.sha256(outside)}
    with pytest.raises(StorageError, match="outside the folder"):
        files.verify(stored, {name: facts})


def test_hash_tells_types_shapes_and_neighbours_apart():
    ones = np.ones(4, dtype=np.int32)
    different = [
        (ones,),
        (ones.astype(np.int64),),
        (ones.reshape(2, 2),),
        (ones[:2], ones[2:]),
        ("1111",),
        (None,),
    ]
    assert len({files.hash_arrays(*parts) for parts in different}) == len(different)
    assert files.hash_arrays(np.asfortranarray(ones.reshape(2, 2))) == files.hash_arrays(ones.reshape(2, 2))


def test_hash_of_strings_depends_on_the_strings_alone():
    short, wide = np.array(["a", "b"]), np.array(["a", "b", "a long one"])[:2]
    assert short.dtype != wide.dtype
    assert files.hash_arrays(short) == files.hash_arrays(wide)


@pytest.mark.parametrize("path", [".", "../here", "..", "./"])
def test_the_folder_one_is_in_is_not_replaced(tmp_path, monkeypatch, path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with (
        pytest.raises(StorageError, match="is the folder you are in"),
        files.new_folder(pathlib.Path(path), marker="m"),
    ):
        pytest.fail("the block is not reached")
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]
