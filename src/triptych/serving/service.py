"""The service as a process: it listens, answers, and ends well."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.encode.encoder import require
from triptych.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

KEY_VARIABLE = "TRIPTYCH_API_KEY"
KEEP_ALIVE_SECONDS = 15
HEAD_SECONDS = 10.0
"""Until the head of a request is there; whoever is slower is cut off."""
DRAIN_SECONDS = 30
"""For the answers that are under way when the service is told to stop."""
THREADS = "triptych-serving"
"""What the names of threads that compute begin with."""
MOST_CONNECTIONS = 1024
MOST_HEAD = 16 << 10
"""Bytes of a request's first line and headers."""


def check_installed() -> None:
    """Check that the service's libraries are there.

    Raises:
        ConfigError: the extra is not installed.
    """
    require("serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client")


def read_key(file: Path | None) -> str | None:
    """Read the key that requests must carry: a file's one line, or else the variable `TRIPTYCH_API_KEY`.

    Raises:
        ConfigError: there is a file or a variable, but no fit key in it.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the key file {file} cannot be read", wanted="a text file", fix="Check the path"
            ) from error
        source = f"the key file {file}"
    elif KEY_VARIABLE in os.environ:
        text, source = os.environ[KEY_VARIABLE], f"the variable {KEY_VARIABLE}"
    else:
        return None
    key = text.strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{source} holds no fit key",
            wanted="one line of at least 16 ASCII characters without blanks",
            fix="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return key


def bind(host: str, port: int) -> socket.socket:
    """Take the address that the service will answer on; port 0 takes a free one. Nothing is let in yet.

    Raises:
        ConfigError: the address is taken, or is none of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it; without it the end of an answer waits some 40 ms for an acknowledgment.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}",
            wanted="an address of this machine and a free port",
            fix="Name another --port; 0 takes a free one",
        ) from error
    return bound


def own_names(address: str) -> frozenset[str] | None:
    """Give the names that an address of this machine alone is asked by; None where others can ask, too.

    Without a key these are all to be answered: the page of another site, whose name can be made to lead to
    this address, would otherwise read whatever the service knows.

    Args:
        address: as numbers.
    """
    if not ip_address(address).is_loopback:
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{address}]" if ":" in address else address})


def serve(app: Any, bound: socket.socket, on_ready: Callable[[], None] = lambda: None) -> None:
    """Answer on a socket until SIGTERM or Ctrl-C, then finish what is under way.

    What still computes `DRAIN_SECONDS` later, which no thread can be told to stop, ends with the process.

    Args:
        app: what `create_app` made.
        bound: what `bind` gave.
        on_ready: is called when questions are answered.
    """
    from triptych.serving.observe import log_to_stderr

    log_to_stderr()
    server = make_server(app)

    async def run() -> None:
        task = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started:
            on_ready()
        await task

    # uvicorn raises the signal again when all is answered: then this is a good end
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        asyncio.run(run())
    except (SystemExit, KeyboardInterrupt) as end:
        _end_computing(end)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_computing(end: BaseException) -> None:
    """End the process here if a thread still computes: Python would wait for it."""
    until = time.monotonic() + 1.0
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if busy := sum(thread.is_alive() for thread in threads):
        from triptych.serving.observe import log

        log.warning("ended while computing", extra={"facts": {"threads": busy}})
        logging.shutdown()
        sys.stdout.flush()
        os._exit(int(end.code or 0) if isinstance(end, SystemExit) else 128 + signal.SIGINT)


def make_server(app: Any) -> uvicorn.Server:
    """Set the server up with its limits of time, of heads, and of connections."""
    import uvicorn

    from triptych.serving.connection import Connection

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEAD,
    )
    return uvicorn.Server(config)
