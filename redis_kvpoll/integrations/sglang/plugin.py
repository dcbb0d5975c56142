"""The entry point and the hook, which SGLang loads in each of its processes.

Both import what they need when they run: a process without the table loads neither a Redis client nor asyncio.
"""

from __future__ import annotations

import logging
import os
import pkgutil
from typing import Any

from redis_kvpoll.integrations.sglang import hooks
from redis_kvpoll.integrations.sglang.compat import (
    CONN,
    TARGET,
    IncompatibleSGLangError,
    all_stages_joined,
    check_class,
    has_consensus_store,
)
from redis_kvpoll.integrations.sglang.startup import URL, is_enabled, log_disabled, log_incompatible

logger = logging.getLogger("redis_kvpoll")


def register() -> None:
    """Register the hook; the entry point of the group ``sglang.srt.plugins``."""
    if not is_enabled(os.environ):
        logger.debug("redis_kvpoll: %s is not set: SGLang uses its own dicts", URL)
        return
    try:
        check_class(pkgutil.resolve_name(CONN))
        hook_registry = pkgutil.resolve_name("sglang.srt.plugins.hook_registry")
        hook_registry.HookRegistry.register(TARGET, after_init, hook_registry.HookType.AFTER)
        hooks.register(hook_registry)
    except (IncompatibleSGLangError, ImportError, AttributeError) as error:
        log_incompatible(error)


def after_init(result: None, manager: Any, *args: Any, **kwargs: Any) -> None:
    """Install the table in a manager that has created its dicts; its backend has not used them yet."""
    try:
        from redis_kvpoll.integrations.sglang.install import install
    except ImportError as error:  # a broken installation must not stop SGLang
        log_disabled(f"{error}: install redis-kvpoll again")
        if has_consensus_store(manager):
            all_stages_joined(manager, False)  # the other stages wait for this one's answer
        return
    install(manager)
