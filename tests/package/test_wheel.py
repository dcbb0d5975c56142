"""The wheel works outside the checkout, requires only redis, and has correct types."""

from __future__ import annotations

import email
import importlib.util
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import pace

CHECKOUT = Path(__file__).parents[2]
LUA = sorted(path.relative_to(CHECKOUT / "lua").as_posix() for path in (CHECKOUT / "lua").rglob("*.lua"))

# Run in the clean environment, isolated (-I) and in another folder, so that the checkout is not on its path.
TRY_IT = """
import asyncio, sys
from importlib.metadata import entry_points
from pathlib import Path
import redis_kvpoll
from redis_kvpoll import AsyncStatusStore, KVPoll, Outcome, StatusStore, Update
from redis_kvpoll.protocol import scripts

here = Path(redis_kvpoll.__file__).parent
assert here.is_relative_to(sys.prefix), here
assert Path(str(scripts.folder())) == here / "lua", scripts.folder()
found = sorted(path.relative_to(here / "lua").as_posix() for path in (here / "lua").rglob("*.lua"))
assert found == sys.argv[1:], found
assert {name + ".lua" for name in scripts.names()} == {name for name in found if "/" not in name}
assert (here / "py.typed").exists()

with StatusStore.from_url("memory://", mode="prefill") as store:
    assert store.update_status(42, KVPoll.Bootstrapping) == Update(Outcome.CREATED, KVPoll.Bootstrapping)
    store.set_decode_prefix_len(42, 7)
    assert store.abort(42, "why").outcome is Outcome.FAILED
    assert (store.failure_reason(42), store.pop_decode_prefix_len(42), store.touch([42])) == ("why", 0, 0)
    assert store.entry(42).status is KVPoll.Failed
    assert store.clear(42) is KVPoll.Failed
    assert [change.status for change in store.history(42)] == [KVPoll.Bootstrapping, KVPoll.Failed, None]

async def main():
    async with AsyncStatusStore.from_url("memory://") as store:
        await store.update_many({1: 1, 2: 3})
        assert await store.poll([2, 1, 0]) == [KVPoll.Transferring, KVPoll.Bootstrapping, None]

asyncio.run(main())
(plugin,) = entry_points(group="sglang.srt.plugins")
assert plugin.name == "redis_kvpoll", plugin
assert Path(sys.modules[plugin.load().__module__].__file__).is_relative_to(here)
print("it works")
"""


def run(*words, cwd):
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=pace.seconds(60)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, source, folder):
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


def files_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_wheel_works_outside_the_checkout(tmp_path):
    wheel = build("wheel", CHECKOUT, tmp_path / "dist")
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # The dependencies come from the tests' environment. Its .pth files (the editable checkout) have no effect here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--python", python)
    # --ignore-installed: pip would find the checkout's metadata among the dependencies and install nothing.
    run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=tmp_path)
    assert run(python, "-I", "-W", "error", "-c", TRY_IT, *LUA, cwd=tmp_path) == "it works\n"
    assert (tmp_path / "env" / "bin" / "kvpoll").exists()


def test_bare_wheel_requires_redis_alone(tmp_path):
    wheel = build("wheel", CHECKOUT, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    required = metadata.get_all("Requires-Dist")
    assert [line.split("<")[0] for line in required if "extra ==" not in line] == ["redis"]
    assert [line for line in required if line.startswith("fakeredis[lua]") and "extra == 'memory'" in line]
    assert {"cli", "embedded", "fast", "memory"} <= set(metadata.get_all("Provides-Extra"))


def test_wheel_from_the_sdist_has_the_same_files(tmp_path):
    sdist = build("sdist", CHECKOUT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        # Python 3.12 and newer warn without a filter; early 3.11 has none.
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "source", **options)  # noqa: S202 - built above
    (source,) = (tmp_path / "source").iterdir()
    assert sorted(path.relative_to(source / "lua").as_posix() for path in (source / "lua").rglob("*.lua")) == LUA
    assert "include/feed.lua" in LUA
    files = files_of(build("wheel", source, tmp_path / "second"))
    assert files == files_of(build("wheel", CHECKOUT, tmp_path / "first"))
    assert {"redis_kvpoll/serve/static/app.js", "redis_kvpoll/serve/static/style.css"} <= set(files)
    assert [name for name in files if name.endswith(".lua")] == [f"redis_kvpoll/lua/{name}" for name in LUA]
    assert not [name for name in files if not name.startswith(("redis_kvpoll/", "redis_kvpoll-"))]


@pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy is not installed (it is in the extra 'lint')"
)
def test_public_types_hold(tmp_path):
    """public_types.py uses the whole interface; mypy must reject its wrong lines and accept the others."""
    command = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path)
    assert "Success" in run(*command, CHECKOUT / "tests" / "package" / "public_types.py", cwd=CHECKOUT)
