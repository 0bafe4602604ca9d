"""One request to a web server: http and https only, and every failure told apart from the others."""

from __future__ import annotations

import email.utils
import random
import re
import ssl
import string
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, InvalidURL
from importlib.metadata import version
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit

from triptych.errors import ConfigError, TriptychError

MAX_WAIT = 120.0
"""Never wait longer than this before another try, in seconds, whatever the server asks for."""


class NetworkError(TriptychError):
    """The network or a server did not give what was asked for."""


class Trouble(Exception):  # noqa: N818  it is caught and worded by those who know what the request was for
    """Why a request failed.

    Args:
        reason: in a few words that are the same for all alike: "HTTP 404 Not Found".
        passing: whether it may go well a little later.
        offline: whether no server was reached at all.
        lasting: whether it will always be so for this address.
        wait: seconds the server asks to be left alone.
    """

    def __init__(
        self,
        reason: str,
        *,
        passing: bool = False,
        offline: bool = False,
        lasting: bool = False,
        wait: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.reason, self.passing, self.offline = reason, passing, offline
        self.lasting, self.wait = lasting, wait


def check_url(url: str, *, base: str = "") -> str:
    """Give the host of an address.

    Args:
        url: the address.
        base: the one that refers to it, which says what it leaves out.

    Raises:
        ConfigError: it is no http or https address.
    """
    try:
        parts = urlsplit(urljoin(base, url))
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _no_address(url) from error
    if parts.scheme not in {"http", "https"} or not host or re.search(r"\s", host) or port == 0:
        raise _no_address(url)
    return host


@contextmanager
def open_url(
    url: str, *, timeout: float, headers: Mapping[str, str] | None = None, accept: Iterable[int] = ()
) -> Iterator[Any]:
    """Ask for an address, and give the answer to a block that reads it.

    Args:
        url: http or https; so is whatever it redirects to.
        timeout: how long the server may be silent, in seconds.
        headers: further lines of the request.
        accept: statuses from 400 on that the block deals with itself.

    Raises:
        Trouble: there is no answer, or one that says no; or reading it fails inside the block with
            `reading`.
        ConfigError: it is no http or https address, or redirects to one.
    """
    host = check_url(url)
    own = {"User-Agent": _user_agent(), "Accept-Encoding": "identity"}
    request = urllib.request.Request(_ascii(url), headers={**own, **(headers or {})})  # noqa: S310  checked
    with reading(host):
        try:
            response = _opener().open(request, timeout=timeout)
        except HTTPError as error:
            if error.code not in accept:
                with error:
                    raise _refused(error) from error
            response = error
    with response:
        yield response


@contextmanager
def reading(host: str) -> Iterator[None]:
    """Turn whatever the network does to a block into a `Trouble`; keep files out of the block."""
    try:
        yield
    except HTTPError:  # an answer, and no trouble with the network
        raise
    except URLError as error:
        raise _broken(host, error.reason) from error
    except UnicodeError as error:  # a host name that cannot be one
        raise Trouble(f"{host} is no name of a host", lasting=True) from error
    except (OSError, HTTPException) as error:
        raise _broken(host, error) from error


def read_whole(url: str, *, timeout: float, max_bytes: int) -> bytes:
    """Read a small file into memory.

    Raises:
        Trouble: as `open_url`; also where it is larger than `max_bytes`, or ends early.
    """
    with open_url(url, timeout=timeout) as response:
        with reading(check_url(response.url)):
            data: bytes = response.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise Trouble(f"larger than {max_bytes:,} bytes", lasting=True)
        announced = content_length(response)
        if announced is not None and len(data) < announced:
            raise Trouble("the connection broke off", passing=True)
        return data


def content_length(response: Any) -> int | None:
    """Give the number of bytes a server announces."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None  # int refuses thousands of digits


def pause(attempt: int, wait: float, trouble: Trouble) -> float:
    """Say how long to wait after a failed try, in seconds: longer each time, and never all at once.

    Args:
        attempt: how many tries there were, from 1 on.
        wait: the pause after the first.
        trouble: what the last one met; a server that asks for a longer pause gets it, up to `MAX_WAIT`.
    """
    growing = wait * 2.0 ** min(attempt - 1, 30) * random.uniform(0.5, 1.0)  # noqa: S311  no secret
    return min(max(growing, trouble.wait), MAX_WAIT)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            host = check_url(headers.get("Location", ""), base=req.full_url)
        except ConfigError:
            fp.close()
            raise
        with reading(host):
            return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Make what opens http and https and knows no other scheme; proxies come from the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refused(answer: HTTPError) -> Trouble:
    return Trouble(
        f"HTTP {answer.code} {_phrase(answer.code)}".strip(),
        passing=answer.code in {408, 429} or answer.code >= 500,
        lasting=answer.code in {404, 410},
        wait=_retry_after(answer.headers.get("Retry-After", "")),
    )


def _broken(host: str, reason: object) -> Trouble:
    match reason:
        case ssl.SSLCertVerificationError():
            return Trouble(f"the certificate of {host} does not hold ({reason.verify_message})")
        case TimeoutError():
            return Trouble(f"{host} kept silent for too long", passing=True)
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return Trouble("the connection broke off", passing=True)
        case InvalidURL():
            return Trouble(f"the address of {host}, or that of the proxy, cannot be right")
        case HTTPException() | ssl.SSLError():
            return Trouble("the connection broke off", passing=True)
    return Trouble(f"there is no network, or {host} does not answer ({reason})", passing=True, offline=True)


def _retry_after(text: str) -> float:
    """Read seconds, or a date, as seconds from now on; 0 if it is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _ascii(url: str) -> str:
    """Encode blanks and letters beyond ASCII, as browsers do; what is encoded stays as it is."""
    return quote(url, safe=string.punctuation)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _user_agent() -> str:
    return f"triptych/{version('triptych')} (multimodal recommendation library; Python urllib)"


def _no_address(url: str) -> ConfigError:
    return ConfigError(
        f"'{url}' is no address that can be fetched",
        wanted="an address that begins with http:// or https://",
        fix="Correct it, or fetch the file by hand",
    )
