"""The loop: what it does with steps, when it stops, what it says, and that it can go on after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from triptych.data.split import Split
from triptych.device import resolve_device
from triptych.errors import ConfigError, StorageError, TrainingError
from triptych.files import read_json
from triptych.models.base import Embeddings, Group, ModelConfig, ModelInputs, Recommender, Step, Triplets
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.registry import create_model, make_config, model_entry
from triptych.runs import train
from triptych.testing import checkerboard, toy_dataset
from triptych.training.config import TrainConfig
from triptych.training.observer import Observer
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import LossLog, Trainer, isolated_rng

CPU = torch.device("cpu")


class Odd(Recommender):
    """Two optimisers, a step per epoch, an action after a step, and scripted losses."""

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__(ModelConfig(), inputs)
        self.main, self.critic, self.idle = (nn.Parameter(torch.ones(2)) for _ in range(3))
        self.seen: list[tuple[str, float]] = []
        self.break_in_step = -1
        self.n_steps = 0

    def optimizer_groups(self) -> dict[str, Group]:
        return {
            "main": Group([self.main, self.idle]),
            "critic": Group([self.critic], {"betas": (0.5, 0.9), "lr": 0.3}),
        }

    def embeddings(self) -> Embeddings:
        return Embeddings(torch.ones(self.n_users, 2) * self.main, torch.ones(self.n_items, 2))

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        before = self.critic.detach().clone()
        yield Step({"warm": self.critic.sum()}, "critic")
        self.seen.append(("critic moved", float((before - self.critic).detach().sum())))

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        before = self.main.detach().clone()
        self.n_steps += 1
        bad = torch.tensor(float("nan") if self.n_steps == self.break_in_step else 0.0)
        yield Step({"fine": self.main.sum(), "odd": self.main.prod() + bad})
        self.seen.append(("main moved", float((before - self.main).detach().sum())))


def make_trainer(config: TrainConfig, curve: list[float] | None = None, **options) -> tuple[Trainer, Odd]:
    split = checkerboard(8)
    inputs = ModelInputs.from_split(split)
    model = Odd(inputs)
    sampler = TripletSampler(inputs.user, inputs.item, 8, 8, batch_size=config.batch_size)
    values = iter(curve or [0.5] * 10_000)
    return Trainer(
        model, sampler, lambda _: {config.metric: next(values)}, config, device=CPU, **options
    ), model


def test_code_after_a_yield_runs_after_that_optimiser_stepped():
    trainer, model = make_trainer(TrainConfig(epochs=1, batch_size=10, learning_rate=0.1))
    trainer.run()
    kinds = [kind for kind, _ in model.seen]
    assert kinds == ["critic moved", "main moved", "main moved"]  # 16 pairs in batches of 10
    assert all(moved > 0.15 for _, moved in model.seen)  # Adam's first steps have the length of its step size


def test_each_group_has_its_own_optimiser_options():
    trainer, _ = make_trainer(TrainConfig(epochs=51, learning_rate=0.1, lr_decay=0.5, patience=100))
    trainer.run()
    critic, main = (trainer.optimizers[name]["dense"].param_groups[0] for name in ("critic", "main"))
    assert (critic["betas"], main["betas"]) == ((0.5, 0.9), (0.9, 0.999))
    assert (critic["lr"], main["lr"]) == (pytest.approx(0.15), pytest.approx(0.05))


class Rowwise(Recommender):
    """A table of which a step reads two rows, beside a parameter of all steps."""

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__(ModelConfig(), inputs)
        self.table, self.scale = nn.Parameter(torch.ones(5, 3)), nn.Parameter(torch.ones(()))

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), {"lr": 0.5, "weight_decay": 0.1}, by_row=[self.table])}

    def embeddings(self) -> Embeddings:
        return Embeddings(torch.ones(self.n_users, 3), torch.ones(self.n_items, 3))

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        rows = nn.functional.embedding(torch.tensor([1, 4, 1]), self.table, sparse=True)
        yield Step({"sum": self.scale * rows.sum()})


def test_what_learns_by_row_moves_where_it_was_read_and_decays_like_the_rest():
    trainer, _ = make_trainer(TrainConfig(epochs=1, batch_size=100, lr_decay=0.5))
    model = Rowwise(ModelInputs.from_split(checkerboard(8)))
    trainer = Trainer(model, trainer.sampler, trainer.validate, trainer.config, device=CPU)
    trainer.run()
    moved = model.table.detach() - 1
    assert moved[[0, 2, 3]].abs().max() == 0
    torch.testing.assert_close(moved[[1, 4]], torch.full((2, 3), -0.5))  # Adam's first step, no weight decay
    assert model.scale.item() == pytest.approx(0.5)
    rates = {kind: o.param_groups[0]["lr"] for kind, o in trainer.optimizers["main"].items()}
    assert rates == {"dense": 0.5, "by_row": 0.5}


def test_stops_when_the_bad_evaluations_exceed_the_patience_and_keeps_the_best_weights():
    curve = [0.1, 0.3, 0.3, 0.2, 0.3 - 1e-9, 0.9]
    trainer, model = make_trainer(TrainConfig(epochs=50, patience=2, learning_rate=0.1), curve)
    kept = {}

    class Keep(Observer):
        def on_epoch(self, record):
            kept[record.epoch] = model.main.detach().clone()

    trainer.observer = Keep()
    result = trainer.run()
    assert result.best_epoch == 2
    assert len(result.history) == 5  # epochs 3, 4, 5 are three bad ones: more than two
    assert torch.equal(model.main.detach(), kept[2])
    assert not torch.equal(kept[2], kept[5])


def test_gains_are_compared_unrounded():
    curve = [0.10001, 0.10002, 0.10003, 0.10004]
    trainer, _ = make_trainer(TrainConfig(epochs=4, patience=0), curve)
    assert trainer.run().best_epoch == 4


def test_evaluates_every_so_many_epochs_and_the_last():
    trainer, _ = make_trainer(TrainConfig(epochs=5, eval_every=2))
    history = trainer.run().history
    assert [record.valid is not None for record in history] == [False, True, False, True, True]


def test_learning_rate_decays_smoothly():
    rates = []
    trainer, _ = make_trainer(TrainConfig(epochs=51, lr_decay=0.5, learning_rate=0.2, patience=100))

    class Rates(Observer):
        def on_epoch(self, record):
            rates.append(trainer.optimizers["main"]["dense"].param_groups[0]["lr"])

    trainer.observer = Rates()
    trainer.run()
    assert rates[0] == pytest.approx(0.2)
    assert rates[25] == pytest.approx(0.2 * 0.5**0.5)
    assert rates[50] == pytest.approx(0.1)


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_epoch():
    trainer, model = make_trainer(TrainConfig(epochs=3, batch_size=10))
    model.break_in_step = 4
    with pytest.raises(TrainingError, match="loss term 'odd' became nan in step 3 of epoch 2") as caught:
        trainer.run()
    assert caught.value.exit_code != 0


def test_a_term_that_some_steps_lack_is_averaged_over_the_others():
    log = LossLog()
    for value in (1.0, 2.0, 3.0):
        log.add({"always": torch.tensor(value)})
    log.add({"always": torch.tensor(10.0), "sometimes": torch.tensor(5.0)})
    assert log.means(1) == {"always": 4.0, "sometimes": 5.0}
    log.add({"sometimes": torch.tensor(float("inf")), "always": torch.tensor(0.0)})
    with pytest.raises(TrainingError, match="'sometimes' became inf in step 5 of epoch 7"):
        log.means(7)


@pytest.mark.parametrize("zeroed", [False, True])
def test_missing_gradients_can_count_as_zero(zeroed: bool):
    """With zeros Adam goes on moving a parameter by its momentum; without gradients it rests."""
    trainer, model = make_trainer(TrainConfig(epochs=1, batch_size=4, zero_missing_grads=zeroed))
    model.idle.grad = torch.ones(2)
    trainer.optimizers["main"]["dense"].step()
    moved_once = model.idle.detach().clone()
    model.idle.grad = torch.zeros(2) if zeroed else None
    trainer.run()
    assert torch.equal(model.idle.detach(), moved_once) != zeroed


def test_bf16_trains_and_keeps_embeddings_in_float32():
    config = TrainConfig(epochs=30, batch_size=64, learning_rate=0.02, precision="bf16", metric="recall@2")
    run = train(LightGCNConfig(embedding_dim=8), checkerboard(), config=config, device="cpu", k=(2,))
    assert run.scorer.embeddings.users.dtype == torch.float32
    assert run.record.valid["recall@2"] > 0.9


@pytest.mark.parametrize(
    "name", ["ngcf", "mmgcn", "mmgcl", "slmrec", "bm3", "msi", "mgnm", "camgr", "grcn", "dualgnn"]
)
def test_under_bf16_sums_and_what_ranks_stay_in_float32(name: str):
    """Only products of dense matrices are rounded."""
    inputs = ModelInputs.from_split(Split.by_ratio(toy_dataset(40, 30, missing=False)))
    model = create_model(make_config(model_entry(name).config, {}), inputs)
    batch = Triplets(
        inputs.user[:16], inputs.item[:16], inputs.item[16:32] if model.negatives else inputs.item[:0]
    )
    with torch.autocast("cpu", torch.bfloat16):
        terms = {key: term.dtype for step in model.batch_steps(batch) for key, term in step.losses.items()}
        vectors = model.embeddings()
    assert set(terms.values()) == {torch.float32}, terms
    assert {part.dtype for part in vectors} == {torch.float32}


def test_isolated_rng_seeds_and_gives_back():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with isolated_rng(1, CPU):
        first = torch.rand(1)
    with isolated_rng(1, CPU):
        assert torch.equal(torch.rand(1), first)
    assert torch.equal(torch.rand(1), expected)


def test_devices():
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:x", "cuda:99"):
        with pytest.raises(ConfigError, match=name):
            resolve_device(name)


# Crashes

SCRIPT = """
import sys, time
from pathlib import Path
from triptych.models.lightgcn import LightGCNConfig
from triptych.runs import train
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig
from triptych.training.observer import Observer
import torch
torch.set_num_threads(1)
class Slow(Observer):
    def on_batch(self, epoch, done, n_batches):
        time.sleep(0.005)
