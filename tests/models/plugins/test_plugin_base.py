"""What a plug-in may add to a model, and that it adds nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import nn

from triptych.data.split import Split
from triptych.errors import ConfigError, ModelError
from triptych.models.base import (
    Group,
    Losses,
    ModelConfig,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.bm3 import BM3Config
from triptych.models.freedom import FREEDOMConfig
from triptych.models.ksi import KSIConfig
from triptych.models.layergcn import LayerGCNConfig
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.plugins.base import (
    PluggedIn,
    Plugin,
    PluginConfig,
    create_plugged_in,
    make_plugin_configs,
    plugin_entry,
    plugins,
    register_plugin,
)
from triptych.runs import load, train
from triptych.scorer import Embeddings
from triptych.testing.contract import RecommenderContract
from triptych.testing.data import toy_dataset
from triptych.training.config import TrainConfig
from triptych.training.recipe import Recipe, find_recipe, read_recipe


class StretchConfig(PluginConfig):
    """Settings of the plug-in below."""

    factor: float = Field(2.0, gt=0)
    """What items are multiplied by."""
    shrink: float = Field(0.1, ge=0)
    """Weight of the shift's squares."""


@register_plugin("stretch", StretchConfig, paper="made up for these tests", year=2000)
class Stretch(Plugin):
    """Uses everything that a plug-in can: losses, refined vectors, steps, a group of its own, epochs."""

    config: StretchConfig

    def __init__(self, config: StretchConfig, inputs: ModelInputs, host: Recommender) -> None:
        super().__init__(config, inputs, host)
        ids = host.id_embeddings()
        if ids is None:
            raise ConfigError("the host learns no ids", wanted="ids", fix="Choose another model")
        self.shift = nn.Parameter(torch.zeros(ids.items.shape[1]))
        self.own = nn.Parameter(torch.ones(()))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def refine(self, host: Recommender, embeddings: Embeddings) -> Embeddings:
        return Embeddings(embeddings.users, self.config.factor * embeddings.items + self.shift)

    def losses(self, host: Recommender, batch: Triplets) -> Losses:
        rows = batch_rows(self.refine(host, host.embeddings()), batch)
        pos, neg = pair_scores(*rows)
        return {
            "bpr": nn.functional.softplus(neg - pos).mean(),
            "stretch": self.config.shrink * self.shift.square().sum(),
        }

    def batch_steps(self, host: Recommender, batch: Triplets) -> Iterator[Step]:
        for _ in range(2):
            yield Step({"own": self.own.square()}, "own")

    def epoch_steps(self, host: Recommender, epoch: int) -> Iterable[Step]:
        self.get_buffer("epochs").add_(1)
        return ()

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group([self.shift]), "own": Group([self.own], {"lr": 0.5})}


class TestStretchedLightGCN(RecommenderContract):
    config = LightGCNConfig(embedding_dim=16, n_layers=2)
    plugins: ClassVar = {"stretch": {"factor": 1.5}}


class TestStretchedFREEDOM(RecommenderContract):
    config = FREEDOMConfig(embedding_dim=16, n_neighbors=3, feature_loss_weight=1e-3)
    plugins: ClassVar = {"stretch": {}}


@pytest.fixture
def split() -> Split:
    return Split.by_ratio(toy_dataset(), rng=0)


def build(split: Split, config: Any, settings: dict[str, dict[str, Any]]) -> Recommender:
    torch.manual_seed(0)
    return create_plugged_in(config, make_plugin_configs(settings), ModelInputs.from_split(split))


def batch_of(split: Split) -> Triplets:
    return Triplets(
        *(torch.from_numpy(part[:8].copy()) for part in split.train), torch.arange(8) % split.n_items
    )


def test_without_plugins_it_is_the_model_itself(split: Split):
    assert not isinstance(build(split, LightGCNConfig(), {}), PluggedIn)


def test_a_plugins_terms_join_the_hosts_and_replace_those_of_the_same_name(split: Split):
    model = build(split, LightGCNConfig(embedding_dim=8), {"stretch": {}})
    assert isinstance(model, PluggedIn)
    batch = batch_of(split)
    of_host = model.host.loss(batch)
    steps = list(model.batch_steps(batch))
    assert [step.group for step in steps] == ["stretch.own", "stretch.own", "main"]
    losses = steps[-1].losses
    assert list(losses) == ["bpr", "reg", "stretch"]
    assert losses["reg"] == of_host["reg"]
    users, pos, neg = batch_rows(model.host.embeddings(), batch)
    expected = torch.log1p(torch.exp(2 * (users * (neg - pos)).sum(1))).mean()  # factor 2, shift 0
    torch.testing.assert_close(losses["bpr"], expected)


