"""One of the processes that write the same few rooms. Jobs come on standard input, histories go to standard output.

A job is a line of JSON. The process answers "ready" once the settings are checked; the next line starts the job.
"""

from __future__ import annotations

import json
import random
import sys
import time

from redis_kvpoll import KVPoll, StatusStore

NAMES = ["update"] * 6 + ["update_many"] * 2 + ["abort", "abort", "record_failure", "clear", "clear", "clear_many"]
NAMES += ["get", "failure_reason"]


def plain(answer):
    """An answer as JSON; a KVPoll is its number."""
    return [answer.outcome.name, answer.status] if isinstance(answer, tuple) else answer


def do(store, name, room, both, status, reason):
    """One operation: the answer and the argument for each room that it was on."""
    calls = {
        "update": lambda: {room: (store.update_status(room, status), status)},
        "update_many": lambda: {r: (u, status) for r, u in store.update_many(dict.fromkeys(both, status)).items()},
        "abort": lambda: {room: (store.abort(room, reason), reason)},
        "record_failure": lambda: {room: (store.record_failure(room, reason), reason)},
        "clear": lambda: {room: (store.clear(room), None)},
        "clear_many": lambda: {r: (was, None) for r, was in store.clear_many(both).items()},
        "get": lambda: {room: (store.get(room), None)},
        "failure_reason": lambda: {room: (store.failure_reason(room), None)},
    }
    return calls[name]()


def hammer(store, number, job):
    chance = random.Random(f"{job['seed']} {number}")
    history = []
    for count in range(job["count"]):
        name, room, both = chance.choice(NAMES), chance.choice(job["rooms"]), chance.sample(job["rooms"], 2)
        status = chance.choice(list(KVPoll))
        began = time.monotonic_ns()
        answers = do(store, name, room, both, status, reason=f"{number} {count}")
        ended = time.monotonic_ns()
        for on, (answer, argument) in answers.items():
            history.append((number, on, name.removesuffix("_many"), argument, plain(answer), began, ended))
    return history


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main():
    number = int(sys.argv[1])
    for line in sys.stdin:
        job = json.loads(line)
        with StatusStore.from_url(job["url"], namespace=job["namespace"], policy=job["policy"], deadline=60.0) as store:
            store.get(0)
            say("ready")
            sys.stdin.readline()
            history = hammer(store, number, job)
        say(json.dumps(history))


if __name__ == "__main__":
    main()
