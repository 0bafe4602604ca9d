import email.utils
import gzip
import hashlib
import json
import os
import re
import socket
import time

import pytest

from triptych.errors import ConfigError, StorageError
from triptych.fetch.download import Downloaded, download
from triptych.fetch.web import MAX_WAIT, NetworkError, Trouble, check_url, pause
from triptych.files import atomic, check_room

DATA = bytes(range(256)) * 3000  # 768,000 bytes: several chunks
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Pauses(list):
    """Notes how long it was asked to sleep, and does not."""

    def __call__(self, seconds):
        self.append(seconds)


@pytest.fixture
def fetch(site, tmp_path):
    def fetch(path="/data.bin", name="data.bin", **options):
        return download(
            site.url(path), tmp_path / name, **{"wait": 0.01, "sleep": Pauses(), "timeout": 5, **options}
        )

    return fetch


def whole(send, data=DATA, **headers):
    return lambda handler: send(handler, 200, data, **headers)


def broken(send, upto, data=DATA, **headers):
    """Announce all of it, send the beginning, hang up."""
    return lambda handler: send(handler, 200, data[:upto], Content_Length=str(len(data)), **headers)


def ranged(send, data=DATA, tag='"one"'):
    """Serve files as good servers do."""

    def answer(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked is None or handler.headers["If-Range"] != tag:
            return send(handler, 200, data, ETag=tag)
        start = int(asked[1])
        if start >= len(data):
            return send(handler, 416, Content_Range=f"bytes */{len(data)}")
        return send(
            handler, 206, data[start:], ETag=tag, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}"
        )

    return answer


def test_a_whole_file(site, fetch, tmp_path):
    site.answers["/data.bin"] = DATA
    told = []
    found = fetch(sha256=SHA, md5=MD5, n_bytes=len(DATA), observer=lambda *done: told.append(done))
    assert found == Downloaded(tmp_path / "data.bin", len(DATA), SHA, resumed_from=0, attempts=1)
    assert found.path.read_bytes() == DATA
    assert names(tmp_path) == ["data.bin"]
    assert told[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert site.requests[0][1]["User-Agent"].startswith("triptych/")


def test_without_an_announced_length(site, fetch, send):
    site.answers["/data.bin"] = whole(send, Content_Length=None)
    told = []
    assert fetch(observer=lambda *done: told.append(done)).sha256 == SHA
    assert told[-1] == (len(DATA), None)


def test_a_right_file_is_left_alone_and_a_wrong_one_replaced(site, fetch, tmp_path):
    site.answers["/data.bin"] = DATA
    target = tmp_path / "data.bin"
    target.write_bytes(DATA)
    assert fetch(sha256=SHA).attempts == 0
    assert fetch(md5=MD5.upper(), n_bytes=len(DATA)).sha256 == SHA
    assert fetch().attempts == 0  # nothing known: what has the name is whole
    assert site.requests == []
    target.write_bytes(DATA[:-1])
    assert fetch(n_bytes=len(DATA)).attempts == 1
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("kind", ["ETag", "Last-Modified"])
def test_a_broken_connection_is_resumed(site, fetch, send, kind):
    tag = {"ETag": '"one"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}[kind]
    site.answers["/data.bin"] = [broken(send, 500_000, **{kind: tag}), ranged(send, tag=tag)]
    found = fetch(sha256=SHA)
    assert (found.attempts, found.path.read_bytes() == DATA) == (2, True)
    assert found.resumed_from == 500_000
    assert site.requests[1][1]["Range"] == "bytes=500000-"
    assert site.requests[1][1]["If-Range"] == tag


def test_a_later_call_goes_on(site, fetch, send, tmp_path):
    site.answers["/data.bin"] = [broken(send, 400_000, ETag='"one"'), ranged(send)]
    with pytest.raises(NetworkError, match="broke off"):
        fetch(retries=0)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    assert json.loads((tmp_path / "data.bin.part.json").read_text())["total"] == len(DATA)
    found = fetch(retries=0)
    assert (found.resumed_from, found.attempts) == (400_000, 1)
    assert found.path.read_bytes() == DATA
    assert names(tmp_path) == ["data.bin"]


def test_a_changed_file_is_fetched_from_its_beginning(site, fetch, send):
    new = DATA[::-1]
    site.answers["/data.bin"] = [broken(send, 400_000, ETag='"one"'), ranged(send, new, tag='"two"')]
    found = fetch()
    assert (found.resumed_from, found.path.read_bytes() == new) == (0, True)


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}, {"ETag": '"one"'}])
def test_a_server_that_cannot_resume_begins_anew(site, fetch, send, headers):
    site.answers["/data.bin"] = [broken(send, 400_000, **headers), whole(send, **headers)]
    found = fetch(sha256=SHA)
    assert (found.resumed_from, found.attempts) == (0, 2)
    assert ("Range" in site.requests[1][1]) == (headers == {"ETag": '"one"'})


