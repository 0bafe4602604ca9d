import stat
import zipfile

import pytest

from triptych.errors import StorageError
from triptych.fetch.unpack import unpack_zip

FILES = {"ml/u.data": b"1\t2\t3\n" * 1000, "ml/deep/er/u.item": b"film"}


def archive(folder, files=FILES, compression=zipfile.ZIP_DEFLATED):
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_one_top_folder_is_left_out(tmp_path, compression):
    assert unpack_zip(archive(tmp_path, compression=compression), tmp_path / "a")
    assert tree(tmp_path / "a") == {name.removeprefix("ml/"): content for name, content in FILES.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.zip"]


def test_several_top_folders_stay(tmp_path):
    files = {"x/a.txt": b"a", "y/a.txt": b"b", "z/": b""}
    unpack_zip(archive(tmp_path, files), tmp_path / "a")
    assert tree(tmp_path / "a") == {"x/a.txt": b"a", "y/a.txt": b"b"}


def test_a_whole_folder_is_left_alone_and_another_refused(tmp_path):
    path = archive(tmp_path)
    assert unpack_zip(path, tmp_path / "a")
    (tmp_path / "a" / "mine.txt").write_text("mine")
    assert not unpack_zip(path, tmp_path / "a")
    (tmp_path / "a" / "u.data").write_text("short")
    with pytest.raises(StorageError, match=r"u\.data is missing or differs"):
        unpack_zip(path, tmp_path / "a")
    assert (tmp_path / "a" / "mine.txt").read_text() == "mine"


def member(name, mode=0, flags=0):
    info = zipfile.ZipInfo("x")
    info.filename = name
    info.external_attr = mode << 16
    info.flag_bits = flags
    return info


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (member("../evil"), "elsewhere"),
        (member("a/../../evil"), "elsewhere"),
        (member("/etc/evil"), "elsewhere"),
        (member("..\\evil"), "elsewhere"),
        (member("C:evil"), "elsewhere"),
        (member("fine.txt\0.exe"), "elsewhere"),
        (member("link", stat.S_IFLNK | 0o777), "link"),
        (member("pipe", stat.S_IFIFO | 0o644), "link or a device"),
        (member("OK.txt"), "same name"),
    ],
    ids=str,
)
def test_members_that_cannot_be_trusted(tmp_path, info, words):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ok.txt", b"fine")
        file.writestr(info, b"/etc/passwd")
    with pytest.raises(StorageError, match=words):
        unpack_zip(path, inner / "a")
    assert [path.name for path in inner.iterdir()] == ["a.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_an_encrypted_member(tmp_path):
    path = archive(tmp_path, {"a.txt": b"a"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="encrypted"):
        unpack_zip(path, tmp_path / "a")


def test_bombs(tmp_path):
    path = archive(tmp_path, {"zeros": bytes(5_000_000)})
    with pytest.raises(StorageError, match="would become 5,000,000"):
        unpack_zip(path, tmp_path / "a")
    with pytest.raises(StorageError, match="would become 5,000,000"):
        unpack_zip(path, tmp_path / "a", max_ratio=1e9, max_bytes=4_999_999)
    assert unpack_zip(path, tmp_path / "a", max_ratio=1e9)


def test_a_bomb_that_lies_about_its_size(tmp_path):
    path = archive(tmp_path, {"zeros": bytes(5_000_000)})
    data = bytearray(path.read_bytes())
    for place in (22, data.index(b"PK\x01\x02") + 24):
        data[place : place + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        unpack_zip(path, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_damage_leaves_nothing(tmp_path):
    path = archive(tmp_path, {"a.txt": bytes(range(256)) * 100, "b.txt": b"b"})
    data = bytearray(path.read_bytes())
    damaged = {
        "cut": data[:-30],
        "changed": data[:100] + b"\xff\xff" + data[102:],
        "empty": b"",
        "text": b"no",
    }
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(StorageError, match="damaged"):
            unpack_zip(path, tmp_path / "a")
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("files", [{}, {"a/": b""}])
def test_an_archive_without_files(tmp_path, files):
    with pytest.raises(StorageError, match="no file"):
        unpack_zip(archive(tmp_path, files), tmp_path / "a")


def test_a_file_that_is_also_a_folder(tmp_path):
    with pytest.raises(StorageError, match="is not unpacked"):
        unpack_zip(archive(tmp_path, {"a": b"1", "a/b": b"2"}), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
