"""R2: wherever the disk refuses, the old or the new is there whole, the message says what and why, nothing is left."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from orders import Laboratory, leftovers

from triptych import Dataset, files, load
from triptych.cli.app import run as command
from triptych.data.dataset import MANIFEST
from triptych.data.export import MARKER
from triptych.files import atomic

SOURCE = Path(__file__).parents[2] / "src" / "triptych"

TRAIN = ("train", "mf-bpr", "{}/board", "--epochs", "2", "--checkpoint-every", "1", "-k", "2", "--device", "cpu",
         "--set", "metric=recall@2", "--set", "embedding_dim=4", "--out", "{}/out/run")  # fmt: skip
COMPARE = ("compare", "mf-bpr", "--data", "{}/board", "--seeds", "1", "-k", "2", "--device", "cpu",
           "--set", "metric=recall@2", "--set", "epochs=1", "--out", "{}/out/comparison")  # fmt: skip
EXPORT = ("export", "{}/board", "--to", "mmrec", "--out", "{}/out/export")
PREPARE = ("prepare", "{}/export", "--encoder", "text=tfidf", "--cache", "{}/cache", "--out", "{}/out/data")
SPLIT = ("split", "{}/board", "--out", "{}/out/split")

COMMANDS = {"train": TRAIN, "compare": COMPARE, "export": EXPORT, "prepare": PREPARE, "split": SPLIT}

# Who may write without `files.write_atomic`, and why.
OWN_WRITERS = {
    "files/atomic.py": "the one place",
    "files/locks.py": "says in the lock who holds it",
    "fetch/download.py": "a part of a file, under the name of a part, appended to and checked when whole",
    "data/dataset.py": "called within new_folder",
    "data/export.py": "called within new_folder",
    "data/frames.py": "called within write_atomic",
    "cli/evaluation.py": "called within write_atomic",
    "memory.py": "asks Linux to forget a peak, which is no file of a disk",
}
WRITERS = {"write_text", "write_bytes", "write_parquet", "write_csv", "write_ndjson", "write_ipc", "sink_parquet",
           "sink_csv", "save_file", "savez", "savez_compressed", "tofile", "mkstemp", "mkdtemp", "symlink_to"}  # fmt: skip
SYSTEM = {"os": {"replace", "rename", "open", "write"}, "np": {"save"}, "torch": {"save"}}


def called(node: ast.AST) -> str:
    """Name what a call calls, without its owner; nothing if it is no call."""
    function = getattr(node, "func", None)
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def writing_calls(node: ast.AST, inside: bool = False) -> Iterator[ast.Call]:
    """List the calls that write by themselves: not for `write_atomic`, and not into a `new_folder`."""
    inside = inside or called(node) == "write_atomic"
    inside = inside or (isinstance(node, ast.With) and called(node.items[0].context_expr) == "new_folder")
    if isinstance(node, ast.Call) and not inside:
        name, owner = called(node), getattr(getattr(node.func, "value", None), "id", "")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [str(getattr(one, "value", getattr(one, "id", ""))) for one in given]
        method = isinstance(node.func, ast.Attribute) and owner != "files"
        if (
            (method and name in WRITERS)
            or name in SYSTEM.get(owner, ())
            or (name == "open" and any(re.fullmatch("[wax][bt]?[+]?|mode", mode) for mode in modes))
        ):
            yield node
    for below in ast.iter_child_nodes(node):
        yield from writing_calls(below, inside)


def test_only_files_writes_by_itself():
    found: dict[str, list[int]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        lines = [call.lineno for call in writing_calls(ast.parse(path.read_text(encoding="utf-8")))]
        if lines:
            found[path.relative_to(SOURCE).as_posix()] = lines
    assert found.keys() == OWN_WRITERS.keys(), found


@pytest.fixture(scope="module")
def material(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with what the commands begin with."""
    folder = tmp_path_factory.mktemp("material")
    report = laboratory.do("material", folder)
    assert report.status == 0, report.said
    return folder


def whole(folder: Path) -> bool:
    """Say whether something is there; if so it must be whole."""
    if not folder.exists():
        return False
    for run in folder.rglob("run.json"):
        load(run.parent)
    for manifest in folder.rglob(MANIFEST):
        Dataset.load(manifest.parent)
    for marker in folder.rglob(MARKER):
        files.verify(marker.parent, files.read_json(marker)["files"])
    for marker in folder.rglob("checkpoint.json"):
        files.read_json(marker)
    return True


def refused(laboratory: Laboratory, place: Path, words: tuple[str, ...], error: str, at: int) -> str | None:
    """Let the disk refuse at a step; then let the command do its work. Gives the kind of step, None if past all."""
    report = laboratory.do("commands", place, *words, fault=error, at=at)
    assert report.error is None, report.said
    if report.failed_at is None:
        assert report.status == 0, report.said
        return None
    said = " ".join(report.said.split())
    assert "Traceback" not in said
    whole(place / "out")
    if report.status != 0:  # else it was something that can be done without
        assert report.status in {2, 3}, report.said  # 3: of an experiment, no training ended
        assert os.strerror(getattr(errno, error)) in said.replace("- ", "")
        assert place.name in said.replace(" ", ""), said
    made, unfinished = Path(words[-1].format(place)), place / "out" / "run.checkpoint" / "checkpoint.json"
    options = ["--overwrite"] * (made.exists() and words[0] != "compare")
    last = laboratory.do("commands", place, *words, *options, *["--resume"] * unfinished.exists())
    assert last.status == 0, last.said
    assert leftovers(place) == []
    assert not (place / "out" / "run.checkpoint").exists()
    return report.failed_at


