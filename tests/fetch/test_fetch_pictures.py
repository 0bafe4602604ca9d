import json
import os
import signal
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.errors import ConfigError, StorageError
from triptych.fetch import pictures
from triptych.fetch.pictures import PictureReport, fetch_pictures, file_stem, item_of_file_name

JPG = b"\xff\xd8\xff\xe0 a jpeg \xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + struct.pack(">II", 3, 2) + b"rest"
GIF = b"GIF89a" + struct.pack("<HH", 2, 2) + b"rest"
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 rest"
PIXEL = b"GIF89a" + struct.pack("<HH", 1, 1) + bytes(33)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fetch(urls, folder, **options):
    return fetch_pictures(urls, folder, **{"per_host_wait": 0.0, "wait": 0.001, "timeout": 5, **options})


@pytest.fixture
def shop(site):
    """Items 0 to 9, each with a picture."""
    for item in range(10):
        site.answers[f"/{item}.jpg"] = JPG + bytes([item])
    return {item: site.url(f"/{item}.jpg") for item in range(10)}


def test_the_suffix_comes_from_the_content(site, tmp_path):
    for kind, data in {"jpg": JPG, "png": PNG, "gif": GIF, "webp": WEBP}.items():
        site.answers[f"/{kind}.html"] = data
    report = fetch(
        {kind: site.url(f"/{kind}.html") for kind in ("jpg", "png", "gif", "webp")}, tmp_path / "new"
    )
    assert report == PictureReport(4, 0, {}, [])
    assert names(tmp_path / "new") == ["gif.gif", "jpg.jpg", "png.png", "webp.webp"]
    assert (tmp_path / "new" / "png.png").read_bytes() == PNG
    assert site.requests[0][1]["User-Agent"].startswith("triptych/")


def test_nothing_is_fetched_twice(site, shop, tmp_path):
    some = {item: shop[item] for item in range(4)}
    assert fetch(some, tmp_path) == PictureReport(4, 0, {}, [])
    told = []
    assert fetch(shop, tmp_path, observer=lambda *done: told.append(done)) == PictureReport(6, 4, {}, [])
    assert told == [(done, 10) for done in range(5, 11)]
    assert len(site.requests) == 10
    assert {path.name: path.read_bytes()[-1] for path in tmp_path.iterdir()} == {
        f"{i}.jpg": i for i in range(10)
    }


@given(
    st.text(min_size=1, max_size=30).filter(
        lambda text: not any("\ud800" <= sign <= "\udfff" for sign in text)
    )
)
def test_file_names_can_be_turned_back(item):
    stem = file_stem(item)
    assert not set(stem) & set('/\\.:*?"<>| \0')
    assert item_of_file_name(stem + ".jpg") == item


def test_file_names_of_others_are_not_taken():
    for name in ("failed.json", "a.txt", "a b.jpg", "a.b.jpg", "jpg", "%2e.jpg"):
        assert item_of_file_name(name) is None


def test_odd_ids_stay_in_the_folder(site, tmp_path):
    site.answers["/x"] = JPG
    odd = ["..", "../../up", "/etc/x", "a b", "ü", ".partial-x", "C:x"]
    inner = tmp_path / "inner"
    assert fetch(dict.fromkeys(odd, site.url("/x")), inner).fetched == len(odd)
    assert names(tmp_path) == ["inner"]
    assert {item_of_file_name(name) for name in names(inner)} == set(odd)
    assert fetch(dict.fromkeys(odd, site.url("/x")), inner).already_there == len(odd)


