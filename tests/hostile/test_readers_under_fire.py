"""Every reader of files, under found cases and seeded damage, in processes of its own with bounds on time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutator import mutate, mutate_json
from targets import CORPUS, Target, found_cases, targets

FUZZ = Path(__file__).with_name("fuzz.py")
READERS = list(targets())
GROUPS = [READERS[start::8] for start in range(8)]


def fire(readers: list[str], tmp_path: Path, *options: str) -> list[dict]:
    """Fuzz some readers in a child; give its lines of JSON."""
    command = [sys.executable, str(FUZZ), *readers, "--found", str(tmp_path / "found"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = (tmp_path / "found").read_bytes()[:200] if (tmp_path / "found").exists() else b""
    assert child.returncode == 0, f"{child.stderr[-3000:]}\nthe input begins with {found!r}"
    return [json.loads(line) for line in child.stdout.splitlines()]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("readers", GROUPS, ids=lambda group: group[0])
def test_damaged_files_are_read_or_refused(readers: list[str], tmp_path: Path):
    facts = fire(readers, tmp_path)
    assert [fact["reader"] for fact in facts] == readers
    assert all(fact["executions"] > 5 for fact in facts)
    assert all(fact["refused"] < fact["executions"] for fact in facts)  # each reads its honest files
    assert any(fact["refused"] for fact in facts)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", READERS)
def test_much_more_damage(reader: str, tmp_path: Path):
    runs = 100 if reader.endswith("parquet") else 2000
    (fact,) = fire([reader], tmp_path, "--runs", str(runs), "--seed", "1")
    assert fact["executions"] >= runs


def test_a_reader_that_breaks_its_promise_is_found_out(tmp_path: Path):
    """The harness lets nothing but typed errors pass."""

    def read(folder: Path) -> None:
        raise KeyError((folder / "a").read_bytes())

    with pytest.raises(KeyError):
        Target("a", [b"x"], read).attempt(tmp_path, b"y")


def test_the_same_seed_damages_alike():
    import random

    files = [b'{"a": [1, 2], "b": "x"}', b'{"a": []}']
    for damage in (mutate, mutate_json):
        first, again = ([damage(files, random.Random(seed)) for seed in range(50)] for _ in range(2))
        assert first == again
        assert len(set(first)) > 30


def test_the_corpus_is_small_and_of_known_readers():
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert {path.parent.name for path in files} <= set(READERS)
    assert sum(len(found_cases(name)) for name in READERS) == len(files) > 0