def every_step(
    laboratory: Laboratory, material: Path, tmp_path: Path, name: str, errors: tuple[str, ...], steps: slice
) -> Counter[str]:
    """Fail at step after step of a command, with one error after the other."""
    words = COMMANDS[name]
    shutil.copytree(material, tmp_path / "count")
    counted = laboratory.do("commands", tmp_path / "count", *words, fault=errors[0], at=10**9)
    assert counted.status == 0, counted.said
    total, kinds = sum(counted.steps.values()), Counter()
    for place, at in enumerate(range(1, total + 1)[steps]):
        folder = tmp_path / f"at{at}"
        shutil.copytree(material, folder)
        kinds[str(refused(laboratory, folder, words, errors[place % len(errors)], at))] += 1
        shutil.rmtree(folder)
    assert kinds.total() > 0
    return kinds


@pytest.mark.parametrize(("name", "steps"), [("train", slice(5, None, 37)), ("export", slice(2, None, 19))])
def test_a_refusing_disk_is_answered(
    laboratory: Laboratory, material: Path, tmp_path: Path, name: str, steps
):
    every_step(laboratory, material, tmp_path, name, ("ENOSPC", "EIO", "EDQUOT"), steps)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_refuses_at_any_step(
    laboratory: Laboratory, material: Path, tmp_path: Path, name: str, capsys
):
    """Every step of every command, the three errors in turn, so that each meets every kind of step."""
    kinds = every_step(laboratory, material, tmp_path, name, ("ENOSPC", "EIO", "EDQUOT"), slice(None))
    with capsys.disabled():
        print(f"\n{name}: {kinds.total()} refusals, {dict(kinds)}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 640 KiB, where one may be had."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=640k", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk: " + mounted.stderr.decode().strip())
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, laboratory: Laboratory, material: Path, capsys):
    """From no room at all to enough: what there is is whole, and in the end all is."""
    board = small_disk / "board"
    shutil.copytree(material / "board", board)
    ballast, statuses = small_disk / "ballast", []
    free = shutil.disk_usage(small_disk).free
    for room in range(0, free + 1, 150 << 10):
        ballast.write_bytes(bytes(free - room))
        out = small_disk / "out"
        for words in (TRAIN, SPLIT):
            report = laboratory.do("commands", small_disk, *words)
            assert "Traceback" not in report.said
            assert report.error is None, report.said
            assert (report.status == 0) == whole(out / words[-1].rpartition("/")[2]), report.said
            assert report.status == 0 or re.search("No space left|free space", " ".join(report.said.split()))
            statuses.append(report.status)
        shutil.rmtree(out, ignore_errors=True)
        ballast.unlink()
    assert {0, 2} == set(statuses)


def test_writers_in_rust_are_understood_and_the_target_is_named(tmp_path: Path):
    def full(file: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"No space left.*x\.json") as caught:
        files.write_atomic(tmp_path / "x.json", full)
    assert caught.value.errno == errno.ENOSPC

    def short(file: Path) -> None:
        raise OSError("100000 requested and 25584 written")  # numpy

    with pytest.raises(OSError, match=r"100000 requested.*x\.npy"):
        files.write_atomic(tmp_path / "x.npy", short)

    def deep(path: Path) -> None:
        with files.new_folder(path, marker="mark") as new:
            files.write_atomic(new / "deep" / "y", full)

    with pytest.raises(OSError, match=re.escape(f"'{tmp_path}/out/deep/y'")):
        deep(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_writer_left_is_cleared_and_a_living_one_is_waited_for(tmp_path: Path):
    """A second process holds the place of `target`; then it dies in it."""
    code = """
import sys, time
from pathlib import Path
from triptych import files
def slowly(file):
    file.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
    file.write_text("theirs")
files.write_atomic(Path(sys.argv[1]), slowly)
"""
    target = tmp_path / "target"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", code, str(target)], **pipes)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        files.sweep(tmp_path)
        assert len(leftovers(tmp_path)) == 1, "the living keep what is theirs"
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        files.write_text(target, "ours")  # waits
        assert other.wait() == 0
    assert target.read_text() in {"ours", "theirs"}
    with subprocess.Popen([sys.executable, "-c", code, str(target)], **pipes) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "writing\n"
        dying.kill()
    assert len(leftovers(tmp_path)) == 1
    files.write_text(target, "mine")
    assert target.read_text() == "mine"
    assert leftovers(tmp_path) == []


def test_where_folders_cannot_trade_places_a_killed_writer_is_made_good(tmp_path: Path, monkeypatch):
    """Killed between the two renames, the old folder is under no name that anyone knows; the next reader puts it back."""

    def fill(text: str) -> None:
        with files.new_folder(tmp_path / "out", marker="mark.json", overwrite=True) as new:
            files.write_json(new / "mark.json", {"kind": "x", "schema_version": 1, "files": {}, "text": text})

    def read() -> str:
        with files.open_folder(tmp_path / "out", marker="mark.json", kind="x", version=1, maker="m") as facts:
            return facts["text"]

    fill("old")
    place = atomic._place_of(tmp_path / "out")
    place.mkdir()
    (tmp_path / "out").rename(place / atomic._OLD)
    assert read() == "old"
    assert leftovers(tmp_path) == []

    def unknown(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(atomic, "_exchange", unknown)
    fill("new")
    assert read() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_line_names_file_and_cause(tmp_path: Path, capsys, monkeypatch):
    Dataset.from_interactions("x", load_board().interactions).save(tmp_path / "data")

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    assert command(["split", str(tmp_path / "data"), "--split", "ratio", "--out", str(tmp_path / "out")]) == 2
    said = "".join(capsys.readouterr().err.split())
    assert "Nospaceleftondevice" in said
    assert f"{tmp_path}/out" in said


def load_board() -> Dataset:
    from triptych.testing import checkerboard

    return checkerboard(8).data
