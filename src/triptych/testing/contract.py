"""What every model promises, as test suites that a model's test class inherits."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import LEFT_OUT, Interactions
from triptych.data.split import Split
from triptych.errors import ConfigError, TrainingError, TriptychError
from triptych.evaluation.ranking import evaluate_ranking
from triptych.models.base import ContentConfig, ModelConfig, ModelInputs, Recommender, Step
from triptych.models.plugins.base import create_plugged_in, make_plugin_configs
from triptych.models.registry import make_config, model_entry_of
from triptych.runs import Run, load, train
from triptych.testing.data import checkerboard, toy_dataset
from triptych.testing.hard_data import hard_splits, hopeless_splits
from triptych.training.config import TrainConfig
from triptych.training.observer import EpochRecord, Observer
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import isolated_rng

CPU = torch.device("cpu")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class ScoringContract:
    """What holds for any model, however it comes to its scores; for closed forms it is the whole contract.

    Attributes:
        config: settings that suit data of a dozen items.
        plugins: what is attached to the model: name -> fields or settings.
        training: how to train on the checkerboard.
        reached: recall@1 on the checkerboard that training must reach; guessing reaches 0.05.
    """

    config: ClassVar[ModelConfig]
    plugins: ClassVar[Mapping[str, Any]] = {}
    training: ClassVar[TrainConfig] = TrainConfig(
        epochs=60, batch_size=64, learning_rate=0.02, metric="recall@2"
    )
    reached: ClassVar[float] = 0.9

    @pytest.fixture(scope="class")
    @classmethod
    def board(cls) -> Split:
        """Give the planted data."""
        return checkerboard()

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, board: Split) -> Run:
        """Give a run on the planted data."""
        return train(
            cls.config, board, plugins=cls.plugins, seed=3, config=cls.training, device="cpu", k=(1, 2)
        )

    @pytest.fixture
    def toy(self) -> Split:
        """Give a tiny split with missing pictures and texts."""
        return Split.by_ratio(toy_dataset(), rng=0)

    def build(self, split: Split, seed: int = 0, config: ModelConfig | None = None) -> Recommender:
        """Create the model on a split."""
        with isolated_rng(seed, CPU):
            return create_plugged_in(
                config or self.config, make_plugin_configs(self.plugins), ModelInputs.from_split(split)
            )

    def briefly(self, split: Split, *, epochs: int = 2, seed: int = 0, **options: Any) -> Run:
        """Train a little."""
        config = TrainConfig(epochs=epochs, batch_size=16, learning_rate=0.01, metric="recall@1")
        return train(
            self.config,
            split,
            plugins=self.plugins,
            seed=seed,
            config=config,
            device="cpu",
            k=(1,),
            **options,
        )

    # Settings

    def test_settings_survive_json(self) -> None:
        kind = type(self.config)
        assert kind.model_validate_json(self.config.model_dump_json()) == self.config

    def test_settings_refuse_unknown_fields_and_name_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="embedding_dim"):
            make_config(type(self.config), {"embeding_dim": 8})

    def test_every_field_is_documented(self) -> None:
        undocumented = [
            name for name, field in type(self.config).model_fields.items() if not field.description
        ]
        assert undocumented == []

    def test_registry_knows_it(self) -> None:
        entry = model_entry_of(self.config)
        assert entry.name == entry.name.lower()
        assert entry.paper
        assert 1990 < entry.year < 2100

    def test_draws_from_torch_alone(self, toy: Split) -> None:
        before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
        self.briefly(toy)
        assert (random.getstate(), repr(np.random.get_state())) == before  # noqa: NPY002

    # Learning

    def test_learns_the_planted_answer(self, board: Split, trained: Run) -> None:
        found = evaluate_ranking(trained.scorer, board, "test", (1,), masked="train+valid").mean()
        assert found["recall@1"] >= self.reached

    @needs_gpu
    def test_learns_on_a_gpu_and_answers_on_any_machine(self, board: Split, tmp_path: Path) -> None:
        run = train(
            self.config, board, plugins=self.plugins, seed=3, config=self.training, device="cuda", k=(1, 2)
        )
        found = evaluate_ranking(run.scorer, board, "test", (1,), masked="train+valid").mean()
        assert found["recall@1"] >= self.reached
        assert run.record.peak_memory_bytes > 0
        run.save(tmp_path / "run")
        (here,), (there,) = load(tmp_path / "run").recommend([0], k=3), run.recommend([0], k=3)
        assert here.items[0].item_id == there.items[0].item_id

    def test_same_seed_same_bytes(self, toy: Split) -> None:
        first, again = (self.briefly(toy, seed=1) for _ in range(2))
        assert same_bytes(first, again)
        assert first.record.valid == again.record.valid

    def test_leaves_the_callers_generator_alone(self, toy: Split) -> None:
        state = torch.get_rng_state()
        self.briefly(toy)
        assert torch.equal(torch.get_rng_state(), state)

    def test_resumed_training_gives_the_same_bytes(self, toy: Split, tmp_path: Path) -> None:
        whole = self.briefly(toy, epochs=6)
        stopper = StopAfter(3)
        with suppress(KeyboardInterrupt):
            self.briefly(toy, epochs=6, checkpoint_dir=tmp_path / "c", checkpoint_every=1, observer=stopper)
        assert stopper.stopped or len(whole.record.history) == 1  # closed forms are done before that
        resumed = self.briefly(toy, epochs=6, checkpoint_dir=tmp_path / "c", resume=True)
        assert same_bytes(whole, resumed)
        assert untimed(whole) == untimed(resumed)

    # Keeping

    def test_saved_run_answers_alike(self, trained: Run, tmp_path: Path) -> None:
        trained.save(tmp_path / "run")
        loaded = load(tmp_path / "run")
        users = trained.split.data.users.ids.tolist()
        assert loaded.recommend(users, k=3) == trained.recommend(users, k=3)
        assert loaded.similar(0, k=3) == trained.similar(0, k=3)
        assert loaded.record == trained.record
        assert same_bytes(loaded, trained)

    def test_weights_alone_rebuild_the_model(self, trained: Run) -> None:
        model = self.build(trained.split, seed=99)
        model.load_state_dict(dict(trained.weights))
        rebuilt, kept = model.scorer().arrays(), trained.scorer.arrays()
        assert rebuilt.keys() == kept.keys()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in rebuilt.items())

    # Data at the edge

    def test_one_user_and_users_who_know_everything(self) -> None:
        item_ids = np.array([f"i{i}" for i in range(8)])
        alone = Interactions.from_ids(np.array(["u"] * 8), item_ids)
        features = {"image": ItemFeatures.dense(np.eye(8)), "text": ItemFeatures.dense(np.eye(8))}
        data = replace(Dataset.from_interactions("alone", alone), features=features)
        run = self.briefly(Split.by_ratio(data, rng=0))
        (answer,) = run.recommend(["u"], k=8)
        assert answer.items == []

    def test_user_without_training_items_gets_popular_ones(self, toy: Split) -> None:
        stranger = toy.data.interactions.user == 0
        part = np.where(stranger, LEFT_OUT, toy.part).astype(np.int8)
        run = self.briefly(replace(toy, part=part))
        strange, known = run.recommend(["u000", "u001"], k=3, exclude="train")
        assert strange.basis == "popular"
        assert known.basis == "model"
        counts = np.bincount(run.split.train.item, minlength=run.split.n_items)
        best = [counts[run.split.data.items.index([item.item_id])[0]] for item in strange.items]
        assert best == sorted(counts, reverse=True)[:3]

    def test_features_without_information_do_no_harm(self, toy: Split) -> None:
        n = toy.n_items
        for values in (np.zeros((n, 3)), np.ones((n, 3)), np.full((n, 3), 1e4)):
            features = {name: ItemFeatures.dense(values) for name in toy.data.features}
            try:
                run = self.briefly(replace(toy, data=replace(toy.data, features=features)))
            except ConfigError as refused:
                assert "have features" in str(refused)  # noqa: PT017
                assert not values.any()
            else:
                assert all_finite(run)

    def test_any_modality_by_any_name(self, toy: Split) -> None:
        sound = ItemFeatures.dense(np.random.default_rng(0).normal(size=(toy.n_items, 3)))
        for features in ({"audio": sound}, {"items": sound, "forward": sound, "user": sound}):
            run = self.briefly(replace(toy, data=replace(toy.data, features=features)))
            assert all_finite(run)

    def test_graph_only_modality_works_or_is_refused(self, toy: Split) -> None:
        n = toy.n_items
        row = np.repeat(np.arange(n), 2)
        col = np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1).ravel()
        graph = ItemGraph.from_edges(row, col, np.ones(2 * n, dtype=np.float32), n)
        features = {"image": ItemFeatures(present=np.ones(n, dtype=bool), graph=graph)}
        split = replace(toy, data=replace(toy.data, features=features))
        entry = model_entry_of(self.config)
        try:
            run = self.briefly(split)
        except ConfigError as refused:
            assert "graph" in str(refused)  # noqa: PT017
        else:
            assert entry.kind == "collaborative" or entry.model.item_graphs
            assert all_finite(run)

    def test_no_features_at_all(self, toy: Split) -> None:
        bare = replace(toy, data=replace(toy.data, features={}))
        if isinstance(self.config, ContentConfig):
            with pytest.raises(ConfigError, match="no item features"):
                self.briefly(bare)
        else:
            assert self.briefly(bare).scorer.n_items == toy.n_items

    def test_hard_data_are_learned(self) -> None:
        for name, split in hard_splits().items():
            run = self.briefly(split, epochs=1)
            assert sound(run), name

    def test_hopeless_data_are_learned_or_refused(self) -> None:
        for name, split in hopeless_splits().items():
            with suppress(TriptychError):
                run = self.briefly(split, epochs=1)
                assert sound(run), name

    def test_trained_again_it_starts_afresh(self, toy: Split) -> None:
        first = self.briefly(toy, epochs=1)
        self.briefly(hard_splits()["hub"], epochs=1)
        assert same_bytes(self.briefly(toy, epochs=1), first)

    def test_impossible_list_lengths_are_refused(self, trained: Run) -> None:
        for k in (0, -1, trained.split.n_items + 1):
            with pytest.raises(ConfigError, match="list lengths"):
                trained.recommend([0], k=k)


class RecommenderContract(ScoringContract):
    """Inherit, set `config`, and a model that learns by gradient is held to all that Triptych expects of it.

    Attributes: those of `ScoringContract`.
    """

    def steps(self, model: Recommender, split: Split) -> Iterator[Step]:
        """Go through an epoch's steps, without an optimiser."""
        user, item = (torch.from_numpy(part) for part in split.train)
        sampler = TripletSampler(
            user, item, split.n_users, split.n_items, batch_size=16, negatives=model.negatives
        )
        model.train()
        yield from model.epoch_steps(1)
        for batch in sampler.epoch():
            yield from model.batch_steps(batch)

    # Embeddings and losses

    def test_embeddings_have_a_row_for_everyone(self, toy: Split) -> None:
        users, items = self.build(toy).eval().embeddings()
        assert users.shape[0] == toy.n_users
        assert items.shape[0] == toy.n_items
        assert users.shape[1] == items.shape[1]
        assert users.isfinite().all()
        assert items.isfinite().all()

    @needs_gpu
    def test_embeddings_are_the_same_on_a_gpu(self, toy: Split) -> None:
        model = self.build(toy).eval()
        here = model.embeddings()
        there = model.to("cuda").embeddings()
        for cpu, cuda in zip(here, there, strict=True):
            torch.testing.assert_close(cuda.cpu(), cpu, atol=1e-4, rtol=1e-4)

    def test_embeddings_in_eval_mode_change_nothing(self, toy: Split) -> None:
        model = self.build(toy)
        list(self.steps(model, toy))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state = torch.get_rng_state()
        first, second = model.scorer().arrays(), model.scorer().arrays()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
        assert torch.equal(torch.get_rng_state(), state)
        assert model.training
        assert before.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())

    def test_losses_are_named_finite_scalars(self, toy: Split) -> None:
        model = self.build(toy)
        steps = list(self.steps(model, toy))
        assert steps
        for step in steps:
            assert step.group in model.optimizer_groups()
            for name, term in step.losses.items():
                assert name
                assert term.shape == ()
                assert term.isfinite()

    def test_every_parameter_is_in_one_group_and_gets_a_gradient(self, toy: Split) -> None:
        model = self.build(toy)
        grouped = [id(p) for group in model.optimizer_groups().values() for p in group.parameters]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())
        for step in self.steps(model, toy):
            torch.stack(list(step.losses.values())).sum().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert missing == []

    def test_modality_embeddings_have_a_row_for_every_item(self, toy: Split) -> None:
        model = self.build(toy)
        list(self.steps(model, toy))
        for training in (True, False):
            found = model.train(training).modality_embeddings()
            assert set(found) <= set(toy.data.features)
            for rows in found.values():
                assert rows.shape[0] == toy.n_items
                assert rows.isfinite().all()
                assert rows.requires_grad

    # Learning

    def test_another_seed_gives_other_weights(self, toy: Split) -> None:
        assert not same_bytes(self.briefly(toy, seed=1), self.briefly(toy, seed=2))

    def test_reports_the_loss_term_that_is_not_finite(self, toy: Split) -> None:
        config = TrainConfig(epochs=3, batch_size=16, learning_rate=1e30, metric="recall@1")
        with pytest.raises(
            TrainingError, match=r"loss term '\w+' became (nan|inf|-inf) in step \d+ of epoch \d+"
        ):
            train(self.config, toy, plugins=self.plugins, config=config, device="cpu", k=(1,))


