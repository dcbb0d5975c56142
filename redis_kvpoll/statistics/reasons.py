"""The kind of a failure reason, by its text.

Reasons are others' text: this library's, SGLang's, an operator's. The patterns are tried in order; the first that is
found decides. To add a kind: add it to FAILURES in model.py, and its pattern here.
"""

from __future__ import annotations

import re
from functools import lru_cache

NONE, OTHER = "none", "other"
MASKED_LENGTH = 120
"""Characters of a masked reason."""

BY_HAND = "Aborted by hand"
"""How the reason of an operator's abort begins."""

_KINDS = (
    ("aborted", re.compile(rf"^{BY_HAND}\b")),
    ("lease_lost", re.compile(r"lost its lease|lease (was )?lost", re.IGNORECASE)),
    ("owner_lost", re.compile(r"^(owner|prefill|decode) \S+ lost\b", re.IGNORECASE)),
    ("owner_left", re.compile(r"^(owner|prefill|decode) \S+ left\b", re.IGNORECASE)),
    ("other_side", re.compile(r"^failed on the (prefill|decode) side|from another rank", re.IGNORECASE)),
    ("timeout", re.compile(r"timed?[ -]?out", re.IGNORECASE)),
    ("aborted", re.compile(r"\babort|\bcancel|by hand", re.IGNORECASE)),
    (
        "transfer",
        re.compile(
            r"\btransfer|\bsession\b|\bmooncake|\bnixl|\brdma\b|kv[ _]?(chunk|cache)|\bsend\b|connection|"
            r"could be dead|\bheartbeat",
            re.IGNORECASE,
        ),
    ),
)
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|[0-9a-f]{16,}|\d+(?:\.\d+)*", re.I)


@lru_cache(maxsize=1024)
def kind_of(reason: str | None) -> str:
    """Return the kind of a reason, one of FAILURES."""
    if not reason:
        return NONE
    return next((kind for kind, pattern in _KINDS if pattern.search(reason)), OTHER)


def by_hand(reason: str) -> str:
    """Return the reason that an operator's abort records for his own words, so that it is counted as that."""
    text = reason.strip()
    return text if not text or kind_of(text) == "aborted" else f"{BY_HAND}: {text}"


@lru_cache(maxsize=1024)
def masked(reason: str) -> str:
    """Return the reason with ``#`` for each number, address and id, so that those of many rooms are one."""
    return _NUMBERS.sub("#", reason)[:MASKED_LENGTH]
