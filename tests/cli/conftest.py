"""A table, and the commands on it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from redis_kvpoll import StatusStore
from redis_kvpoll.cli.app import kvpoll


@pytest.fixture
def store(url):
    with StatusStore.from_url(url, namespace="prod") as store:
        yield store


@pytest.fixture
def run(url):
    def run(*words, **options):
        return CliRunner().invoke(kvpoll, [*words, "--redis", url, "-n", "prod"], catch_exceptions=False, **options)

    return run