def test_ranking_uses_the_refined_vectors(split: Split):
    model = build(split, LightGCNConfig(embedding_dim=8), {"stretch": {"factor": 3.0}})
    assert isinstance(model, PluggedIn)
    of_host = model.host.eval().embeddings()
    torch.testing.assert_close(model.scorer().embeddings.items, 3 * of_host.items.detach())
    torch.testing.assert_close(model.scorer().embeddings.users, of_host.users.detach())


def test_groups_are_parted_once_and_keep_their_options(split: Split):
    model = build(split, LightGCNConfig(embedding_dim=8), {"stretch": {}})
    groups = model.optimizer_groups()
    assert set(groups) == {"main", "stretch.own"}
    assert groups["stretch.own"].options == {"lr": 0.5}
    assert len(groups["main"].parameters) == 2


def test_row_wise_parameters_of_the_host_stay_row_wise(split: Split):
    model = build(
        split,
        FREEDOMConfig(embedding_dim=8, n_neighbors=3, feature_loss_weight=1e-3, train_features=True),
        {"stretch": {}},
    )
    assert isinstance(model, PluggedIn)
    assert [id(p) for p in model.optimizer_groups()["main"].by_row] == [
        id(p) for p in model.host.optimizer_groups()["main"].by_row
    ]
    assert len(model.optimizer_groups()["main"].by_row) == 2


def test_own_steps_and_epochs_are_taken(split: Split):
    config = TrainConfig(epochs=3, batch_size=16, metric="recall@1")
    run = train("lightgcn", split, plugins={"stretch": {}}, config=config, device="cpu", k=(1,))
    assert run.weights["plugins.stretch.epochs"] == run.record.best_epoch
    assert abs(float(run.weights["plugins.stretch.own"])) < 1
    assert "own" in run.record.history[0].losses


def test_the_record_names_the_plugin_with_its_settings(split: Split, tmp_path):
    config = TrainConfig(epochs=1, batch_size=16, metric="recall@1")
    run = train("lightgcn", split, plugins={"stretch": {"shrink": 0.5}}, config=config, device="cpu", k=(1,))
    run.save(tmp_path / "run")
    record = load(tmp_path / "run").record
    assert record.plugins == {"stretch": {"factor": 2.0, "shrink": 0.5}}
    assert record.name == "lightgcn+stretch"


def test_unfit_hosts_are_refused_before_training(split: Split):
    class Bare(Recommender):
        pass

    inputs = ModelInputs.from_split(split)
    with pytest.raises(ConfigError, match="learns no ids"):
        Stretch(StretchConfig(), inputs, Bare(BM3Config(), inputs))


def test_a_host_without_negatives_keeps_its_own(split: Split):
    assert build(split, BM3Config(embedding_dim=8), {"stretch": {}}).negatives == 0


def test_unknown_plugins_and_fields_are_answered_with_the_nearest():
    assert "stretch" in [entry.name for entry in plugins()]
    with pytest.raises(ConfigError, match="Did you mean 'stretch'"):
        plugin_entry("strech")
    with pytest.raises(ConfigError, match="Did you mean 'factor'"):
        make_plugin_configs({"stretch": {"facto": 1}})


def test_recipes_name_plugins_and_their_settings():
    text = 'model = "lightgcn"\nplugins = ["stretch"]\n[settings]\nn_layers = 2\nstretch.factor = 4.0\n'
    recipe = read_recipe(text, "r.toml")
    assert recipe.name == "lightgcn+stretch"
    model, loop, attached = recipe.configs()
    assert model == LightGCNConfig(n_layers=2)
    assert loop == TrainConfig()
    assert attached == {"stretch": StretchConfig(factor=4.0)}
    changed = recipe.with_settings({"stretch.factor": 5.0}).configs()
    assert changed.plugins == {"stretch": StretchConfig(factor=5.0)}


def test_settings_of_plugins_that_are_not_attached_are_refused():
    with pytest.raises(ConfigError, match=r"no setting 'stretch\.factor'"):
        Recipe("lightgcn", {"stretch.factor": 1.0}).configs()
    with pytest.raises(ConfigError, match=r"Did you mean 'stretch\.factor'"):
        Recipe("lightgcn", {"stretch.fctor": 1.0}, plugins=("stretch",)).configs()


