"""R12: what does not fit is refused before it is begun, with the number; and the number is about right."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from triptych import Dataset, Split, evaluate, memory, train
from triptych.cli.app import run as command
from triptych.data.features import ItemFeatures
from triptych.data.interactions import TRAIN, VALID, Interactions
from triptych.data.layouts.movielens import MovieLens
from triptych.data.layouts.plain import Tables
from triptych.data.sizes import table_size
from triptych.encode.encoder import Encoder, EncoderSpec
from triptych.encode.run import encode
from triptych.errors import ConfigError, StorageError
from triptych.experiments.jobs import Job, Workshop, run_jobs
from triptych.preparation import needs
from triptych.runs import fuse
from triptych.testing import checkerboard, toy_dataset
from triptych.training.config import TrainConfig
from triptych.training.recipe import Recipe

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
        ConfigError,
        match=r"training lightgcn needs about [\d,]+ bytes of memory, 0 are free within the limit of [\d,]+; .*"
        "embedding_dim.*raise the limit",
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
    assert f"loading {tmp_path / 'data'} needs about" in " ".join(capsys.readouterr().err.split())
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
    n = 3000  # three matrices are 108 MB
    pairs = np.arange(n)
    label = np.full(n, TRAIN, dtype=np.int8)
    label[::7] = VALID
    split = Split.by_label(
        Dataset.from_interactions("x", Interactions.from_ids(pairs % 500, pairs, label=label))
    )
    memory.restart_peak()  # as a training does, which hands back what is free
    limit = memory.resident_bytes() + (90 << 20)
    with pytest.raises(ConfigError, match="108,000,000 bytes"):
        train("ease", split, config=CONFIG, device="cpu", k=(2,), memory_limit=limit)
    train("ease", split, settings={"rank": 8}, config=CONFIG, device="cpu", k=(2,), memory_limit=limit)


def test_preparing_encoding_and_listing_beyond_the_limit_are_refused(tmp_path: Path, capsys, monkeypatch):
    """Before anything heavy is done, and nothing is left of it; with enough memory the same commands go on."""
    toy_dataset().save(tmp_path / "data")
    train("mf-bpr", checkerboard(16), config=CONFIG, device="cpu", k=(2,)).save(tmp_path / "run")
    export = grown_shop(tmp_path / "shop", ".csv", 200)
    here = sorted(path.name for path in tmp_path.iterdir())
    out = ["--out", str(tmp_path / "out.csv")]
    words = [
        "encode",
        str(tmp_path / "data"),
        "--text",
        "{title}",
        "--encoder",
        "text=tfidf",
        "--cache",
        str(tmp_path),
    ]
    refusals = {
        ("prepare", str(export), *out): "reading tables of interactions and items needs about",
        (*words, *out): "loading",
        ("recommend", str(tmp_path / "run"), "--all", *out): "loading",
    }
    for asked, said in refusals.items():
        monkeypatch.setenv(memory.LIMIT, "1MB")
        assert command([*asked]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert said in told
        assert "bytes of memory, 0 are free" in told
        assert sorted(path.name for path in tmp_path.iterdir()) in (here, sorted([*here, "encoded"]))
        monkeypatch.delenv(memory.LIMIT)
        limit = [] if asked[0] == "recommend" else ["--memory-limit", "100TB"]
        assert command([*asked, *limit]) == 0
        if limit:
            assert command([*asked, "--overwrite", "--memory-limit", "2MB"]) == 2
            shutil.rmtree(tmp_path / "out.csv")
        capsys.readouterr()


def test_whatever_reads_a_folder_asks_whether_it_fits(tmp_path: Path, capsys, monkeypatch):
    for seed in (1, 2):
        train("mf-bpr", checkerboard(16), config=CONFIG, device="cpu", seed=seed, k=(2,)).save(
            tmp_path / str(seed)
        )
    checkerboard(16).labelled().save(tmp_path / "data")
    one, two, data, out = (str(tmp_path / name) for name in ("1", "2", "data", "out"))
    for words in (
        ["evaluate", one, "-k", "2"],
        ["fuse", one, two, "--out", out, "--metric", "recall@2", "-k", "2"],
        ["recommend", one, "--all"],
        ["serve", one, "--port", "0"],
    ):
        assert command([*words, "--memory-limit", "2MB"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"loading {one} needs about" in said
        assert "bytes of memory, 0 are free" in said
        assert not Path(out).exists()
    assert command(["compare", "mf-bpr", "--data", data, "--out", out, "--memory-limit", "2MB"]) == 2
    assert f"loading {data} needs about" in " ".join(capsys.readouterr().err.split())
    assert command(["evaluate", one, "-k", "2", "--memory-limit", "100TB"]) == 0
    assert (
        command(
            ["fuse", one, two, "--out", out, "--metric", "recall@2", "-k", "2", "--memory-limit", "100TB"]
        )
        == 0
    )
    monkeypatch.setenv(memory.LIMIT, "2MB")
    for words in (["describe", data], ["similar", one, "0"]):
        capsys.readouterr()
        assert command(words) == 2
        assert "loading" in capsys.readouterr().err


def test_each_training_of_an_experiment_heeds_the_limit(tmp_path: Path):
    recipe = Recipe("mf-bpr", {"epochs": 1, "batch_size": 64, "metric": "recall@2"})
    workshop = Workshop(tmp_path, device="cpu", threads=1, k=(2,), memory_limit=1)
    (outcome,) = run_jobs([Job(recipe, 1)], checkerboard(16), workshop)
    assert "training mf-bpr needs about" in str(outcome.error)
    (outcome,) = run_jobs([Job(recipe, 1)], checkerboard(16), replace(workshop, memory_limit=1 << 50))
    assert outcome.folder is not None


def test_rankings_lists_and_fusions_ask_before_they_begin():
    runs = [
        train("mf-bpr", checkerboard(16), config=CONFIG, device="cpu", seed=seed, k=(2,)) for seed in (1, 2)
    ]
    asked = {
        "ranking 16 items": lambda: evaluate(runs[0], k=(2,)),
        "making lists of 2": lambda: runs[0].recommend([0], 2),
        "fusing 2 runs for 16 users": lambda: fuse(runs, metric="recall@2", k=(2,)),
    }
    for said, ask in asked.items():
        with memory.limited_to(1), pytest.raises(ConfigError, match=f"{said}.* needs about"):
            ask()
        assert ask()


def test_rows_too_wide_are_refused_when_the_first_batch_shows_it(tmp_path: Path):
    """What has been encoded by then is kept, and is not encoded again."""

    class Wide(Encoder):
        def __init__(self) -> None:
            super().__init__(EncoderSpec("wide", "1", {}), batch_size=2)
            self.encoded: list[str] = []

        def load(self, data: bytes) -> str:
            return data.decode()

        def encode(self, batch):
            self.encoded += batch
            return np.ones((len(batch), 100_000), dtype=np.float32)

    texts, encoder = [f"text {number}" for number in range(100)], Wide()
    with (
        memory.limited_to(memory.resident_bytes() + (64 << 20)),
        pytest.raises(
            ConfigError, match=r"encoding 100 texts needs about [\d,]+ bytes.*what was encoded is kept"
        ),
    ):
        encode("text", texts, encoder, cache_dir=tmp_path)
    assert encoder.encoded == texts[:2]
    encode("text", texts[:4], encoder, cache_dir=tmp_path)
    assert encoder.encoded == texts[:4]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".jsonl", ".parquet"])
def test_rows_and_bytes_are_known_before_a_table_is_read(tmp_path: Path, suffix: str):
    (path,) = grown_shop(tmp_path / "shop", suffix, 200_000).iterdir()
    n_bytes, n_rows = table_size(path)
    assert n_rows == pytest.approx(200_000, rel=0.02)
    if suffix in (".csv", ".csv.gz"):
        plain = grown_shop(tmp_path / "plain", ".csv", 200_000) / "sales.csv"
        assert n_bytes == pytest.approx(plain.stat().st_size, rel=0.1)
    path.write_bytes(path.read_bytes()[:1000])
    assert table_size(path)[0] >= 0, "damage is for the reader to tell"


def test_what_is_read_in_pieces_is_not_counted_whole(tmp_path: Path):
    text = "1\t2\t5\t881250949\n" * 4_000_000  # 68 MB
    (tmp_path / "u.data").write_text(text)
    (tmp_path / "u.item").write_text("1|A film|||\n" * 100)
    files = {"interactions": tmp_path / "u.data", "items": tmp_path / "u.item"}
    rows = needs._PER_ROW * 4_000_000
    in_pieces = needs.memory_to_read(MovieLens(files))
    assert in_pieces - rows < 200 << 20
    assert needs.memory_to_read(Tables(files)) - rows == pytest.approx(
        needs._RUNTIME + needs._PER_BYTE * len(text), rel=0.01
    )


def test_a_disk_without_room_is_refused_before_training(tmp_path: Path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(StorageError, match=r"10,000 bytes of free space"):
        train(
            "lightgcn", checkerboard(16), config=CONFIG, device="cpu", k=(2,), checkpoint_dir=tmp_path / "c"
        )
    assert list(tmp_path.iterdir()) == []


PEAK = """
import json, sys
from pathlib import Path
import numpy as np
import polars as pl
import torch
from triptych import memory
torch.set_num_threads(1)
def take(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory.resident_bytes()
    result = work()
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return result, 1024 * int(line.split()[1]) - before
def estimates(*modules):
    asked = []
    for module in modules:
        module.require_memory = lambda needed, *_, **__: asked.append(needed)
    return asked
"""

TRAINING = (
    PEAK
    + """
from dataclasses import replace
from triptych import Dataset, Split, train
from triptych.data.features import ItemFeatures
from triptych.data.interactions import TRAIN, VALID, Interactions
from triptych.training.config import TrainConfig
from triptych.training.trainer import Trainer
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
run = Trainer.run
def measured(trainer):
    result, taken = take(lambda: run(trainer))
    found.update(estimate=trainer.memory_needed(), measured=taken)
    return result
Trainer.run = measured
train(model, Split(data, part), settings={"embedding_dim": dim}, config=TrainConfig(epochs=2, batch_size=8192),
      device="cpu", k=(20,))
print(json.dumps(found))
"""
)

PREPARE = (
    PEAK
    + """
from triptych.preparation import prepare
asked = estimates(sys.modules["triptych.preparation.prepare"])
_, taken = take(lambda: prepare(sys.argv[1], name="x", text="none"))
print(json.dumps({"estimate": asked[0], "measured": taken}))
"""
)

ENCODE = (
    PEAK
    + """
from triptych.encode import run
from triptych.encode.encoder import Encoder, EncoderSpec
from triptych.encode.texts import Options, TfIdf
class Wide(Encoder):
    def load(self, data):
        return len(data)
    def encode(self, batch):
        return np.ones((len(batch), 768), dtype=np.float32)
n, rng = int(sys.argv[2]), np.random.default_rng(0)
words = np.array([f"word{number}" for number in range(20_000)])
texts = [" ".join([str(number), *words[rng.zipf(1.3, size=12) % 20_000]]) for number in range(n)]
encoder = TfIdf(Options()) if sys.argv[1] == "tfidf" else Wide(EncoderSpec("wide", "1", {}), 32)
run.encode("text", texts[:500], encoder)
asked = estimates(run)
_, taken = take(lambda: run.encode("text", texts, encoder))
print(json.dumps({"estimate": asked[0], "measured": taken}))
"""
)

LISTS = (
    PEAK
    + """
from types import SimpleNamespace
from triptych import Dataset, Split
from triptych.data.interactions import TRAIN, Interactions
from triptych.runs import batch
from triptych.runs.run import Run
from triptych.scorer import Embeddings, EmbeddingScorer
suffix, n_users, n_items, diversity, out = sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4]), sys.argv[5]
n = max(n_users, n_items)
ids = [np.char.add(kind, (np.arange(n) % count).astype(str)) for kind, count in (("user", n_users), ("item", n_items))]
data = Dataset.from_interactions("x", Interactions.from_ids(*ids))
split = Split(data, np.full(len(data.interactions), TRAIN, dtype=np.int8))
vectors = Embeddings(torch.randn(n_users, 32), torch.randn(n_items, 32))
run = Run(SimpleNamespace(name="x"), EmbeddingScorer(vectors), split, {})
asked = estimates(batch)
_, taken = take(lambda: batch.write_recommendations(run, out + suffix, k=20, diversity=diversity))
print(json.dumps({"estimate": asked[0], "measured": taken}))
"""
)


LOADING = (
    PEAK
    + """
