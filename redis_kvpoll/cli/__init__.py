"""kvpoll, the command. It needs the extra ``cli``; without it, it says so."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of the command."""
    try:
        from redis_kvpoll.cli.app import kvpoll
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.exit(f"kvpoll needs {missing}: pip install 'redis-kvpoll[cli]'")
    kvpoll(prog_name="kvpoll")
