"""The HTTP application: each endpoint asks one loaded run and answers in plain JSON."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from importlib.metadata import version
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from fastapi import FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.routing import Match

from triptych.errors import nearest
from triptych.evaluation.ranking import BLOCK_SIZE
from triptych.serving import schemas as s
from triptych.serving.batching import Together
from triptych.serving.catalogue import Catalogue, Refresh
from triptych.serving.gate import Gate, Limits
from triptych.serving.loaded import LoadedRun, Wish
from triptych.serving.observe import Metrics, log
from triptych.serving.problems import RefusedError, as_problem, to_json
from triptych.serving.service import THREADS

Computed = TypeVar("Computed")

PAGE = Path(__file__).parent / "page"
WORKERS = 2
"""Threads that compute. More of them wait for each other: scoring is bound by memory."""
POLL_SECONDS = 1.0
"""Between two looks at the run folders."""
_MOST_SHOWN = 80
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": s.Problem, "description": "What was found, what was wanted, what to do."},
    "503": {"model": s.Problem, "description": "Busy, or too slow."},
}


class Workers:
    """A few threads for what computes, so that the loop stays free to listen.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None

    async def __call__(self, answer: Callable[[], Computed]) -> Computed:
        """Carry out a call in a thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self._threads, THREADS, initializer=torch.set_num_threads, initargs=(1,)
            )
        return await asyncio.get_running_loop().run_in_executor(self._pool, answer)

    def close(self) -> None:
        """Let the threads end when they have done what they are at; new ones begin when they are needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class Service:
    """The endpoints.

    Args:
        catalogue: the runs.
        page: the files of the page.
        poll_seconds: between two looks at the run folders.
    """

    def __init__(self, catalogue: Catalogue, page: PageFiles, poll_seconds: float) -> None:
        self.metrics = Metrics()
        self._catalogue, self._page, self._poll_seconds = catalogue, page, poll_seconds
        self._workers = Workers(WORKERS)
        # for questions whose first answer may take a minute, by what the next ones then find at hand
        self._patient = Workers(1)
        self._loader = Workers(1)
        self._together = Together(self._recommend_together, most=BLOCK_SIZE)
        self._began = time.monotonic()
        self._note([])

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Watch the run folders as long as the service runs."""
        watch = asyncio.create_task(self._watch())
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        for workers in (self._workers, self._patient, self._loader):
            workers.close()

    async def health(self) -> Response:
        """Say that the service answers."""
        seconds = time.monotonic() - self._began
        return _json({"status": "ok", "runs": len(self._catalogue.runs), "seconds": seconds})

    async def figures(self) -> Response:
        """Give figures for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def runs(self) -> Response:
        """Tell what is known of the loaded runs."""
        return _json({"runs": [run.facts() for run in self._catalogue.runs.values()]})

    async def reload(self) -> Response:
        """Look at the run folders now; what has changed is loaded and swapped."""
        looks = await self._loader(lambda: self._catalogue.refresh(always=True))
        self._note(looks)
        return _json({"runs": [_refreshed(look) for look in looks]})

    async def recommend(self, q: Annotated[s.ListQuestion, Query()]) -> Response:
        """List the best items for a user."""
        run = self._catalogue.run(q.run)
        user = int(run.find_users([q.user])[0])
        return await self._together.ask((run, Wish(q.k, q.exclude, q.where, q.diversity)), user)

    async def recommend_many(self, q: s.ListsQuestion) -> Response:
        """List the best items for each of some users."""
        run = self._catalogue.run(q.run)
        return await self._ask(run.recommend, q.users, Wish(q.k, q.exclude, q.where, q.diversity))

    async def similar(self, q: Annotated[s.SimilarQuestion, Query()]) -> Response:
        """List the items nearest to an item."""
        return await self._ask(self._catalogue.run(q.run).similar, q.item, q.k, q.by, q.where)

    async def explain(self, q: Annotated[s.ExplainQuestion, Query()]) -> Response:
        """Say how an item's score for a user comes about."""
        return await self._ask(self._catalogue.run(q.run).explain, q.user, q.item, by=self._patient)

    async def new_item(
        self,
        request: Request,
        text: Annotated[str | None, Form(max_length=s.MOST_TEXT)] = None,
        picture: Annotated[UploadFile | None, File()] = None,
        k: Annotated[int, Form(ge=1, le=s.MOST_ITEMS)] = 10,
        where: Annotated[str | None, Form(max_length=s.MAX_LENGTH, description=s.ABOUT_WHERE)] = None,
        run: Annotated[str | None, Form(max_length=300)] = None,
    ) -> Response:
        """Say where an item would stand that nobody has chosen yet, by its text or picture or both."""
        await _check_form(request, {"text", "picture", "k", "where", "run"})
        uploaded = None if picture is None else await picture.read()
        return await self._ask(self._catalogue.run(run).new_item, text, uploaded, k, where, by=self._patient)

    async def new_user(self, q: s.NewUserQuestion) -> Response:
        """List the best items for somebody who chose some items."""
        return await self._ask(self._catalogue.run(q.run).new_user, q.items, q.k, q.where, by=self._patient)

    async def users(self, q: Annotated[s.SearchQuestion, Query()]) -> Response:
        """Find users by letters of their ids."""
        return await self._ask(self._catalogue.run(q.run).users, q.query, q.limit)

    async def history(self, q: Annotated[s.HistoryQuestion, Query()]) -> Response:
        """List what a user chose."""
        return await self._ask(self._catalogue.run(q.run).history, q.user, q.limit, q.offset)

    async def items(self, q: Annotated[s.SearchQuestion, Query()]) -> Response:
        """Find items by letters of their ids or titles."""
        return await self._ask(self._catalogue.run(q.run).items, q.query, q.limit)

    async def pictures(self, q: Annotated[s.PictureQuestion, Query()]) -> Response:
        """Give an item's picture, small."""
        jpeg = self._catalogue.run(q.run).picture(q.item)
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def front(self, request: Request) -> Response:
        """Give the page."""
        return self._page.give("index.html", request.headers.get("if-none-match"))

    async def static(self, path: str, request: Request) -> Response:
        """Give a file of the page."""
        return self._page.give(path, request.headers.get("if-none-match"))

    async def _ask(
        self, answer: Callable[..., Mapping[str, Any]], *question: Any, by: Workers | None = None
    ) -> Response:
        """Compute an answer, and write it, beside the loop."""
        content = await (by or self._workers)(lambda: to_json(answer(*question)))
        return Response(content, media_type="application/json")

    async def _recommend_together(self, kind: tuple[LoadedRun, Wish], users: Sequence[int]) -> list[Response]:
        run, wish = kind
        lists = await self._workers(
            lambda: [to_json(run.answer(lists=[one])) for one in run.lists(np.array(users), wish)]
        )
        return [Response(content, media_type="application/json") for content in lists]

    async def _watch(self) -> None:
        while True:
            try:
                self._note(await self._loader(self._catalogue.refresh))
            except Exception:  # the watch goes on whatever a folder holds
                log.exception("watch")
            await asyncio.sleep(self._poll_seconds)

    def _note(self, looks: list[Refresh]) -> None:
        """Count and log what has changed."""
        for look in looks:
            if look.swapped or look.error is not None:
                outcome = "swapped" if look.swapped else "failed"
                self.metrics.swapped(look.name, outcome)
                facts = {"run": look.name, "version": look.version}
                facts |= {} if look.error is None else {"error": str(look.error)}
                log.warning("run %s", outcome, extra={"facts": facts})
        self.metrics.loaded((run.name, run.version) for run in self._catalogue.runs.values())


