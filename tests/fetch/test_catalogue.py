import gzip
import hashlib
import io
import json
import re
import socket
import zipfile

import pytest
from filelock import FileLock

from triptych.errors import ConfigError, StorageError
from triptych.fetch import catalogue
from triptych.fetch.catalogue import CatalogueFile, Entry, find_entry, get, list_catalogue, mirrored
from triptych.fetch.unpack import unpack_zip
from triptych.fetch.web import NetworkError, check_url

REVIEWS, META, IMAGES = gzip.compress(b"reviews"), gzip.compress(b"items"), b"features"
BABY = "/data/amazon/productGraph/categoryFiles"


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(f"ml/{name}", content)
    return buffer.getvalue()


@pytest.fixture
def mirror(site, monkeypatch):
    """Every address of the catalogue leads to the local site."""
    monkeypatch.setenv("TRIPTYCH_MIRROR", site.base + "/")
    site.answers[f"{BABY}/reviews_Baby_5.json.gz"] = REVIEWS
    site.answers[f"{BABY}/meta_Baby.json.gz"] = META
    site.answers["/data/amazon/productGraph/image_features/categoryFiles/image_features_Baby.b"] = IMAGES
    return site


@pytest.fixture
def one_file(site, monkeypatch):
    """A catalogue with a data set of one file, its fields as a test wants them."""

    def enter(**fields):
        file = CatalogueFile(role="all", **{"urls": (site.url("/x.zip"),), **fields})
        monkeypatch.setattr(
            catalogue, "_catalogue", lambda: {"x": Entry("x", "X", "https://page", "free", (file,))}
        )

    return enter


def fetch(name, folder, **options):
    return get(name, folder, **{"wait": 0.001, "timeout": 5, **options})


def test_the_catalogue_is_sound():
    entries = list_catalogue()
    names = [entry.name for entry in entries]
    assert names == sorted(set(names))
    wanted = {"amazon-baby", "amazon-sports", "amazon-clothing", "amazon-electronics", "amazon-beauty"}
    wanted |= {"amazon-2018-Video_Games", "amazon-2023-Baby_Products", "microlens-100k"}
    wanted |= {f"movielens-{size}" for size in ("100k", "1m", "20m", "25m", "32m", "latest-small")}
    assert wanted <= set(names)
    for entry in entries:
        text = repr(entry)
        assert "{" not in text
        assert entry.title
        assert entry.terms
        check_url(entry.page)
        files = [file.name for file in entry.files]
        assert len(set(files)) == len(files)
        assert entry.chosen()  # something is not optional
        for file in entry.files:
            assert all({url.rsplit("/", 1)[1]} == {file.name} for url in file.urls)
            assert [check_url(url) for url in file.urls]
            assert file.unpack <= file.name.endswith(".zip")
            assert re.fullmatch("[0-9a-f]{32}", file.md5 or "0" * 32)


def test_what_is_known_of_a_set():
    baby = find_entry("amazon-baby")
    assert [(file.role, file.name, file.optional) for file in baby.files] == [
        ("interactions", "reviews_Baby_5.json.gz", False),
        ("items", "meta_Baby.json.gz", False),
        ("image", "image_features_Baby.b", True),
    ]
    assert "Baby" in baby.title
    assert find_entry("movielens-100k").files[0].md5 == "0e33842e24a9c977be4e0107933c0723"


def test_misspelt_names_and_roles():
    with pytest.raises(ConfigError, match="Did you mean 'amazon-2023-Baby_Products'"):
        find_entry("amazon-2023-baby_product")
    with pytest.raises(ConfigError, match=r"no files of the role 'images'.*Did you mean 'image'"):
        find_entry("amazon-baby").chosen(["images"])


