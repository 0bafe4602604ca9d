"""The rules of the house that no other tool watches."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "triptych"
FILES = sorted(SOURCE.rglob("*.py"))


def occurrences(pattern: str, files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]


def test_there_is_something_to_look_at():
    assert len(FILES) > 30
    assert occurrences(r"import numpy", FILES)


def test_nothing_read_is_ever_executed():
    forbidden = r"\b(import pickle|import joblib|import dill|torch\.load\(|torch\.save\(|allow_pickle=True|eval\(\w+\)|exec\(|yaml)"
    assert [hit for hit in occurrences(forbidden, FILES) if ".eval()" not in hit] == []


def test_models_name_no_device_and_read_no_file():
    files = [path for path in FILES if path.parent.name in ("models", "nn")]
    assert len(files) >= 8
    assert occurrences(r"cuda|\.cpu\(|device=[\"']|open\(|read_text|np\.load", files) == []


def test_only_those_who_compute_name_a_device():
    hits = occurrences(r"[\"']cuda", FILES)
    assert all(
        hit.startswith(
            (
                "device.py",
                "training/",
                "encode/",
                "cli/",
                "runs/",
                "experiments/",
                "serving/",
                "report/doctor.py",
                "testing/",
            )
        )
        for hit in hits
    ), hits


def test_only_some_rooms_touch_the_disk():
    hits = occurrences(r"\bopen\(|write_text|write_bytes|write_parquet|write_arrays\(|write_json\(", FILES)
    rooms = (
        "data/",
        "fetch/",
        "encode/cache.py",
        "files/",
        "runs/",
        "training/checkpoint.py",
        "graph/store.py",
        "report/",
        "experiments/",
        "serving/",
        "cli/evaluation.py",
        "memory.py",  # where Linux forgets a peak
    )
    assert all(hit.startswith(rooms) for hit in hits), hits


def test_no_global_seed_is_set():
    hits = occurrences(r"manual_seed\(|np\.random\.seed|random\.seed\(", FILES)
    assert all(hit.startswith(("training/trainer.py", "training/sampler.py")) for hit in hits), hits


def test_model_files_are_short():
    for path in (SOURCE / "models").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 230, path.name


@pytest.mark.parametrize(
    "statement", ["import triptych", "import triptych.cli.app", "import triptych.data.layouts"]
)
def test_torch_is_loaded_only_where_it_is_needed(statement: str):
    """The command line sets threads before torch is there, and tables need none of it."""
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
