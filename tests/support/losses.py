"""What a store reports of losses of data: its log records and its counts. The one place that knows their form."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from tests.support.internals import inner

LOGGER = "redis_kvpoll.recovery"


def loss_records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """(what was noticed: "epoch" or "server", how many rooms were restored) of each record.

    A record also has the seconds that it took.
    """
    records = [record for record in caplog.records if record.name == LOGGER and record.levelno == logging.WARNING]
    return [_parsed(record.getMessage()) for record in records]


def _parsed(text: str) -> tuple[str, int]:
    noticed = re.findall(r"\b(epoch|server)\b", text)
    rooms = re.search(r"\b([\d,]+) rooms?\b", text)
    assert noticed, text
    assert rooms, text
    assert re.search(r"\b\d+(\.\d+)? m?s\b", text), text
    return noticed[0], int(rooms[1].replace(",", ""))


def losses_of(store: Any) -> tuple[int, int]:
    """(how many losses of data a store has noticed, how many rooms it has restored)"""
    found = inner(store).data_losses
    return found.losses, found.restored
