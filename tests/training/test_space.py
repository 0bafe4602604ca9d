"""Search spaces: those that come with Triptych are whole, and bad ones are refused before anything runs."""

from __future__ import annotations

import pytest

from triptych.errors import ConfigError
from triptych.models.registry import models
from triptych.training.space import read_space, shipped_space

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
    assert len(points) == len(space) > 1
    assert len({str(point.configs()) for point in points}) == len(points)


def test_points_are_all_combinations():
    points = [dict(point.settings) for point in read_space(SPACE, "s.toml").points()]
    assert len(points) == 6
    assert points[:2] == [{"n_layers": 1, "learning_rate": 0.1}, {"n_layers": 1, "learning_rate": 0.01}]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_layers", "n_layer", "Did you mean 'n_layers'"),
        ("[1, 2]", "[]", "a list of values to try"),
        ("[1, 2]", "2", "a list of values to try"),
        ("[1, 2]", "[1, -2]", "n_layers"),
        ('"lightgcn"', '"lightgnc"', "Did you mean 'lightgcn'"),
        ("[space]", "[spaces]", "Did you mean 'space'"),
        ("[1, 2]", "[1, 2", "no TOML"),
    ],
)
def test_a_bad_space_is_refused_with_what_to_do(old, new, message):
    with pytest.raises(ConfigError) as caught:
        read_space(SPACE.replace(old, new), "s.toml")
    assert message in str(caught.value)
