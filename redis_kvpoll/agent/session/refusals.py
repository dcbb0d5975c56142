"""Why joining the table has failed: words for the client, which adds what it knows of its settings."""

from __future__ import annotations

from redis_kvpoll.errors import InvalidInputError, KVPollError, NamespaceMismatchError, printable


def refusal(error: BaseException) -> tuple[str, str]:
    """Return the reason, and the setting of the namespace that differs, if it is that."""
    if isinstance(error, NamespaceMismatchError) and error.ours is None:  # another version's, which may be in use
        return f"{error} (set KVPOLL_NAMESPACE)", ""
    if isinstance(error, NamespaceMismatchError):
        found = f"namespace {error.namespace!r} has {error.setting}={printable(error.theirs)}, not {error.ours}"
        return found, error.setting
    if isinstance(error, InvalidInputError):
        return str(error), ""
    if isinstance(error, KVPollError):
        # without advice on a retry: there is none here
        reason = str(error).partition("; the call ")[0].rstrip(".")
        return f"{reason} (see KVPOLL_URL and KVPOLL_NAMESPACE)", ""
    if isinstance(error, TimeoutError):
        return "no answer within KVPOLL_JOIN: check KVPOLL_URL, and that Redis is up and reachable", ""
    return f"{type(error).__name__}: {error}", ""
