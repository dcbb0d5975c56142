"""The page ``/owners``: the leases, lost ones first."""

from __future__ import annotations

from redis_kvpoll.model import Owner
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.markup import Html
from redis_kvpoll.serve.screens.base import Page, Screen, common, empty, namespaces, section, table
from redis_kvpoll.serve.view import Cell, Row, View

TONES = {"alive": "good", "expired": "warn", "suspected": "warn", "lost": "bad"}
_ORDER = ("lost", "suspected", "expired", "alive")
COLUMNS = ("Owner", "State", "Live rooms", "Heartbeat", "Lease", "Since", "Failed rooms", "Reason")
MOST = 500
NO_OWNER = "This namespace has no leases: rooms of a process that dies stay until their TTL ends."


async def view(page: Page) -> View:
    owners = sorted(page.watch.snapshot.owners, key=lambda owner: (_ORDER.index(owner.state), owner.name))
    now = page.watch.snapshot.at
    return View(
        common(page) | empty(page, owners=NO_OWNER),
        {"namespaces": namespaces(page), "owners": tuple(row(page, owner, now) for owner in owners[:MOST])},
    )


def row(page: Page, owner: Owner, now: float) -> Row:
    is_lost = owner.state == "lost"
    return Row(
        f"{owner.name} {owner.incarnation}",
        (
            Cell(owner.name, "", page.link("/", owner=owner.name)),
            Cell(owner.state, TONES[owner.state]),
            Cell(formats.count(owner.rooms)),
            Cell(_heard_of(owner, now)),
            Cell(formats.duration(owner.ttl) if owner.ttl else formats.NONE),
            Cell(formats.moment(owner.since)),
            Cell(formats.count(owner.failed) if is_lost else formats.NONE, "bad" if is_lost and owner.failed else ""),
            Cell(owner.reason or formats.NONE),
        ),
    )


def _heard_of(owner: Owner, now: float) -> str:
    """Return when its last heartbeat was, or when it was lost."""
    if owner.lost_at:
        return f"lost {formats.duration(now - owner.lost_at)} ago"
    return f"{formats.duration(now - owner.last_heartbeat_at)} ago" if owner.last_heartbeat_at else formats.NONE


def body(page: Page, view: View) -> Html:
    return section("Owners", table(view, "owners", COLUMNS, "Owners", "cards"))


SCREEN = Screen("/owners", "Owners", view, body, "2")
