"""The service against its own OpenAPI document: questions made up from it, fit and unfit ones."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from triptych.serving.app import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EASY = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
    "database": None,
}


@pytest.fixture(scope="module")
def api(served):
    return schemathesis.openapi.from_asgi(
        "/openapi.json", create_app(served.catalogue("vbpr", "ease"), page=served.page)
    )


ENDPOINTS = [
    ("GET", "/health"), ("GET", "/metrics"), ("GET", "/runs"), ("POST", "/runs/reload"), ("GET", "/recommend"),
    ("POST", "/recommend"), ("GET", "/similar"), ("GET", "/explain"), ("POST", "/items/new"),
    ("POST", "/users/new"), ("GET", "/users"), ("GET", "/users/history"), ("GET", "/items"), ("GET", "/pictures"),
]  # fmt: skip


WITH_QUESTIONS = ENDPOINTS[4:]
QUESTIONS = [(method, path, GenerationMode.POSITIVE) for method, path in ENDPOINTS]
QUESTIONS += [(method, path, GenerationMode.NEGATIVE) for method, path in WITH_QUESTIONS]


@pytest.mark.parametrize("n_examples", [10, pytest.param(400, marks=pytest.mark.long)])
@pytest.mark.parametrize(("method", "path", "mode"), QUESTIONS)
def test_every_answer_is_one_that_the_document_promises(
    api, method: str, path: str, mode: GenerationMode, n_examples: int
):
    operation = api[path][method]
    asked = 0

    @settings(max_examples=n_examples, **EASY)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case) -> None:
        nonlocal asked
        asked += 1
        case.call_and_validate(checks=CHECKS)

    ask()
    assert asked


def test_the_document_names_every_endpoint(client):
    paths = client.get("/openapi.json").json()["paths"]
    named = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert named == set(ENDPOINTS)