class StopAfter(Observer):
    """Stops a training as Ctrl-C would, after an epoch.

    Attributes:
        stopped: whether it has.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch, self.stopped = epoch, False

    def on_batch(self, epoch: int, done: int, n_batches: int) -> None:
        """Stop in the middle of the next epoch."""
        self._stop_after(epoch)

    def on_epoch(self, record: EpochRecord) -> None:
        """Stop before the next epoch is saved, if it goes through no batches."""
        self._stop_after(record.epoch)

    def _stop_after(self, epoch: int) -> None:
        if epoch > self._epoch:
            self.stopped = True
            raise KeyboardInterrupt


def same_bytes(a: Run, b: Run) -> bool:
    """Compare all weights of two runs, and all that their scorers hold, byte by byte."""
    return all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in ((a.scorer.arrays(), b.scorer.arrays()), (dict(a.weights), dict(b.weights)))
    )


def all_finite(run: Run) -> bool:
    """Say whether a run scores everything with a number."""
    return bool(run.scorer.score(torch.arange(run.split.n_users)).isfinite().all())


def untimed(run: Run) -> list[EpochRecord]:
    """List the epochs of a run without their durations."""
    return [replace(epoch, train_seconds=0.0, eval_seconds=0.0) for epoch in run.record.history]


def sound(run: Run) -> bool:
    """Say whether a run scores with numbers, and lists for each user other items than those trained on."""
    data, known = run.split.data, set(zip(*(end.tolist() for end in run.split.train), strict=True))
    answers = run.recommend(data.users.ids.tolist(), k=run.split.n_items, exclude="train")
    lists = [[item.item_id for item in answer.items] for answer in answers]
    pairs = [(user, item) for user, listed in enumerate(lists) for item in data.items.index(listed).tolist()]
    everything = len(pairs) == len(set(pairs)) == run.split.n_users * run.split.n_items - len(known)
    return all_finite(run) and everything and known.isdisjoint(pairs)
