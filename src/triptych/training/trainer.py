"""The one training loop. It drives any stream of `Step`s and knows no model's name."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triptych.errors import StorageError, TrainingError
from triptych.evaluation.ranking import memory_to_rank
from triptych.memory import peak_bytes
from triptych.models.base import Group, Recommender, Step, Triplets
from triptych.models.contract import check_groups, check_scorer, check_steps, total_loss
from triptych.scorer import Scorer
from triptych.training.checkpoint import Tensors, flatten, load_checkpoint, save_checkpoint, unflatten
from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord, Observer
from triptych.training.optimizers import Adam, RowAdam
from triptych.training.progress import Progress
from triptych.training.sampler import TripletSampler
from triptych.training.signals import DeferredSignals

Validate = Callable[[Scorer], dict[str, float]]
"""Measures a frozen model on the validation part."""

CHECKPOINT = "checkpoint"

_COPIES_PER_STEP = 3.5
"""Of all nodes' vectors: out and back through linear layers, measured on LightGCN, VBPR and BM3."""
_BYTES_PER_PAIR = 32
"""Of a training pair in an epoch: place, user, item, sampled item."""
_RUNTIME = 48 << 20
"""What libraries take for themselves once they compute."""


@dataclass(frozen=True)
class TrainResult:
    """What came out: the model holds the weights of `best_epoch`.

    Args:
        best_epoch: the epoch with the best validation metric, counted from 1.
        history: one record per epoch.
        peak_memory_bytes: of the process, or of the largest of those that took part (on CUDA, of the device's
            allocator).
    """

    best_epoch: int
    history: list[EpochRecord]
    peak_memory_bytes: int


