import numpy as np
import pytest
from PIL import Image, ImageDraw

from triptych.data.descriptors import PICTURE_DIM, describe_picture, describe_pictures, describe_texts
from triptych.errors import ConfigError, DataError


def disc(colour, background="white", size=(90, 60)):
    picture = Image.new("RGB", size, background)
    ImageDraw.Draw(picture).ellipse((20, 10, 70, 50), fill=colour)
    return picture


def striped(horizontal):
    bars = np.zeros((64, 64), dtype=np.uint8)
    bars[(np.arange(64) // 4) % 2 == 0] = 255
    return Image.fromarray(bars if horizontal else bars.T)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_a_picture_of_any_mode_and_size_becomes_three_blocks_of_length_at_most_one(mode):
    for size in [(1, 1), (7, 300), (64, 64)]:
        row = describe_picture(Image.new(mode, size))
        assert row.shape == (PICTURE_DIM,)
        assert row.dtype == np.float32
        assert np.isfinite(row).all()
        assert np.linalg.norm(row) <= np.sqrt(3) + 1e-5


def test_a_plain_picture_has_no_edges_and_no_layout():
    row = describe_picture(Image.new("RGB", (50, 50), "teal"))
    assert np.count_nonzero(row) == 1  # one bin of the histogram


def test_colours_and_shapes_are_told_apart_and_size_is_not():
    red, large, blue = disc("red"), disc("red").resize((270, 180)), disc("blue")
    rows = [describe_picture(picture) for picture in (red, large, blue)]
    assert np.linalg.norm(rows[0] - rows[1]) < 0.5 * np.linalg.norm(rows[0] - rows[2])
    across, upright = describe_picture(striped(horizontal=True)), describe_picture(striped(horizontal=False))
    assert across @ upright < 0.7 * (across @ across)


def test_transparent_parts_count_as_white():
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    np.testing.assert_array_equal(
        describe_picture(clear), describe_picture(Image.new("RGB", (40, 40), "white"))
    )


def test_the_orientation_noted_by_a_camera_is_followed():
    upright, turned = disc("green"), disc("green").rotate(90, expand=True)
    turned.getexif()[0x0112] = 6  # turned back by 90 degrees when shown
    np.testing.assert_allclose(describe_picture(turned), describe_picture(upright), atol=1e-6)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(DataError, match="0 × 4 pixels"):
        describe_picture(Image.new("RGB", (0, 4)))


def test_absent_pictures_are_zero_rows():
    matrix, present = describe_pictures([None, disc("red"), None])
    assert present.tolist() == [False, True, False]
    assert not matrix[[0, 2]].any()
    np.testing.assert_array_equal(matrix[1], describe_picture(disc("red")))
    nothing, absent = describe_pictures([None])
    assert nothing.shape == (1, PICTURE_DIM)
    assert not absent.any()


WORDS = [f"word{number}" for number in range(300)]


def test_many_words_become_few_columns_and_the_same_for_one_seed():
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(80)]
    matrix, present = describe_texts(texts, 16, seed=5)
    assert matrix.shape == (80, 16)
    assert matrix.dtype == np.float32
    assert present.all()
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(matrix, describe_texts(texts, 16, seed=5)[0])


def test_texts_that_share_words_are_alike():
    matrix, _ = describe_texts(["red wool scarf", "wool scarf in red", "steel desk lamp"])
    assert matrix[0] @ matrix[1] > 0.75
    assert abs(matrix[0] @ matrix[2]) < 1e-6


@pytest.mark.parametrize("empty", [None, "", "  ", "a I ?", "!!"])
def test_a_text_without_words_is_absent(empty):
    matrix, present = describe_texts(["oak shelf", empty, "oak desk"])
    assert present.tolist() == [True, False, True]
    assert not matrix[1].any()


@pytest.mark.parametrize(
    "texts",
    [
        ["oak"],
        ["oak", "oak", "oak"],
        [" ".join(WORDS)],  # one long text
        [" ".join(WORDS)] * 3,
        [" ".join(WORDS[:150]), None, " ".join(WORDS[150:])],
        ["Füße kühl", "日本 語の", "и так далее"],
    ],
)
def test_few_texts_and_short_vocabularies_are_no_trouble(texts):
    matrix, present = describe_texts(texts, 8)
    assert 1 <= matrix.shape[1] <= 8
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(np.linalg.norm(matrix[present], axis=1), 1, atol=1e-5)


def test_no_text_at_all_is_one_column_of_zeros():
    for texts in ([], [None, ""]):
        matrix, present = describe_texts(texts)
        assert matrix.shape == (len(texts), 1)
        assert not present.any()


def test_no_columns_are_refused():
    with pytest.raises(ConfigError, match="0 columns"):
        describe_texts(["oak"], 0)
