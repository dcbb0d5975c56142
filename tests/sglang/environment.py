"""Makes an environment with the real SGLang on a CPU, in .venv-sglang of this checkout: run by ``make test-sglang``.

SGLang's wheel requires GPU packages and a newer C library than some systems have, for parts that no test calls. So it
is unpacked beside what it really imports (requirements.txt), with stand-ins for the rest (stubs). Then the project
itself is installed there. What exists already, and is not older than what it is made from, stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

SGLANG = "sglang==0.5.23"
WHEEL = "manylinux_2_34_x86_64"
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGET = ROOT / ".venv-sglang"
UNPACKED = TARGET / "sglang"
READY = TARGET / "ready"
PROJECT = TARGET / "project"
REPORT_SECONDS = 10.0
"""At least every so often, what pip does is shown."""
WANTED = (".[cli,embedded,fast,memory]", "pytest>=9", "pytest-asyncio>=1.3")


class SetupError(Exception):
    """The reason why there is no environment, and the remedy."""


def main() -> None:
    """Make what is missing."""
    with _locked():
        if not _is_newer(READY, Path(__file__), HERE / "requirements.txt"):
            _make()
        if not _is_newer(PROJECT, READY, ROOT / "pyproject.toml"):
            _report("  4 of 4: redis_kvpoll itself, and pytest")
            _pip(0, "--editable", *WANTED)
            PROJECT.touch()


def _make() -> None:
    """Make the environment anew."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whichever Python make has found
        raise SetupError("it needs Python 3.11 or newer; name one by PYTHON=python3.12")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError("SGLang has a wheel for Linux on x86_64 only")
    _report("making .venv-sglang: the real SGLang on a CPU (a few minutes, 1.6 GB)")
    shutil.rmtree(TARGET, ignore_errors=True)
    try:
        venv.create(TARGET, with_pip=True)
    except subprocess.CalledProcessError:
        raise SetupError("python cannot make an environment (on Debian: apt install python3-venv)") from None
    requirements = HERE / "requirements.txt"
    count = sum(line[:1].isalpha() for line in requirements.read_text().splitlines())
    _report(f"  1 of 4: torch and what else SGLang imports, {count} packages")
    _pip(count, "--no-deps", "--requirement", str(requirements))
    _report("  2 of 4: SGLang")
    _pip(1, "--no-deps", "--only-binary", ":all:", "--platform", WHEEL, "--target", str(UNPACKED), SGLANG)
    (packages,) = TARGET.glob("lib/python*/site-packages")
    (packages / "sglang.pth").write_text(f"{UNPACKED}\n{HERE / 'stubs'}\n")
    _report("  3 of 4: does it import? The first time takes a minute or two")
    _run("SGLang does not import here", "-W", "ignore", "-c", "import tests.sglang.managers")
    READY.touch()


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Wait for another process that makes it: make rehearse is typed in two shells."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _report("another make is setting .venv-sglang up: waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_newer(made: Path, *sources: Path) -> bool:
    return made.exists() and all(made.stat().st_mtime >= source.stat().st_mtime for source in sources)


def _pip(count: int, *words: str) -> None:
    """Run ``pip install``; show how many of ``count`` packages it has come to."""
    hint = (
        "pip could not install that. Is there a network, 2 GB of space, and an index with torch's build for CPUs? (If "
        "torch is what is missing, name one in PIP_EXTRA_INDEX_URL.)"
    )
    command = [TARGET / "bin" / "python", "-m", "pip", "install", "--progress-bar", "off", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        lines, collected, reported_at = [], 0, time.monotonic()
        for line in pip.stdout or ():
            lines.append(line)
            collected += line.startswith("Collecting ")
            if time.monotonic() - reported_at > REPORT_SECONDS:
                reported_at = time.monotonic()
                step = f"{collected} of {count}: " if collected <= count else ""
                _report(f"    {step}{line.strip()[:100]}")
    if pip.returncode:
        raise SetupError(f"{hint}\n{''.join(lines).strip()[-1500:]}")


def _run(hint: str, *words: str) -> None:
    done = subprocess.run([TARGET / "bin" / "python", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{hint}\n{done.stderr.strip()[-1500:]}")


def _report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f".venv-sglang cannot be made: {error}")
    except KeyboardInterrupt:
        sys.exit("")
