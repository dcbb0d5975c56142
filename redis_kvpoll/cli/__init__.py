"""The command ``kvpoll``. Without an extra that it needs, it exits with the ``pip install`` line that adds it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from redis_kvpoll.cli import streams

        streams.prepare()
        from redis_kvpoll.cli.app import kvpoll

        try:
            kvpoll(prog_name="kvpoll")
        finally:
            streams.flush()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("click", "rich"):
            sys.exit(f"kvpoll needs {missing}: pip install 'redis-kvpoll[cli]'")
        if missing in ("prometheus_client", "starlette", "uvicorn"):
            sys.exit(f"kvpoll serve needs {missing}: pip install 'redis-kvpoll[serve]'")
        raise
    except KeyboardInterrupt:  # before a command runs, or as its last output is written
        sys.exit(130)
    except BrokenPipeError:
        streams.give_up("the output was closed")
    except OSError as error:
        if error.filename is not None:
            raise
        streams.give_up(f"the output cannot be written: {error.strerror or error}")
