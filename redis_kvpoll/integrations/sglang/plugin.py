"""The entry point."""

from __future__ import annotations

import logging
import os
import pkgutil

from redis_kvpoll.integrations.sglang.compat import TARGET, IncompatibleSGLangError, check_class
from redis_kvpoll.integrations.sglang.install import after_init, complain_of_version
from redis_kvpoll.integrations.sglang.settings import URL

logger = logging.getLogger("redis_kvpoll")


def register() -> None:
    """The entry point of the group ``sglang.srt.plugins``; SGLang calls it in each of its processes."""
    if not os.environ.get(URL, "").strip():
        logger.debug("%s is not set: SGLang runs on its own dicts", URL)
        return
    try:
        check_class(pkgutil.resolve_name(TARGET.rpartition(".CommonKVManager")[0]))
        hooks = pkgutil.resolve_name("sglang.srt.plugins.hook_registry")
        hooks.HookRegistry.register(TARGET, after_init, hooks.HookType.AFTER)
    except (IncompatibleSGLangError, ImportError, AttributeError) as error:
        complain_of_version(error)
