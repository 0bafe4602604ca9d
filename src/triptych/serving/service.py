"""The service as a process: it listens, answers, and ends well."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
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


def serve(app: Any, bound: socket.socket, on_ready: Callable[[], None] = lambda: None) -> None:
    """Answer on a socket until SIGTERM or Ctrl-C, then finish what is under way.

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
    finally:
        signal.signal(signal.SIGTERM, before)


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
