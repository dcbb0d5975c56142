"""Debian's Prometheus: a real server, and promtool, which checks and tests rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.support import real


def program(name):
    """The path of prometheus or promtool; skips the test where it is missing."""
    found = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"no {name} in the system's folders (Debian: prometheus)")
    return found


def promtool(*arguments):
    """Run promtool; its output, which is the message if it fails."""
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """A server that scrapes targets each half second, with rules. A context manager."""

    def __init__(self, folder: Path, targets: list[str], rules: str) -> None:
        self.port = real.free_port()
        (folder / "kvpoll.rules.yml").write_text(rules, encoding="utf-8")
        configuration = folder / "prometheus.yml"
        scrape = {"job_name": "kvpoll", "static_configs": [{"targets": targets}]}
        times = {"scrape_interval": "500ms", "evaluation_interval": "500ms", "scrape_timeout": "500ms"}
        written = {"global": times, "rule_files": ["kvpoll.rules.yml"], "scrape_configs": [scrape]}
        configuration.write_text(json.dumps(written), encoding="utf-8")
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def ask(self, path: str, **parameters: str):
        """The data of an answer of the HTTP API; None while there is none."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except (ConnectionError, urllib.error.URLError):
            return None

    def query(self, expr: str):
        """[({label: value}, number)] of an expression now."""
        data = self.ask("query", query=expr)
        return [(one["metric"], float(one["value"][1])) for one in data["result"]] if data else []
