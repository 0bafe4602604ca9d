"""The content of one item as a file, of any kind: read whole, or refused for a reason to count by."""

from __future__ import annotations

from pathlib import Path

from triptych.errors import DataError


class ContentError(DataError):
    """The picture, sound or text of one item cannot be used; other items can.

    Args:
        found: what was met.
        wanted: what would have been right.
        fix: what to do next.
        reason: the same few words for all content with the same fault, to count by.
    """

    def __init__(self, found: str, *, wanted: str, fix: str, reason: str = "damaged") -> None:
        super().__init__(found, wanted=wanted, fix=fix)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return _content_error, (self.found, self.wanted, self.fix, self.reason)


def _content_error(found: str, wanted: str, fix: str, reason: str) -> ContentError:
    """Make the error again in another process."""
    return ContentError(found, wanted=wanted, fix=fix, reason=reason)


def read_content(path: Path) -> bytes:
    """Read the whole file that holds one item's content.

    Raises:
        ContentError: reason "no file", "empty file", or "unreadable file".
    """
    wanted, fix = "a file with this item's content", "Restore the file, or leave it out"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ContentError(f"{path.name} is no file", wanted=wanted, fix=fix, reason="no file") from error
    except OSError as error:
        found = f"{path.name} cannot be read: {error.strerror}"
        raise ContentError(found, wanted=wanted, fix=fix, reason="unreadable file") from error
    if not data:
        raise ContentError(f"{path.name} is empty", wanted=wanted, fix=fix, reason="empty file")
    return data
