"""One engine for each test that asks for it."""

from __future__ import annotations

import pytest

from tests.support import agents


@pytest.fixture
def engine(monkeypatch):
    with agents.engine(monkeypatch) as made:
        yield made