from triptych import Dataset
from triptych.data import dataset, sizes
folder = Path(sys.argv[1])
pl.read_parquet(folder / "users.parquet")
dataset.require_memory_to_load = lambda _: None
_, taken = take(lambda: Dataset.load(folder))
print(json.dumps({"estimate": sizes.memory_to_load(folder), "measured": taken}))
"""
)


def ratio_of(code: str, *arguments: object) -> float:
    """Work in a process of its own, and divide the estimate by what was taken at most."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say what a process has taken at most")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["estimate"] / found["measured"]


def test_the_estimate_is_about_right():
    assert 1 / 1.5 < ratio_of(TRAINING, "lightgcn", 128, 40_000, 10_000, 10_000) < 1.5


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", ["mf-bpr", "lightgcn", "vbpr", "bm3", "freedom"])
@pytest.mark.parametrize("dim", [64, 256])
def test_estimates_of_more_models(model: str, dim: int, capsys):
    ratio = ratio_of(TRAINING, model, dim, 60_000, 10_000, 20_000)
    with capsys.disabled():
        print(f"\n{model}, {dim} wide: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 1.5 < ratio < 1.5


def grown_shop(folder: Path, suffix: str, n_rows: int, wide: str = "") -> Path:
    """Write the interactions of the small shop so often that there are so many, each time of other customers."""
    shop = toy_dataset().interactions
    copy, row = np.divmod(np.arange(n_rows), len(shop))
    frame = pl.DataFrame({"user": shop.users.ids[shop.user[row]], "copy": copy, "item": shop.items.ids[shop.item[row]],
                          "rating": row % 5 + 1, "timestamp": 1_500_000_000 + row})  # fmt: skip
    frame = frame.select(
        pl.format("{}-{}", "user", "copy").alias("user_id"),
        pl.format("{}-{}", "item", pl.col("copy") % 999).alias("item_id"),
        "rating",
        "timestamp",
        *(
            [pl.lit("words of a review that nobody reads " * 6).alias("review")]
            if wide == "interactions"
            else []
        ),
    )
    folder.mkdir()
    text = frame.write_csv()
    match suffix:
        case ".csv.gz":
            (folder / "sales.csv.gz").write_bytes(gzip.compress(text.encode(), 3))
        case ".csv":
            (folder / "sales.csv").write_text(text)
        case ".jsonl":
            frame.write_ndjson(folder / "sales.jsonl")
        case ".json":
            frame.write_json(folder / "sales.json")
        case _:
            frame.write_parquet(folder / "sales.parquet")
    items = frame["item_id"].unique().sort()
    if wide == "items":
        text = pl.select(
            pl.lit("a description of many words " * 300).alias("description"), title=pl.lit("Thing")
        )
        pl.DataFrame({"item_id": items}).join(text, how="cross").write_csv(folder / "items.csv")
    if wide == "features":
        np.save(folder / "image.npy", np.ones((len(items), 2048), dtype=np.float32))
    return folder


@pytest.mark.parametrize(("n_pairs", "dim"), [(1_000_000, 0), (50_000, 512)])
def test_the_estimate_of_loading_is_about_right(tmp_path: Path, n_pairs: int, dim: int, capsys):
    rng = np.random.default_rng(0)
    pairs = Interactions.from_ids(rng.integers(50_000, size=n_pairs), rng.integers(20_000, size=n_pairs))
    features = {
        name: ItemFeatures.dense(rng.normal(size=(pairs.n_items, dim)).astype("f4"))
        for name in ("image", "text")
        if dim
    }
    replace(Dataset.from_interactions("x", pairs), features=features).save(tmp_path / "data")
    ratio = ratio_of(LOADING, tmp_path / "data")
    with capsys.disabled():
        print(f"\nloading {n_pairs:,} pairs, {dim} columns: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 2 < ratio < 2


@pytest.mark.parametrize(("suffix", "n_rows"), [(".csv", 400_000), (".json", 200_000)])
def test_the_estimate_of_preparing_is_about_right(tmp_path: Path, suffix: str, n_rows: int, capsys):
    ratio = ratio_of(PREPARE, grown_shop(tmp_path / "shop", suffix, n_rows))
    with capsys.disabled():
        print(f"\nprepare {suffix}: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 2 < ratio < 2


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("suffix", "wide"),
    [(".csv", ""), (".csv.gz", ""), (".jsonl", ""), (".parquet", ""), (".csv", "interactions"), (".csv", "items"),
     (".csv", "features")],
)  # fmt: skip
def test_estimates_of_preparing_more_files(tmp_path: Path, suffix: str, wide: str, capsys):
    n_rows = 300_000 if wide else 1_500_000
    ratio = ratio_of(PREPARE, grown_shop(tmp_path / "shop", suffix, n_rows, wide))
    with capsys.disabled():
        print(f"\nprepare {suffix}, wide {wide or 'nowhere'}: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 2 < ratio < 2


@pytest.mark.parametrize(
    ("encoder", "n"), [("wide", 20_000), pytest.param("tfidf", 10_000, marks=pytest.mark.long)]
)
def test_the_estimate_of_encoding_is_about_right(encoder: str, n: int, capsys):
    ratio = ratio_of(ENCODE, encoder, n)
    with capsys.disabled():
        print(f"\nencode {encoder}: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 2 < ratio < 2


@pytest.mark.parametrize(
    ("suffix", "n_users", "n_items", "diversity"),
    [
        (".csv", 200, 200_000, 0),
        pytest.param(".parquet", 100_000, 2000, 0, marks=pytest.mark.long),
        pytest.param(".jsonl", 2000, 100_000, 0.3, marks=pytest.mark.long),
    ],
)
def test_the_estimate_of_lists_is_about_right(tmp_path: Path, suffix, n_users, n_items, diversity, capsys):
    ratio = ratio_of(LISTS, suffix, n_users, n_items, diversity, tmp_path / "lists")
    with capsys.disabled():
        print(f"\nlists {suffix}, {n_items} items: the estimate is {ratio:.2f} of what was taken")
    assert 1 / 3 < ratio < 3, "equal scores take more"
