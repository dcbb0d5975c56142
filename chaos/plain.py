"""A plain redis-py client with retries, beside the workers: what it gets through a fault, the table's calls must, too.

It is started like a worker, uses the same address, socket timeout and deadline, and records its calls in the same form.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from chaos.calls import CALL_INTERVAL
from chaos.history import HistoryWriter
from chaos.worker import CALLERS, Commands, Plan, answer, die_with_parent

KEY = "other:plain"
KEY_SECONDS = 60


def main() -> None:
    """Run the client."""
    die_with_parent()
    plan = Plan(**json.loads(sys.argv[1]))
    commands = Commands()
    threading.Thread(target=commands.receive, daemon=True).start()
    writer = HistoryWriter(Path(plan.file))
    with redis.Redis.from_url(plan.url, retry=Retry(NoBackoff(), 0)) as client:

        def make_calls(number: int) -> None:
            key = f"{KEY}:{number}"
            while not commands.quiesce.is_set():
                _record(writer, "set", lambda: client.set(key, "x", ex=KEY_SECONDS), plan.deadline)
                _record(writer, "get", lambda: client.get(key), plan.deadline)

        threads = [threading.Thread(target=make_calls, args=[number]) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        answer("working")
        for thread in threads:
            thread.join()
    answer("quiet")
    commands.never.wait()  # the process ends with its input


def _record(writer: HistoryWriter, name: str, call: Any, deadline: float) -> None:
    """Make a call, and repeat it until its deadline, by redis-py's own retries."""
    number = writer.begin(name, {0: None})
    give_up_at = time.monotonic() + deadline

    def failed(error: Exception) -> None:
        if time.monotonic() > give_up_at:
            raise error

    try:
        Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.2), -1).call_with_retry(call, failed)
        writer.end(number, {})
    except (redis.RedisError, OSError) as error:
        writer.end(number, {}, f"{type(error).__name__}: {error}")
    time.sleep(CALL_INTERVAL)


if __name__ == "__main__":
    main()
