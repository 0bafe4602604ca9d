"""What every request passes: the key, limits of size and time, a count and a line in the log."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any

from triptych.errors import TriptychError
from triptych.serving.observe import Metrics, log
from triptych.serving.problems import RefusedError, as_problem, status_of, to_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY_HEADER = b"x-api-key"
OPEN_PATHS = ("/", "/health")
"""Without a key; so is what lies under /static/."""
_LOGGED_PATH = 200
_MOST_HOST = 80
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob:; "
        b"object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
)


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Args:
        json_bytes: of a body.
        upload_bytes: of a body with files.
        uploads: bodies with files that are read at once; each is held in memory.
        body_seconds: until the whole body is there.
        seconds: until the whole answer is sent.
        in_flight: requests being answered at once.
    """

    json_bytes: int = 1 << 20
    upload_bytes: int = 10 << 20
    uploads: int = 8
    body_seconds: float = 10.0
    seconds: float = 30.0
    in_flight: int = 512


class Gate:
    """Wraps the application.

    Args:
        app: what is behind it.
        key: that requests must carry in `X-API-Key`; None for none.
        hosts: that requests may name in `Host`, in small letters and without a port; None for any.
        limits: of each request.
        metrics: count requests.
    """

    def __init__(
        self,
        app: Application,
        *,
        key: str | None,
        hosts: Collection[str] | None,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._app, self._hosts, self._limits, self._metrics = app, hosts, limits, metrics
        self._key = None if key is None else key.encode()
        self._in_flight = self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it; whatever goes wrong behind the gate ends here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._limits.seconds) as deadline:
                await self._pass(scope, receive, watched)
        except Exception as error:
            refused = _refusal(error, late=deadline.expired(), seconds=self._limits.seconds)
            failure = error if status_of(refused) == 500 else None
            if status == 0:
                await _answer(watched, refused)
        except asyncio.CancelledError:  # by the server, which has waited long enough
            if status == 0:
                await _answer(watched, _stopping())
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            self._note(scope, status, time.perf_counter() - started, failure)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_flight > self._limits.in_flight:
            raise _busy()
        self._check_host(scope)
        self._check_key(scope)
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_upload = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        if is_upload and self._uploads >= self._limits.uploads:
            raise _busy()
        self._uploads += is_upload
        try:
            most = self._limits.upload_bytes if is_upload else self._limits.json_bytes
            body = await _read_body(receive, headers, most, self._limits.body_seconds)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._uploads -= is_upload

    def _check_host(self, scope: Scope) -> None:
        """Refuse what a browser sends for another site whose name was made to lead here."""
        for name, value in scope["headers"]:
            if name != b"host" or self._hosts is None:
                continue
            host = re.sub(r":\d*$", "", value.decode("latin-1").lower())
            if host not in self._hosts:
                raise RefusedError(
                    421,
                    f"a request to the host {host[:_MOST_HOST]!r}",
                    wanted=" or ".join(sorted(self._hosts)),
                    fix="Ask by one of these names, or have the service started with a key",
                )

    def _check_key(self, scope: Scope) -> None:
        path: str = scope["path"]
        if self._key is None or path in OPEN_PATHS or path.startswith("/static/"):
            return
        given = [value for name, value in scope["headers"] if name == KEY_HEADER]
        if len(given) == 1 and hmac.compare_digest(given[0], self._key):
            return
        raise RefusedError(
            401,
            "a wrong key" if given else "no key",
            wanted="the key of this service in the header X-API-Key",
            fix="Ask whoever runs the service for the key",
            headers={"www-authenticate": "ApiKey"},
        )

    def _note(self, scope: Scope, status: int, seconds: float, failure: Exception | None) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.answered(route, status, seconds)
        facts = {
            "method": scope["method"],
            "path": scope["path"][:_LOGGED_PATH],
            "status": status,
            "ms": round(1e3 * seconds, 2),
        }
        if failure is None:
            log.info("request", extra={"facts": facts})
        else:
            log.error("request", extra={"facts": facts}, exc_info=failure)


async def _read_body(receive: Receive, headers: dict[bytes, bytes], most: int, seconds: float) -> bytes:
    """Read a body whole; stop at the first byte too many, or when the time is over.

    Raises:
        RefusedError: it is too long, too slow, or broken off.
    """
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared[:20]) > most:
        raise _too_long(most)
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(
                        400, "the body broke off", wanted="the whole body", fix="Send the request again"
                    )
                parts.append(message.get("body", b""))
                length += len(parts[-1])
                if length > most:
                    raise _too_long(most)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise RefusedError(
            408,
            f"the body was not there after {seconds:g} seconds",
            wanted="a whole body",
            fix="Send it in one piece",
        ) from error


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body once, then whatever comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _refusal(error: Exception, *, late: bool, seconds: float) -> TriptychError:
    """Word what went wrong for the one who asked; what is not theirs to know is not said."""
    if isinstance(error, TriptychError) and status_of(error) != 500:
        return error
    if late:
        return RefusedError(
            503,
            f"no answer within {seconds:g} seconds",
            wanted="less work, or a less busy service",
            fix="Ask again later, or for less at once",
            headers={"retry-after": "5"},
        )
    return TriptychError(
        "something went wrong in the service", wanted="an answer", fix="Ask whoever runs it to read its log"
    )


async def _answer(send: Send, error: TriptychError) -> None:
    body = to_json(as_problem(error.found, error.wanted, error.fix))
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= error.headers if isinstance(error, RefusedError) else {}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status_of(error), "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _too_long(most: int) -> RefusedError:
    return RefusedError(
        413, "the body is too long", wanted=f"at most {most:,} bytes", fix="Send less at once"
    )


def _stopping() -> RefusedError:
    return RefusedError(
        503,
        "the service stops, and this took longer than it may wait",
        wanted="less work, or a service that goes on",
        fix="Ask again when it is back",
        headers={"retry-after": "5"},
    )


def _busy() -> RefusedError:
    return RefusedError(
        503,
        "the service is busy",
        wanted="fewer requests at once",
        fix="Ask again in a second",
        headers={"retry-after": "1"},
    )
