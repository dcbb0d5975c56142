"""The password of a URL in a file of its own."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from chaos.servers import Server
from redis_kvpoll import InvalidInputError
from redis_kvpoll.agent.client import open_channel
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.integrations.sglang.maps import StatusMap
from redis_kvpoll.transport.password_file import with_password
from tests.support.local_channel import open_local
from tests.support.standin import joined, manager

TEXT = "p/w?#@: %é"
QUOTED = "p%2Fw%3F%23%40%3A%20%25%C3%A9"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "password"
    path.write_text(f"{TEXT}\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://h:1/0", f"redis://:{QUOTED}@h:1/0"),
        ("rediss://user@h", f"rediss://user:{QUOTED}@h"),
        ("redis+sentinel://u@h:1,h:2/service/0", f"redis+sentinel://u:{QUOTED}@h:1,h:2/service/0"),
        ("unix:///run/redis.sock", f"unix://:{QUOTED}@/run/redis.sock"),
        ("unix:///run/a@b.sock", f"unix://:{QUOTED}@/run/a@b.sock"),
        ("unix://u@/run/a@b.sock", f"unix://u:{QUOTED}@/run/a@b.sock"),
        ("redis://h?client_name=a@b", f"redis://:{QUOTED}@h?client_name=a@b"),
    ],
)
def test_password_becomes_part_of_the_url(file, url, wanted):
    assert with_password(url, file) == wanted


@pytest.mark.parametrize(
    ("url", "content", "why"),
    [
        ("redis://h", None, "cannot be read: No such file"),
        ("redis://h", b"\nsecret", "the first line of .* is empty"),
        ("redis://h", b"\xff", "is not UTF-8"),
        ("redis://:other@h", b"secret", "has a password, too"),
        ("memory://", b"secret", "names no server"),
        ("nonsense", b"secret", "names no server"),
    ],
)
def test_unusable_file_or_url_is_refused(tmp_path, url, content, why):
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=why) as raised:
        with_password(url, str(path))
    assert "KVPOLL_PASSWORD_FILE" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "other" not in str(raised.value)


def test_pipe_without_a_writer_is_refused_at_once(tmp_path):
    """To read it would block the start of SGLang, which must not fail for want of the table."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidInputError) as raised:
            with_password("redis://h", str(path))
        why = "is no regular file: put the password into one"
        assert str(raised.value) == f"KVPOLL_PASSWORD_FILE: {str(path)!r} {why}"


def test_file_may_be_a_link_as_in_kubernetes(tmp_path, file):
    (tmp_path / "link").symlink_to(file)
    assert with_password("redis://h", str(tmp_path / "link")) == f"redis://:{QUOTED}@h"


def test_plugin_and_command_take_it_from_the_environment(tmp_path, file, monkeypatch):
    with Server(tmp_path / "data") as server:
        server.client.config_set("requirepass", TEXT)
        monkeypatch.setenv("KVPOLL_URL", server.url)
        monkeypatch.setenv("KVPOLL_PASSWORD_FILE", file)
        monkeypatch.setattr(open_channel, "open_channel", open_local)
        with joined(manager()) as (sglang,):
            assert type(sglang.request_status) is StatusMap
            done = CliRunner().invoke(kvpoll, ["owners", "-n", "default-prefill"])
            assert (done.exit_code, "prefill/10.0.0.1:8998" in done.output) == (0, True), done.output
            done = CliRunner().invoke(kvpoll, ["owners", "-n", "default-prefill", "--redis", server.url])
            assert done.exit_code != 0
            assert "password" in done.output


def test_wrong_password_names_its_file(tmp_path, file, monkeypatch, caplog):
    """Not for a URL on the command line, whose password is its own."""
    with Server(tmp_path / "data") as server:
        server.client.config_set("requirepass", "another")
        monkeypatch.setenv("KVPOLL_URL", server.url)
        monkeypatch.setenv("KVPOLL_PASSWORD_FILE", file)
        monkeypatch.setattr(open_channel, "open_channel", open_local)
        with joined(manager()) as (sglang,):
            assert type(sglang.request_status) is dict
        (line,) = [line for line in caplog.messages if "is disabled" in line]
        assert f"the password is the first line of {file!r} (KVPOLL_PASSWORD_FILE); SGLang uses its own" in line
        for url, is_named in (((), True), (("--redis", f"{server.url.replace('://', '://:wrong@')}"), False)):
            done = CliRunner().invoke(kvpoll, ["owners", "-n", "p", *url])
            assert done.exit_code == 1
            assert "WRONGPASS" in done.output
            assert (f"first line of {file!r}" in done.output) is is_named
            assert TEXT not in done.output
