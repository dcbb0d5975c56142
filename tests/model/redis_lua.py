"""Runs the real scripts over the model as a server does: Lua 5.1 with its numbers, nils and errors.

There is one Lua runtime, and a script is compiled once. Stricter than on a server: a key that is not among
KEYS is an error, which only a cluster would detect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lupa.lua51
from redis.exceptions import ResponseError

from tests.model.redis_model import RedisModel

_SETUP = b"""
local _, redis = ...
local allowed = {'string', 'math', 'table', 'ipairs', 'pairs', 'next', 'select', 'type', 'unpack', 'tonumber',
  'tostring', 'error', 'pcall', 'assert'}
local base = {}
for _, name in ipairs(allowed) do base[name] = _G[name] end
base.redis = {
  call = redis.call, pcall = redis.pcall,
  error_reply = function(text) return {err = text} end,
  status_reply = function(text) return {ok = text} end,
}
local words = {}
local env = setmetatable({}, {
  __index = function(_, name)
    if name == 'KEYS' or name == 'ARGV' then return words[name] end
    local found = base[name]
    if found == nil then error("Script attempted to access nonexistent global variable '" .. name .. "'", 2) end
    return found
  end,
  __newindex = function(_, name) error('Attempt to modify a readonly table: ' .. name, 2) end,
})
return function(source, name)
  local chunk = assert(loadstring(source, name))
  setfenv(chunk, env)
  return function(keys, argv)
    words.KEYS, words.ARGV = keys, argv
    return chunk()
  end
end
"""


class ScriptError(Exception):
    """A script that failed, in a way that no reply of a real server can be mistaken for."""


class ScriptRunner:
    """The scripts of one server, which it has compiled."""

    def __init__(self, model: RedisModel) -> None:
        self._model = model
        self._keys: frozenset[bytes] = frozenset()
        self._lua = lupa.lua51.LuaRuntime(encoding=None, register_eval=False)
        commands = self._lua.table_from({b"call": self._call, b"pcall": self._pcall})
        self._compile = self._lua.execute(_SETUP, None, commands)
        self._compiled: dict[str, Any] = {}

    def run(self, source: str, keys: Sequence[bytes], argv: Sequence[bytes]) -> Any:
        """The reply to EVAL, as redis-py gives it."""
        script = self._compiled.get(source)
        if script is None:
            script = self._compiled[source] = self._compile(source.encode(), b"script")
        self._model.expire()
        self._keys = frozenset(keys)
        try:
            reply = script(self._lua.table_from(keys), self._lua.table_from(argv))
        except lupa.lua51.LuaError as error:
            raise ScriptError(str(error)) from None
        found = self._from_lua(reply)
        if isinstance(found, ResponseError):
            raise found
        return found

    # What a script calls

    def _call(self, *words: Any) -> Any:
        name, *args = [_word(word) for word in words]
        self._check_keys(name.upper(), args)
        return self._to_lua(self._model.execute(name, *args))

    def _pcall(self, *words: Any) -> Any:
        try:
            return self._call(*words)
        except ResponseError as error:
            return self._lua.table_from({b"err": str(error).encode()})

    def _check_keys(self, name: bytes, args: list[bytes]) -> None:
        keys = args if name in (b"DEL", b"EXISTS") else [] if name == b"TIME" else args[:1]
        # The counts of refused writes are not declared: lua/include/refused.lua says why.
        if not self._keys.issuperset(key for key in keys if not key.endswith(b":refused")):
            raise ScriptError(f"{name.decode()} {b' '.join(args).decode()}: a key that is not among KEYS")

    # Between the two languages

    def _to_lua(self, reply: Any) -> Any:
        if reply is None:
            return False
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(item) for item in reply])
        return reply

    def _from_lua(self, value: Any) -> Any:
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, bool):
            return 1 if value else None
        if isinstance(value, (int, float)):
            return int(value)
        if (error := value[b"err"]) is not None:
            return ResponseError(error.decode().removeprefix("ERR "))
        if (status := value[b"ok"]) is not None:
            return status
        reply, at = [], 1
        while (item := value[at]) is not None:
            reply.append(self._from_lua(item))
            at += 1
        return reply


def _word(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word
    if isinstance(word, bool) or not isinstance(word, (int, float)):
        raise ScriptError(f"a command's words are strings and numbers, not {word!r}")
    return b"%d" % word if word == int(word) else b"%.17g" % word
