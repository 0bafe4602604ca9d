"""The service over time: runs replaced while it answers, an end without a loss, and a memory that stays."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from starlette.testclient import TestClient

from triptych.data.demo import build_shop
from triptych.data.ids import IdMap
from triptych.data.split import Split
from triptych.runs import Run, train
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.serving.app import create_app
from triptych.serving.catalogue import Catalogue

USERS = [f"u{number:04d}" for number in range(1, 21)]


def turned_over(run: Run) -> Run:
    """A run that likes best what another likes least, under a record of its own."""
    assert isinstance(run.scorer, EmbeddingScorer)
    users, items = run.scorer.embeddings
    scorer = EmbeddingScorer(Embeddings(users, -items))
    return replace(run, scorer=scorer, record=run.record.model_copy(update={"seed": run.record.seed + 1}))


def lists_of(run: Run) -> dict[str, list[str]]:
    return {entry.user_id: [item.item_id for item in entry.items] for entry in run.recommend(USERS, 5)}


def get(port: int, path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    asked = Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urlopen(asked, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("n_swaps", [4, pytest.param(40, marks=pytest.mark.long)])
def test_runs_are_swapped_under_load_and_no_answer_is_lost_or_mixed(served, serve, tmp_path, n_swaps: int):
    first = served.runs["vbpr"]
    runs = [first, turned_over(first)]
    expected = [lists_of(run) for run in runs]
    assert all(expected[0][user] != expected[1][user] for user in USERS)
    first.save(tmp_path / "shop")
    answers: list[tuple[str, dict[str, list[str]]]] = []
    faults: list[Exception] = []
    done = threading.Event()

    def ask(port: int, number: int) -> None:
        while not done.is_set():
            try:
                if number % 2:
                    answer = get(port, "/recommend", {"users": USERS, "k": 5})
                else:
                    answer = get(port, f"/recommend?user={USERS[number]}&k=5")
                found = {
                    entry["user_id"]: [item["item_id"] for item in entry["items"]]
                    for entry in answer["lists"]
                }
                answers.append((answer["version"], found))
            except Exception as error:
                faults.append(error)

    app = create_app(Catalogue([tmp_path / "shop"]), page=served.page, poll_seconds=0.05)
    with serve(app) as port:
        threads = [threading.Thread(target=ask, args=(port, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        versions = [get(port, "/runs")["runs"][0]["version"]]
        for swap in range(1, n_swaps + 1):
            runs[swap % 2].save(tmp_path / "shop", overwrite=True)
            until = time.monotonic() + 60
            while (version := get(port, "/runs")["runs"][0]["version"]) == versions[-1]:
                assert time.monotonic() < until, "the new run was never taken"
                time.sleep(0.02)
            versions.append(version)
        done.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert len(answers) > 2 * n_swaps
    of_version = dict(zip(versions, [expected[swap % 2] for swap in range(n_swaps + 1)], strict=True))
    assert len(set(versions)) == 2  # the same files have the same name again
    assert {version for version, _ in answers} == set(versions)
    for version, found in answers:
        assert found == {user: of_version[version][user] for user in found}


def test_a_folder_that_became_unfit_changes_nothing(served, tmp_path):
    served.runs["ease"].save(tmp_path / "shop")
    other = served.runs["vbpr"]
    with TestClient(create_app(Catalogue([tmp_path / "shop"]), page=served.page, poll_seconds=60)) as client:
        before = client.get("/recommend?user=u0001").json()
        assert client.post("/runs/reload").json()["runs"] == [
            {"name": "shop", "version": before["version"], "swapped": False, "error": None}
        ]
        shutil.rmtree(tmp_path / "shop")
        (gone,) = client.post("/runs/reload").json()["runs"]
        assert (gone["version"], gone["swapped"]) == (before["version"], False)
        assert "is not a run" in gone["error"]["found"]
        other.save(tmp_path / "shop")
        damaged = tmp_path / "shop" / "embeddings.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        (unfit,) = client.post("/runs/reload").json()["runs"]
        assert "damaged" in unfit["error"]["found"]
        assert client.get("/recommend?user=u0001").json() == before
        other.save(tmp_path / "shop", overwrite=True)
        (mended,) = client.post("/runs/reload").json()["runs"]
        assert (mended["swapped"], mended["error"]) == (True, None)
        after = client.get("/recommend?user=u0001").json()
        assert after["version"] == mended["version"] != before["version"]
        figures = client.get("/metrics").text
        assert 'triptych_run_swaps_total{outcome="failed",run="shop"} 2.0' in figures
        assert f'triptych_run_loaded{{run="shop",version="{after["version"]}"}} 1.0' in figures
        assert before["version"] not in figures


def test_what_was_replaced_leaves_memory_at_once(served, tmp_path):
    """Without the collector of cycles, which hardly ever runs in a service."""
    run, item = served.runs["vbpr"], served.data.items.ids[30].item()
    run.save(tmp_path / "shop")
    catalogue = Catalogue([tmp_path / "shop"], served.folder / "data")
    text = "a quiet lamp"
    with TestClient(create_app(catalogue, page=served.page, poll_seconds=60)) as client:
        gc.collect()
        gc.disable()
        try:
            for path in ("/recommend?user=u0001&where=price%20%3C%2030", f"/similar?item={item}&by=text"):
                assert client.get(path).status_code == 200
            assert client.get(f"/explain?user=u0001&item={item}").status_code == 200
            assert client.post("/items/new", data={"text": text}).status_code == 200
            assert client.post("/users/new", json={"items": [item]}).status_code == 200
            old = [weakref.ref(catalogue.run(None)), weakref.ref(catalogue.run(None).run)]
            turned_over(run).save(tmp_path / "shop", overwrite=True)
            assert client.post("/runs/reload").json()["runs"][0]["swapped"]
            assert client.get("/recommend?user=u0001").status_code == 200
            assert [one() for one in old] == [None, None]
        finally:
            gc.enable()


def test_ids_are_ready_to_be_looked_up_before_a_version_answers(served, monkeypatch):
    """Building their index takes a second for a million ids, in which the loop would answer nobody."""
    catalogue = served.catalogue("ease")
    monkeypatch.setattr(IdMap, "_index", None)  # what is built from now on
    run = catalogue.run(None)
    assert run.find_users(["u0002"]).tolist() == [1]
    assert len(run.similar(served.data.items.ids[3].item(), 2)["items"]) == 2


def test_a_link_gives_its_name_wherever_it_leads(served, tmp_path):
    served.runs["ease"].save(tmp_path / "monday")
    served.runs["vbpr"].save(tmp_path / "tuesday")
    link = tmp_path / "current"
    link.symlink_to("monday")
    catalogue = Catalogue([link, tmp_path / "monday" / ".." / "tuesday"])
    assert list(catalogue.runs) == ["current", "tuesday"]
    link.unlink()
    link.symlink_to("tuesday")
    assert [look.swapped for look in catalogue.refresh()] == [True, False]
    assert catalogue.run("current").run.record.name == "vbpr"


def test_an_unfit_folder_waits_and_the_others_do_not(served, tmp_path, monkeypatch):
    monkeypatch.setattr("triptych.serving.catalogue.RETRY_SECONDS", 3600.0)
    run = served.runs["vbpr"]
    for name in ("bad", "good"):
        run.save(tmp_path / name)
    catalogue = Catalogue([tmp_path / "bad", tmp_path / "good"])
    shutil.rmtree(tmp_path / "bad")
    app = create_app(catalogue, page=served.page, poll_seconds=0.02)
    with TestClient(app) as client:

        def wait_for(line: str) -> None:
            until = time.monotonic() + 20
            while line not in client.get("/metrics").text:
                assert time.monotonic() < until, line
                time.sleep(0.02)

        wait_for('triptych_run_swaps_total{outcome="failed",run="bad"} 1.0')
        turned_over(run).save(tmp_path / "good", overwrite=True)
        wait_for('triptych_run_swaps_total{outcome="swapped",run="good"} 1.0')
        assert 'outcome="failed",run="bad"} 1.0' in client.get("/metrics").text  # it was not tried since
        run.save(tmp_path / "bad")
        looks = client.post("/runs/reload").json()["runs"]  # tries it whenever it is asked to
        assert [(look["name"], look["error"]) for look in looks] == [("bad", None), ("good", None)]


def test_a_run_of_other_items_does_not_take_over(served, tmp_path):
    shutil.copytree(served.folder / "data", tmp_path / "data")
    served.runs["ease"].save(tmp_path / "shop")
    catalogue = Catalogue([tmp_path / "shop"], tmp_path / "data")
    small = Split.by_ratio(build_shop(n_users=20, n_items=40).dataset(), rng=1)
    train("ease", small, seed=1, device="cpu").save(tmp_path / "shop", overwrite=True)
    before = catalogue.run("shop").version
    (look,) = catalogue.refresh()
    assert not look.swapped
    assert "has others" in str(look.error)
    assert catalogue.run(None).version == before


def test_the_end_waits_for_what_is_under_way(served, tmp_path):
    """A request is half sent when the signal comes: it is answered, a new one is refused, and all ends well."""
    command = [sys.executable, "-c", "from triptych.cli import main; main()"]
    arguments = ["serve", str(served.folder / "vbpr"), "--port", "0", "--json"]
    environment = {**os.environ, "TRIPTYCH_API_KEY": "a-key-of-some-length", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=lines, text=True, env=environment
        )
    try:
        address = next(line for line in process.stdout if '"address"' in line)
        port = int(address.rpartition(":")[2].strip('",\n'))
        body = json.dumps({"users": USERS, "k": 3}).encode()
        head = f"POST /recommend HTTP/1.1\r\nhost: x\r\nx-api-key: a-key-of-some-length\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
            socket.create_connection(("127.0.0.1", port), timeout=30) as idle,
        ):
            connection.sendall(head.encode() + body[:20])
            idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert idle.recv(65536).startswith(b"HTTP/1.1 200")  # so the other one has been taken up, too
            process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except ConnectionError:
                    break
                time.sleep(0.05)
            else:
                pytest.fail("new connections are still let in")
            assert process.poll() is None
            connection.sendall(body[20:])
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        lists = json.loads(answer.partition(b"\r\n\r\n")[2])["lists"]
        assert [entry["user_id"] for entry in lists] == USERS
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    said = log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/health", "/recommend"]
    assert "Traceback" not in said
    assert "a-key-of" not in said


STUCK = """
import sys, time
from triptych.cli import main
from triptych.serving import catalogue, loaded, service
service.DRAIN_SECONDS = 1
def stuck(*_):
    print("stuck", file=sys.stderr, flush=True)
    time.sleep(300)
