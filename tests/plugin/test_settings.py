"""The plugin's settings, from the environment; and what docs/sglang.md says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redis_kvpoll import InvalidInputError, StatusStore
from redis_kvpoll.integrations.sglang import settings


class TestSettings:
    def test_settings_without_url_are_none(self):
        assert settings.read({}) is None
        assert settings.read({"KVPOLL_URL": " ", "KVPOLL_LEASE": "nonsense"}) is None

    def test_setting_is_read_from_its_variable(self):
        found = settings.read({"KVPOLL_URL": "redis://r", "KVPOLL_LEASE": "2.5", "KVPOLL_SHARDS": "4"})
        assert (found.url, found.lease, found.shards, found.namespace) == ("redis://r", 2.5, 4, "default")
        assert found.options("decode")["namespace"] == "default-decode"

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            *(("LEASE", "-1"), ("LEASE", "0.4"), ("TTL", "soon"), ("JOIN", "nan"), ("LONG_HOLD", "yes")),
            *(("FEED_LENGTH", "1.5"), ("FEED_LENGTH", "0"), ("SHARDS", "0")),
        ],
    )
    def test_invalid_value_is_reported_with_its_variable(self, name, text):
        with pytest.raises(Exception, match=f"KVPOLL_{name}"):
            settings.read({"KVPOLL_URL": "redis://r", f"KVPOLL_{name}": text})

    @pytest.mark.parametrize("url", ["memory://", " embedded://"], ids=["memory", "embedded"])
    def test_table_that_nobody_shares_is_refused(self, url):
        """A process would say that it has joined."""
        with pytest.raises(InvalidInputError, match=f"KVPOLL_URL is {url.strip()}, a table that no other"):
            settings.read({"KVPOLL_URL": url})


def test_documented_settings_have_their_defaults():
    text = (Path(__file__).parents[2] / "docs" / "sglang.md").read_text()
    rows = dict(re.findall(r"^\| `KVPOLL_(\w+)` \| `?([^|`]*)`? \|", text, re.MULTILINE))
    assert rows.keys() == {"URL", *settings.PARSERS}
    defaults = {name: getattr(settings.PluginSettings("none"), name.lower()) for name in rows}
    with StatusStore.from_url("memory://") as store:
        store.get(1)
        adopted = store.settings()
    defaults |= {
        "SHARDS": adopted.shards,
        "FEED_LENGTH": adopted.feed_length,
        "PASSWORD_FILE": "none",
        "AGENT": "none",
        "LONG_HOLD": 1,
    }  # None adopts the namespace's, else its default
    assert rows == {name: str(value).removesuffix(".0") for name, value in defaults.items()}
