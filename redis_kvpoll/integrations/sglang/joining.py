"""Putting the table in the place of SGLang's dicts: all of them, or none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from redis_kvpoll.errors import KVPollError, printable
from redis_kvpoll.integrations.sglang.link import Link
from redis_kvpoll.integrations.sglang.maps import ConsensusMap
from redis_kvpoll.integrations.sglang.settings import read
from redis_kvpoll.integrations.sglang.shape import VERSION, UnknownShapeError, place_of

logger = logging.getLogger("redis_kvpoll")
INSTEAD = "SGLang runs on its own dicts"
SILENCED = ("redis_kvpoll.mirror", "redis_kvpoll.leases")
"""When Redis is away, the mirrors and the lease each say so; here one word for all is enough: see Link._watch."""


def after_init(result: None, manager: Any, *args: Any, **kwargs: Any) -> None:
    """The hook: SGLang's manager has its dicts, and its backend has not begun to use them."""
    link = _link(manager)
    if hasattr(manager.request_status, "collect") and not _all_have(link is not None, manager):
        if link is not None:
            link.close()
            logger.error("the table is not used, since another rank of this pipeline could not join; %s", INSTEAD)
        return
    if link is not None:
        _swap(manager, link)


def _link(manager: Any) -> Link | None:
    """A link to the table; None, and one line that says why, where there can be none."""
    try:
        found = read(os.environ)
        if found is None:
            return None
        link = Link(found, place_of(manager))
        link.join()
    except UnknownShapeError as error:
        complain_of_shape(error)
    except KVPollError as error:
        complain(f"{str(error).rstrip('.')} (see KVPOLL_URL and KVPOLL_NAMESPACE)")
    except TimeoutError:
        complain("no answer in time (KVPOLL_JOIN): check KVPOLL_URL, and that Redis is up and reachable")
    except Exception as error:
        complain(f"{type(error).__name__}: {error}")
    else:
        return link
    return None


def complain(what: str) -> None:
    """Say in one line that there is no table, and why."""
    logger.error("the table is not used: %s; %s", printable(what.rstrip(".")), INSTEAD)


def complain_of_shape(error: Exception) -> None:
    """The same, of an SGLang that is not the known one."""
    complain(f"{error}, which is not SGLang {VERSION} as this was made for: update redis-kvpoll")


def _all_have(joined: bool, manager: Any) -> bool:
    """Whether all stages of a pipeline have joined: on SGLang's own store, one waits for the others' messages.

    Each tells all others in turn, as SGLang's own store has just done it to say where it listens.
    """
    group, rank = manager.pp_group, manager.pp_rank
    told = [group.broadcast_object(joined if rank == stage else None, src=stage) for stage in range(manager.pp_size)]
    return all(told)


def _swap(manager: Any, link: Link) -> None:
    """From here on nothing can fail."""
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.ERROR)
    book, place = link.book, link.place
    theirs = manager.request_status
    if hasattr(theirs, "collect"):
        book.statuses = ConsensusMap(book, place.rank, list(place.stages), link.statuses_of, theirs)
    manager.request_status = book.statuses
    manager.failure_records = book.reasons
    if place.role == "prefill":
        manager.req_to_decode_prefix_len = book.lengths
    manager.kvpoll_link = link  # for who holds a manager, and waits until all is told
    if hasattr(manager, "teardown"):  # a change of roles: the next manager joins anew
        manager.teardown = _then(manager.teardown, link.close)
    logger.info("SGLang shares its statuses as %s", place.owner)


def _then(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], Any]:
    def both() -> Any:
        try:
            return first()
        finally:
            second()

    return both
