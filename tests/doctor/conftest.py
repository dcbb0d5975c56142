"""The tests of kvpoll doctor."""

from __future__ import annotations

import pytest

from tests.support import examining


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    examining.be_patient(monkeypatch)
