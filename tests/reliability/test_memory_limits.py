"""R12: what does not fit is refused before it is begun, with the number; and the number is about right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from triptych import Dataset, Split, memory, train
from triptych.cli.app import run as command
from triptych.data.interactions import TRAIN, VALID, Interactions
from triptych.errors import ConfigError, StorageError
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig

CONFIG = TrainConfig(epochs=1, batch_size=64, metric="recall@2")


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("8GB", 8 * 10**9), ("8 gb", 8 * 10**9), ("512MiB", 512 << 20), ("1.5G", 15 * 10**8), ("4096", 4096), ("2TiB", 2 << 40)],
)  # fmt: skip
def test_sizes_are_read(text: str, n_bytes: int):
    assert memory.parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8XB", "8 G B", "0", "inf", "1e9"])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(ConfigError, match="8GB"):
        memory.parse_size(text)


def test_what_is_free_is_the_least_of_all(monkeypatch):
    machine = memory.free_bytes()
    assert 0 < machine < 1 << 50
    limit = memory.resident_bytes() + (100 << 20)
    with memory.limited_to(limit):
        assert memory.free_bytes() == pytest.approx(100 << 20, abs=32 << 20)
        with memory.limited_to(None):
            assert memory.free_bytes() < 1 << 28
        with memory.limited_to(1):
            assert memory.free_bytes() == 0
    monkeypatch.setenv(memory.LIMIT, str(limit))
    assert memory.free_bytes() == pytest.approx(100 << 20, abs=32 << 20)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_control_groups_of_both_kinds_are_read(tmp_path: Path):
    root, names = tmp_path / "cgroup", tmp_path / "names"
    names.write_text("4:memory:/job/7\n3:cpuset:/\n0::/user/1\n")
    old, new = root / "memory", root
    write(
        old, memory__limit_in_bytes=1 << 62, memory__usage_in_bytes=9000, memory__stat="total_inactive_file 0"
    )
    write(old / "job" / "7", memory__limit_in_bytes=5000, memory__usage_in_bytes=3000,
          memory__stat="cache 7\ntotal_inactive_file 500")  # fmt: skip
    write(new / "user", memory__max=7000, memory__current=6000, memory__stat="inactive_file 1")
    write(new / "user" / "1", memory__max="max", memory__current=6000, memory__stat="inactive_file 1")
    assert sorted(memory._free_in_groups(names, root)) == [1001, 2500, (1 << 62) - 9000]
    assert list(memory._free_in_groups(tmp_path / "none", root)) == []


def test_training_beyond_the_limit_is_refused_before_it_begins(tmp_path: Path, capsys):
    board = checkerboard(16)
    with pytest.raises(
        ConfigError, match=r"training lightgcn needs about [\d,]+ bytes of memory, 0 are free"
    ):
        train(
            "lightgcn",
            board,
            config=CONFIG,
            device="cpu",
            k=(2,),
            checkpoint_dir=tmp_path / "c",
            memory_limit=1,
        )
    assert list(tmp_path.iterdir()) == []
    board.labelled().save(tmp_path / "data")
    arguments = ["train", "lightgcn", str(tmp_path / "data"), "-k", "2", "--set", "metric=recall@2", "--device", "cpu",
                 "--epochs", "1", "--out", str(tmp_path / "run")]  # fmt: skip
    assert command([*arguments, "--memory-limit", "1MB"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "training lightgcn needs about" in said
    assert "embedding_dim" in said
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert command([*arguments, "--memory-limit", "100TB"]) == 0
    assert command([*arguments, "--memory-limit", "much"]) == 2


def test_ten_times_electronics_is_refused_with_the_number_and_the_way_out():
    """630,010 items: one item-to-item matrix is 1.6 TB."""
    n = 630_010
    pairs = np.arange(n)
    label = np.full(n, TRAIN, dtype=np.int8)
    label[::1000] = VALID
    data = Dataset.from_interactions("large", Interactions.from_ids(pairs % 5000, pairs, label=label))
    with pytest.raises(ConfigError) as refused:
        train("ease", Split.by_label(data), config=CONFIG, device="cpu", k=(2,))
    assert f"{3 * 4 * n**2:,} bytes" in refused.value.found
    assert "rank" in refused.value.fix


def test_closed_forms_heed_the_limit():
    from triptych import device

    if not hasattr(device, "free_bytes"):
        pytest.skip("device.free_memory does not ask memory.free_bytes yet")
    n = 3000  # three matrices are 108 MB
    pairs = np.arange(n)
    label = np.full(n, TRAIN, dtype=np.int8)
    label[::100] = VALID
    split = Split.by_label(
        Dataset.from_interactions("x", Interactions.from_ids(pairs % 500, pairs, label=label))
    )
    limit = memory.resident_bytes() + (90 << 20)
    with pytest.raises(ConfigError, match="108,000,000 bytes"):
        train("ease", split, config=CONFIG, device="cpu", k=(2,), memory_limit=limit)
    train("ease", split, settings={"rank": 8}, config=CONFIG, device="cpu", k=(2,), memory_limit=limit)


def test_a_disk_without_room_is_refused_before_training(tmp_path: Path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(StorageError, match=r"10,000 bytes of free space"):
        train(
            "lightgcn", checkerboard(16), config=CONFIG, device="cpu", k=(2,), checkpoint_dir=tmp_path / "c"
        )
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import json, sys
import numpy as np
from triptych import Dataset, Split, train, memory
from triptych.data.features import ItemFeatures
from triptych.data.interactions import TRAIN, VALID, Interactions
from triptych.training.config import TrainConfig
from triptych.training.trainer import Trainer
from dataclasses import replace
import torch
torch.set_num_threads(1)
model, dim, n_users, n_items, n_pairs = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
user = np.concatenate([np.arange(n_users), rng.integers(n_users, size=n_pairs)])
item = np.concatenate([np.arange(n_users) % n_items, rng.integers(n_items, size=n_pairs)])
pairs = Interactions.from_ids(user, item)
features = {name: ItemFeatures.dense(rng.normal(size=(n_items, 16)).astype("f4")) for name in ("image", "text")}
data = replace(Dataset.from_interactions("x", pairs), features=features)
part = np.full(len(pairs), TRAIN, dtype=np.int8)
part[rng.choice(len(pairs), 200, replace=False)] = VALID
found = {}
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
run = Trainer.run
def measured(trainer):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = memory.resident_bytes()
    result = run(trainer)
    found.update(estimate=trainer.memory_needed(), measured=peak() - before)
    return result
Trainer.run = measured
train(model, Split(data, part), settings={"embedding_dim": dim}, config=TrainConfig(epochs=2, batch_size=8192),
      device="cpu", k=(20,))
print(json.dumps(found))
"""


def measure(model: str, dim: int, n_users: int, n_items: int, n_pairs: int) -> float:
    """Train in a process of its own, and divide the estimate by what was taken."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say what a process has taken at most")
    sizes = [str(number) for number in (dim, n_users, n_items, n_pairs)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, model, *sizes],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    return found["estimate"] / found["measured"]


def test_the_estimate_is_about_right():
    assert 1 / 1.5 < measure("lightgcn", 128, 40_000, 10_000, 10_000) < 1.5


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", ["mf-bpr", "lightgcn", "vbpr", "bm3", "freedom"])
@pytest.mark.parametrize("dim", [64, 256])
def test_estimates_of_more_models(model: str, dim: int, capsys):
    ratio = measure(model, dim, 60_000, 10_000, 20_000)
    with capsys.disabled():
        print(f"\n{model}, {dim} wide: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 1.5 < ratio < 1.5
