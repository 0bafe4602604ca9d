"""Models and plug-ins from outside the library: found, told apart, and refused where they break the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from triptych.data.split import Split
from triptych.errors import ConfigError, ModelError
from triptych.models import registry
from triptych.models.base import Group, Losses, ModelConfig, ModelInputs, Recommender, Step, Triplets
from triptych.models.contract import check_class
from triptych.models.entries import IMPORT, import_extensions
from triptych.models.extensions import outside_code, outside_modules
from triptych.models.lightgcn import LightGCNConfig
from triptych.models.plugins import base as plugin_registry
from triptych.models.plugins.base import Plugin, PluginConfig, create_plugged_in, register_plugin
from triptych.models.registry import model_entry, register
from triptych.runs import train
from triptych.scorer import Embeddings, Scorer
from triptych.testing import checkerboard, toy_dataset
from triptych.training.config import TrainConfig
from triptych.training.recipe import Recipe
from triptych.training.sampler import TripletSampler
from triptych.training.space import shipped_space
from triptych.training.trainer import Trainer

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "your-own-model.md"
BRIEF = ["--set", "epochs=1", "--set", "embedding_dim=8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registries forget what a test enters."""
    for known in (registry._MODELS, plugin_registry._PLUGINS):
        known.all()
        monkeypatch.setattr(known, "_entries", dict(known._entries))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the guide's model and plug-in, their tests, and a small data set."""
    folder = tmp_path_factory.mktemp("outside")
    for file, text in zip(("echo", "test_echo", "fame", "test_fame"), blocks("python"), strict=True):
        (folder / f"{file}.py").write_text(text)
    toy_dataset(40, 30, missing=False).save(folder / "shop")
    return folder


def call(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), **more}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_workers_know_the_guides_model(outside: Path):
    compare = ["-m", "triptych", "compare", "echo", "lightgcn", "--data", "shop", "--seeds", "1", *BRIEF]
    compare += ["--workers", "2", "--threads", "1", "--out", "compared"]
    done = call(outside, *compare, TRIPTYCH_IMPORT="echo")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name.partition("-")[0] for path in (outside / "compared" / "runs").iterdir()) == [
        "echo",
        "lightgcn",
    ]


def test_an_installed_package_is_found_by_its_entry_point(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    facts = tmp_path / "echo_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-package\nVersion: 1.0\n")
    (section,) = blocks("toml")
    name = section.partition("project.entry-points.")[2].partition("]")[0]
    (facts / "entry_points.txt").write_text(f"[{name}]\necho = echo\n")
    for folder in (outside, tmp_path):
        monkeypatch.syspath_prepend(folder)
    import_extensions.__wrapped__("")
    assert model_entry("echo").code.__module__ == "echo"
    assert "echo" in outside_modules()
    known = outside_code("echo", [])
    assert known is not None
    assert outside_code("lightgcn", ["sand"]) is None
    (outside / "echo.py").write_text((outside / "echo.py").read_text() + "\n# another line\n")
    assert outside_code("echo", ["sand"]) not in (None, known)