class Shifted(Plugin):
    """Ranks by other vectors than it learns by."""

    def __init__(self, config: PluginConfig, inputs: ModelInputs, host: Recommender) -> None:
        super().__init__(config, inputs, host)
        self.shift = nn.Parameter(torch.zeros(()))

    def refine(self, host: Recommender, embeddings: Embeddings) -> Embeddings:
        return Embeddings(embeddings.users, embeddings.items + self.shift)


def test_what_ranks_must_be_what_learns(split: Split):
    host = create_plugged_in(LightGCNConfig(embedding_dim=8), {}, ModelInputs.from_split(split))
    plugin = Shifted(PluginConfig(), ModelInputs.from_split(split), host)
    with pytest.raises(
        ModelError, match="'shifted' changes the vectors that rank, and its losses are none"
    ) as of:
        list(PluggedIn(host, {"shifted": plugin}).batch_steps(batch_of(split)))
    assert "in the place of the host's: 'bpr'." in str(of.value), "not any other term of the host"

    class Squared(Shifted):
        def losses(self, host: Recommender, batch: Triplets) -> Losses:
            return {"reg": self.shift.square()}

    plugin = Squared(PluginConfig(), ModelInputs.from_split(split), host)
    with pytest.raises(ModelError, match="its losses are 'reg'"):
        list(PluggedIn(host, {"squared": plugin}).batch_steps(batch_of(split)))


def test_a_host_whose_ranking_term_has_another_name_may_be_refined(split: Split):
    class Other(Recommender):
        def embeddings(self) -> Embeddings:
            return Embeddings(torch.ones(split.n_users, 1), torch.ones(split.n_items, 1))

        def loss(self, batch: Triplets) -> Losses:
            return {"rank": torch.ones(())}

    class Ranked(Shifted):
        def losses(self, host: Recommender, batch: Triplets) -> Losses:
            return {"rank": self.refine(host, host.embeddings()).items.mean()}

    inputs = ModelInputs.from_split(split)
    host = Other(ModelConfig(), inputs)
    (step,) = PluggedIn(host, {"ranked": Ranked(PluginConfig(), inputs, host)}).batch_steps(batch_of(split))
    assert step.losses["rank"].requires_grad


def test_two_plugins_that_change_the_ranking_are_refused(split: Split):
    both = {"stretch": {}, "ksi": {"n_neighbors": 3}}
    for order in (list(both), list(reversed(both))):
        with pytest.raises(ConfigError, match=f"'{order[0]}' and '{order[1]}' both change the vectors"):
            build(split, LightGCNConfig(embedding_dim=8), {name: both[name] for name in order})
    unfused = both | {"ksi": {"use_structure": False}}
    (*_, step) = build(split, LightGCNConfig(embedding_dim=8), unfused).batch_steps(batch_of(split))
    assert list(step.losses) == ["bpr", "reg", "stretch", "ksi_semantic"]


def test_a_plugin_that_is_there_already_is_refused(split: Split):
    with pytest.raises(ConfigError, match="'ksi' on a model with 'ksi' in it already"):
        build(split, KSIConfig(embedding_dim=8, n_neighbors=3), {"ksi": {"n_neighbors": 3}})
    twice = (
        lambda: find_recipe("lightgcn+ksi+ksi"),
        lambda: find_recipe("lightgcn+ksi").with_plugins(["ksi"]),
        lambda: read_recipe('model = "lightgcn"\nplugins = ["ksi", "ksi"]', "r.toml"),
        lambda: train("lightgcn+ksi+ksi", split, device="cpu"),
    )
    for name_it in twice:
        with pytest.raises(ConfigError, match="'ksi' is named twice"):
            name_it()


def test_terms_of_a_plugin_weigh_as_those_of_its_host():
    """LayerGCN's loss is a sum over the batch; a mean beside it would be next to nothing."""
    inputs = ModelInputs.from_split(Split.by_ratio(toy_dataset(40, 30, missing=False)))
    batch = Triplets(inputs.user[:16], inputs.item[:16], inputs.item[16:32])
    for host, scale in ((LightGCNConfig(embedding_dim=8), 1), (LayerGCNConfig(embedding_dim=8), 16)):
        torch.manual_seed(0)
        model = create_plugged_in(host, make_plugin_configs({"ksi": {}}), inputs)
        (step,) = model.batch_steps(batch)
        own = model.plugins["ksi"].losses(model.host, batch)
        assert own["bpr"].item() == pytest.approx(0.69, abs=0.1), "a mean"
        assert {name: step.losses[name].item() for name in own} == pytest.approx(
            {name: scale * term.item() for name, term in own.items()}, rel=1e-4
        )