def test_every_failure_has_a_reason(site, send, shop, tmp_path):
    site.answers |= {
        "/html": b"<html>Please log in</html>",
        "/pixel": PIXEL,
        "/empty": b"",
        "/large": JPG + bytes(1000),
        "/403": lambda handler: send(handler, 403),
        "/500": lambda handler: send(handler, 500),
        "/short": lambda handler: send(handler, 200, JPG[:5], Content_Length="900"),
    }
    paths = ["/html", "/pixel", "/empty", "/large", "/403", "/404", "/404b", "/500", "/short"]
    urls = {path: site.url(path) for path in paths} | {
        "file": "file:///etc/passwd",
        "none": "",
        "x" * 300: shop[1],
    }
    report = fetch({**urls, **shop}, tmp_path, max_bytes=900, retries=1, parallel=1)
    assert (report.fetched, report.already_there) == (10, 0)
    assert report.failed == {
        "the answer is no jpg, png, gif or webp picture": 2,
        "a placeholder of 1×1 pixels": 1,
        "larger than 900 bytes": 1,
        "HTTP 403 Forbidden": 1,
        "HTTP 404 Not Found": 2,
        "HTTP 500 Internal Server Error": 1,
        "the connection broke off": 1,
        "no http or https address": 2,
        "the item id is too long for a file name": 1,
    }
    assert len(report.first_failed) == 5
    assert (
        report.first_failed[0]
        == f"/html: {site.url('/html')}: the answer is no jpg, png, gif or webp picture"
    )
    assert site.asked("/500") == site.asked("/short") == 2
    assert site.asked("/404") == site.asked("/403") == 1
    noted = json.loads((tmp_path / "failed.json").read_text())["items"]
    assert sorted(noted) == ["/404", "/404b", "/empty", "/html", "/large", "/pixel"]


def test_what_does_not_exist_is_asked_for_once(site, shop, tmp_path):
    urls = {"gone": site.url("/gone"), 1: shop[1]}
    fetch(urls, tmp_path)
    report = fetch(urls, tmp_path)
    assert report == PictureReport(
        0,
        1,
        {"HTTP 404 Not Found (in an earlier call)": 1},
        [f"gone: {urls['gone']}: HTTP 404 Not Found (in an earlier call)"],
    )
    assert site.asked("/gone") == 1
    assert fetch({"gone": shop[2]}, tmp_path / "other").fetched == 1
    site.answers["/gone"] = JPG
    assert fetch(urls, tmp_path).fetched == 0
    assert fetch(urls, tmp_path, retry_failed=True) == PictureReport(1, 1, {}, [])
    assert json.loads((tmp_path / "failed.json").read_text()) == {"items": {}}


@pytest.mark.parametrize("item", ["checksum", "items", "schema_version"])
def test_an_item_may_have_any_id(site, tmp_path, item):
    urls = {item: site.url("/gone"), "other": site.url("/gone")}
    for _ in range(2):
        assert sum(fetch(urls, tmp_path).failed.values()) == 2
    assert site.asked("/gone") == 2


def test_a_note_of_an_earlier_version_is_read(site, tmp_path):
    known = {"url": site.url("/gone"), "reason": "HTTP 404 Not Found"}
    (tmp_path / "failed.json").write_text(json.dumps({"a": known}))
    assert sum(fetch({"a": known["url"]}, tmp_path).failed.values()) == 1
    assert site.requests == []


def test_odd_answers_are_a_failure_of_their_item_alone(site, send, shop, tmp_path):
    far = "Mon, 01 Jan 999999999999 00:00:00 GMT"
    site.answers |= {
        "/redirect": lambda handler: send(handler, 302, Location="http://[x"),
        "/later": lambda handler: send(handler, 503, Retry_After=far),
        "/length": lambda handler: send(handler, 200, JPG, Content_Length="9" * 5000),
    }
    odd = {path: site.url(path) for path in ("/redirect", "/later", "/length")}
    odd |= {"port": "http://127.0.0.1:80a/x.jpg", "blank": "http://img shop.com/x.jpg"}
    report = fetch({**odd, **shop}, tmp_path, parallel=1, retries=0)
    assert report.fetched == 11
    assert report.failed == {
        "HTTP 503 Service Unavailable": 1,
        "no http or https address": 3,
    }


def test_a_new_address_is_asked(site, shop, tmp_path):
    fetch({"a": site.url("/gone")}, tmp_path)
    assert fetch({"a": shop[3]}, tmp_path).fetched == 1


def test_passing_failures_are_tried_again(site, send, tmp_path):
    site.answers["/a"] = [
        lambda handler: send(handler, 503, Retry_After="0"),
        lambda handler: send(handler, 429),
        JPG,
    ]
    assert fetch({"a": site.url("/a")}, tmp_path).fetched == 1
    assert site.asked("/a") == 3


