"""The rounds in which the clients of a table publish."""

from __future__ import annotations

import asyncio

from redis_kvpoll.agent.session.rounds import Rounds
from tests.support.calls import until


async def test_client_that_joins_during_a_round_is_in_the_next():
    rounds, published = Rounds(None), asyncio.Event()
    rounds.join(lambda: rounds.join(published.set))
    await until(published.is_set, "the next round", 5)
