"""A small shop with three runs, and the service on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from triptych.data.dataset import Dataset
from triptych.data.demo import DemoShop, build_shop
from triptych.data.split import Split
from triptych.report.demo import with_encoders
from triptych.runs import Run, train
from triptych.serving.app import create_app
from triptych.serving.catalogue import Catalogue
from triptych.serving.service import bind, make_server
from triptych.training.config import TrainConfig

PAGE = "<!doctype html><title>Stand-in</title>"


@dataclass(frozen=True)
class Served:
    """What is served, as files and as objects."""

    folder: Path
    shop: DemoShop
    data: Dataset
    runs: dict[str, Run]

    def catalogue(self, *names: str, data: bool = True) -> Catalogue:
        folders = [self.folder / name for name in names or self.runs]
        return Catalogue(folders, self.folder / "data" if data else None)

    @property
    def page(self) -> Path:
        return self.folder / "page"


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Served:
    folder = tmp_path_factory.mktemp("served")
    shop = build_shop(n_users=120, n_items=90)
    data = with_encoders(shop.dataset())
    data.save(folder / "data")
    split = Split.by_ratio(data, rng=7)
    config = TrainConfig(epochs=2, batch_size=256)
    runs = {
        "vbpr": train("vbpr", split, seed=7, config=config, device="cpu"),
        "lightgcn": train("lightgcn", split, seed=7, config=config, device="cpu"),
        "ease": train("ease", split, seed=7, device="cpu"),
    }
    for name, run in runs.items():
        run.save(folder / name)
    (folder / "page" / "deep").mkdir(parents=True)
    (folder / "page" / "index.html").write_text(PAGE, encoding="utf-8")
    (folder / "page" / "deep" / "main.js").write_text("'use strict'", encoding="utf-8")
    (folder / "secret.txt").write_text("secret of the machine", encoding="utf-8")
    return Served(folder, shop, data, runs)


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[TestClient]:
    """The service without a key, in this process."""
    with TestClient(create_app(served.catalogue(), page=served.page)) as client:
        yield client


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """Answer on a port of its own, as `serve` does, in a thread."""
    server = make_server(app)
    with bind("127.0.0.1", 0) as bound:
        ready = threading.Event()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            ready.wait(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve() -> Callable[[Any], Any]:
    return listening


@pytest.fixture
def raw() -> Iterator[Callable[..., socket.socket]]:
    """Open a plain connection."""
    opened = []

    def connect(port: int, seconds: float = 10.0) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=seconds))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