@pytest.mark.parametrize(
    "answered",
    ["bytes 399999-767999/768000", "bytes 400000-767999/*", f"bytes 400000-9/{'9' * 5000}", "nonsense"],
)
def test_a_server_that_miscounts_is_asked_for_the_whole(site, fetch, send, answered):
    def miscount(handler):
        send(handler, 206, DATA[400_000:], Content_Range=answered)

    site.answers["/data.bin"] = [broken(send, 400_000, ETag='"one"'), miscount, whole(send)]
    assert fetch(sha256=SHA).attempts == 3
    assert "Range" not in site.requests[2][1]


def test_a_part_nobody_asked_for_is_not_appended(site, fetch, send, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"rubbish")
    unasked = lambda handler: send(handler, 206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}")  # noqa: E731
    site.answers["/data.bin"] = [unasked, whole(send)]
    assert fetch().path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("begun", "answered"),
    [
        (
            {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
        ),
        ({"ETag": '"one"'}, {"ETag": '"two"'}),
        ({"ETag": '"one"'}, {"ETag": 'W/"one"'}),
        ({"ETag": '"one"'}, {"ETag": '"one"', "of": 800_000}),
        ({"ETag": '"one"'}, {"status": 416, "of": 400_000}),
    ],
)
def test_the_rest_of_another_file_is_not_appended(site, fetch, send, begun, answered):
    """Servers that heed Range and not If-Range."""
    n_bytes = answered.pop("of", len(DATA))
    status = answered.pop("status", 206)
    new = (DATA * 2)[:n_bytes][::-1]

    def rest(handler):
        start = "*" if status == 416 else f"400000-{n_bytes - 1}"
        send(handler, status, new[400_000:], Content_Range=f"bytes {start}/{n_bytes}", **answered)

    site.answers["/data.bin"] = [broken(send, 400_000, **begun), rest, whole(send, new)]
    found = fetch()
    assert (found.attempts, found.resumed_from, found.path.read_bytes() == new) == (3, 0, True)


