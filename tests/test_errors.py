import pickle

import pytest

from triptych.errors import DataError, ShapeError, TrainingError, TriptychError, nearest


def test_message_says_found_wanted_and_fix():
    error = ShapeError("7 rows", wanted="8 rows", fix="Prepare again")
    assert str(error) == "7 rows; wanted 8 rows. Prepare again."
    assert isinstance(error, DataError)


def test_exit_codes_tell_mistakes_from_failed_training():
    assert TriptychError.exit_code == 2
    assert TrainingError.exit_code == 3


def test_survives_the_way_to_another_process():
    error = pickle.loads(pickle.dumps(ShapeError("a", wanted="b", fix="c")))
    assert type(error) is ShapeError
    assert str(error) == "a; wanted b. c."


@pytest.mark.parametrize(
    ("name", "known", "advice"),
    [
        ("fredom", ["lightgcn", "freedom"], "Did you mean 'freedom'"),
        ("xyz", ["b", "a"], "Choose one of: a, b"),
        ("xyz", [f"item{n}" for n in range(60)], "Check the spelling"),
    ],
)
def test_nearest(name, known, advice):
    assert nearest(name, known) == advice