def test_files_are_fetched_once(mirror, tmp_path):
    told = []
    facts = fetch("amazon-baby", tmp_path, observer=lambda *done: told.append(done))
    home = tmp_path / "amazon-baby"
    assert (home / "reviews_Baby_5.json.gz").read_bytes() == REVIEWS
    assert sorted(path.name for path in home.iterdir()) == [
        "downloads.json",
        "meta_Baby.json.gz",
        "reviews_Baby_5.json.gz",
    ]
    assert facts["fetched"] == ["reviews_Baby_5.json.gz", "meta_Baby.json.gz"]
    assert facts["folder"] == str(home)
    assert "research" in facts["terms"]
    assert facts["files"]["meta_Baby.json.gz"] == {
        "role": "items",
        "url": mirror.url(f"{BABY}/meta_Baby.json.gz"),
        "bytes": len(META),
        "sha256": hashlib.sha256(META).hexdigest(),
        "checked_by": "checksum of the first download",
    }
    assert told == [
        ("reviews_Baby_5.json.gz", len(REVIEWS), len(REVIEWS)),
        ("meta_Baby.json.gz", len(META), len(META)),
    ]
    record, n_requests = (home / "downloads.json").read_bytes(), len(mirror.requests)
    again = fetch("amazon-baby", tmp_path)
    assert again == {**facts, "fetched": []}
    assert (home / "downloads.json").read_bytes() == record
    assert len(mirror.requests) == n_requests == 2


def test_the_record_does_not_depend_on_when(mirror, tmp_path):
    records = []
    for place in ("a", "b"):
        fetch("amazon-baby", tmp_path / place)
        records.append((tmp_path / place / "amazon-baby" / "downloads.json").read_bytes())
    assert records[0] == records[1]


def test_roles_are_fetched_when_asked_for(mirror, tmp_path):
    fetch("amazon-baby", tmp_path)
    facts = fetch("amazon-baby", tmp_path, roles=["image"])
    assert facts["fetched"] == list(facts["files"]) == ["image_features_Baby.b"]
    record = json.loads((tmp_path / "amazon-baby" / "downloads.json").read_text())
    assert len(record["files"]) == 3


def test_the_first_download_counts_from_then_on(mirror, tmp_path):
    fetch("amazon-baby", tmp_path)
    path = tmp_path / "amazon-baby" / "meta_Baby.json.gz"
    path.write_bytes(gzip.compress(b"damaged"))
    assert fetch("amazon-baby", tmp_path)["fetched"] == ["meta_Baby.json.gz"]
    assert path.read_bytes() == META
    path.unlink()
    mirror.answers[f"{BABY}/meta_Baby.json.gz"] = changed = gzip.compress(b"a new version")
    with pytest.raises(StorageError) as caught:
        fetch("amazon-baby", tmp_path)
    for content in (META, changed):
        assert hashlib.sha256(content).hexdigest() in caught.value.found
    assert "to take a newer version" in caught.value.fix
    assert not path.exists()


def test_a_failure_keeps_what_came_before(mirror, tmp_path):
    del mirror.answers[f"{BABY}/meta_Baby.json.gz"]
    with pytest.raises(NetworkError, match="404"):
        fetch("amazon-baby", tmp_path)
    mirror.answers[f"{BABY}/meta_Baby.json.gz"] = META
    assert fetch("amazon-baby", tmp_path)["fetched"] == ["meta_Baby.json.gz"]


def test_hosts_are_tried_in_order(site, one_file, send, tmp_path):
    site.answers["/b/x.csv"] = b"<html>an error page</html>"
    site.answers["/c/x.csv"] = b"a,b\n"
    one_file(urls=tuple(site.url(f"/{host}/x.csv") for host in "abc"))
    assert fetch("x", tmp_path)["files"]["x.csv"]["url"] == site.url("/c/x.csv")
    assert [request[0] for request in site.requests] == ["/a/x.csv", "/b/x.csv", "/b/x.csv", "/c/x.csv"]