@pytest.mark.parametrize(
    "answered", [{}, {"ETag": 'W/"x"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}]
)
def test_what_an_answer_does_not_repeat_has_not_changed(site, fetch, send, answered):
    """A 206 may leave out the date where it has a tag (RFC 9110, section 15.3.7)."""
    begun = {"ETag": 'W/"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}

    def rest(handler):
        send(
            handler,
            206,
            DATA[400_000:],
            Content_Range=f"bytes 400000-{len(DATA) - 1}/{len(DATA)}",
            **answered,
        )

    site.answers["/data.bin"] = [broken(send, 400_000, **begun), rest]
    assert fetch(sha256=SHA).resumed_from == 400_000


def test_a_part_of_another_address_is_not_used(site, fetch, send):
    site.answers["/old.bin"] = broken(send, 400_000, ETag='"one"')
    site.answers["/data.bin"] = ranged(send)
    with pytest.raises(NetworkError):
        fetch("/old.bin", retries=0)
    assert fetch().resumed_from == 0


@pytest.mark.parametrize("note", ["{", "[]", '{"url": 3}'])
def test_a_damaged_note_begins_anew(site, fetch, tmp_path, note):
    site.answers["/data.bin"] = DATA
    (tmp_path / "data.bin.part").write_bytes(b"rubbish")
    (tmp_path / "data.bin.part.json").write_text(note)
    assert fetch().sha256 == SHA


@pytest.mark.parametrize("total", [len(DATA), None])
def test_a_part_that_is_whole_already(site, fetch, send, tmp_path, total):
    """The process was killed between the last byte and the move."""
    site.answers["/data.bin"] = ranged(send)
    (tmp_path / "data.bin.part").write_bytes(DATA)
    note = {"url": site.url("/data.bin"), "validator": '"one"', "total": total}
    (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
    assert fetch(sha256=SHA).path.read_bytes() == DATA
    assert len(site.requests) == (total is None)  # 416 answers the one


def test_a_part_longer_than_the_file(site, fetch, send, tmp_path):
    site.answers["/data.bin"] = ranged(send)
    (tmp_path / "data.bin.part").write_bytes(DATA + b"x")
    note = {"url": site.url("/data.bin"), "validator": '"one"', "total": None}
    (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
    assert fetch(sha256=SHA).path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"sha256": "0" * 64}, [SHA, "0" * 64]),
        ({"md5": "0" * 32}, [MD5, "0" * 32]),
        ({"n_bytes": 5}, ["768,000 bytes instead of 5"]),
    ],
)
def test_a_wrong_file_gets_one_more_chance_and_leaves_nothing(site, fetch, tmp_path, expected, words):
    site.answers["/data.bin"] = DATA
    with pytest.raises(StorageError) as caught:
        fetch(**expected)
    assert all(word in str(caught.value) for word in words)
    assert len(site.requests) == 2
    assert names(tmp_path) == []


def test_the_second_chance_can_go_well(site, fetch, send):
    site.answers["/data.bin"] = [whole(send, DATA[::-1]), whole(send)]
    assert fetch(sha256=SHA).path.read_bytes() == DATA


def test_more_than_expected_is_cut_off(site, fetch, send, tmp_path):
    site.answers["/data.bin"] = whole(send, Content_Length=None)
    with pytest.raises(StorageError, match="more than 1,000 bytes"):
        fetch(n_bytes=1000)
    assert names(tmp_path) == []


def test_passing_failures_are_waited_out(site, fetch, send):
    pauses = Pauses()
    site.answers["/data.bin"] = [
        lambda handler: send(handler, 503, Retry_After="7"),
        lambda handler: send(
            handler, 429, Retry_After=email.utils.formatdate(time.time() + 3600, usegmt=True)
        ),
        lambda handler: send(handler, 408, Retry_After="soon"),
        whole(send),
    ]
    assert fetch(sleep=pauses, wait=1.0).attempts == 4
    assert pauses[:2] == [7.0, MAX_WAIT]
    assert 2.0 <= pauses[2] <= 4.0


@pytest.mark.parametrize(
    "asked",
    ["Mon, 01 Jan 999999999999 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999999", "9" * 5000],
)
def test_a_pause_beyond_all_numbers(site, fetch, send, asked):
    pauses = Pauses()
    site.answers["/data.bin"] = [lambda handler: send(handler, 503, Retry_After=asked), whole(send)]
    assert fetch(sleep=pauses).sha256 == SHA
    assert pauses[0] == MAX_WAIT if asked.isdecimal() else pauses[0] < 1


def test_a_length_beyond_all_numbers_is_none(site, fetch, send):
    site.answers["/data.bin"] = whole(send, Content_Length="9" * 5000)
    told = []
    assert fetch(observer=lambda *done: told.append(done)).sha256 == SHA
    assert told[-1] == (len(DATA), None)


def test_pauses_grow_and_are_never_all_the_same():
    drawn = [[pause(attempt, 1.0, Trouble("")) for _ in range(50)] for attempt in range(1, 5)]
    for attempt, pauses in enumerate(drawn):
        assert 2**attempt / 2 <= min(pauses) < max(pauses) <= 2**attempt
    assert pause(99, 1.0, Trouble("")) == MAX_WAIT


def test_a_server_that_goes_on_failing(site, fetch, send):
    pauses = Pauses()
    site.answers["/data.bin"] = lambda handler: send(handler, 500)
    with pytest.raises(NetworkError, match="HTTP 500 Internal Server Error"):
        fetch(retries=3, sleep=pauses)
    assert (len(site.requests), len(pauses)) == (4, 3)


def test_tries_that_bring_bytes_do_not_count(site, fetch, send):
    def some(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        upto = min(start + 100_000, len(DATA))
        body, headers = DATA[start:upto], {"ETag": '"one"', "Content_Length": str(len(DATA) - start)}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        send(handler, 206 if start else 200, body, **headers)

    site.answers["/data.bin"] = some
    assert fetch(retries=1, sha256=SHA).attempts == 8


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_said_at_once(site, fetch, send, tmp_path, status):
    site.answers["/data.bin"] = lambda handler: send(handler, status)
    with pytest.raises(NetworkError) as caught:
        fetch(page="https://example.org/data")
    assert f"HTTP {status}" in caught.value.found
    assert "https://example.org/data" in caught.value.fix
    assert str(tmp_path / "data.bin") in caught.value.fix
    assert len(site.requests) == 1


def test_a_silent_server(site, fetch):
    site.answers["/data.bin"] = lambda handler: time.sleep(0.6)
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1 kept silent for too long"):
        fetch(timeout=0.1, retries=1)
    assert len(site.requests) == 2


def test_a_server_that_falls_silent_half_way(site, fetch, send):
    def stall(handler):
        broken(send, 300_000, ETag='"one"')(handler)
        handler.wfile.flush()
        time.sleep(0.6)

    site.answers["/data.bin"] = [stall, ranged(send)]
    assert fetch(timeout=0.2).resumed_from == 300_000


def test_nobody_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.gz"
        pauses = Pauses()
        with pytest.raises(NetworkError, match=r"no network, or 127\.0\.0\.1 does not answer") as caught:
            download(url, tmp_path / "x.gz", sleep=pauses)
    assert f"download {url} on another machine and put it at {tmp_path / 'x.gz'}" in caught.value.fix
    assert pauses == []


def test_a_name_that_cannot_be_resolved(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NetworkError, match=r"no network, or data\.example does not answer"):
        download("http://data.example/x", tmp_path / "x")


def test_a_network_that_goes_away_half_way_is_waited_for(site, fetch, send, monkeypatch):
    real, calls = socket.create_connection, []

    def flicker(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(101, "Network is unreachable")
        return real(*args, **options)

    monkeypatch.setattr(socket, "create_connection", flicker)
    site.answers["/data.bin"] = [broken(send, 400_000, ETag='"one"'), ranged(send)]
    found = fetch()
    assert (found.attempts, found.resumed_from) == (3, 400_000)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "http://[x"])
def test_only_http_is_followed(site, fetch, send, tmp_path, to):
    site.answers["/data.bin"] = lambda handler: send(handler, 302, Location=to)
    with pytest.raises(ConfigError, match=r"is no address that can be fetched.*http://"):
        fetch()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/x", "/etc/passwd", "http://", "http://[", "", "http://host:80a/x",
     "http://host:99999/x", "http://host:0/x", "http:// host/x", "http://img shop.com/x"],
)  # fmt: skip
def test_only_http_is_fetched(tmp_path, url):
    with pytest.raises(ConfigError, match="no address that can be fetched"):
        download(url, tmp_path / "x")
    with pytest.raises(ConfigError):
        check_url(url)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("http://a..b/x", r"a\.\.b is no name of a host"),
        ("http://nobody.example/x", r"nobody\.example does not answer"),
        ("/gone", "HTTP 404 Not Found"),
    ],
)
def test_a_redirect_that_leads_nowhere(site, fetch, send, tmp_path, monkeypatch, to, words):
    real = socket.getaddrinfo

    def resolve(host, *rest, **options):
        if host == "nobody.example":
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    site.answers["/data.bin"] = lambda handler: send(handler, 302, Location=to)
    with pytest.raises(NetworkError, match=words):
        fetch(retries=0)
    assert names(tmp_path) == []