class Trainer:
    """Trains a model until its validation metric no longer grows, and leaves it with its best weights.

    Run it within `isolated_rng`: what a model draws comes from torch's default generators, whose
    states the checkpoints hold.

    Args:
        model: on `device` already.
        sampler: draws the batches.
        validate: measures the model on the validation part.
        config: how to train.
        device: where.
        checkpoint_dir: where to save; None saves nothing.
        checkpoint_every: epochs between saves.
        identity: what must be the same for a checkpoint to fit, such as settings, seed and data hash.
        observer: is told of progress.

    Raises:
        ModelError: the model's optimiser groups are none, or leave out what is to learn.
    """

    def __init__(
        self,
        model: Recommender,
        sampler: TripletSampler,
        validate: Validate,
        config: TrainConfig,
        *,
        device: torch.device,
        checkpoint_dir: Path | None = None,
        checkpoint_every: int = 10,
        identity: dict[str, Any] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.model, self.sampler, self.validate, self.config = model, sampler, validate, config
        self.device = device
        self.epochs = 1 if model.schedule == "once" else config.epochs
        self.checkpoint_dir, self.checkpoint_every = checkpoint_dir, checkpoint_every
        self.identity = identity or {}
        self.observer = observer or Observer()
        self.progress = Progress()
        self.saved_epoch = 0
        self._epoch = 0  # under way, or just being told of
        self._signals = DeferredSignals(self._on_signal, active=False)
        self._may_stop = False
        self.best: Tensors = {}
        groups = model.optimizer_groups()
        check_groups(model, groups)
        self.rates = {name: group.options.get("lr", config.learning_rate) for name, group in groups.items()}
        self.optimizers = {name: _optimizers(group, self.rates[name]) for name, group in groups.items()}

    def run(self) -> TrainResult:
        """Train to the end and put the best weights back into the model.

        Where checkpoints are saved, Ctrl-C and SIGTERM wait until the epoch is done and saved, or, if all
        finished epochs are, only until the batch is; a second one does not wait.

        Raises:
            TrainingError: a loss term is NaN or infinite; the message names the term, step and epoch.
            ModelError: what the model yields is no step, or what it ranks by are not vectors of all nodes.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with DeferredSignals(self._on_signal, active=self.checkpoint_dir is not None) as self._signals:
            while self.progress.epoch < self.epochs and not self.progress.out_of_patience(self.config):
                record = self._run_epoch(self.progress.epoch + 1)
                self.progress.epoch = record.epoch
                self.progress.history.append(record)
                self.observer.on_epoch(record)
                due = record.epoch % self.checkpoint_every == 0 or self._signals.waiting
                if self.checkpoint_dir is not None and due:
                    self.save(self.checkpoint_dir)
                self._signals.deliver()
        self._note_peak()
        self.model.load_state_dict(self.best)
        progress = self.progress
        return TrainResult(progress.best_epoch, progress.history, progress.peak_memory_bytes)

    def state_bytes(self) -> int:
        """Count the bytes of weights, best weights and moments: what a checkpoint takes."""
        return 2 * _bytes_of(self.model.parameters()) + 2 * _bytes_of(self.model.state_dict().values())

    def memory_needed(self) -> int:
        """Estimate how many bytes training takes beside what the model holds already.

        Counted are moments, best weights, gradients, an epoch's pairs in their drawn order, the copies of all
        nodes' vectors that linear layers keep in a step, and a block of users in evaluation. What a model
        computes beside that is its own, and comes on top.
        """
        parameters, groups = _bytes_of(self.model.parameters()), self.model.optimizer_groups().values()
        kept = 2 * parameters + _bytes_of(self.model.state_dict().values())
        gradients = parameters - sum(_bytes_of(group.by_row) for group in groups)
        n_users, n_items = self.model.n_users, self.model.n_items
        nodes = 4 * (n_users + n_items) * self.model.config.embedding_dim
        pairs = _BYTES_PER_PAIR * self.sampler.n_batches * self.config.batch_size
        step = gradients + int(_COPIES_PER_STEP * nodes) + pairs
        return kept + max(step, memory_to_rank(n_items)) + _RUNTIME

    def _on_signal(self) -> None:
        if not self._may_stop:
            self.observer.on_stopping(self._epoch)

    def _run_epoch(self, epoch: int) -> EpochRecord:
        self._epoch = epoch
        started = time.perf_counter()
        losses = self._train_epoch(epoch)
        trained = time.perf_counter()
        last = epoch == self.epochs
        if epoch % self.config.eval_every and not last:
            return EpochRecord(epoch, losses, None, False, trained - started, 0.0)
        valid = self.validate(check_scorer(self.model, self.model.scorer()))
        best = self.progress.take(epoch, valid[self.config.metric], self.config)
        if best:
            self.best = {}  # so that two sets of best weights are never held
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        return EpochRecord(epoch, losses, valid, best, trained - started, time.perf_counter() - trained)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.model.train()
        for name, optimizers in self.optimizers.items():
            for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
                group["lr"] = self.rates[name] * self.config.lr_decay ** ((epoch - 1) / 50)
        log, in_batches = LossLog(), self.model.schedule == "batches"
        self._may_stop = in_batches and self.saved_epoch == self.progress.epoch
        self._drive(self.model.epoch_steps(epoch), log)
        if in_batches:
            self._train_batches(epoch, log)
        self._may_stop = False  # what is left of the epoch is evaluated and saved rather than lost
        return log.means(epoch)

    def _train_batches(self, epoch: int, log: LossLog) -> None:
        n_batches = self.sampler.n_batches
        for done, batch in enumerate(self.sampler.epoch(), start=1):
            on_device = Triplets(*(part.to(self.device, non_blocking=True) for part in batch))
            self._drive(self.model.batch_steps(on_device), log)
            self.observer.on_batch(epoch, done, n_batches)
            if self._may_stop:
                self._signals.deliver()

    def _drive(self, steps: Iterable[Step], log: LossLog) -> None:
        stream = iter(check_steps(self.model, steps))
        while True:
            with self._autocast():
                step = next(stream, None)
                if step is None:
                    return
                total = total_loss(self.model, step, self.optimizers)
            optimizers = self.optimizers[step.group].values()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=not self.config.zero_missing_grads)
            total.backward()
            for optimizer in optimizers:
                optimizer.step()
                if not self.config.zero_missing_grads:
                    optimizer.zero_grad()  # not held while the next step is computed
            log.add(step.losses)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _note_peak(self) -> None:
        earlier = self.progress.peak_memory_bytes  # of processes that were stopped too
        self.progress.peak_memory_bytes = max(earlier, peak_memory_bytes(self.device))

    def save(self, folder: Path) -> None:
        """Write all that training needs to go on as if it had never stopped."""
        generators = {"sampler": self.sampler.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizers": {
                name: {kind: optimizer.state_dict() for kind, optimizer in optimizers.items()}
                for name, optimizers in self.optimizers.items()
            },
            "generators": generators,
        }
        tensors, nest = flatten(state)
        self._note_peak()
        facts = {"identity": self.identity, "progress": asdict(self.progress), "state": nest}
        save_checkpoint(folder, CHECKPOINT, tensors, facts)
        self.saved_epoch = self.progress.epoch

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            StorageError: there is no whole checkpoint, or it belongs to other settings, data or seed.
        """
        tensors, facts = load_checkpoint(folder, CHECKPOINT)
        differing = [key for key in self.identity if self.identity[key] != facts["identity"].get(key)]
        if differing:
            raise StorageError(
                f"the checkpoint in {folder} was written with another {' and '.join(differing)}",
                wanted="the same " + ", ".join(self.identity),
                fix="Resume with the settings it was begun with, or train into another folder",
            )
        state = unflatten(facts["state"], tensors)
        self.model.load_state_dict(state["model"])
        self.best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        for name, optimizers in self.optimizers.items():
            for kind, optimizer in optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name][kind])
        self.sampler.generator.set_state(state["generators"]["sampler"])
        torch.set_rng_state(state["generators"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)
        history = [EpochRecord(**record) for record in facts["progress"].pop("history")]
        self.progress = Progress(**facts["progress"], history=history)
        self.saved_epoch = self.progress.epoch
        self.observer.on_resume(tuple(history))


def _optimizers(group: Group, rate: float) -> dict[str, torch.optim.Optimizer]:
    """Make Adam for a group, and its lazy form for the parameters that are moved row by row."""
    options = {"lr": rate, **group.options}
    apart = {id(parameter) for parameter in group.by_row}
    dense = [parameter for parameter in group.parameters if id(parameter) not in apart]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if dense:
        optimizers["dense"] = Adam(dense, fused=True, **options)
    if apart:
        shared = {key: options[key] for key in ("lr", "betas", "eps") if key in options}
        optimizers["by_row"] = RowAdam(group.by_row, **shared)
    return optimizers


class LossLog:
    """The loss terms of an epoch, kept on the device so that no step waits for a number."""

    def __init__(self) -> None:
        self._n_steps = 0
        self._numbers: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        self._values: defaultdict[tuple[str, ...], list[Tensor]] = defaultdict(list)

    def add(self, losses: dict[str, Tensor]) -> None:
        """Note the terms of one step, which need not be those of another."""
        self._n_steps += 1
        self._numbers[tuple(losses)].append(self._n_steps)
        self._values[tuple(losses)].append(torch.stack([term.detach().float() for term in losses.values()]))

    def means(self, epoch: int) -> dict[str, float]:
        """Average each term over the steps that had it.

        Raises:
            TrainingError: a term was NaN or infinite in some step.
        """
        totals, counts = defaultdict[str, float](float), Counter[str]()
        for names, steps in self._values.items():
            table = torch.stack(steps).double().cpu()  # (steps, terms)
            bad = (~table.isfinite()).nonzero()
            if len(bad):
                step, term = bad[0].tolist()
                number, value = self._numbers[names][step], table[step, term].item()
                raise TrainingError(
                    f"loss term '{names[term]}' became {value} in step {number} of epoch {epoch}",
                    wanted="finite losses",
                    fix="Set a smaller learning_rate, or check the scale of the features",
                )
            for name, total in zip(names, table.sum(dim=0).tolist(), strict=True):
                totals[name] += total
                counts[name] += len(steps)
        return {name: total / counts[name] for name, total in totals.items()}


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(int(tensor.nbytes) for tensor in tensors)


def peak_memory_bytes(device: torch.device) -> int:
    """Say how much memory the process has held at most; on CUDA, the device's allocator."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's default generators inside a `with` block, and give them back as they were after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
