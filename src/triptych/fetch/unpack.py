"""Archives from strangers: unpacked whole or not at all, and never outside their folder."""

from __future__ import annotations

import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from triptych.errors import StorageError
from triptych.files import check_room, new_folder

MAX_BYTES = 1 << 38
MAX_RATIO = 200


def unpack_zip(
    archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_ratio: float = MAX_RATIO
) -> bool:
    """Unpack a zip archive to a new folder, or see that it is there already.

    If all members lie below one folder, that level is left out.

    Args:
        archive: the file.
        folder: what to make; it appears in one step, when all is unpacked.
        max_bytes: refuse an archive that unpacks to more.
        max_ratio: refuse an archive that grows by more than this factor; honest tables grow 3 to 30 times.

    Returns: whether it was unpacked; False if all its files were there.

    Raises:
        StorageError: the archive is damaged, encrypted, too large, or has members that are links or
            reach outside the folder; or `folder` holds something else.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _members(file, archive)
            _check_size(archive, members, max_bytes, max_ratio)
            if folder.exists():
                return _check_there(folder, members, archive)
            check_room(folder, sum(info.file_size for info in members.values()))
            with new_folder(folder, marker=min(members)) as temporary:
                for name, info in members.items():
                    target = temporary / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(info) as packed, target.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise _refuse(archive, f"it is damaged ({error})") from error
    except (OSError, NotImplementedError) as error:
        raise _refuse(archive, str(error)) from error
    return True


def _members(file: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Give the files of an archive by the path each gets, all of them checked."""
    infos = file.infolist()
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        name = info.orig_filename  # `filename` ends at a NUL and has its separators changed
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise _refuse(archive, f"its member '{name}' is a link or a device")
        if name.startswith("/") or any(sign in name for sign in "\\:\0") or ".." in name.split("/"):
            raise _refuse(archive, f"its member '{name}' would be unpacked elsewhere")
        if info.flag_bits & 1:
            raise _refuse(archive, f"its member '{name}' is encrypted")
    members = {str(PurePosixPath(info.filename)): info for info in infos if not info.is_dir()}
    if not members:
        raise _refuse(archive, "it holds no file")
    # names that differ in case alone are one file on some systems
    if len({name.casefold() for name in members}) < sum(not info.is_dir() for info in infos):
        raise _refuse(archive, "two of its members have the same name")
    tops = {name.split("/")[0] for name in members}
    if len(tops) == 1 and all("/" in name for name in members):
        return {name.split("/", 1)[1]: info for name, info in members.items()}
    return members


def _check_size(archive: Path, members: dict[str, zipfile.ZipInfo], max_bytes: int, max_ratio: float) -> None:
    n_bytes, packed = sum(info.file_size for info in members.values()), archive.stat().st_size
    if n_bytes > max_bytes or n_bytes > max_ratio * packed:
        raise _refuse(archive, f"its {packed:,} bytes would become {n_bytes:,}")


def _check_there(folder: Path, members: dict[str, zipfile.ZipInfo], archive: Path) -> bool:
    for name, info in members.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != info.file_size:
            raise StorageError(
                f"{folder} is there, but {name} is missing or differs from the one in {archive.name}",
                wanted="all files of the archive, or no such folder",
                fix="Move that folder away; it will be unpacked again",
            )
    return False


def _refuse(archive: Path, why: str) -> StorageError:
    return StorageError(
        f"{archive} is not unpacked: {why}",
        wanted="a whole archive of plain files below one folder",
        fix="Look into it with another program, and unpack by hand what you trust",
    )