def test_a_server_that_is_silent_behind_a_redirect_is_named(site, fetch, send):
    def stall(handler):
        broken(send, 100)(handler)
        handler.wfile.flush()
        time.sleep(0.6)

    site.answers["/there"] = stall
    there = site.url("/there").replace("127.0.0.1", "localhost")
    site.answers["/data.bin"] = lambda handler: send(handler, 302, Location=there)
    with pytest.raises(NetworkError, match="localhost kept silent"):
        fetch(timeout=0.2, retries=0)


def test_an_address_of_a_proxy_that_cannot_be_right_is_no_passing_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:80a")
    pauses = Pauses()
    with pytest.raises(NetworkError, match=r"the address of data\.example, or that of the proxy"):
        download("http://data.example/x", tmp_path / "x", sleep=pauses)
    assert pauses == []


@pytest.mark.parametrize("to", ["/new place/ü.bin", "{base}/new%20place/%C3%BC.bin"])
def test_a_redirect_is_followed(site, fetch, send, to):
    site.answers["/new%20place/%C3%BC.bin"] = DATA
    location = to.format(base=site.base).encode().decode("latin-1")
    site.answers["/data.bin"] = lambda handler: send(handler, 301, Location=location)
    assert fetch().sha256 == SHA
    assert fetch("/new place/ü.bin", "other.bin").sha256 == SHA


