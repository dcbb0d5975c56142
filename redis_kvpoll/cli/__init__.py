"""The command ``kvpoll``. Without the extra ``cli`` it exits with the ``pip install`` line that adds it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from redis_kvpoll.cli.app import kvpoll

        kvpoll(prog_name="kvpoll")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.exit(f"kvpoll needs {missing}: pip install 'redis-kvpoll[cli]'")
