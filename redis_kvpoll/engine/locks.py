"""Whether a thread has a lock: a signal handler or finalizer may interrupt its own thread where it does."""

from __future__ import annotations


def owns(lock: object) -> bool:
    """Whether this thread has a reentrant lock; False for a nullcontext.

    An RLock has no public method that tells it; threading.Condition uses this one, too.
    """
    return bool(getattr(lock, "_is_owned", bool)())