@pytest.mark.parametrize("to", ["ftp://host/x.csv", "http://[x", "http://127.0.0.1:99999999/x.csv"])
def test_a_host_that_leads_nowhere_is_not_the_last(site, one_file, send, tmp_path, to):
    site.answers["/a/x.csv"] = lambda handler: send(handler, 302, Location=to)
    one_file(urls=(site.url("/a/x.csv"), site.url("/b/x.csv")))
    with pytest.raises(NetworkError, match=r"address.*; .*/b/x\.csv: HTTP 404"):
        fetch("x", tmp_path)
    site.answers["/b/x.csv"] = b"a,b\n"
    assert fetch("x", tmp_path)["fetched"] == ["x.csv"]


def test_when_no_host_has_it(site, one_file, tmp_path):
    one_file(urls=(site.url("/a/x.csv"), site.url("/b/x.csv")))
    with pytest.raises(
        NetworkError, match=r"/a/x\.csv: HTTP 404 Not Found; .*/b/x\.csv: HTTP 404.*https://page"
    ):
        fetch("x", tmp_path)


def test_archives_are_unpacked_once(site, one_file, tmp_path):
    site.answers["/x.zip"] = data = zipped(a="1", b="2")
    one_file(unpack=True, md5=hashlib.md5(data).hexdigest(), n_bytes=len(data))
    facts = fetch("x", tmp_path)
    assert facts["unpacked"] == [str(tmp_path / "x" / "x")]
    assert facts["files"]["x.zip"]["checked_by"] == "published checksum"
    assert (tmp_path / "x" / "x" / "b").read_text() == "2"
    before = (tmp_path / "x" / "x" / "b").stat().st_mtime_ns
    fetch("x", tmp_path)
    assert (tmp_path / "x" / "x" / "b").stat().st_mtime_ns == before
    assert len(site.requests) == 1


def test_an_archive_placed_by_hand_is_taken(site, one_file, tmp_path):
    data = zipped(a="1")
    one_file(unpack=True, md5=hashlib.md5(data).hexdigest())
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.zip").write_bytes(data)
    facts = fetch("x", tmp_path)
    assert facts["fetched"] == site.requests == []
    assert facts["files"]["x.zip"]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("form", ["MD5 (x.zip) = {}\n", "{}  x.zip\n", "{}"])
def test_checksums_published_beside_the_file(site, one_file, tmp_path, form):
    site.answers["/x.zip"] = data = zipped(a="1")
    site.answers["/x.zip.md5"] = form.format(hashlib.md5(data).hexdigest().upper()).encode()
    one_file(md5_url=site.url("/x.zip.md5"))
    assert fetch("x", tmp_path)["files"]["x.zip"]["checked_by"] == "published checksum"
    fetch("x", tmp_path)
    assert [request[0] for request in site.requests] == ["/x.zip.md5", "/x.zip"]
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["downloads.json", "x.zip"]


@pytest.mark.parametrize(
    ("published", "words"), [("0" * 32, "MD5 .* instead of 000"), ("none", "no MD5 checksum")]
)
def test_a_published_checksum_that_does_not_hold(site, one_file, tmp_path, published, words):
    site.answers["/x.zip"] = zipped(a="1")
    site.answers["/x.zip.md5"] = published.encode()
    one_file(md5_url=site.url("/x.zip.md5"))
    with pytest.raises(StorageError, match=words):
        fetch("x", tmp_path)
    assert list((tmp_path / "x").iterdir()) == []


