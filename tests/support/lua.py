"""Reads Lua 5.1, as far as our scripts use it, to find the globals they touch and the commands they send.

luacheck does more, but must be installed on the system. This reads every branch of a script, executed or not.
A script that it cannot read is an error, not a pass.
"""

from __future__ import annotations

import re

KEYWORDS = {
    "and",
    "break",
    "do",
    "else",
    "elseif",
    "end",
    "false",
    "for",
    "function",
    "if",
    "in",
    "local",
    "nil",
    "not",
}
KEYWORDS |= {"or", "repeat", "return", "then", "true", "until", "while"}
BINARY = {"+", "-", "*", "/", "%", "^", "..", "==", "~=", "<", "<=", ">", ">=", "and", "or"}
_TOKEN = re.compile(
    r"""(?P<skip>\s+|--\[(?P<level>=*)\[.*?\](?P=level)\]|--[^\n]*)
      |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\[(?P<long>=*)\[.*?\](?P=long)\])
      |(?P<number>0[xX][0-9a-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)
      |(?P<name>[A-Za-z_]\w*)
      |(?P<mark>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%^#<>=(){}\[\];:,.])""",
    re.VERBOSE | re.DOTALL,
)


def tokens(source):
    """(kind, text, line) of everything but space and comments."""
    at, line, found = 0, 1, []
    while at < len(source):
        match = _TOKEN.match(source, at)
        if not match:
            raise SyntaxError(f"line {line}: cannot read {source[at : at + 10]!r}")
        kind = next(k for k in ("skip", "string", "number", "name", "mark") if match[k] is not None)
        if kind == "name" and match[0] in KEYWORDS:
            kind = "keyword"
        if kind != "skip":
            found.append((kind, match[0], line))
        line += match[0].count("\n")
        at = match.end()
    return [*found, ("end", "", line)]


class Script:
    """One script, read. ``reads`` and ``writes`` are of globals, as (name, line); ``members`` as (global, name)."""

    def __init__(self, source):
        self.tokens, self.at = tokens(source), 0
        self.scopes: list[set[str]] = [set()]
        self.reads: list[tuple[str, int]] = []
        self.writes: list[tuple[str, int]] = []
        self.members: set[tuple[str, str]] = set()
        self.block()
        if self.kind != "end":
            self.fail("the end")

    # Tokens

    @property
    def kind(self):
        return self.tokens[self.at][0]

    @property
    def text(self):
        return self.tokens[self.at][1] if self.kind != "string" else ""

    def fail(self, expected):
        raise SyntaxError(f"line {self.tokens[self.at][2]}: expected {expected}, not {self.tokens[self.at][1]!r}")

    def take(self, *texts):
        """Take one of these words, if it is next."""
        if self.text and self.text in texts:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def expect(self, text):
        if not self.take(text):
            self.fail(repr(text))

    def name(self):
        if self.kind != "name":
            self.fail("a name")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def names(self):
        found = [self.name()]
        while self.take(","):
            found.append(self.name())
        return found

    # Statements

    def block(self, *names):
        """Statements up to the word that ends them; ``names`` are local to it."""
        self.scopes.append(set(names))
        while self.kind != "end" and self.text not in ("end", "else", "elseif", "until"):
            if self.take("return"):
                if self.kind != "end" and self.text not in ("end", "else", "elseif", "until", ";"):
                    self.expressions()
            else:
                self.statement()
            self.take(";")
        return self.scopes.pop()

    def statement(self):
        word = self.take("local", "if", "for", "while", "repeat", "do", "function", "break")
        if word is None:
            self.assignment_or_call()
        elif word != "break":
            getattr(self, f"{word}_")()

    def local_(self):
        if self.take("function"):
            self.scopes[-1].add(self.name())
            self.body()
            return
        names = self.names()
        if self.take("="):
            self.expressions()
        self.scopes[-1].update(names)  # only now: in "local x = x" the second one is another

    def if_(self):
        while True:
            self.expression()
            self.expect("then")
            self.block()
            if not self.take("elseif"):
                break
        if self.take("else"):
            self.block()
        self.expect("end")

    def for_(self):
        names = self.names()
        if not self.take("="):
            self.expect("in")
        self.expressions()
        self.do_(*names)

    def while_(self):
        self.expression()
        self.expect("do")
        self.do_()

    def do_(self, *names):
        if names:
            self.expect("do")
        self.block(*names)
        self.expect("end")

    def repeat_(self):
        scope = self.block()
        self.expect("until")
        self.scopes.append(scope)  # the condition sees the locals of the body
        self.expression()
        self.scopes.pop()

    def function_(self):
        name, line = self.name(), self.tokens[self.at - 1][2]
        self.touch(name, line, self.reads if self.text in (".", ":") else self.writes)
        while self.take(".", ":"):
            self.name()
        self.body()

    def assignment_or_call(self):
        targets = [self.prefix()]
        while self.take(","):
            targets.append(self.prefix())
        if self.take("="):
            self.expressions()
        elif targets != [None]:
            self.fail("an assignment or a call")
        for target in targets:
            if target:
                name, line, bare = target
                self.touch(name, line, self.writes if bare else self.reads)

    # Expressions

    def expressions(self):
        self.expression()
        while self.take(","):
            self.expression()

    def expression(self):
        while True:
            while self.take("not", "-", "#"):
                pass
            self.operand()
            if not self.take(*BINARY):
                return

    def operand(self):
        if self.kind in ("string", "number") or self.text in ("nil", "true", "false", "..."):
            self.at += 1
        elif self.take("function"):
            self.body()
        elif self.text == "{":
            self.table()
        else:
            target = self.prefix()
            if target:
                self.touch(target[0], target[1], self.reads)

    def prefix(self):
        """A name or (expression) with what hangs on it. (name, line, bare) when it may be assigned to, else None."""
        target, line = None, self.tokens[self.at][2]
        if self.take("("):
            self.expression()
            self.expect(")")
        else:
            target = (self.name(), line, True)
        while True:
            if self.take("."):
                member = self.name()
                if target and target[2] and not self.is_local(target[0]):
                    self.members.add((target[0], member))
            elif self.take("["):
                self.expression()
                self.expect("]")
            elif self.kind == "string" or self.text in ("(", "{", ":"):
                if target:
                    self.touch(target[0], line, self.reads)
                self.arguments()
                target = None
                continue
            else:
                return target
            target = target and (*target[:2], False)

    def arguments(self):
        if self.take(":"):
            self.name()
        if self.kind == "string":
            self.at += 1
        elif self.text == "{":
            self.table()
        else:
            self.expect("(")
            if not self.take(")"):
                self.expressions()
                self.expect(")")

    def table(self):
        self.expect("{")
        while not self.take("}"):
            if self.take("["):
                self.expression()
                self.expect("]")
                self.expect("=")
            elif self.kind == "name" and self.tokens[self.at + 1][1] == "=":
                self.at += 2
            self.expression()
            if not self.take(",", ";"):
                self.expect("}")
                return

    def body(self):
        self.expect("(")
        names = []
        while not self.take(")"):
            names += [] if self.take("...") else [self.name()]
            self.take(",")
        self.block(*names)
        self.expect("end")

    # Names

    def is_local(self, name):
        return any(name in scope for scope in self.scopes)

    def touch(self, name, line, uses):
        if not self.is_local(name):
            uses.append((name, line))
