"""Search spaces: those that come with Triptych are whole, and bad ones are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych.errors import ConfigError, StorageError
from triptych.models.registry import models
from triptych.training.space import Range, find_space, read_space, shipped_space

SPACE = """
model = "lightgcn"
source = "somebody"
[space]
n_layers = [1, 2]
learning_rate = [0.1, 0.01, 0.001]
"""


@pytest.mark.parametrize("model", [entry.name for entry in models()])
def test_every_model_has_a_space_whose_points_are_settings(model):
    space = shipped_space(model)
    assert space.model == model
    assert space.source
    points = list(space.points())
    assert len(points) == len(space) >= 1
    assert len({str(point.configs()) for point in points}) == len(points)


def test_points_are_all_combinations():
    points = [dict(point.settings) for point in read_space(SPACE, "s.toml").points()]
    assert len(points) == 6
    assert points[:2] == [{"n_layers": 1, "learning_rate": 0.1}, {"n_layers": 1, "learning_rate": 0.01}]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_layers", "n_layer", "Did you mean 'n_layers'"),
        ("[1, 2]", "[]", "a list of values"),
        ("[1, 2]", "2", "a list of values"),
        ("[1, 2]", "[1, -2]", "n_layers"),
        ("[1, 2]", "{low = 2, high = 1}", "low below high"),
        ("[1, 2]", "{low = 0, high = 1, log = true}", "above 0 if log"),
        ("[1, 2]", "{low = 1, high = 9223372036854775808}", "beyond 64 bits"),
        ("[1, 2]", "{low = 1, high = 2, step = 1}", "a range"),
        ("[1, 2]", "{low = 1, high = true}", "a range"),
        ("[1, 2]", "{low = -1, high = 2}", "n_layers"),
        ("[1, 2]", "{low = 1.0, high = 4.0}", "write n_layers = {low = 1, high = 4}"),
        ("[1, 2]", "{low = 1, high = 3.0}", "'n_layers' ranges over the fractions from 1 to 3.0"),
        ("n_layers = [1, 2]", 'metric = ["recall@20", "ndcg@20"]', "with --set metric=VALUE"),
        ("n_layers = [1, 2]", "metric_decimals = [4]", "one measure for all trials"),
        ("n_layers", "sand.align_weight", 'Write model = "lightgcn+sand"'),
        ('"lightgcn"', '"vbpr-baby.toml+sand"', "no setting 'n_layers'"),
        ('"lightgcn"', '"lightgcn"\nplugins = "sand"', "perhaps plugins = [NAMES]"),
        ('"lightgcn"', '"lightgnc"', "Did you mean 'lightgcn'"),
        ("[space]", "[spaces]", "Did you mean 'space'"),
        ("[1, 2]", "[1, 2", "no TOML"),
    ],
)
def test_a_bad_space_is_refused_with_what_to_do(old, new, message):
    with pytest.raises(ConfigError) as caught:
        read_space(SPACE.replace(old, new), "s.toml")
    assert message in str(caught.value)


def test_ranges_are_read_and_have_no_grid():
    space = read_space(
        SPACE.replace("[1, 2]", "{low = 1, high = 4}").replace(
            "[0.1, 0.01, 0.001]", "{low = 1e-4, high = 0.1, log = true}"
        ),
        "s.toml",
    )
    assert space.values == {"n_layers": Range(1, 4), "learning_rate": Range(1e-4, 0.1, log=True)}
    assert Range(1, 4).whole
    assert not Range(1, 4.5).whole
    with pytest.raises(ConfigError, match="no grid can go through"):
        list(space.points())


def test_a_recipe_is_searched_where_it_leaves_something_open():
    """vbpr-baby.toml sets reg_weight, all that VBPR's own space has values of."""
    space = find_space("vbpr-baby.toml+sand")
    own = shipped_space("sand").values
    assert (space.name, space.settings) == ("vbpr+sand", {"reg_weight": 1.0})
    assert space.values == {f"sand.{name}": own[name] for name in own if name != "learning_rate"}
    for recipe in list(space.points())[:3]:
        configs = recipe.configs()
        assert configs.model.model_dump()["reg_weight"] == 1.0
        assert configs.plugins["sand"].model_dump()["align_weight"] == recipe.settings["sand.align_weight"]
    assert find_space("vbpr+sand").values == {**shipped_space("vbpr").values, **space.values}
    assert find_space("vbpr") == shipped_space("vbpr")
    with pytest.raises(ConfigError, match="sets all that its search space has values of, reg_weight"):
        find_space("vbpr-baby.toml")
    with pytest.raises(ConfigError, match="Did you mean 'sand'"):
        find_space("vbpr+sandd")


@pytest.mark.parametrize(
    "head", ['model = "vbpr-baby.toml+sand"', 'model = "vbpr-baby.toml"\nplugins = ["sand"]']
)
def test_a_space_names_recipe_and_plugins_and_searches_what_it_likes(tmp_path: Path, head: str):
    file = tmp_path / "mine.toml"
    file.write_text(
        f"{head}\n[space]\nreg_weight = [0.1, 1.0]\nsand.align_weight = {{low = 0.01, high = 1.0, log = true}}\n"
        "sand.distance_weight = [0.1]\n"
    )
    space = find_space(str(file))
    assert (space.model, space.plugins, space.settings) == ("vbpr", ("sand",), {"reg_weight": 1.0})
    assert space.values == {
        "reg_weight": (0.1, 1.0),
        "sand.align_weight": Range(0.01, 1.0, log=True),
        "sand.distance_weight": (0.1,),
    }
    assert space.recipe({"reg_weight": 0.1}).settings == {"reg_weight": 0.1}
    assert find_space(f"{file}+ksi").name == "vbpr+sand+ksi"


def test_the_recipe_of_a_space_must_be_there():
    with pytest.raises(StorageError, match=r"there is no recipe nowhere\.toml"):
        read_space(SPACE.replace("lightgcn", "nowhere.toml"), "s.toml")