config = TrainConfig(epochs=25, batch_size=64, patience=100, metric="recall@2")
folder = Path(sys.argv[1])
run = train(LightGCNConfig(embedding_dim=8), checkerboard(), seed=3, config=config, device="cpu", k=(2,),
            checkpoint_dir=folder / "c", checkpoint_every=1, resume=(folder / "c" / "checkpoint.json").exists(),
            observer=Slow())
run.save(folder / "run")
"""


def run_killed(folder: Path, after: float) -> bool:
    """Start or resume the script, kill it after some seconds, and say whether it had finished."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    folder_of_checkpoint = folder / "c"
    deadline = time.monotonic() + 120
    while not folder_of_checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return process.wait() == 0


def kills(tmp_path: Path, moments: list[float]) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(whole)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    killed = tmp_path / "killed"
    killed.mkdir()
    finished = [run_killed(killed, moment) for moment in moments]
    assert not finished[0], "the first kill came too late to test anything"
    while not (killed / "run").exists():
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(killed)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    for name in ("embeddings.safetensors", "model.safetensors"):
        assert (killed / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()
    first, second = (read_json(folder / "run" / "run.json")["history"] for folder in (whole, killed))
    for epoch in (*first, *second):
        del epoch["train_seconds"], epoch["eval_seconds"]
    assert first == second
    assert not list(killed.rglob(".partial-*"))


def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path):
    kills(tmp_path, [0.05])


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_killed_at_many_moments_and_resumed_gives_the_same_bytes(tmp_path: Path):
    for series in range(10):
        folder = tmp_path / str(series)
        folder.mkdir()
        kills(folder, [0.003 * series + 0.013 * step for step in range(5)])


