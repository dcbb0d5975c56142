"""A ``kvpoll tail`` in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.support import pace, real


class Tailing:
    """A kvpoll tail in its own process; its lines are read from ``stdout``."""

    def __init__(self, url, *options, stdout=subprocess.PIPE):
        words = ("-m", "redis_kvpoll.cli", "tail", "--redis", url, "-n", "prod", *options)
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=real.hear_signals,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate(timeout=pace.seconds(30))

    def line(self):
        return self.process.stdout.readline()

    def end(self):
        """Wait for its end; returns (exit status, stderr)."""
        _, errors = self.process.communicate(timeout=pace.seconds(30))
        return self.process.returncode, errors
