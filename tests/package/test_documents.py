"""Files, names, commands and variables in the documents exist, and former words are gone."""

from __future__ import annotations

import re
import runpy
import shlex
from xml.etree import ElementTree

import click
import pytest

from redis_kvpoll.agent.server import running
from redis_kvpoll.cli.app import COMMANDS, kvpoll, load
from redis_kvpoll.integrations.sglang import settings
from redis_kvpoll.protocol.settings import SCHEMA
from tests.sglang.releases import page
from tests.support.documents import DOCUMENTS, ROOT, anchors, blocks, prose_of, shell_lines, text_of

FOLDERS = ("redis_kvpoll", "lua", "tests", "docs", "bench", "chaos")
ENGINE = ROOT / "redis_kvpoll" / "engine"
PICTURES = sorted(path.name for path in (ROOT / "docs").glob("*.svg"))
FROZEN = (
    *(
        r"(?<!in )flights?",
        "riders?",
        "lanes?",
        "pilots?",
        "formations?",
        r"(?<!round\s)trips?",
        "judges?",
        "condemn\\w*",
    ),
    *(
        "graves?",
        "bury",
        "buried",
        "unsaid",
        "untold",
        "in vain",
        "guests?",
        "openers?",
        "restat\\w+",
        "taken for dead",
    ),
    *("lapsed?", "lapses", "beaten", "misfits?", "teeth", "violence", "faulty", "late copies"),
)
"""Words that this project no longer uses; docs/glossary.md has the current ones."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT)), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_are_where_they_are_named(document):
    names = re.findall(r"`([\w./-]+/[\w./-]*)`", prose_of(document))
    for name in (name for name in names if name.split("/")[0] in FOLDERS and "NAME" not in name):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_are_in_the_files_beside_them(document):
    for name, path in re.findall(r"`(\w+)` (?:in|of) `([\w/.]+\.\w+)`", prose_of(document)):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{name} in {path}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_kvpoll_takes_what_is_shown(document):
    shown = re.findall(r"^\$ (kvpoll .+)$", "".join(blocks(document, "")), re.MULTILINE)
    inline = re.findall(r"`(kvpoll [a-z][^`…]*)`", prose_of(document))
    for line in [*shell_lines([document], "kvpoll"), *shown, *inline]:
        words = [re.sub("^ROOM$", "42", word) for word in shlex.split(line, comments=True)[1:]]
        name, command, rest = kvpoll.resolve_command(click.Context(kvpoll), words)
        needs_room = any(p.name == "room" and isinstance(p, click.Argument) for p in command.params)
        if line in inline and needs_room and not any(word.isdigit() for word in rest):
            rest = [*rest, "42"]
        command.make_context(name, rest)  # a wrong option or argument raises UsageError


def test_address_of_an_owner_ends_with_its_colon():
    """--owner takes a text anywhere in a name: 10.0.0.1 is also in 10.0.0.12."""
    shown = [text_of(document) for document in DOCUMENTS] + [load(name).help or "" for name in COMMANDS]
    found = re.findall(r"--owner (\S*\d\.\d\S*)", "\n".join(shown))
    assert len(found) >= 5
    assert [address for address in found if not re.fullmatch(r"[@/][\d.]+:", address)] == []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_variables_are_read_by_the_plugin_or_a_command(document):
    known = {settings.URL, running.UIDS, *(settings.PREFIX + name for name in settings.PARSERS)}
    known |= {str(option.envvar) for name in COMMANDS for option in load(name).params if option.envvar}
    assert set(re.findall(r"\bKVPOLL_[A-Z_]+\b", text_of(document))) <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_former_words_are_gone(document):
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose_of(document))
    found = re.findall(rf"\b(?:{'|'.join(FROZEN)})\b", prose, re.IGNORECASE)
    assert not found


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_stands_alone(name):
    """A page shows it as an image: nothing in it may load anything, and a screen reader gets its title."""
    picture = (ROOT / "docs" / name).read_text(encoding="utf-8")
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own file
    assert root.get("aria-label") or root.get("aria-labelledby")
    assert set(re.findall(r"\w+://[^\s\"')]+", picture)) == {"http://www.w3.org/2000/svg"}


def test_compatibility_has_the_schema():
    (number,) = re.findall(r"^\| schema \| (\d+) \|", text_of("docs/compatibility.md"), re.MULTILINE)
    assert number == SCHEMA


def test_neighbouring_releases_that_are_alike_share_a_row():
    text = text_of("docs/sglang.md")
    cells = page.read(text)
    assert (*cells,) == page.RELEASES
    assert page.write(text, cells) == text
    one_row = page.write(f"{page.START}{page.END}", dict.fromkeys(page.RELEASES, "yes"))
    assert f"| {page.RELEASES[0]} to {page.RELEASES[-1]} | yes |\n{page.END}" in one_row


def test_the_layers_are_drawn_from_their_list():
    script = runpy.run_path(str(ROOT / "docs/architecture.py"))
    drawn = script["draw"]()
    assert (ROOT / "docs/architecture.svg").read_text(encoding="utf-8") == drawn, "run python docs/architecture.py"
    assert all(f">{name}<" in drawn for layer in script["LAYERS"] for name in layer)


def test_each_cause_of_an_unknown_outcome_is_listed():
    """As many as there are places in the engine that make the error."""
    made = sum(path.read_text("utf-8").count("CallFailed(OutcomeUnknownError,") for path in ENGINE.rglob("*.py"))
    listed = text_of("docs/python.md").partition("- `OutcomeUnknownError`: ")[2].partition("\n- ")[0]
    assert made == listed.count("\n  - ") == 4