loaded.LoadedRun.explain = stuck
if sys.argv.pop(1) == "load":
    create = catalogue.Catalogue.__init__
    def created(*given):
        create(*given)
        catalogue.load = stuck
    catalogue.Catalogue.__init__ = created
main()
"""


@pytest.mark.parametrize("what", ["explain", "load"])
def test_the_end_does_not_wait_for_what_takes_longer(served, raw, tmp_path, what: str):
    served.runs["ease"].save(tmp_path / "shop")
    environment = {name: value for name, value in os.environ.items() if name != "TRIPTYCH_API_KEY"}
    log = tmp_path / "log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-c", STUCK, what, "serve", str(tmp_path / "shop"), "--port", "0", "--json"],
            stdout=subprocess.PIPE, stderr=lines, text=True, env={**environment, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        address = next(line for line in process.stdout if '"address"' in line)
        port = int(address.rpartition(":")[2].strip('",\n'))
        foreign = Request(f"http://127.0.0.1:{port}/runs", headers={"host": "shop.example"})
        with pytest.raises(HTTPError, match="421"):  # the command guards what needs no key
            urlopen(foreign, timeout=30)
        if what == "load":
            turned_over(served.runs["vbpr"]).save(tmp_path / "shop", overwrite=True)
        else:
            asking = raw(port)
            asking.sendall(b"GET /explain?user=u0001&item=x HTTP/1.1\r\nhost: localhost\r\n\r\n")
        until = time.monotonic() + 30
        while "stuck" not in log.read_text(encoding="utf-8"):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        if what == "explain":
            answer = b"".join(iter(lambda: asking.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"the service stops" in answer
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert "Traceback" not in log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]
    assert (lines[-1]["event"], lines[-1]["threads"]) == ("ended while computing", 1)


@pytest.mark.parametrize("n_requests", [500, pytest.param(30_000, marks=pytest.mark.long)])
def test_memory_stays_where_it_is(served, n_requests: int):
    app = create_app(served.catalogue("vbpr"), page=served.page)
    item = served.data.items.ids[served.data.features["text"].present][0]

    async def ask(path: str, query: str) -> int:
        status = 0

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "headers": [], "scheme": "http",
            "server": ("x", 1), "client": ("x", 2), "root_path": "", "state": {},
        }  # fmt: skip
        await app(scope, receive, send)
        return status

    async def some(first: int, n: int) -> None:
        for number in range(first, first + n, 5):
            statuses = await asyncio.gather(
                ask("/recommend", f"user={USERS[number % 20]}&k={1 + number % 30}"),
                ask("/recommend", f"user=stranger-{number}"),
                ask("/recommend", f"user=u0001&where=price%20%3C%20{number}"),
                ask("/similar", f"item={item}&by=text"),
                ask(f"/no/such/path/{number}", ""),
            )
            assert statuses == [200, 404, 200, 200, 404]

    async def main() -> int:
        await some(0, 250)  # what is remembered once is there after this
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await some(250, n_requests)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        grown = asyncio.run(main())
    finally:
        tracemalloc.stop()
    assert grown < 150_000  # bytes, whatever the number of requests
