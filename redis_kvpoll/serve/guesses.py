"""How fast secrets may be guessed: what each client address has sent wrong lately.

Invariant: of one address, no secret is compared while the answers to LIMIT wrong ones are due. So a right secret,
which is answered at once, is told from a wrong one at most LIMIT times, and then once in each DELAY. What another
address has sent delays nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time

DELAY = 0.5
"""Seconds that each wrong secret of an address adds to the pause before its next answer."""
LIMIT = 20
MOST_ADDRESSES = 10_000
"""Addresses that are told apart; all others count as one."""


class Guesses:
    """The wrong secrets of each address, as the time at which the last of them is answered."""

    def __init__(self) -> None:
        self._answered_at: dict[str, float] = {}

    def may_try(self, address: str) -> bool:
        """Return whether a secret of this address may be compared now."""
        due = self._answered_at.get(self._key(address), 0.0) - time.monotonic()
        return due <= (LIMIT - 1) * DELAY

    async def failed(self, address: str) -> None:
        """Count a wrong secret, and return when it may be answered."""
        key, now = self._key(address), time.monotonic()
        answered_at = self._answered_at[key] = max(self._answered_at.get(key, 0.0), now) + DELAY
        await asyncio.sleep(answered_at - now)

    def _key(self, address: str) -> str:
        key = _network(address)
        if key not in self._answered_at and len(self._answered_at) >= MOST_ADDRESSES:
            now = time.monotonic()
            self._answered_at = {each: at for each, at in self._answered_at.items() if at > now}
            if len(self._answered_at) >= MOST_ADDRESSES:
                return ""
        return key


def _network(address: str) -> str:
    """Return what one client has of an address: of IPv6, the 64 bits of its network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a unix socket has none
        return address
    if not isinstance(found, ipaddress.IPv6Address):
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
