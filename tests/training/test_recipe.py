"""Settings by name: from TOML and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych.errors import ConfigError, StorageError
from triptych.models.base import ModelConfig
from triptych.models.freedom import FREEDOMConfig
from triptych.models.registry import make_config, model_entry, models
from triptych.training.config import TrainConfig
from triptych.training.recipe import Recipe, find_recipe, parse_settings, read_recipe, shipped_recipes


def test_settings_are_sorted_into_model_and_loop():
    recipe = Recipe("freedom", {"n_layers": 3, "learning_rate": 0.01}).with_settings({"n_layers": 1})
    model, loop, plugins = recipe.configs()
    assert plugins == {}
    assert model == FREEDOMConfig(n_layers=1)
    assert loop == TrainConfig(learning_rate=0.01)


def test_no_setting_belongs_to_both():
    for entry in models():
        assert not entry.config.model_fields.keys() & TrainConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("model", "unread"),
    [("lightgcn", []), ("ials", ["learning_rate"]), ("ease", ["learning_rate", "epochs"]), ("item-knn", ["learning_rate", "epochs"])],
)  # fmt: skip
def test_what_a_model_that_solves_does_not_read_is_named(model, unread):
    settings = {"learning_rate": 0.1, "epochs": 3, "metric": "recall@2"}
    assert Recipe(model, settings).unread() == unread


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("1e-4", 1e-4), ("true", True), ("users", "users"), ('["image"]', ["image"]), ("{image = 1.0}", {"image": 1.0}),
     ("recall@20", "recall@20"), ("a=b", "a=b")],
)  # fmt: skip
def test_values_are_toml_or_text(text: str, value: object):
    assert parse_settings([f"field={text}"]) == {"field": value}


@pytest.mark.parametrize("assignment", ["n_layers", "=3", ""])
def test_an_assignment_without_name_or_value_is_refused(assignment: str):
    with pytest.raises(ConfigError, match="FIELD=VALUE"):
        parse_settings([assignment])


def test_misspelt_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'n_layers'"):
        Recipe("lightgcn", {"n_layer": 2}).configs()
    with pytest.raises(ConfigError, match="Did you mean 'learning_rate'"):
        Recipe("lightgcn", {"learningrate": 2}).configs()
    with pytest.raises(ConfigError, match="Did you mean 'lightgcn'"):
        model_entry("lightgnc")


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(ConfigError, match=r"n_layers = -1.*edge_dropout = 2"):
        make_config(FREEDOMConfig, {"n_layers": -1, "edge_dropout": 2})


def test_unknown_settings_class_is_refused():
    class Stranger(ModelConfig):
        pass

    from triptych.models.registry import model_entry_of

    with pytest.raises(ConfigError, match="Stranger"):
        model_entry_of(Stranger())


def test_recipe_files(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('model = "lightgcn"\nsource = "me"\n[settings]\nn_layers = 3\n', encoding="utf-8")
    assert find_recipe(str(path)) == Recipe("lightgcn", {"n_layers": 3}, "me")
    assert find_recipe("vbpr") == Recipe("vbpr")
    with pytest.raises(StorageError, match="no recipe"):
        find_recipe("no-such.toml")


@pytest.mark.parametrize(
    "text",
    [
        "model = ",
        "settings = 3",
        'model = "lightgcn"\nsetings = {}',
        'model = "lightgcn"\nsettings = 1',
        "model = 3",
    ],
)
def test_broken_recipes_are_refused(text: str):
    with pytest.raises(ConfigError, match=r"x\.toml"):
        read_recipe(text, "x.toml")


def test_shipped_recipes_are_sound_and_say_where_they_come_from():
    assert shipped_recipes()
    for name in shipped_recipes():
        recipe = find_recipe(name)
        recipe.configs()
        assert recipe.source


def test_recipes_for_other_data_say_what_they_change():
    """Of data that a paper does not have: what was chosen on them, or that nothing was yet."""
    for name, like, changed in (
        ("sand-tiktok.toml", "sand-baby.toml", {"learning_rate": 1e-3}),
        ("ksi-baby.toml", "ksi-sports.toml", {}),
        ("freedom-sand-tiktok.toml", "freedom-tiktok.toml+sand", {"feature_loss_weight": 1e-3}),
    ):
        recipe, other = find_recipe(name), find_recipe(like)
        of_host = {field: value for field, value in recipe.settings.items() if not field.startswith("sand.")}
        assert of_host == {**other.settings, **changed}
        assert (recipe.model, recipe.plugins) == (other.model, other.plugins)
        assert "chosen on" in recipe.source
