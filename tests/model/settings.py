"""What is explored: who takes part, with which operations, and what may befall them."""

from __future__ import annotations

from tests.model import handles
from tests.model.operations import UNFENCED, Kind, Setting, layout

UPDATES, ABORT, CLEAR = UNFENCED[:5], UNFENCED[5], UNFENCED[6]


def _rankless(policy: str) -> tuple[Kind, ...]:
    return (Kind("process", layout(policy)),)


def plain(policy: str, each: int) -> Setting:
    """Calls that know no generation, with reasons, touches and prefix lengths."""
    return Setting(policy, _rankless(policy), (0, 0, 0), each, UNFENCED, losses=1)


def fenced(policy: str, each: int) -> Setting:
    """Handles beside plain calls."""
    alphabet = (*handles.OPENINGS, *handles.FENCED, handles.BIND, *UPDATES, ABORT, CLEAR)
    return Setting(policy, _rankless(policy), (0, 0, 0), each, alphabet)


def lossy(policy: str, each: int, is_behind: bool = False) -> Setting:
    """Handles on a server that may lose all its data, and then have a clock that is behind."""
    alphabet = (*handles.OPENINGS, *handles.FENCED, CLEAR, ABORT, UPDATES[1])
    return Setting(
        policy,
        _rankless(policy),
        (0, 0, 0),
        each,
        alphabet,
        expiries=0,
        losses=1,
        is_behind=is_behind,
        restate=handles.RESTATE,
    )


def ranked(policy: str, each: int, third: int = 0) -> Setting:
    """Two ranks; the third process is of rank 0 too, or an operator, who has none."""
    kinds = (
        Kind("rank 0", layout(policy, rank="0", world_size="2")),
        Kind("rank 1", layout(policy, rank="1", world_size="2")),
        Kind("operator", layout(policy)),
    )
    alphabet = (*handles.OPENINGS, *handles.FENCED, *UPDATES, ABORT, CLEAR)
    return Setting(policy, kinds, (0, 1, third), each, alphabet, losses=1, restate=handles.RESTATE)
