"""``kvpoll serve`` as a process: its start, its refusals, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import uvicorn
from click.testing import CliRunner

from redis_kvpoll import KVPoll, KVPollError
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.serve import listen
from redis_kvpoll.serve.credentials import MIN_PASSWORD, MIN_TOKEN
from tests.support import pace, real
from tests.support.serving import ask, stream, viewer_url

KVPOLL = (sys.executable, "-m", "redis_kvpoll.cli")


@pytest.fixture
def launch(table, store, tmp_path):
    """Starts the command on a port, and returns the process with the file of its log."""
    running = []

    def start(*words, url=None, **variables):
        """``url`` None is that of a viewer, as an argument."""
        given = ["--redis", viewer_url(table)] if url is None else []
        variables |= {} if url is None else {"KVPOLL_URL": url}
        port, log = real.free_port(), tmp_path / f"log{len(running)}"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*KVPOLL, "serve", "-n", "prod-prefill", *given, f"--port={port}", *words],
                stderr=file,
                stdout=file,
                preexec_fn=real.hear_signals,
                env=os.environ | {"PYTHONWARNINGS": "error"} | variables,
            )
        running.append(process)
        return process, port, log

    yield start
    for process in running:
        process.kill()
        process.wait()


def is_ready(port):
    try:
        return ask(port, "/readyz").status == 200
    except OSError:
        return False


def refused(*words):
    done = subprocess.run([*KVPOLL, "serve", *words], capture_output=True, text=True, timeout=pace.seconds(60))
    return done.returncode, done.stderr


def test_password_comes_from_a_file(launch, table, tmp_path):
    """As with every other command: the URL from the environment, and its password from the file."""
    url, file = urlsplit(viewer_url(table)), tmp_path / "password"
    file.write_text(f"{url.password}\n")
    bare = f"redis://{url.username}@{url.hostname}:{url.port}"
    _, port, _ = launch("--no-auth", url=bare, KVPOLL_PASSWORD_FILE=str(file))
    real.until(lambda: is_ready(port), "the start", 60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_a_viewer(launch, store, number):
    """The stream of a viewer ends at once; without that uvicorn would wait for it."""
    process, port, log = launch("--no-auth")
    real.until(lambda: is_ready(port), "the start", 60)
    store.update_status(1, KVPoll.Bootstrapping)
    with stream(port, "/events?page=/") as events:
        assert events.readline() == b"retry: 2000\n"
        process.send_signal(number)
        assert process.wait(timeout=pace.seconds(30)) in (0, -number)
    said = log.read_text()
    assert "Traceback" not in said
    assert "only-looks" not in said


def test_doctor_is_seen_on_its_page_and_in_metrics(launch):
    _, port, _ = launch()
    real.until(lambda: is_ready(port), "the start", 60)
    real.until(lambda: 'check="reach"' in ask(port, "/metrics").body, "the doctor's first look", 60)
    assert "redis://" in ask(port, "/doctor").body


def test_other_address_is_refused_without_credentials(tmp_path):
    code, said = refused("--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert code == 2
    assert "--password-file or --token-file, or --no-auth" in said
    assert "Traceback" not in said
    code, said = refused("--password-file", str(tmp_path / "nowhere"))
    assert code == 2
    assert "No such file" in said


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60.0), ("5m", 300.0), ("1d", 86400.0), ("90", 90.0), ("", 60.0)])
def test_stuck_after_is_a_time_as_elsewhere(monkeypatch, text, seconds):
    """A number alone is one of seconds; without the option it is a minute."""
    found = []
    monkeypatch.setattr("redis_kvpoll.serve.listen.run", lambda config, _: found.append(config) or True)
    result = CliRunner().invoke(kvpoll, ["serve", *([f"--stuck-after={text}"] if text else [])])
    assert (result.exit_code, [config.stuck_after for config in found]) == (0, [seconds])


@pytest.mark.parametrize("text", ["0", "999ms", "2d", "nan", "soon"])
def test_stuck_after_outside_its_range_is_wrong_usage(monkeypatch, text):
    monkeypatch.setattr("redis_kvpoll.serve.listen.run", lambda *_: True)
    result = CliRunner().invoke(kvpoll, ["serve", f"--stuck-after={text}"])
    assert (result.exit_code, "'--stuck-after'" in result.output) == (2, True)


def test_help_has_the_shortest_secrets():
    """Whoever writes a token reads it there, and not first in the refusal."""
    said = " ".join(CliRunner().invoke(kvpoll, ["serve", "--help"]).output.split())
    assert f"NAME:PASSWORD, {MIN_PASSWORD} characters or more" in said
    assert f"NAME:TOKEN, {MIN_TOKEN} characters or more" in said
    assert f"Lines TOKEN, {MIN_TOKEN} characters or more" in said


@pytest.mark.parametrize("option", ["--token-file", "--metrics-token-file"])
def test_token_that_is_too_short_is_refused_by_its_option(tmp_path, option):
    file = tmp_path / "tokens"
    file.write_text("x" * (MIN_TOKEN - 1))
    result = CliRunner().invoke(kvpoll, ["serve", option, str(file)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {option} {file}, line 1: a token has {MIN_TOKEN} characters or more\n"


@pytest.mark.parametrize("option", ["--password-file", "--token-file", "--metrics-token-file", "--public-url"])
@pytest.mark.parametrize("text", ["", " "])
def test_empty_option_does_not_open_the_page(monkeypatch, option, text):
    """A variable that a script has not set: each of these was taken for an option that was not given."""
    monkeypatch.setattr("redis_kvpoll.serve.listen.run", lambda *_: pytest.fail("it listens"))
    result = CliRunner().invoke(kvpoll, ["serve", f"{option}={text}"])
    assert (result.exit_code, f"'{option}': it is empty" in result.stderr) == (2, True)


def test_port_in_use_is_named(launch):
    """The error alone, with the system's reason: no line of a log comes before it."""
    _, port, log = launch()
    real.until(lambda: is_ready(port), "the start", 60)
    assert f"listening on http://127.0.0.1:{port} (Ctrl-C ends it)" in log.read_text()
    why = "(Address already in use): choose another --port"
    assert refused(f"--port={port}") == (1, f"Error: kvpoll serve cannot listen on 127.0.0.1:{port} {why}\n")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("host.invalid", r"host\.invalid:0 \(.+\)"),  # the resolver's words differ from system to system
        ("192.0.2.1", r"192\.0\.2\.1:0 \(Cannot assign requested address\)"),
        ("2001:db8::1", r"\[2001:db8::1\]:0 \(Cannot assign requested address\)"),
    ],
    ids=["name", "IPv4", "IPv6"],
)
def test_address_of_another_host_is_named(host, reason):
    with pytest.raises(KVPollError, match=f"^kvpoll serve cannot listen on {reason}: check --host$"):
        listen.listen(uvicorn.Config("", host=host, port=0))


