"""HTML from nested calls: ``tag("td", text, class_="age")``.

Invariant: text becomes markup nowhere. A plain string is escaped wherever it is put, as content or as an attribute;
only ``tag`` makes the type Html, which is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from redis_kvpoll.errors import printable

VOID = frozenset(("input", "link", "meta"))
"""Elements of HTML without an end tag. Those of SVG need theirs: else the next one would be inside."""


class Html(str):
    """Markup that ``tag`` made."""

    __slots__ = ()


Content = str | Html | Iterable["Content"] | None


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Html:
    """Return an element. ``class_`` is class, ``data_x`` is data-x; True is an attribute alone, None and False none."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        words.append(attribute if value is True else f'{attribute}="{_text(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in VOID else f"{start}{join(content)}</{name}>")


def join(content: Content) -> Html:
    """Return several pieces of content as one."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(_text(content))
    return Html("".join(map(join, content)))


def _text(text: str) -> str:
    # Bidi marks and other invisible characters would make a reason look like something else.
    return escape(printable(text), quote=True)
