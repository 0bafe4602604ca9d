"""What the loop makes of models that go through no batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import nn

from triptych.models.base import Embeddings, ModelConfig, ModelInputs, Recommender, Step, Triplets
from triptych.testing import checkerboard
from triptych.training.config import TrainConfig
from triptych.training.observer import Observer
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import Trainer


class Solved(Recommender):
    """Counts what it is asked to do."""

    schedule = "sweeps"

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__(ModelConfig(), inputs)
        self.weight = nn.Parameter(torch.zeros(1))
        self.epochs: list[int] = []

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        self.epochs.append(epoch)
        yield Step({"square": (self.weight - 1).square().sum()})

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        raise AssertionError("there are no batches")

    def embeddings(self) -> Embeddings:
        return Embeddings(torch.ones(self.n_users, 1), torch.ones(self.n_items, 1))


class SolvedOnce(Solved):
    schedule = "once"


class NoBatches(Observer):
    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        raise AssertionError("there are no batches")


@pytest.mark.parametrize(("kind", "epochs"), [(Solved, [1, 2, 3, 4, 5]), (SolvedOnce, [1])])
def test_the_epochs_of_a_schedule(kind: type[Solved], epochs: list[int]):
    inputs = ModelInputs.from_split(checkerboard(8))
    sampler = TripletSampler(inputs.user, inputs.item, 8, 8, batch_size=10)
    config, asked = TrainConfig(epochs=5, eval_every=3, learning_rate=0.1), []

    def validate(scorer) -> dict[str, float]:
        asked.append(scorer)
        return {config.metric: 0.5}

    model = kind(inputs)
    trainer = Trainer(model, sampler, validate, config, device=torch.device("cpu"), observer=NoBatches())
    result = trainer.run()
    assert model.epochs == epochs
    assert [record.epoch for record in result.history] == epochs
    assert [record.valid is not None for record in result.history] == [
        e % 3 == 0 or e == epochs[-1] for e in epochs
    ]
    assert all(record.losses["square"] > 0 for record in result.history)  # its own steps are still taken
    assert len(asked) == (2 if kind is Solved else 1)