def create_app(
    catalogue: Catalogue,
    *,
    key: str | None = None,
    hosts: Collection[str] | None = None,
    limits: Limits | None = None,
    poll_seconds: float = POLL_SECONDS,
    page: Path = PAGE,
) -> FastAPI:
    """Make the application.

    Args:
        catalogue: the runs.
        key: that requests must carry; None for none.
        hosts: that requests may be addressed to; None for any.
        limits: of each request.
        poll_seconds: between two looks at the run folders.
        page: folder of the page's files, read whole at the start.
    """
    service = Service(catalogue, PageFiles(page), poll_seconds)
    MultiPartParser.spool_max_size = sys.maxsize  # the gate limits bodies, in memory: none goes to a file
    app = FastAPI(
        title="Triptych",
        summary="Recommendations by trained runs.",
        version=version("triptych"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to plain HTTP, and whatever host was asked for
        lifespan=service.lifespan,
        responses=_PROBLEMS,
    )
    app.add_middleware(Gate, key=key, hosts=hosts, limits=limits or Limits(), metrics=service.metrics)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_thing)
    endpoints: tuple[tuple[str, str, Callable[..., Any], type | None], ...] = (
        ("GET", "/health", service.health, s.Health),
        ("GET", "/runs", service.runs, s.Runs),
        ("POST", "/runs/reload", service.reload, s.Reloaded),
        ("GET", "/recommend", service.recommend, s.Lists),
        ("POST", "/recommend", service.recommend_many, s.Lists),
        ("GET", "/similar", service.similar, s.Similar),
        ("GET", "/explain", service.explain, s.Explanation),
        ("POST", "/items/new", service.new_item, s.NewItem),
        ("POST", "/users/new", service.new_user, s.NewUserList),
        ("GET", "/users", service.users, s.Users),
        ("GET", "/users/history", service.history, s.History),
        ("GET", "/items", service.items, s.Items),
    )
    for method, path, endpoint, answer in endpoints:
        app.add_api_route(path, endpoint, methods=[method], response_model=answer)
    for path, endpoint, kind in (
        ("/metrics", service.figures, "text/plain"),
        ("/pictures", service.pictures, "image/jpeg"),
    ):
        answers: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {}}}}
        app.add_api_route(path, endpoint, response_class=Response, responses=answers)
    app.add_api_route("/health", service.health, methods=["HEAD"], include_in_schema=False)
    for path, endpoint in (("/", service.front), ("/static/{path:path}", service.static)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
    return app


class PageFiles:
    """The files of the page, read once: what is asked for is looked up in a table, never on the disk.

    Args:
        folder: holds `index.html` and whatever it needs.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".py"
        }

    def give(self, name: str, known: str | None = None) -> Response:
        """Answer with a file; with nothing if the one who asks has it.

        Raises:
            RefusedError: there is no such file.
        """
        content = self._files.get(name)
        if content is None:
            raise RefusedError(404, "there is no such file", wanted="a file of the page", fix="Begin at /")
        tag = f'"{sha256(content).hexdigest()[:16]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if known == tag:
            return Response(status_code=304, headers=headers)
        kind = _TYPES.get(Path(name).suffix) or guess_type(name)[0] or "application/octet-stream"
        return Response(content, media_type=kind, headers=headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, "application/json")


def _refreshed(look: Refresh) -> dict[str, Any]:
    error = look.error
    said = None if error is None else as_problem(error.found, error.wanted, error.fix)["error"]
    return {"name": look.name, "version": look.version, "swapped": look.swapped, "error": said}


async def _check_form(request: Request, known: Collection[str]) -> None:
    """Refuse a body that is no form, and fields that nobody reads; the framework passes over both.

    Raises:
        RefusedError: it is so.
    """
    kind = request.headers.get("content-type", "")
    if kind and not kind.lower().startswith(_FORMS):
        raise RefusedError(
            415, f"a body of type {kind[:_MOST_SHOWN]}", wanted=f"a form, {_FORMS[0]}", fix="Send it as one"
        )
    if unknown := sorted((await request.form()).keys() - set(known)):
        raise RefusedError(
            422,
            f"the field '{unknown[0][:_MOST_SHOWN]}'",
            wanted="some of: " + ", ".join(sorted(known)),
            fix=nearest(unknown[0], known),
        )


async def _invalid(request: Request, error: Exception) -> Response:
    """Word the first thing that is wrong with a question."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if isinstance(first.get("input"), bytes):  # which the framework takes for no JSON
        kind = request.headers.get("content-type", "none")[:_MOST_SHOWN]
        fix = "Send it with the header 'content-type: application/json'"
        return _json(as_problem(f"a body of type {kind}", "application/json", fix), 415)
    place = " ".join(str(part) for part in first["loc"][:6])[:_MOST_SHOWN]
    given = "" if first["type"] == "missing" else f" = {_shown(first.get('input'))}"
    return _json(
        as_problem(f"{place}{given}", str(first["msg"])[:300], "See /openapi.json for what may be asked"), 422
    )


def _shown(value: object) -> str:
    if isinstance(value, dict | list):  # perhaps large, perhaps deep
        return "{...}" if isinstance(value, dict) else "[...]"
    text = repr(value[: 2 * _MOST_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


async def _no_such_thing(request: Request, error: Exception) -> Response:
    """Word what the framework refuses: no such path, not this method, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the framework names those of the first of several routes
        routes = (route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE)
        headers["Allow"] = ", ".join(sorted({method for route in routes for method in route.methods}))
    wanted = {
        404: "a path that /openapi.json names",
        405: f"one of the methods {headers.get('Allow')}",
    }.get(error.status_code, "a body that can be read")
    found = f"{request.method} {request.url.path[:_MOST_SHOWN]}: {error.detail}"[:300]
    return _json(
        as_problem(found, wanted, "See /openapi.json for what may be asked"), error.status_code, headers
    )
