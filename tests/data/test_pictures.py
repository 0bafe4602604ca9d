import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from triptych.data import pictures
from triptych.data.content import ContentError
from triptych.data.descriptors import describe_picture
from triptych.data.pictures import Thumbnails, on_white, open_picture

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM"]


def file(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise():
    return Image.fromarray(NOISE)


def png_header(width, height):
    """Write a PNG that promises much and holds nothing."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def reason_of(source):
    with pytest.raises(ContentError) as caught:
        open_picture(source)
    assert str(caught.value).count("; wanted ") == 1
    return caught.value.reason


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_opened_by_its_content_and_not_by_its_name(tmp_path, kind):
    path = tmp_path / "picture.txt"
    path.write_bytes(file(noise(), kind))
    picture = open_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (80, 60))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(open_picture(path.read_bytes())))
    if kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(np.asarray(picture), NOISE)
    path.unlink()  # and nothing still holds it


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", (255, 255, 255)),
        ("L", 100, "PNG", (100, 100, 100)),
        ("LA", (100, 50), "PNG", (100, 100, 100, 50)),
        ("RGBA", (1, 2, 3, 4), "PNG", (1, 2, 3, 4)),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
        ("CMYK", (0, 0, 0, 255), "JPEG", (0, 0, 0)),
        ("YCbCr", (76, 85, 255), "JPEG", (254, 0, 0)),
        ("I;16", 2**16 - 1, "PNG", (255, 255, 255)),
        ("I;16", 128 * 257, "PNG", (128, 128, 128)),
        ("I;16", 128 * 257, "PPM", (128, 128, 128)),
        ("I;16", 128 * 257, "TIFF", (128, 128, 128)),
        ("I", 2**31 - 1, "TIFF", (255, 255, 255)),
        ("F", 0.5, "TIFF", (128, 128, 128)),
        ("F", 100.0, "TIFF", (100, 100, 100)),
        ("F", 1e9, "TIFF", (255, 255, 255)),
    ],
)
def test_all_kinds_of_pixels_become_8_bit_colours(mode, colour, kind, expected):
    picture = open_picture(file(Image.new(mode, (5, 4), colour), kind))
    assert picture.mode == ("RGBA" if len(expected) == 4 else "RGB")
    np.testing.assert_allclose(np.asarray(picture).reshape(20, -1)[0], expected, atol=2)


def test_16_bit_grey_keeps_its_shades():
    ramp = np.linspace(0, 2**16 - 1, 256).astype(np.uint16).reshape(16, 16)
    opened = np.asarray(open_picture(file(Image.fromarray(ramp))))[..., 0]
    np.testing.assert_array_equal(opened.ravel(), np.arange(256))


def test_a_palette_with_a_transparent_colour_is_transparent_there():
    picture = noise().quantize(4)
    opened = open_picture(file(picture, "GIF", transparency=0))
    assert opened.mode == "RGBA"
    alpha = np.asarray(opened)[..., 3]
    np.testing.assert_array_equal(alpha == 0, np.asarray(picture) == 0)
    assert open_picture(file(picture)).mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    data = file(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 3
    pixel = np.asarray(open_picture(data).convert("RGB"))[5, 5]
    np.testing.assert_allclose(pixel, (255, 0, 0), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_and_nothing_turns_them_again(orientation):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that undo the turn
    stored = noise() if orientation == 1 else noise().transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_picture(file(stored, exif=exif))
    np.testing.assert_array_equal(np.asarray(opened), NOISE)
    assert not opened.info
    assert not opened.getexif()
    np.testing.assert_array_equal(describe_picture(opened), describe_picture(noise()))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0XX\0*\0\0\0\x08bad", b"Exif\0\0"]
)
def test_damaged_notes_of_a_camera_harm_no_picture_and_warn_nobody(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(file(noise(), "JPEG", exif=exif)).size == (80, 60)


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a picture at all\n" * 9, "no picture"),
        (b"\0" * 500, "no picture"),
        (SVG, "no picture"),
        (POSTSCRIPT, "no picture"),
        (b"<html>404</html>", "no picture"),
        (file(noise(), "JPEG")[:-200], "damaged"),
        (file(noise(), "JPEG")[:100], "damaged"),
        (file(noise())[:20], "damaged"),
        (file(noise()).replace(b"IDAT", b"IDAX", 1), "damaged"),
        (png_header(0, 5), "damaged"),
        (png_header(9_000, 8_000), "too many pixels"),
        (png_header(10_000, 10_000), "too many pixels"),  # of these Pillow would only warn
        (png_header(2**31 - 1, 2**31 - 1), "too many pixels"),
    ],
)
def test_what_is_no_whole_picture_of_fair_size_is_refused_under_a_reason(tmp_path, data, reason):
    assert reason_of(data) == reason
    (tmp_path / "shoe.jpg").write_bytes(data)
    with pytest.raises(ContentError, match=r"^shoe\.jpg "):
        open_picture(tmp_path / "shoe.jpg")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_file_of_any_format_is_damaged(kind, share):
    data = file(noise(), kind)
    assert reason_of(data[: int(len(data) * share)]) == "damaged"


def test_size_is_checked_before_anything_is_decoded(monkeypatch):
    plain = file(Image.new("RGB", (1000, 1000)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000 * 1000)
    assert open_picture(plain).size == (1000, 1000)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000 * 1000 - 1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert reason_of(plain) == "too many pixels"


def test_a_file_that_is_not_there_or_empty_has_its_reason(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert reason_of(tmp_path / "empty.jpg") == "empty file"
    assert reason_of(tmp_path / "lost.jpg") == "no file"
    assert reason_of(tmp_path) == "no file"


def test_the_error_keeps_its_reason_on_the_way_to_another_process():
    error = ContentError("a", wanted="b", fix="c", reason="too loud")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason) == (ContentError, str(error), "too loud")


def test_transparent_parts_are_laid_on_white():
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert on_white(half).getpixel((0, 0)) == (127, 127, 127)
    assert on_white(noise()).tobytes() == NOISE.tobytes()
    assert on_white(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_thumbnails_are_small_and_white_where_pictures_are_transparent():
    thumbnails = Thumbnails.of([Image.new("RGBA", (600, 300), (255, 0, 0, 0)), None, noise()])
    small = open_picture(thumbnails.jpeg(0))
    assert small.size == (128, 64)
    assert small.getpixel((3, 3)) == (255, 255, 255)
    assert thumbnails.jpeg(1) is None
    assert open_picture(thumbnails.jpeg(2)).size == (80, 60)
