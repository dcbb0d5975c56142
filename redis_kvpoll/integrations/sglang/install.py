"""Putting the table in the place of SGLang's dicts: all of them, or none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from redis_kvpoll.errors import InvalidInputError, KVPollError, LeaseLostError, NamespaceMismatchError, printable
from redis_kvpoll.integrations.sglang.compat import VERSION, IncompatibleSGLangError, identify
from redis_kvpoll.integrations.sglang.dicts import ConsensusMap
from redis_kvpoll.integrations.sglang.settings import read
from redis_kvpoll.integrations.sglang.worker import TableWorker

logger = logging.getLogger("redis_kvpoll")
INSTEAD = "SGLang runs on its own dicts until it is started again"
SILENCED = ("redis_kvpoll.mirror", "redis_kvpoll.leases")
"""When Redis is away, the mirrors and the lease each log it; here one line is enough: see TableWorker._watch."""


def after_init(result: None, manager: Any, *args: Any, **kwargs: Any) -> None:
    """The hook: SGLang's manager has its dicts, and its backend has not begun to use them."""
    link = _link(manager)
    if hasattr(manager.request_status, "collect") and not _all_have(link is not None, manager):
        if link is not None:
            link.close()
            complain("another rank of this pipeline could not join, and says why")
        return
    if link is not None:
        _swap(manager, link)


def _link(manager: Any) -> TableWorker | None:
    """A link to the table; None, and one line that says why, where there can be none."""
    try:
        found = read(os.environ)
        if found is None:
            return None
        link = TableWorker(found, identify(manager))
        link.join()
    except IncompatibleSGLangError as error:
        complain_of_version(error)
    except InvalidInputError as error:
        complain(str(error))
    except NamespaceMismatchError as error:
        there = f"namespace {error.namespace!r} is in use with {error.setting}={printable(error.theirs)}"
        complain(f"{there}, and not {error.ours}: set KVPOLL_NAMESPACE to one of your own, or {_remedy(error.setting)}")
    except KVPollError as error:
        what = str(error).rstrip(".").removesuffix("; the call is safe to retry")  # it is not, here
        complain(f"{what} (see KVPOLL_URL and KVPOLL_NAMESPACE)")
    except TimeoutError:
        complain("no answer in time (KVPOLL_JOIN): check KVPOLL_URL, and that Redis is up and reachable")
    except Exception as error:
        complain(f"{type(error).__name__}: {error}")
    else:
        return link
    return None


def _remedy(setting: str) -> str:
    if setting in ("shards", "feed_length"):
        return f"KVPOLL_{setting.upper()} as it is there, or not at all"
    return "empty that one: SGLang needs it as said"


def complain(what: str) -> None:
    """Say in one line that there is no table, and why."""
    logger.error("redis_kvpoll: the table is not used: %s; %s", printable(what.rstrip(".")), INSTEAD)


def complain_of_version(error: Exception) -> None:
    """The same, of an SGLang that is not the known one."""
    complain(f"{error}, which is not SGLang {VERSION} as this was made for: update redis-kvpoll")


def _all_have(joined: bool, manager: Any) -> bool:
    """Whether all stages of a pipeline have joined: on SGLang's own store, one waits for the others' messages.

    Each tells all others in turn, as SGLang's own store has just done it to say where it listens.
    """
    group, rank = manager.pp_group, manager.pp_rank
    told = [group.broadcast_object(joined if rank == stage else None, src=stage) for stage in range(manager.pp_size)]
    return all(told)


def _swap(manager: Any, link: TableWorker) -> None:
    """From here on nothing can fail."""
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addFilter(is_news)
    registry, identity = link.registry, link.identity
    theirs = manager.request_status
    if hasattr(theirs, "collect"):
        registry.statuses = ConsensusMap(registry, identity.rank, list(identity.stages), link.statuses_of, theirs)
    manager.request_status = registry.statuses
    manager.failure_records = registry.reasons
    if identity.role == "prefill":
        manager.req_to_decode_prefix_len = registry.lengths
    manager.kvpoll_link = link  # for who holds a manager, and waits until all is told
    if hasattr(manager, "teardown"):  # a change of roles: the next manager joins anew
        manager.teardown = _then(manager.teardown, link.close)
    logger.info("redis_kvpoll: SGLang shares its statuses as %s", identity.owner)


def is_news(record: logging.LogRecord) -> bool:
    """Not what a lost lease advises, which is for who holds one: here the link takes another, and says so."""
    return not (isinstance(record.args, tuple) and any(isinstance(word, LeaseLostError) for word in record.args))


def _then(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], Any]:
    def both() -> Any:
        try:
            return first()
        finally:
            second()

    return both
