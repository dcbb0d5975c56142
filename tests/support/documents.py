"""The documents of the project: their code blocks, links and names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *(path for name in ("deploy", "docs", "tests") for path in ROOT.glob(f"{name}/*.md")),
    ]
)
GUIDES = ("README.md", "docs/python.md", "docs/operations.md")
"""The documents whose examples are run; those of docs/sglang.md need SGLang."""


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document, kind):
    """The code blocks of one kind; "" for those without one."""
    found = re.findall(r"^```([\w-]*)\n(.*?)^```$", text_of(document), re.DOTALL | re.MULTILINE)
    return [text for its_kind, text in found if its_kind == kind]


def kinds(document):
    return set(re.findall(r"^```([\w-]+)$", text_of(document), re.MULTILINE))


def shell_lines(documents, program):
    """The lines of the shell blocks that call a program, without their comments."""
    lines = [line for document in documents for text in blocks(document, "sh") for line in text.splitlines()]
    commands = [line.partition("  #")[0].strip() for line in lines]
    return [command for command in commands if command.split() and command.split()[0] == program]


def anchors(document):
    """The names by which a link gets to a heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose_of(document):
    """A document without its code blocks and, in the changelog, without its tables of former names."""
    text = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE) if document == "CHANGELOG.md" else text
