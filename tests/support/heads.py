"""Parses the heads of the scripts: KEYS, ARGV, the reply, the feed and the codes in their first comment."""

from __future__ import annotations

import re

from redis_kvpoll.protocol import scripts

LABELS = ("KEYS", "ARGV", "REPLY", "FEED", "CODES", "INCLUDE")
MAY_LACK = ("CODES", "INCLUDE")
NAMES = sorted(scripts.names())
INCLUDES = sorted(file.name.removesuffix(".lua") for file in (scripts.folder() / "include").iterdir())

_LABEL = re.compile(rf"-- ({'|'.join(LABELS)}) {{2,}}(\S.*)")
_MORE = re.compile(r"-- {10}(\S.*)")


def text_of(name):
    """A script's own file, without its includes."""
    return (scripts.folder() / f"{name}.lua").read_text(encoding="utf-8")


def head(name):
    """(the prose, {label: text}) of a script's first comment. An indented line continues the one before."""
    prose, labelled, label = [], {}, None
    for line in text_of(name).split("\n"):
        if not line.startswith("--"):
            break
        if found := _LABEL.fullmatch(line):
            label = found[1]
            assert label not in labelled, f"{name}.lua has two lines {label}"
            labelled[label] = found[2]
        elif label and (more := _MORE.fullmatch(line)):
            labelled[label] += f" {more[1]}"
        else:
            label = None
            prose.append(line[2:].strip())
    return " ".join(prose), labelled


def words(text):
    """(once, each): the words before ``each:`` and those after."""
    if text == "nothing":
        return [], []
    once, _, each = text.partition("; last:")[0].partition("each:")
    split = [[word.strip() for word in part.strip(" ;").split(",") if word.strip()] for part in (once, each)]
    return split[0], split[1]


def last_keys(name):
    """(the keys of a script that follow those of the rooms, the status for which they do)"""
    said, _, status = head(name)[1]["KEYS"].partition("; last:")[2].partition(" if a status is ")
    return words(said)[0], status


def listed(name, label):
    """The words that a script's label lists; none where it is absent or "nothing"."""
    return words(head(name)[1].get(label, "nothing"))[0]


def codes(name):
    return {int(code): word for code, word in (pair.split() for pair in listed(name, "CODES"))}