@pytest.fixture
def offline(monkeypatch):
    """No network: nobody listens where all addresses lead."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TRIPTYCH_MIRROR", f"http://127.0.0.1:{free.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("offline")
def test_archive_and_checksum_placed_by_hand_are_taken(site, one_file, tmp_path):
    one_file(unpack=True, md5_url=site.url("/x.zip.md5"))
    archive, beside = tmp_path / "x" / "x.zip", tmp_path / "x" / "x.zip.md5"
    archive.parent.mkdir()
    archive.write_bytes(zipped(a="1"))
    with pytest.raises(NetworkError) as caught:
        fetch("x", tmp_path)
    assert caught.value.fix.endswith(f"put it at {beside}")
    beside.write_text("no sum")
    with pytest.raises(StorageError, match=r"x\.zip\.md5 holds no MD5 checksum"):
        fetch("x", tmp_path)
    beside.write_text(hashlib.md5(archive.read_bytes()).hexdigest())
    facts = fetch("x", tmp_path)
    assert (facts["fetched"], facts["files"]["x.zip"]["checked_by"]) == ([], "published checksum")
    assert sorted(path.name for path in archive.parent.iterdir()) == [
        "downloads.json",
        "x",
        "x.zip",
        "x.zip.md5",
    ]


def test_a_checksum_placed_by_hand_gives_way_to_the_published_one(site, one_file, tmp_path):
    site.answers["/x.zip"] = data = zipped(a="1")
    site.answers["/x.zip.md5"] = hashlib.md5(data).hexdigest().encode()
    one_file(md5_url=site.url("/x.zip.md5"))
    beside = tmp_path / "x" / "x.zip.md5"
    beside.parent.mkdir()
    beside.write_text("0" * 32)
    assert fetch("x", tmp_path)["fetched"] == ["x.zip"]
    assert beside.read_text() == "0" * 32
    assert len(list(beside.parent.iterdir())) == 3


def test_room_is_looked_for_before_anything_is_fetched(site, one_file, tmp_path):
    one_file(n_bytes=1 << 60)
    with pytest.raises(StorageError, match="free space"):
        fetch("x", tmp_path)
    assert site.requests == []


def test_the_second_of_two_at_one_data_set_is_refused(mirror, tmp_path):
    refused = []

    def meanwhile(*_):
        with pytest.raises(StorageError) as caught:
            fetch("amazon-baby", tmp_path, roles=["image"])
        refused.append(caught.value.found)

    fetch("amazon-baby", tmp_path, observer=meanwhile)
    assert refused[0].startswith(f"another process is fetching in {tmp_path / 'amazon-baby'}: process ")
    assert [path for path, _, _ in mirror.requests] == [
        f"{BABY}/reviews_Baby_5.json.gz",
        f"{BABY}/meta_Baby.json.gz",
    ]


def test_what_is_there_and_right_may_be_on_a_disk_that_cannot_be_written(mirror, tmp_path, monkeypatch):
    fetch("amazon-baby", tmp_path)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    assert fetch("amazon-baby", tmp_path)["fetched"] == []
    with pytest.raises(StorageError, match=r"image_features_Baby\.b cannot be written.*Read-only"):
        fetch("amazon-baby", tmp_path, roles=["image"])


def test_a_folder_that_cannot_be_made(site, one_file, tmp_path):
    one_file()
    (tmp_path / "x").write_text("")
    with pytest.raises(StorageError, match=r"x\.zip cannot be written"):
        fetch("x", tmp_path)
    assert site.requests == []


def test_what_comes_by_mirror(monkeypatch):
    url = "https://files.example.org/a/b.zip?c=1"
    assert mirrored(url) == url
    monkeypatch.setenv("TRIPTYCH_MIRROR", "http://inside/data/")
    assert mirrored(url) == "http://inside/data/a/b.zip?c=1"
    monkeypatch.setenv("TRIPTYCH_MIRROR", "file:///data")
    with pytest.raises(ConfigError):
        mirrored(url)


def test_an_archive_that_cannot_be_trusted_is_not_unpacked(site, one_file, tmp_path):
    site.answers["/x.zip"] = zipped(**{"../../evil": "x"})
    one_file(unpack=True)
    with pytest.raises(StorageError, match="elsewhere"):
        fetch("x", tmp_path)
    assert not list(tmp_path.rglob("evil"))
    with pytest.raises(StorageError):
        unpack_zip(tmp_path / "x" / "x.zip", tmp_path / "y")
