"""Finds the keys of a script's commands that are none of its KEYS: in a cluster, it would be refused, or lie elsewhere.

A key is ``KEYS[…]`` itself, or a name that is bound to such wherever it is bound: by ``local``, alone or in a list, or
as a parameter, when every call of that function gives a key in its place. A name that is bound to anything else in any
part of a script is none, so that one need not know which of them is meant.
"""

from __future__ import annotations

from collections import defaultdict

from tests.support import lua

OPENING, CLOSING = {"(", "[", "{"}, {")", "]", "}"}


def undeclared_keys(source):
    """["COMMAND name", …] of the commands whose first argument (for DEL, any) is no key; TIME has none."""
    texts = [text for _, text, _ in lua.tokens(source)][:-1]
    ways = (["redis", ".", "call", "("], ["redis", ".", "pcall", "("])
    calls = [at for at in range(len(texts)) if texts[at : at + 4] in ways]
    bindings, found = bindings_in(texts), []
    for at in calls:
        command, *arguments = parts(texts, at + 4)
        key_places = arguments if command == ["'DEL'"] else arguments[:1] or [[]]
        if command != ["'TIME'"]:
            wrong = [key for key in key_places if not is_key(key, bindings)]
            found += [f"{''.join(command).strip(chr(39))} {''.join(key)}".strip() for key in wrong]
    return found + ["redis"] * (texts.count("redis") - len(calls))  # called by another name, or not at all


def is_key(expression, bindings, seen=()):
    """Whether these tokens are a key."""
    if expression[:2] == ["KEYS", "["] and closing(expression, 1) == len(expression) - 1:
        return True
    (name, *more) = expression or [""]
    if more or not bindings.get(name):
        return False
    # A function that passes its own parameter to itself adds nothing.
    return all(bound == [name] or name in seen or is_key(bound, bindings, (*seen, name)) for bound in bindings[name])


def bindings_in(texts):
    """{name: [the tokens of what it is bound to, …]}, all over a script; [""] for what can be no key."""
    bindings, parameters = defaultdict(list), {}
    for at, text in enumerate(texts):
        if text == "for":
            for name in names_from(texts, at + 1):
                bindings[name].append([""])
        elif text == "local" and texts[at + 1] != "function":
            bind(bindings, texts, at + 1)
        elif text == "=" and texts[at - 2] != "local" and not is_after_names_of_local(texts, at):
            start = at - 1
            while texts[start - 1] == ",":
                start -= 2
            bind(bindings, texts, start)
        elif text == "function":
            named = texts[at + 1] != "("
            names = [part[0] for part in parts(texts, at + 2 + named) if part]
            parameters[texts[at + 1] if named else at] = (at + 1, names)
    for function, (defined_at, names) in parameters.items():
        called = [n for n, text in enumerate(texts) if text == function and n != defined_at]
        for place, name in enumerate(names):
            # A function that is passed as a value may be called with anything.
            given = [parts(texts, n + 2) if texts[n + 1 : n + 2] == ["("] else [] for n in called]
            bindings[name] += [got[place] if place < len(got) else [""] for got in given] or [[""]]
    return bindings


def bind(bindings, texts, at):
    """``name, name = value, value``, or no values."""
    names = names_from(texts, at)
    end = at + 2 * len(names) - 1
    values = parts(texts, end + 1) if texts[end : end + 1] == ["="] else []
    for place, name in enumerate(names):
        if values or texts[at - 1] != "local":  # what has no value yet gets one elsewhere
            bindings[name].append(values[place] if place < len(values) else [""])


def names_from(texts, at):
    found = [texts[at]]
    while texts[at + 1] == ",":
        at += 2
        found.append(texts[at])
    return found


def is_after_names_of_local(texts, at):
    """Whether the = at this place ends the names of a ``local``, or of a ``for``."""
    at -= 1
    while texts[at - 1] == ",":
        at -= 2
    return texts[at - 1] in ("local", "for")


def parts(texts, at):
    """The expressions of a list that begins here, each its tokens, up to the bracket or the statement that ends it."""
    found, depth = [[]], 0
    while at < len(texts):
        text = texts[at]
        if depth == 0 and (text in CLOSING or text == ";" or (found[-1] and ends(texts, at))):
            break
        depth += (text in OPENING) - (text in CLOSING)
        if text == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(text)
        at += 1
    return found


def ends(texts, at):
    """Whether an expression has come to its end before this token: two operands stand side by side."""
    before, text = texts[at - 1], texts[at]
    if text in lua.KEYWORDS - {"and", "or", "not", "nil", "true", "false", "function"}:
        return True
    starts = text[0].isalpha() or text[0] == "_"
    operand = before[-1].isalnum() or before[-1] in "_)]}'\""
    return starts and operand and text not in lua.BINARY and before not in lua.BINARY | {"not"}


def closing(tokens, at):
    """Where the bracket at this place is closed."""
    depth = 0
    for place in range(at, len(tokens)):
        depth += (tokens[place] in OPENING) - (tokens[place] in CLOSING)
        if depth == 0:
            return place
    return None