@pytest.mark.parametrize(("host", "families"), [("::1", {socket.AF_INET6}), ("127.0.0.1", {socket.AF_INET})])
def test_each_family_is_listened_on(host, families):
    listeners = listen.listen(uvicorn.Config("", host=host, port=0))
    assert {one.family for one in listeners} == families
    for one in listeners:
        with one, socket.create_connection(one.getsockname()[:2], timeout=pace.seconds(5)):
            pass


def test_credentials_come_from_files(launch, tmp_path):
    (tmp_path / "passwords").write_text("alice:correct horse\n")
    (tmp_path / "token").write_text("scrape-scrape-scrape\nanother-scrape-token\n")
    _, port, _ = launch(f"--password-file={tmp_path / 'passwords'}", f"--metrics-token-file={tmp_path / 'token'}")
    real.until(lambda: is_ready(port), "the start", 60)
    assert ask(port, "/").status == 401
    assert ask(port, "/metrics").status == 401
    for token in ("scrape-scrape-scrape", "another-scrape-token"):
        assert ask(port, "/metrics", Authorization=f"Bearer {token}").status == 200
    assert ask(port, "/", Authorization="Basic YWxpY2U6Y29ycmVjdCBob3JzZQ==").status == 200


def test_missing_extra_is_named():
    program = "import sys; sys.modules['uvicorn'] = None; from redis_kvpoll.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "serve"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "kvpoll serve needs uvicorn: pip install 'redis-kvpoll[serve]'" in done.stderr
