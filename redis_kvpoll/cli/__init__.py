"""kvpoll, the command. It needs the extra ``cli``; without it, it says so."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of the command."""
    try:
        from redis_kvpoll.cli.app import kvpoll
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"kvpoll needs {error.name}: pip install 'redis-kvpoll[cli]'")
    kvpoll(prog_name="kvpoll")