@pytest.mark.parametrize("parallel", [1, 3])
def test_so_many_at_a_time_and_no_more(site, send, tmp_path, parallel):
    together, lock, at_once, seen = threading.Barrier(parallel), threading.Lock(), [], []

    def counted(handler):
        with lock:
            at_once.append(handler)
            seen.append(len(at_once))
        together.wait(timeout=10)  # nobody is answered before so many have asked
        with lock:
            at_once.remove(handler)
        send(handler, 200, JPG)

    urls = {item: site.url(f"/{item}") for item in range(9)}
    site.answers |= {f"/{item}": counted for item in range(9)}
    assert fetch(urls, tmp_path, parallel=parallel).fetched == 9
    assert max(seen) == parallel


def test_a_host_is_given_a_pause(site, shop, tmp_path):
    began = time.monotonic()
    fetch(shop, tmp_path, per_host_wait=0.04, parallel=4)
    asked = sorted(moment - began for _, _, moment in site.requests)
    assert all(moment >= turn * 0.04 for turn, moment in enumerate(asked))


def test_hosts_wait_apart():
    hosts = pictures._Hosts(5.0)
    assert hosts.delay("a") == hosts.delay("b") == 0.0
    assert 4.9 < hosts.delay("a") <= 5.0
    assert 9.9 < hosts.delay("a") <= 10.0
    hosts.failed("b", 60.0)
    assert 59.9 < hosts.delay("b") <= 60.0


def test_a_host_that_does_not_answer_is_given_up(site, send, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FAILURES_IN_A_ROW", 3)
    for item in range(10):
        site.answers[f"/{item}"] = lambda handler: send(handler, 503)
    report = fetch({item: site.url(f"/{item}") for item in range(10)}, tmp_path, retries=0, parallel=1)
    assert report.failed == {
        "HTTP 503 Service Unavailable": 3,
        "127.0.0.1 was given up after 3 failures in a row": 7,
    }
    assert len(site.requests) == 3
    assert not (tmp_path / "failed.json").exists()


def test_nobody_there(tmp_path, site):
    site.server.shutdown()
    site.server.server_close()
    report = fetch({"a": site.url("/a")}, tmp_path)
    assert report.fetched == 0
    assert next(iter(report.failed)).startswith("there is no network, or 127.0.0.1 does not answer")


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a shell's background jobs begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_whole_files_and_the_note(site, send, shop, tmp_path):
    site.answers["/gone.jpg"] = lambda handler: send(handler, 404)

    def interrupt(handler):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        send(handler, 200, JPG)

    site.answers["/3.jpg"] = interrupt
    urls = {"gone": site.url("/gone.jpg"), **shop}
    with pytest.raises(KeyboardInterrupt):
        fetch(urls, tmp_path, parallel=1)
    left = names(tmp_path)
    assert left[:4] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]  # the one under way ended well
    assert left[-1] == "failed.json"
    whole = {f"{item}.jpg": JPG + bytes([item]) for item in range(10)} | {"3.jpg": JPG}
    assert all((tmp_path / name).read_bytes() == whole[name] for name in left[:-1])
    site.answers["/3.jpg"] = JPG
    assert fetch(urls, tmp_path).fetched == 10 - (len(left) - 1)


def test_what_a_killed_call_left_is_swept(shop, tmp_path):
    (tmp_path / ".partial-abc.jpg").write_bytes(b"half")
    fetch(shop, tmp_path)
    assert names(tmp_path) == sorted(f"{item}.jpg" for item in range(10))


def test_a_full_disk_ends_the_call_for_all_threads(site, tmp_path, monkeypatch):
    def full_for_one(path, write):
        if threading.current_thread().name == "pictures_1":
            raise OSError(28, "No space left on device")
        write(path)

    monkeypatch.setattr(pictures, "write_atomic", full_for_one)
    site.answers["/x"] = JPG
    with pytest.raises(StorageError, match="No space left"):
        fetch(dict.fromkeys(range(200), site.url("/x")), tmp_path, parallel=2, per_host_wait=0.005)
    assert len(site.requests) < 100


def test_settings_that_cannot_work(shop, tmp_path):
    with pytest.raises(ConfigError, match="as a number and as text"):
        fetch({1: shop[1], "1": shop[1]}, tmp_path)
    with pytest.raises(ConfigError, match="0 pictures at a time"):
        fetch(shop, tmp_path, parallel=0)
    assert fetch({}, tmp_path) == PictureReport(0, 0, {}, [])
