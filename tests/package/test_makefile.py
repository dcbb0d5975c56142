"""What the Makefile sets up: a make that was cut short leaves nothing that the next one trusts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import real

ROOT = Path(__file__).parents[2]
BROWSER = Path("tests/serve/browser")

# Stand-ins for python -m venv, pip and npm: each makes half of what it should, then waits while there is a file "hang".
PYTHON = """#!/bin/sh
[ "$1" = -m ] || exec {python} "$@"
mkdir -p .venv/bin
cp ../tools/kvpoll .venv/bin/python
{wait}
cp ../tools/kvpoll ../tools/pip .venv/bin/
"""
PIP = """#!/bin/sh
trap 'exit 1' INT
echo "$@" >>pip.log
touch .venv/half
[ ! -e fail ] || exit 2
{wait}
"""
NPM = """#!/bin/sh
echo "$@" >>npm.log
mkdir -p node_modules/half
{wait}
touch node_modules/.package-lock.json
"""
KVPOLL = '#!/bin/sh\necho "ran $@"\n'
WAIT = "while [ -e hang.{what} ]; do touch hung; sleep 0.05; done"


@pytest.fixture
def checkout(tmp_path):
    if not shutil.which("make"):
        pytest.skip("no make")
    tools, checkout = tmp_path / "tools", tmp_path / "checkout"
    (tools / "path").mkdir(parents=True)
    (checkout / BROWSER).mkdir(parents=True)
    for name, text in (
        ("python", PYTHON.format(python=sys.executable, wait=WAIT.format(what="venv"))),
        ("pip", PIP.format(wait=WAIT.format(what="pip"))),
        ("path/npm", NPM.format(wait=WAIT.format(what="npm"))),
        ("kvpoll", KVPOLL),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", checkout)
    (checkout / "pyproject.toml").touch()
    shutil.copy(ROOT / BROWSER / "package-lock.json", checkout / BROWSER)
    return checkout


def start(checkout, target="demo"):
    # It is nobody else's part, though make test runs this; and it finds the stand-in of npm.
    path = f"{checkout.parent / 'tools' / 'path'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["make", target, "PYTHON=../tools/python"],
        cwd=checkout,
        start_new_session=True,  # it gets the signals of its own terminal alone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"MAKEFLAGS": "", "MAKELEVEL": "0", "PATH": path},
        preexec_fn=real.hear_signals,
    )


def demo(checkout, target="demo"):
    with start(checkout, target) as process:
        output = process.stdout.read()
    return process.returncode, output


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("what", ["venv", "pip"])
def test_interrupted_set_up_is_made_anew(checkout, what, how):
    """Closed terminal, Ctrl-C, or killed: during the making of .venv, and while pip installs into it."""
    (checkout / f"hang.{what}").touch()
    with start(checkout) as process:
        real.until((checkout / "hung").exists, "it hangs")
        os.killpg(process.pid, how)
        process.stdout.read()
    assert process.returncode != 0
    (checkout / f"hang.{what}").unlink()
    (checkout / ".venv").mkdir(exist_ok=True)
    (checkout / ".venv" / "rest").touch()
    status, output = demo(checkout)
    assert (status, "ran replay" in output) == (0, True), output
    assert not (checkout / ".venv" / "rest").exists()
    assert demo(checkout)[1].count("\n") == 2, "the third has nothing to make"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_npm_is_run_again(checkout, how):
    """It makes its folder first: half of what drives the browser would be taken for all of it."""
    browser = checkout / BROWSER
    (browser / "hang.npm").touch()
    with start(checkout, "test-slow") as process:
        real.until((browser / "hung").exists, "it hangs")
        os.killpg(process.pid, how)
        process.stdout.read()
    (browser / "hang.npm").unlink()
    for _ in range(2):
        status, output = demo(checkout, "test-slow")
        assert (status, "ran -m pytest" in output) == (0, True), output
    assert (browser / "npm.log").read_text() == 2 * "ci --silent --ignore-scripts\n", "the third has nothing to make"


def test_failed_pip_leaves_what_was_there(checkout):
    """Without a network, a test environment that worked still does."""
    assert demo(checkout)[0] == 0
    (checkout / "fail").touch()
    os.utime(checkout / "pyproject.toml", (2e9, 2e9))
    (checkout / ".venv" / "kept").touch()
    assert demo(checkout)[0] != 0
    (checkout / "fail").unlink()
    os.utime(checkout / "pyproject.toml", (1e9, 1e9))
    assert demo(checkout)[0] == 0
    assert (checkout / ".venv" / "kept").exists()
