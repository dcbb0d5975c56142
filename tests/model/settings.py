"""The settings that are explored: their processes, operations and faults."""

from __future__ import annotations

from tests.model import handles
from tests.model.groups import GROUPS
from tests.model.operations import UNFENCED, Kind, Setting, context

UPDATES, ABORT, CLEAR = UNFENCED[:5], UNFENCED[5], UNFENCED[6]
_REDUNDANT = ("room.update Bootstrapping", "room.update WaitingForInput")
"""A room is opened at Bootstrapping; three statuses are enough for what depends on their order alone."""


def _rankless(policy: str) -> tuple[Kind, ...]:
    return (Kind("process", context(policy)),)


def plain(policy: str, each: int) -> Setting:
    """Calls without a generation, with reasons, touches and prefix lengths."""
    return Setting(policy, _rankless(policy), (0, 0, 0), each, UNFENCED, losses=1)


def fenced(policy: str, each: int) -> Setting:
    """Handles beside plain calls."""
    alphabet = (*handles.OPENINGS, *handles.FENCED, handles.BIND, *UPDATES, ABORT, CLEAR)
    return Setting(policy, _rankless(policy), (0, 0, 0), each, alphabet)


_FEW = (*handles.OPENINGS, *[o for o in handles.FENCED if o.name not in _REDUNDANT], CLEAR, UPDATES[1])


def lossy(policy: str, each: int, lost: int = 0, is_behind: bool = False) -> Setting:
    """Handles on a server that may lose all its data, and may then have a clock that is behind."""
    kinds = _rankless(policy)
    replaying = {"losses": 1, "is_behind": is_behind, "replay": handles.REPLAY}
    return Setting(policy, kinds, (0, 0, 0), each, _FEW, lost=lost, expiries=0, **replaying)


def ranked(policy: str, each: int, third: int = 0, lost: int = 0) -> Setting:
    """Two ranks; the third process has rank 0 too, or (2) is an operator without a rank."""
    alphabet = (*_FEW, UPDATES[0], UPDATES[4], ABORT)
    return Setting(policy, _kinds(policy), (0, 1, third), each, alphabet, lost=lost)


def grouped(policy: str, each: int) -> Setting:
    """Two ranks, beside a process that speaks for both."""
    alphabet = (*handles.OPENINGS, *GROUPS, *handles.FENCED[1:4], UPDATES[0], UPDATES[4], ABORT, CLEAR)
    return Setting(policy, _kinds(policy), (0, 1, 2), each, alphabet, lost=0)


def ranked_lossy(policy: str, each: int) -> Setting:
    """Two ranks on a server that may lose all its data."""
    return Setting(policy, _kinds(policy), (0, 1, 0), each, _FEW, lost=0, expiries=0, losses=1, replay=handles.REPLAY)


def _kinds(policy: str) -> tuple[Kind, ...]:
    return (
        Kind("rank 0", context(policy, rank="0", world_size="2")),
        Kind("rank 1", context(policy, rank="1", world_size="2")),
        Kind("operator", context(policy)),
    )