@pytest.mark.parametrize(
    ("file", "chosen"),
    [
        ("test_echo.py", "seed or state or documented"),
        ("test_fame.py", "seed or gradient or terms or planted"),
    ],
)
def test_they_pass_the_contract_there(outside: Path, file: str, chosen: str):
    done = call(outside, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", chosen)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_guides_plugin_is_attached_by_its_name(outside: Path):
    shown = next(line for text in blocks("console") for line in text.splitlines() if "--plugin fame" in line)
    arguments = shown.removeprefix("$ triptych ").replace("data/shop", "shop").split()
    more = ["--set", "n_neighbors=4", "--out", "attached"]
    done = call(outside, "-m", "triptych", *arguments, *BRIEF, *more, TRIPTYCH_IMPORT="echo,fame")
    assert done.returncode == 0, done.stderr
    history = (outside / "attached" / "run.json").read_text()
    assert "fame_missed" in history
    assert "fame_read" in history


def test_the_guides_plugin_refuses_hosts_without_negatives(outside: Path):
    arguments = ["-m", "triptych", "train", "bm3", "shop", "--plugin", "fame", *BRIEF]
    done = call(outside, *arguments, TRIPTYCH_IMPORT="fame")
    assert "BM3 samples no items to rank below" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [("raise RuntimeError('broken')", "RuntimeError: broken"), (None, "No module named 'nowhere'")],
)
def test_a_module_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, says: str
):
    if text is not None:
        (tmp_path / "nowhere.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"'nowhere' of {IMPORT} cannot be imported: .*{says}"):
        import_extensions("nowhere")


class Plain(Recommender):
    """A factorisation, as small as a model can be."""

    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.users = nn.Parameter(torch.randn(inputs.n_users, 4) / 10)
        self.items = nn.Parameter(torch.randn(inputs.n_items, 4) / 10)

    def embeddings(self) -> Embeddings:
        return Embeddings(self.users, self.items)

    def loss(self, batch: Triplets) -> Losses:
        apart = self.items[batch.neg] - self.items[batch.pos]
        return {"bpr": nn.functional.softplus((self.users[batch.user] * apart).sum(dim=1)).mean()}


class PlainConfig(ModelConfig):
    """Settings of `Plain`."""


def test_a_name_or_settings_that_another_has_are_refused():
    with pytest.raises(
        ConfigError, match=r"the model 'lightgcn', as triptych\.models\.lightgcn\.LightGCN is"
    ):
        register("lightgcn", PlainConfig, paper="made up", year=2000)(Plain)
    with pytest.raises(ConfigError, match="settings LightGCNConfig of 'lightgcn'"):
        register("plain", LightGCNConfig, paper="made up", year=2000)(Plain)
    with pytest.raises(ConfigError, match="small letters"):
        register("Plain+", PlainConfig, paper="made up", year=2000)(Plain)
    with pytest.raises(ConfigError, match="torch leaves free"):
        register_plugin("items", PluginConfig, paper="made up", year=2000)
    with pytest.raises(ConfigError, match="the plug-in 'sand'"):
        register_plugin("sand", PluginConfig, paper="made up", year=2000)(type("Mine", (Plugin,), {}))


def test_a_class_that_is_defined_again_takes_its_place():
    """As a notebook's cell does that is run twice."""

    def define() -> type[Recommender]:
        class AgainConfig(ModelConfig):
            """Its settings."""

        @register("again", AgainConfig, paper="made up", year=2000)
        class Again(Plain):
            """A model."""

        return Again

    define()
    second = define()
    assert model_entry("again").model is second


def test_a_field_named_like_one_of_the_loop_is_refused():
    class FastConfig(ModelConfig):
        learning_rate: float = 0.5

    register("fast", FastConfig, paper="made up", year=2000)(type("Fast", (Plain,), {}))
    with pytest.raises(ConfigError, match="'learning_rate', as the training loop has"):
        Recipe("fast", {}).configs()


def test_a_model_without_a_search_space_says_so():
    register("plain", PlainConfig, paper="made up", year=2000)(Plain)
    with pytest.raises(ConfigError, match="no search space comes with the model 'plain'"):
        shipped_space("plain")


def test_settings_check_their_own_defaults():
    class OddConfig(ModelConfig):
        n_layers: int = cast(int, "two")

    with pytest.raises(ValueError, match="n_layers"):
        OddConfig()


def without(name: str) -> type[Recommender]:
    return type("Without", (Plain,), {name: getattr(Recommender, name)})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (without("embeddings"), r"has no embeddings\(\)"),
        (without("loss"), r"has no loss\(\)"),
        (type("Odd", (Plain,), {"schedule": "batch"}), "schedule = 'batch'"),
        (type("Odd", (Plain,), {"negatives": 5}), "negatives = 5"),
    ],
)
def test_a_class_that_lacks_what_models_define_is_refused(kind: type[Recommender], says: str):
    with pytest.raises(ModelError, match=says):
        check_class(kind)


def run_one(kind: type[Recommender]) -> None:
    split = checkerboard(8)
    inputs = ModelInputs.from_split(split)
    sampler = TripletSampler(inputs.user, inputs.item, 8, 8, batch_size=8)
    config = TrainConfig(epochs=1, batch_size=8)
    cpu = torch.device("cpu")
    Trainer(kind(ModelConfig(), inputs), sampler, lambda _: {config.metric: 0.1}, config, device=cpu).run()


