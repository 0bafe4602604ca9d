"""Pictures as files: opened with care, and kept small beside a data set for people to look at."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.data.arrays import IntArray
from triptych.data.content import ContentError, read_content
from triptych.files import Arrays

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE = 128
MAX_PIXELS = 64_000_000  # four times a large camera's picture; more is a mistake or a trap

# of what Pillow reads, the formats shops use; others, such as PostScript, run programs or are never pictures
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag
_WHITES = {"I": (2**16 - 1, 2**31 - 1), "F": (1, 2**8 - 1, 2**16 - 1)}  # what counts as white is not stored


def open_picture(source: Path | bytes) -> Image.Image:
    """Open one item's picture, upright, of an animation the first frame.

    Any colours become 8-bit red, green and blue; 16-bit and floating-point grey are scaled, so that white
    stays white. The size is checked before anything is decoded. Nothing of the file stays open.

    Args:
        source: a file or its bytes: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PPM.

    Returns: a picture of mode RGB, or RGBA if parts may be transparent, without EXIF or other notes.

    Raises:
        ContentError: its reason is one of `read_content`, or "no picture" (such as text, SVG, a web page),
            "too many pixels" (more than `MAX_PIXELS`), or "damaged".
    """
    from PIL import Image, UnidentifiedImageError

    data = source if isinstance(source, bytes) else read_content(source)
    name = "the picture" if isinstance(source, bytes) else source.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever Pillow warns of is either refused here or harmless
        try:
            return _decode(data)
        except (_TooManyPixelsError, Image.DecompressionBombError) as error:
            raise _unusable(f"{name} has too many pixels", "too many pixels") from error
        except UnidentifiedImageError as error:
            if _begins_like_a_picture(data):
                raise _unusable(f"{name} has a damaged header", "damaged") from error
            raise _unusable(f"{name} is no picture of a known format", "no picture") from error
        except Exception as error:  # damaged files make Pillow's decoders fail in any way
            raise _unusable(f"{name} is damaged: {error}", "damaged") from error


def on_white(picture: Image.Image) -> Image.Image:
    """Lay a picture on white, if parts of it are transparent.

    Returns: a picture of mode RGB.
    """
    from PIL import Image

    if picture.mode == "RGB":
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """One small JPEG per item, for people; models never see them.

    Args:
        data: (n,) uint8, the files one after the other.
        offsets: (I + 1,) int64; that of item i is `data[offsets[i]:offsets[i + 1]]`, empty if it has none.
    """

    data: np.ndarray[Any, np.dtype[np.uint8]]
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def jpeg(self, item: int) -> bytes | None:
        """Give the JPEG file of the item at an index, or None."""
        file = self.data[self.offsets[item] : self.offsets[item + 1]].tobytes()
        return file or None

    @classmethod
    def of(cls, pictures: Iterable[Image.Image | None]) -> Thumbnails:
        """Make thumbnails of at most `THUMBNAIL_SIDE` pixels a side; transparent parts become white."""
        return cls.from_files(None if picture is None else _jpeg(picture) for picture in pictures)

    @classmethod
    def from_files(cls, files: Iterable[bytes | None]) -> Thumbnails:
        """Put JPEG files one after the other."""
        listed = [file or b"" for file in files]
        offsets = np.zeros(len(listed) + 1, dtype=np.int64)
        np.cumsum([len(file) for file in listed], out=offsets[1:])
        return cls(np.frombuffer(b"".join(listed), dtype=np.uint8), offsets)

    def take(self, keep: IntArray) -> Thumbnails:
        """Keep the items at indices `keep`, in that order."""
        return self.from_files(self.jpeg(int(item)) for item in keep)

    def to_arrays(self) -> Arrays:
        """Name the arrays that hold all of it, as they are stored."""
        return {"data": self.data, "offsets": self.offsets}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Thumbnails:
        """Read back what `to_arrays` gave."""
        return cls(arrays["data"], arrays["offsets"])


def _jpeg(picture: Image.Image) -> bytes:
    small = picture.convert("RGBA")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    on_white(small).save(file, "JPEG", quality=80)
    return file.getvalue()


class _TooManyPixelsError(Exception):
    """The header promises more than `MAX_PIXELS`."""


def _unusable(found: str, reason: str) -> ContentError:
    wanted = f"a whole picture of at most {MAX_PIXELS:,} pixels"
    return ContentError(found, wanted=wanted, fix="Replace it, or leave it out", reason=reason)


def _known_formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # AVIF came late


def _begins_like_a_picture(data: bytes) -> bool:
    from PIL import Image

    begins = (Image.OPEN[name][1] for name in _known_formats())
    return any(accept is not None and accept(data[:16]) is True for accept in begins)


def _decode(data: bytes) -> Image.Image:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=_known_formats()) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise _TooManyPixelsError
        picture.load()
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
        wide = picture.mode.startswith(("I", "F"))  # more than 8 bits of grey
        scaled = _to_8_bits(picture) if wide else picture
        decoded = scaled.convert("RGBA" if scaled.has_transparency_data else "RGB")
    if turn is not None:
        decoded = decoded.transpose(Image.Transpose[turn])
    decoded.info.clear()
    return decoded


# what a camera noted -> what undoes it, by name, since Pillow is loaded late
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def _to_8_bits(picture: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0, neginf=0).clip(min=0)
    top = values.max()
    whites = _WHITES.get(picture.mode, (2**16 - 1,))
    white = next((white for white in whites if top <= white), top)
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
