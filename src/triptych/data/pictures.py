"""Pictures as files: opened with care, and kept small beside a data set for people to look at."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.data.interactions import IntArray
from triptych.files import Arrays

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE = 128


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
    from PIL import Image

    small = picture.convert("RGBA")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    flat = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    file = io.BytesIO()
    flat.save(file, "JPEG", quality=80)
    return file.getvalue()