def test_a_page_of_text_instead_of_an_archive(site, fetch, tmp_path):
    site.answers["/x.gz"] = b"<!DOCTYPE html><html><body>We have moved</body></html>"
    with pytest.raises(StorageError, match="a web page"):
        fetch("/x.gz", "x.gz")
    site.answers["/x.b"] = b"\n<html>"
    with pytest.raises(StorageError, match="a web page"):
        fetch("/x.b", "x.b")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x.gz", "x.zip", "x.parquet", "x.npy", "x.xz", "x.bz2"])
def test_contents_must_fit_the_suffix(site, fetch, name):
    for wrong in (b"sorry", b""):
        site.answers["/x"] = wrong
        with pytest.raises(StorageError, match=f"no {name[1:]} file"):
            fetch("/x", name)


def test_a_real_archive_passes(site, fetch):
    site.answers["/x.gz"] = gzip.compress(b"rows")
    assert gzip.decompress(fetch("/x.gz", "x.gz").path.read_bytes()) == b"rows"


def test_a_full_disk(site, fetch, tmp_path, monkeypatch):
    site.answers["/data.bin"] = DATA
    with pytest.raises(StorageError, match=r"bytes of free space; wanted"):
        check_room(tmp_path / "not" / "made", 1 << 60)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match=r"1,000 bytes of free space; wanted 768,000"):
        fetch()


def test_a_folder_that_cannot_be_written(site, fetch, tmp_path):
    site.answers["/data.bin"] = DATA
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        fetch(name="file/data.bin")


def test_a_stopped_download_leaves_a_part_only(site, fetch, send, tmp_path):
    site.answers["/data.bin"] = ranged(send)

    def stop(done, _):
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(observer=stop)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    assert fetch(sha256=SHA).resumed_from > 100_000
    assert names(tmp_path) == ["data.bin"]


def test_a_download_that_is_interrupted_when_it_is_whole_is_kept(site, fetch, tmp_path, monkeypatch, send):
    site.answers["/data.bin"] = ranged(send)
    flush = atomic._flush

    def interrupted(path):
        if path.is_file() and path.stat().st_size == len(DATA):
            raise KeyboardInterrupt
        flush(path)

    monkeypatch.setattr(atomic, "_flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(sha256=SHA)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    monkeypatch.setattr(atomic, "_flush", flush)
    assert fetch(sha256=SHA).path.read_bytes() == DATA
    assert len(site.requests) == 1
    assert names(tmp_path) == ["data.bin"]


def test_the_second_of_two_at_one_file_is_refused(site, fetch, send, tmp_path):
    site.answers["/data.bin"] = ranged(send)
    site.answers["/other.bin"] = DATA
    refused = []

    def meanwhile(*_):
        with pytest.raises(StorageError) as caught:
            fetch(sha256=SHA)
        refused.append(caught.value.found)
        assert fetch("/other.bin", "other.bin").sha256 == SHA

    assert fetch(sha256=SHA, observer=meanwhile).path.read_bytes() == DATA
    assert f"another process is fetching {tmp_path / 'data.bin'}: process {os.getpid()} on" in refused[0]
    assert site.asked("/data.bin") == 1
    assert names(tmp_path) == ["data.bin", "other.bin"]
