"""The documentation as a site: make docs. Every page is also readable as it is, in Markdown."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import redis_kvpoll
from redis_kvpoll.cli.app import COMMANDS, kvpoll, load

project = "redis_kvpoll"
author = "the redis_kvpoll developers"
copyright = author
release = version = importlib.metadata.version("redis-kvpoll")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
# Links are checked by tests/package/test_documents.py; those to what is not a page of the site are shown as text.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_title = f"redis_kvpoll {version}"
html_show_sphinx = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
STORES = ("AsyncStatusStore", "StatusStore")
"""The classes that users construct. They come first; all others are made by their methods."""
PYTHONS = "object, int, str, tuple, dict, Iterator, AsyncIterator"
"""Classes of Python's own, whose methods are not shown."""


class CommandHelp(Directive):
    """The --help of each command of kvpoll, as a terminal of 80 columns shows it."""

    def run(self) -> list[nodes.Node]:
        group = click.Context(kvpoll, info_name="kvpoll", max_content_width=80)
        pages = [("kvpoll", kvpoll.get_help(group))]
        for name in COMMANDS:
            context = click.Context(load(name), info_name=name, parent=group, max_content_width=80)
            pages.append((f"kvpoll {name}", context.command.get_help(context)))
        return [self._section(title, text) for title, text in pages]

    def _section(self, title: str, text: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        section += [nodes.title(text=title), nodes.literal_block(text, text, language="text")]
        return section


class PublicNames(Directive):
    """The public names of the package that are of one kind: classes or errors. For eval-rst blocks."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        wants_errors = self.arguments[0] == "errors"
        lines = []
        for name in sorted(redis_kvpoll.__all__, key=lambda name: name not in STORES):
            value = getattr(redis_kvpoll, name)
            if isinstance(value, type) and issubclass(value, Exception) is wants_errors:
                inherited = [] if wants_errors else [f"   :inherited-members: {PYTHONS}"]
                lines += [f".. autoclass:: redis_kvpoll.{name}", "   :members:", *inherited, ""]
        section = nodes.section()
        self.state.nested_parse(StringList(lines, "public names"), 0, section)
        return list(section.children)


def setup(app: Sphinx) -> None:
    os.environ["COLUMNS"] = "80"
    app.add_directive("kvpoll-help", CommandHelp)
    app.add_directive("public-names", PublicNames)
    app.add_lexer("redis-cli", TextLexer)
    app.connect("autodoc-process-signature", _without_constructor)
    app.connect("autodoc-process-docstring", _without_type, priority=400)
    app.connect("autodoc-skip-member", lambda app, what, name, value, skip, options: skip or name == "after_fork")


def _without_constructor(
    app: Sphinx, what: str, name: str, value: object, options: object, arguments: str | None, returns: str | None
) -> Any:
    """Hide the constructor of a class that a store makes. An exception has no arguments to hide: Sphinx fails then."""
    made = what in ("class", "exception") and name.rpartition(".")[2] not in STORES
    return ("", None) if made and arguments is not None else None


def _without_type(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep napoleon, which comes next, from reading "Whether it is lost: it expired" as a type and its description."""
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(":", ";")