def test_a_checkpoint_of_another_experiment_is_refused(tmp_path: Path):
    split, config = checkerboard(), TrainConfig(epochs=2, batch_size=64, metric="recall@2")

    class Stop(Observer):
        def on_batch(self, epoch, done, n_batches):
            if epoch == 2:
                raise KeyboardInterrupt

    arguments = {"seed": 3, "config": config, "device": "cpu", "k": (2,), "checkpoint_dir": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        train(LightGCNConfig(), split, **arguments, checkpoint_every=1, observer=Stop())
    with pytest.raises(StorageError, match="another seed"):
        train(LightGCNConfig(), split, **{**arguments, "seed": 4}, resume=True)
    with pytest.raises(StorageError, match="another model settings"):
        train(LightGCNConfig(n_layers=1), split, **arguments, resume=True)
    other = config.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(StorageError, match="another training settings"):
        train(LightGCNConfig(), split, **{**arguments, "config": other}, resume=True)
    with pytest.raises(StorageError, match="another data or split"):
        train(LightGCNConfig(), checkerboard(42), **arguments, resume=True)
    assert train(LightGCNConfig(), split, **arguments, resume=True).record.best_epoch >= 1


def test_rounding_before_comparing_passes_over_small_gains():
    curve = [0.10001, 0.10002, 0.10003, 0.1002]
    exact, _ = make_trainer(TrainConfig(epochs=4), curve)
    assert [record.best for record in exact.run().history] == [True, True, True, True]
    rounded, _ = make_trainer(TrainConfig(epochs=4, metric_decimals=4), curve)
    result = rounded.run()
    assert [record.best for record in result.history] == [True, False, False, True]
    assert result.best_epoch == 4


def test_a_resumed_training_remembers_what_memory_its_first_process_took(tmp_path: Path):
    """The record is to say what a training needs, not what its last process happened to."""
    first, _ = make_trainer(TrainConfig(epochs=1))
    first.run()
    first.progress.peak_memory_bytes = 1 << 60
    first.save(tmp_path)
    second, _ = make_trainer(TrainConfig(epochs=2))
    second.restore(tmp_path)
    assert second.run().peak_memory_bytes == 1 << 60
