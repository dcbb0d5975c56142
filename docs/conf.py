"""The documentation as a site: make docs. Every page is also readable as it is, in Markdown."""

from __future__ import annotations

import importlib.metadata
import os

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
autodoc_class_signature = "separated"
PYTHONS = "object, int, str, tuple, dict, Iterator, AsyncIterator"
"""Classes of Python's own, whose methods are not shown."""


class CommandHelp(Directive):
    """The --help of each command of kvpoll, as a terminal of 100 columns shows it."""

    def run(self) -> list[nodes.Node]:
        group = click.Context(kvpoll, info_name="kvpoll", max_content_width=100)
        pages = [("kvpoll", kvpoll.get_help(group))]
        for name in COMMANDS:
            context = click.Context(load(name), info_name=name, parent=group, max_content_width=100)
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
        for name in redis_kvpoll.__all__:
            value = getattr(redis_kvpoll, name)
            if isinstance(value, type) and issubclass(value, Exception) is wants_errors:
                inherited = [] if wants_errors else [f"   :inherited-members: {PYTHONS}"]
                lines += [f".. autoclass:: redis_kvpoll.{name}", "   :members:", *inherited, ""]
        section = nodes.section()
        self.state.nested_parse(StringList(lines, "public names"), 0, section)
        return list(section.children)


def setup(app: Sphinx) -> None:
    os.environ["COLUMNS"] = "100"
    app.add_directive("kvpoll-help", CommandHelp)
    app.add_directive("public-names", PublicNames)
    app.add_lexer("redis-cli", TextLexer)
