"""From a check of one server to a check of all nodes, which names the worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple, TypeAlias

from redis_kvpoll.doctor.facts import Facts, NodeFacts
from redis_kvpoll.doctor.findings import Level, Observation, severity, unknown
from redis_kvpoll.protocol.durations import human

DAY = 86400
OTHERS_SHARE = 0.5
"""The share of kvpoll's keys below which a server counts as somebody else's."""
NO_INFO = "not known: this user may not call INFO"


class NodeView(NamedTuple):
    """What a check of one server sees."""

    node: NodeFacts
    before: NodeFacts | None
    """The same server in an earlier look."""
    facts: Facts

    @property
    def info(self) -> Mapping[str, str]:
        return self.node.info or {}

    @property
    def is_others(self) -> bool | None:
        """Whether most keys are not kvpoll's; None if it is not known."""
        share = self.node.kvpoll_share
        return None if share is None else share < OTHERS_SHARE

    def server_wide(self, command: str) -> str:
        """Return the advice to call what changes the whole server: on one that others use, it may cost them data."""
        if self.is_others is None:
            return f"if only kvpoll uses this server: {command}"
        if self.is_others:
            return f"most keys are others': give kvpoll a server of its own; or, if they agree: {command}"
        return command


NodeCheck: TypeAlias = Callable[[NodeView], Observation]
Check: TypeAlias = Callable[[Facts], Observation]


def each_node(check: NodeCheck) -> Check:
    """Return a check of all nodes that gave an answer."""

    def check_all(facts: Facts) -> Observation:
        earlier = {node.address: node for node in facts.before.nodes} if facts.before else {}
        views = [NodeView(node, earlier.get(node.address), facts) for node in facts.nodes if not node.error]
        seen = [(check(view), view.node) for view in views]
        if not seen:
            return unknown("no server could be asked")
        worst, where = max(seen, key=lambda pair: severity(pair[0]))
        if len(seen) == 1 or worst.level is Level.WELL:
            return worst
        others = sum(found.level is worst.level for found, _ in seen) - 1
        more = f" (and {others} more)" if others else ""
        return worst._replace(found=f"{where.address}{more}: {worst.found}")

    return check_all


def with_info(check: NodeCheck) -> Check:
    """Return a check of all nodes by their INFO."""

    def check_info(view: NodeView) -> Observation:
        return check(view) if view.node.info is not None else unknown(NO_INFO)

    return each_node(check_info)


def number(info: Mapping[str, str], name: str) -> float:
    """Return a field of INFO as a number; 0 if the server does not have it."""
    try:
        return float(info.get(name, 0))
    except ValueError:
        return 0.0


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return (
                f"{count:.1f} {unit}" if unit == "MB" and count < 100 and count != int(count) else f"{count:.0f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} GB"


def when(at: float, now: float) -> str:
    """Return a moment for people: the time of day here, with its zone, and how long ago it was."""
    try:
        local = datetime.fromtimestamp(at).astimezone()
    except (OSError, OverflowError, ValueError):  # written by hand, and outside any calendar
        return f"{at:g} s after 1970"
    form = "%H:%M:%S" if now - at < DAY else "%Y-%m-%d %H:%M:%S"
    zone = local.isoformat()[-6:]
    return f"{local.strftime(form)} {zone} ({human(max(0.0, now - at))} ago)"
