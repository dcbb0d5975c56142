"""The renewal of a namespace's settings by heartbeats, for the case that they alone were evicted or deleted.

Invariant: a renewal that fails harms no lease: heartbeats go on, and the next one tries again.
"""

from __future__ import annotations

import time

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.engine.session import Session
from redis_kvpoll.errors import NamespaceMismatchError


def renew_settings(session: Session) -> Flow[None]:
    """Renew the settings, or write them again.

    If another store has written other ones meanwhile, the next call of this store is refused.
    """
    try:
        changes, attempts = session.server_changes, Attempts(session, time.monotonic() + session.deadline)
        session.adopt_settings((yield from attempts.ask_settings()), changes)
    except NamespaceMismatchError:
        session.server_changed()
    except CallFailed:
        pass
