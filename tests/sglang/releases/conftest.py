"""These tests run once per release, started by ``python -m tests.sglang.releases``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sglang.releases import imports

FILES = "SGLANG_RELEASE_FILES"

if FILES in os.environ:
    imports.use(Path(os.environ[FILES]))


def pytest_pycollect_makemodule() -> None:
    if FILES not in os.environ:
        pytest.skip("for one release of SGLang: make test-sglang-versions", allow_module_level=True)
