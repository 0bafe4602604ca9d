"""What the service refuses, how it says so, and that no client's mistake is a fault of the service."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import tempfile
import threading
import time

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from triptych.cli.app import run as command
from triptych.data.demo import build_shop
from triptych.errors import ConfigError
from triptych.serving.app import create_app
from triptych.serving.batching import Together
from triptych.serving.connection import Connection
from triptych.serving.contents import MOST_PIXELS
from triptych.serving.gate import Limits
from triptych.serving.loaded import LoadedRun
from triptych.serving.observe import JsonLines
from triptych.serving.service import MOST_HEAD, bind, own_names, read_key

KEY = "a-key-of-some-length"


def problem(answer, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"].keys() == {"found", "wanted", "fix"}
    return answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/recommend", 422),
        ("/recommend?user=", 422),
        ("/recommend?user=u0001&k=0", 422),
        ("/recommend?user=u0001&k=1001", 422),
        ("/recommend?user=u0001&k=91", 400),  # the shop has 90 items
        ("/recommend?user=u0001&k=ten", 422),
        ("/recommend?user=u0001&colour=red", 422),
        ("/recommend?user=u0001&exclude=most", 422),
        ("/recommend?user=u0001&diversity=nan", 422),
        ("/recommend?user=u0001&diversity=1.1", 422),
        ("/recommend?user=u0001&where=price%20%3C", 400),
        ("/recommend?user=u0001&where=" + "(" * 1500, 400),
        ("/recommend?user=u0001&where=" + "x" * 4097, 422),
        ("/recommend?user=" + "u" * 501, 422),
        ("/recommend?user=nobody", 404),
        ("/recommend?user=%00", 404),
        ("/recommend?user=%ff%fe", 404),
        ("/recommend?user=u0001&run=other", 404),
        ("/similar?item=nothing", 404),
        ("/similar?item=lamp-0031&k=90", 400),  # it is no neighbour of itself
        ("/explain?user=u0001&item=nothing", 404),
        ("/users/history?user=nobody", 404),
        ("/users?limit=1001", 422),
        ("/items?query=" + "x" * 201, 422),
        ("/pictures?item=nothing", 404),
        ("/no/such/path", 404),
        ("/items/new", 405),
        ("/docs", 404),
    ],
)
def test_questions_that_cannot_be_answered(client, path: str, status: int):
    problem(client.get(path), status)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"users": []}', 422),
        (b'{"users": "u0001"}', 422),
        (b'{"users": [true]}', 422),
        (b'{"users": [1.5]}', 422),
        (b'{"users": [null]}', 422),
        (b'{"users": [1e400]}', 422),
        (b'{"users": [NaN]}', 422),
        (b'{"users": [99999999999999999999999]}', 422),
        (b'{"users": ["nobody"]}', 404),
        (b'{"users": ["\\ud800"]}', 404),
        (b'{"users": ["u0001"], "k": 1e9}', 422),
        (b'{"users": ["u0001"], "colour": 1}', 422),
        (json.dumps({"users": ["u0001"] * 1001}).encode(), 422),
        (json.dumps({"users": ["u0001"] * 1000, "k": 101}).encode(), 422),  # too long an answer
        (b"[" * 400_000, 400),  # deeper than any parser likes
        (b'{"users":' * 100_000, 400),
        (b"\xff\xfe\x00", 400),
    ],
)
def test_bodies_that_cannot_be_answered(client, body: bytes, status: int):
    answer = client.post("/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (status, 422), answer.text
    problem(answer, answer.status_code)


def test_what_was_sent_is_not_thrown_back(client):
    told = problem(client.get("/recommend?user=u0001&k=" + "9" * 3000), 422)
    assert len(told["found"]) < 200


OUTSIDE = [
    "../secret.txt", "..\\secret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "%252e%252e%252fsecret.txt",
    "..%c0%afsecret.txt", "..%5csecret.txt", "deep/../../secret.txt", "deep/%2e%2e/%2e%2e/secret.txt",
    "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "file:///etc/passwd", "secret.txt%00.html", "index.html%00",
    "\u2025/secret.txt", "\uff0e\uff0e/secret.txt", "\u2024\u2024/secret.txt", "....//secret.txt", "~/secret.txt",
    "C:%5cWindows%5cwin.ini", "%00", ".", "..", "deep", "deep/", "",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_outside(served, client, serve, raw, path: str):
    assert (served.page.parent / "secret.txt").is_file()  # there is something to find
    place = "/static/" + path
    answer = client.get(place)
    assert answer.status_code == 404 or answer.text.startswith("<!doctype"), (
        answer.text
    )  # the client folds ".."
    assert "secret of" not in answer.text
    assert "root:" not in answer.text
    problem(client.get("/pictures", params={"item": path or "."}), 404)
    problem(client.get("/recommend", params={"user": "u0001", "run": path or "."}), 404)


def test_no_path_leads_outside_on_the_wire(served, serve, raw):
    """Sent as they are: clients fold dots before they ask."""
    with serve(create_app(served.catalogue("ease"), page=served.page)) as port:
        for path in OUTSIDE:
            connection = raw(port)
            asked = (
                b"GET /static/"
                + path.replace(" ", "%20").encode()
                + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            )
            connection.sendall(asked)
            answer = read_all(connection)
            assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), (path, answer)
            assert b"secret of" not in answer


def trickle(connection: socket.socket, drop: bytes) -> None:
    """Send a little now and then, until the other side has had enough."""
    began = time.monotonic()
    try:
        while time.monotonic() - began < 10:
            connection.sendall(drop)
            time.sleep(0.05)
    except ConnectionError:
        return


def read_answer(connection: socket.socket) -> bytes:
    """Read one answer; the connection may stay open."""
    answer = b""
    while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0].partition(b":")[2]) and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


def read_all(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def test_the_page_is_served_with_types_and_tags(served, client):
    front = client.get("/")
    assert "Stand-in" in front.text
    assert front.headers["content-type"].startswith("text/html")
    policy = front.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    script = client.get("/static/deep/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = client.get("/static/deep/main.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/health").headers["x-content-type-options"] == "nosniff"


@pytest.fixture(scope="module")
def locked(served):
    with TestClient(create_app(served.catalogue("vbpr"), page=served.page, key=KEY)) as client:
        yield client


class TestKey:
    OPEN = ("/", "/health", "/static/deep/main.js")
    LOCKED = (
        "/recommend?user=u0001", "/runs", "/metrics", "/openapi.json", "/users", "/users/history?user=u0001",
        "/items", "/pictures?item=lamp-0031", "/similar?item=lamp-0031", "/explain?user=u0001&item=lamp-0031",
        "/no/such/path", "/static",
    )  # fmt: skip

    def test_some_paths_are_open(self, locked):
        assert [locked.get(path).status_code for path in self.OPEN] == [200, 200, 200]

    @pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], KEY + "x", KEY.upper(), "\xe9" * 16])
    def test_the_others_want_the_key(self, locked, key: str | None):
        headers = {} if key is None else {"x-api-key": key.encode("latin-1")}
        for path in self.LOCKED:
            assert KEY not in str(problem(locked.get(path, headers=headers), 401))

    def test_the_key_opens(self, locked):
        for path in self.LOCKED[:5]:
            assert locked.get(path, headers={"X-API-Key": KEY}).status_code == 200
        twice = [("X-API-Key", KEY), ("X-API-Key", "other")]
        problem(locked.get("/runs", headers=twice), 401)

    def test_posts_want_it_before_their_body_is_read(self, locked):
        problem(locked.post("/recommend", content=b"x" * (2 << 20)), 401)
        problem(locked.post("/runs/reload"), 401)

    def test_the_log_says_what_was_asked_but_no_key_and_no_query(self, locked, caplog):
        with caplog.at_level(logging.INFO, logger="triptych.serving"):
            locked.get("/recommend?user=u0001&k=3", headers={"x-api-key": KEY})
            locked.get("/recommend?user=u0001", headers={"x-api-key": "wrong-key-of-mine"})
        lines = [JsonLines().format(record) for record in caplog.records]
        said = [json.loads(line) for line in lines]
        assert [(line["method"], line["path"], line["status"]) for line in said] == [
            ("GET", "/recommend", 200),
            ("GET", "/recommend", 401),
        ]
        assert all(line["ms"] >= 0 and line["event"] == "request" for line in said)
        assert not any(word in line for line in lines for word in (KEY, "wrong-key", "u0001"))


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("TRIPTYCH_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("TRIPTYCH_API_KEY", KEY)
    assert read_key(None) == KEY
    file = tmp_path / "key"
    file.write_text("another-key-of-some-length\n", encoding="utf-8")
    assert read_key(file) == "another-key-of-some-length"
    for bad in (
        "",
        "short",
        "two words in one line of it",
        "schlüssel-schlüssel",
        "line-one-of-it-all\nline-two",
    ):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(ConfigError, match="no fit key") as refused:
            read_key(file)
        assert not bad or bad not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none")
    monkeypatch.setenv("TRIPTYCH_API_KEY", "")
    with pytest.raises(ConfigError, match="no fit key"):
        read_key(None)


HEAD = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
QUESTION = b'{"users": ["u0001"], "k": 2}'


@pytest.fixture(scope="module")
def port(served, serve):
    limits = Limits(json_bytes=2000, upload_bytes=30_000, body_seconds=0.6)
    with serve(create_app(served.catalogue("vbpr"), page=served.page, limits=limits)) as port:
        yield port


class TestOnTheWire:
    """Sizes and times, as a server sees them."""

    def post(self, connection: socket.socket, head: bytes, body: bytes) -> bytes:
        connection.sendall(HEAD + head + b"connection: close\r\n\r\n" + body)
        return read_all(connection)

    def test_a_body_in_one_piece_or_in_chunks(self, port, raw):
        plain = self.post(raw(port), b"content-length: %d\r\n" % len(QUESTION), QUESTION)
        chunked = self.post(
            raw(port), b"transfer-encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(QUESTION), QUESTION)
        )
        assert plain.startswith(b"HTTP/1.1 200")
        assert chunked.startswith(b"HTTP/1.1 200")
        assert plain.partition(b"\r\n\r\n")[2] == chunked.partition(b"\r\n\r\n")[2]

    def test_a_declared_length_is_refused_before_the_body_comes(self, port, raw):
        answer = self.post(raw(port), b"content-length: 2001\r\n", b"")
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"2,000 bytes" in answer

    def test_an_undeclared_length_is_refused_at_the_first_byte_too_many(self, port, raw):
        piece = b"7d0\r\n" + b" " * 2000 + b"\r\n"
        connection = raw(port)
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + piece + piece)  # and no end
        assert read_answer(connection).startswith(b"HTTP/1.1 413")

    def test_uploads_may_be_longer_but_not_much(self, port, raw):
        def upload(n_bytes: int) -> bytes:
            body = (
                b'--b\r\ncontent-disposition: form-data; name="text"\r\n\r\nlamp '
                + b" " * n_bytes
                + b"\r\n--b--\r\n"
            )
            head = (
                b"POST /items/new HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n"
                % len(body)
            )
            connection = raw(port)
            connection.sendall(head + b"content-type: multipart/form-data; boundary=b\r\n\r\n" + body)
            return read_all(connection)

        assert upload(10_000).startswith(b"HTTP/1.1 200")
        assert upload(40_000).startswith(b"HTTP/1.1 413")

    def test_a_body_that_trickles_is_cut(self, port, raw):
        connection = raw(port)
        connection.sendall(HEAD + b"content-length: 500\r\n\r\n")
        began = time.monotonic()
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - began < 10:
            connection.sendall(b" ")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")
        assert 0.5 < time.monotonic() - began < 8

    def test_a_head_that_trickles_is_cut(self, port, raw, monkeypatch):
        monkeypatch.setattr(Connection, "head_seconds", 0.5)
        connection, still = raw(port), raw(port)  # the other one says nothing at all
        began = time.monotonic()
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        trickle(connection, b"x: y\r\n")
        assert 0.3 < time.monotonic() - began < 8
        assert read_all(still) == b""

    def test_a_second_head_that_trickles_is_cut_as_well(self, port, raw, monkeypatch):
        monkeypatch.setattr(Connection, "next_head_seconds", 0.5)
        connection = raw(port)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        trickle(connection, b"G")
        assert time.monotonic() - began < 8

    def test_a_head_has_a_size(self, port, raw):
        connection = raw(port)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MOST_HEAD)
        connection.sendall(b"y")
        assert read_answer(connection).startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize(
        "line",
        [b"\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01 hello" * 9 + b"\r\n\r\n"],
    )
    def test_what_is_not_http_is_no_fault(self, port, raw, line: bytes):
        connection = raw(port)
        connection.sendall(line)
        assert read_answer(connection).split()[1] in (b"200", b"400")

    def test_a_connection_serves_many_requests(self, port, raw):
        connection = raw(port)
        for _ in range(3):
            connection.sendall(HEAD + b"content-length: 5000\r\n\r\n" + b" " * 5000)
            assert read_answer(connection).startswith(b"HTTP/1.1 413")  # what is left of it is passed over
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(QUESTION) + QUESTION)
        assert read_answer(connection).startswith(b"HTTP/1.1 200")


def test_an_answer_that_takes_too_long_and_a_fault_are_said_without_a_trace(served, monkeypatch, caplog):
    app = create_app(served.catalogue("vbpr"), page=served.page, limits=Limits(seconds=0.3))
    with TestClient(app) as client:
        monkeypatch.setattr(LoadedRun, "similar", lambda *_: time.sleep(1.0))
        late = client.get("/similar?item=lamp-0031")
        assert "0.3 seconds" in problem(late, 503)["found"]
        assert late.headers["retry-after"] == "5"
        monkeypatch.setattr(LoadedRun, "similar", lambda *_: 1 / 0)
        told = problem(client.get("/similar?item=lamp-0031"), 500)
        assert "division" not in str(told)
        assert "ZeroDivisionError" in JsonLines().format(caplog.records[-1])  # for whoever runs it
        assert client.get("/recommend?user=u0001").status_code == 200


def test_questions_that_take_long_hold_up_only_their_like(served, monkeypatch):
    begun, done = [], threading.Event()

    def explain(*_: object) -> dict:
        begun.append(1)
        done.wait(30)
        return {}

    monkeypatch.setattr(LoadedRun, "explain", explain)
    app = create_app(served.catalogue("vbpr"), page=served.page, limits=Limits(seconds=0.5))
    with TestClient(app) as client:
        try:
            for _ in range(3):
                problem(client.get("/explain?user=u0001&item=lamp-0031"), 503)
            assert begun == [1]  # the others waited in line for what it would find, and gave up
            for path in ("/recommend?user=u0001", "/users/history?user=u0001", "/items"):
                assert client.get(path).status_code == 200
        finally:
            done.set()


def test_an_upload_is_held_in_memory_alone(client, monkeypatch):
    def no_place(*_: object, **__: object) -> None:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_place)
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    assert len(file.getvalue()) > 2 << 20
    answer = client.post("/items/new", files={"picture": file.getvalue()}, data={"k": 3})
    assert answer.status_code == 200, answer.text


def test_no_path_is_redirected(client):
    for path in ("/health/", "/recommend/?user=u0001"):
        problem(client.get(path, headers={"host": "shop.example"}, follow_redirects=False), 404)


def test_checkers_of_health_may_ask_for_the_head_alone(client):
    for path in ("/", "/static/deep/main.js"):
        answer = client.head(path)
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(len(client.get(path).content))
    answer = client.head("/health")  # tells its seconds, so that its length differs between calls
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 0
    assert client.get("/health").json()["status"] == "ok"


class TestHosts:
    """A foreign page whose name was made to lead to this machine is sent to by its own name."""

    def test_an_address_of_this_machine_alone_has_names(self):
        assert own_names("127.0.0.1") == own_names("::1") == {"localhost", "127.0.0.1", "[::1]"}
        assert "127.0.0.2" in own_names("127.0.0.2")
        assert own_names("0.0.0.0") is own_names("::") is own_names("192.0.2.1") is None

    def test_only_these_are_answered(self, served):
        app = create_app(served.catalogue("ease"), page=served.page, hosts=own_names("127.0.0.1"))
        with TestClient(app) as client:
            for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]", "[::1]:8000"):
                assert client.get("/runs", headers={"host": host}).status_code == 200
            for host in (
                "shop.example", "shop.example:8000", "127.0.0.1.shop.example", "localhost.shop.example:80",
                "[::1", "", "shop.example/[::1]", "x" * 5000,
            ):  # fmt: skip
                for path in ("/", "/health", "/users/history?user=u0001", "/no/such/path"):
                    said = problem(client.get(path, headers={"host": host}), 421)
                    assert len(said["found"]) < 120


def test_a_busy_service_says_so(served, monkeypatch):
    app = create_app(served.catalogue("vbpr"), page=served.page, limits=Limits(in_flight=0))
    with TestClient(app) as client:
        busy = client.get("/health")
        assert "busy" in problem(busy, 503)["found"]
        assert busy.headers["retry-after"] == "1"


def test_questions_that_come_together_are_answered_together():
    calls: list[tuple[str, list[int]]] = []

    async def answer(kind: str, questions) -> list[int]:
        calls.append((kind, list(questions)))
        await asyncio.sleep(0.01)
        if kind == "bad":
            raise ConfigError("bad", wanted="good", fix="none")
        return [10 * question for question in questions]

    async def main() -> None:
        together: Together[str, int, int] = Together(answer, most=4)
        asked = [asyncio.create_task(together.ask("a", number)) for number in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        given_up = asyncio.create_task(together.ask("a", 99))
        asked += [asyncio.create_task(together.ask("a", number)) for number in range(3, 9)]
        other = asyncio.create_task(together.ask("b", 1))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40, 50, 60, 70, 80]
        assert await other == 10
        results = await asyncio.gather(*(together.ask("bad", n) for n in range(2)), return_exceptions=True)
        assert [type(result) for result in results] == [ConfigError, ConfigError]
        assert await together.ask("a", 5) == 50
        assert not together._waiting
        assert not together._running

    asyncio.run(main())
    assert [call for call in calls if call[0] == "a"] == [
        ("a", [0, 1, 2]), ("a", [3, 4, 5]), ("a", [6, 7, 8]), ("a", [5]),
    ]  # fmt: skip
    assert sum(kind == "bad" for kind, _ in calls) == 1


def test_limits_are_those_of_the_documentation():
    limits = Limits()
    assert (limits.json_bytes, limits.upload_bytes) == (1 << 20, 10 << 20)
    assert MOST_PIXELS == 16_000_000


def test_two_runs_of_one_name_and_foreign_data_are_refused(served, tmp_path, capsys):
    served.runs["ease"].save(tmp_path / "ease")
    assert command(["serve", str(served.folder / "ease"), str(tmp_path / "ease"), "--port", "0"]) == 2
    assert "two runs are called 'ease'" in capsys.readouterr().err
    build_shop(n_users=20, n_items=40).dataset().save(tmp_path / "other")
    arguments = ["serve", str(served.folder / "ease"), "--data", str(tmp_path / "other"), "--port", "0"]
    assert command(arguments) == 2
    assert "the data set 'demo' has others" in capsys.readouterr().err
    assert command(["serve", str(tmp_path), "--port", "0", "--json"]) == 2
    assert "is not a run" in json.loads(capsys.readouterr().out)["error"]["found"]


def test_answers_do_not_wait_for_the_acknowledgment_of_their_first_half():
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname()), bound.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_address_is_refused():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("203.0.113.7", 0)  # an address for documentation, and so of no machine


@pytest.mark.parametrize("raw_id", ["a/b", "a&run=x", "é", "😀", "%2e", "x" * 500, "\r\nx: y"])
def test_any_id_that_a_url_can_hold_may_be_asked_for(client, raw_id: str):
    assert len(problem(client.get("/pictures", params={"item": raw_id}), 404)["found"]) < 800
