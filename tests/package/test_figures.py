"""The figures of the documents are those of the code: a limit that is promised changes in both."""

from __future__ import annotations

import pytest

from redis_kvpoll.agent import outbox
from redis_kvpoll.agent.client import client
from redis_kvpoll.agent.server import agent_sessions
from redis_kvpoll.agent.session import rounds
from redis_kvpoll.engine import store_options
from redis_kvpoll.engine.recovery import tracked_rooms
from redis_kvpoll.integrations.sglang import reason_wait, settings, worker
from redis_kvpoll.protocol import lease_commands, script_call
from redis_kvpoll.protocol import settings as table_settings
from redis_kvpoll.replica import continuity, failures, replica, sweep
from redis_kvpoll.serve import credentials
from tests.support.documents import text_of

LAG = failures.HEARTBEAT + continuity.LOOK_INTERVAL
GUARANTEES = {
    "`ttl` ({} s) while a room is live": (store_options.DEFAULT_TTL,),
    "`terminal_ttl` ({} s) once it has ended": (store_options.DEFAULT_TERMINAL_TTL,),
    "if that ends within `deadline` ({} s)": (store_options.DEFAULT_DEADLINE,),
    "than one script call takes ({};": (script_call.MAX_BATCH,),
    "every {} of a `ttl`, and every `ttl`/{} after one has failed": (lease_commands.INTERVAL, lease_commands.RETRIES),
    "are written again by a heartbeat within {} s": (table_settings.RESTORE_SECONDS,),
    "up to `lag` seconds ago: {} while nothing is wrong, {} at most": (LAG, failures.STALE_AFTER),
    "for *rooms* / {} seconds, or {} s if that is longer, and {} s": (
        sweep.ROOMS_PER_SECOND,
        sweep.SHORTEST_PASS,
        replica.STALE_AFTER,
    ),
    "that this store has attached goes on for {} s": (tracked_rooms.CREATOR_TIMEOUT,),
    "during the outage, the table gets the last {}": (outbox.MAX_ENDED_LIVES,),
    "waits for another rank's, {} s at most": (worker.REASON_WAIT_SECONDS,),
    "A process that ends waits up to {} s for its last changes": (client.CLOSE_SECONDS,),
}
SGLANG = {
    "counts as lost; at least {}.": (settings.MIN_LEASE_SECONDS,),
    "{} s at first, refilled by {} s per second": (worker.REASON_WAIT_SECONDS, reason_wait.MAX_WAIT_FRACTION),
    "The agent gets another {} s to start": (client.START_SECONDS,),
}
AGENT = {
    "for {} s, or {} s if it cannot be watched": (agent_sessions.VANISHED_SECONDS, agent_sessions.UNWATCHED_SECONDS),
    "{} ms there is a *round*": (1000 * rounds.ROUND_SECONDS,),
    "up to {} s for its last changes to be published": (client.CLOSE_SECONDS,),
}
OTHERS = {
    "docs/concepts.md": {
        "about {} entries per shard (`feed_length`)": (table_settings.DEFAULT_FEED_LENGTH,),
        "`ttl`, {} s, which is three times": (store_options.DEFAULT_TTL,),
        "`terminal_ttl`, {} s: enough": (store_options.DEFAULT_TERMINAL_TTL,),
        "A store with a lease does so every {} s": (table_settings.RESTORE_SECONDS,),
    },
    "docs/python.md": {
        "per shard and {} rooms": (script_call.MAX_BATCH,),
        "and after {} s without an answer": (failures.STALE_AFTER,),
    },
    "docs/operations.md": {"people log in on the page, for {} hours": (credentials.SESSION_SECONDS / 3600,)},
}
FIGURES = {"docs/guarantees.md": GUARANTEES, "docs/sglang.md": SGLANG, "docs/agent.md": AGENT} | OTHERS


@pytest.mark.parametrize(
    ("document", "words", "figures"),
    [(document, *row) for document, rows in FIGURES.items() for row in rows.items()],
)
def test_promised_figure_is_that_of_the_code(document, words, figures):
    promise = words.format(*(f"{figure:,g}" for figure in figures))
    is_there = promise in " ".join(text_of(document).split())
    assert is_there, f"{document} does not say: {promise}"
