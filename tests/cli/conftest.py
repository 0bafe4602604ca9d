from __future__ import annotations

import json

import pytest

from triptych.cli.app import run


class Called:
    """What one command line did."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)


@pytest.fixture
def call(capsys):
    def call(*arguments: object) -> Called:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        return Called(status, *capsys.readouterr())

    return call
