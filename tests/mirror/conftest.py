"""A store on each server, blocking and asyncio, whose mirrors run between the calls of a test."""

from __future__ import annotations

import pytest


@pytest.fixture
def store(side, server):
    return side.over(server)