def steps(give: Callable[[Plain, Triplets], Any]) -> dict[str, Any]:
    def batch_steps(self: Plain, batch: Triplets) -> Any:
        yield give(self, batch)

    return {"batch_steps": batch_steps}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"loss": lambda self, batch: None}, "gives None for losses"),
        ({"loss": lambda self, batch: {}}, "gives no terms for losses"),
        ({"loss": lambda self, batch: self.users.sum()}, "gives a Tensor for losses"),
        ({"loss": lambda self, batch: {"a": 0.5}}, "the loss term 'a' as a float"),
        ({"loss": lambda self, batch: {"a": self.users.sum(dim=1)}}, r"the loss term 'a' as shape \(8,\)"),
        ({"loss": lambda self, batch: {"a": self.users.sum().detach()}}, "that no parameter moves: a"),
        (steps(lambda self, batch: {"a": self.users.sum()}), "yields a dict"),
        (steps(lambda self, batch: Step({"a": self.users.sum()}, "critic")), "the group 'critic'"),
        ({"batch_steps": lambda self, batch: None}, "gives None for steps"),
        ({"epoch_steps": lambda self, epoch: None}, "gives None for steps"),
        ({"optimizer_groups": lambda self: {"main": [self.users, self.items]}}, "that are no Groups"),
        ({"optimizer_groups": lambda self: {"main": Group([self.users])}}, "the parameter items in 0"),
        (
            {"optimizer_groups": lambda self: {"main": Group([*self.parameters()], {"learning_rate": 1})}},
            "the option 'learning_rate'",
        ),
        (
            {"optimizer_groups": lambda self: {"main": Group([*self.parameters()], {"fused": False})}},
            "the option 'fused'",
        ),
        (
            {
                "optimizer_groups": lambda self: {
                    "a": Group([self.users]),
                    "b": Group([self.items], by_row=[self.users]),
                }
            },
            "group 'b' a by_row beyond its parameters",
        ),
        ({"embeddings": lambda self: None}, "gives None"),
        ({"embeddings": lambda self: (self.users, self.items)}, "gives a tuple"),
        ({"embeddings": lambda self: Embeddings(self.users, None)}, "gives None for vectors"),
        ({"embeddings": lambda self: Embeddings(self.users, self.items[:, :2])}, "4 columns and items of 2"),
        ({"embeddings": lambda self: Embeddings(self.users, self.items[:7])}, "embeds 8 users and 7 items"),
        ({"embeddings": lambda self: Embeddings(self.users[0], self.items)}, r"gives shape \(4,\)"),
    ],
)
def test_a_breach_of_the_contract_is_named(changed: dict[str, Any], says: str):
    run_one(Plain)
    with pytest.raises(ModelError, match=says):
        run_one(type("Odd", (Plain,), changed))


class Forgetful(Plain):
    """Ranks by a tensor that its state does not hold."""

    def __init__(self, config: ModelConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.turned = torch.zeros(())

    def epoch_steps(self, epoch: int) -> tuple[()]:
        self.turned = torch.tensor(float(epoch > 3))
        return ()

    def embeddings(self) -> Embeddings:
        return Embeddings(self.users, self.items * (1 - 2 * self.turned))


class ForgetfulConfig(ModelConfig):
    """Settings of `Forgetful`."""


def test_a_state_that_weights_do_not_bring_back_is_noticed():
    register("forgetful", ForgetfulConfig, paper="made up", year=2000)(Forgetful)
    config = TrainConfig(epochs=8, learning_rate=0.05, batch_size=64, metric="recall@2")
    with pytest.raises(ModelError, match=r"Forgetful had recall@2 .* with the weights of then"):
        train(ForgetfulConfig(), checkerboard(), config=config, device="cpu", k=(2,))


class Named(Plugin):
    """Gives one term, and a step of the host's own group."""

    def losses(self, host: Recommender, batch: Triplets) -> Losses:
        return {"named": host.embeddings().users.square().sum()}

    def batch_steps(self, host: Recommender, batch: Triplets) -> Any:
        yield Step({"before": host.embeddings().items.square().sum()})


def test_plugins_with_one_term_are_refused_and_their_main_steps_are_the_hosts():
    class FirstConfig(PluginConfig):
        """Settings."""

    for name in ("first", "second"):
        register_plugin(name, FirstConfig, paper="made up", year=2000)(type(name, (Named,), {}))
    split = Split.by_ratio(toy_dataset(40, 30, missing=False))
    config = TrainConfig(epochs=1, metric="recall@2")
    run = train("lightgcn+first", split, config=config, device="cpu", k=(2,))
    assert {"before", "named"} <= run.record.history[0].losses.keys()
    with pytest.raises(ModelError, match="'first' and 'second' both have a loss term 'named'"):
        train("lightgcn+first+second", split, config=config, device="cpu", k=(2,))


def test_a_plugin_is_refused_on_a_host_that_does_not_rank_by_its_vectors():
    class OwnConfig(ModelConfig):
        """Settings."""

    def score(self: Recommender) -> Scorer:
        return Recommender.scorer(self)

    own = type("Own", (Plain,), {"scorer": score})
    register("own-scorer", OwnConfig, paper="made up", year=2000)(own)
    inputs = ModelInputs.from_split(Split.by_ratio(toy_dataset(40, 30, missing=False)))
    with pytest.raises(ConfigError, match="a scorer of its own"):
        create_plugged_in(OwnConfig(), {"sand": PluginConfig()}, inputs)
