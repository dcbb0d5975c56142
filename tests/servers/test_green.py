"""The blocking store under gevent and eventlet, which replace sockets, threads and select in the whole process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.support import real

PATCH = {
    "gevent": "from gevent import monkey, spawn; monkey.patch_all(); finish = lambda task: task.get()",
    "eventlet": "import eventlet; eventlet.monkey_patch(); spawn = eventlet.spawn; finish = lambda task: task.wait()",
}
USE = """
import sys
from redis_kvpoll import StatusStore
url, options = sys.argv[1], {"shards": int(sys.argv[2]), "namespace": "shards-" + sys.argv[2]}
with StatusStore.from_url(url, **options) as store, StatusStore.from_url(url, **options) as other:
    store.update_many({room: 1 for room in range(200)})
    with other.mirror() as mirror, store.lease("me"):
        waits = [spawn(lambda: mirror.wait(7, 4)), spawn(lambda: other.wait(7, 4))]
        tasks = [spawn(lambda room=room: store.update_status(room, 4)) for room in range(50)]
        assert all(finish(task).status == 4 for task in tasks)
        assert [finish(wait) for wait in waits] == [4, 4]
        assert store.open(1000).update(3).status == 3
    assert store.counts()[4] == 50
print("works")
"""


@pytest.mark.parametrize("shards", ["1", "4"])
@pytest.mark.parametrize("library", PATCH)
def test_store_works_in_a_patched_process(library, shards):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed (it is in the extra 'servers')")
    code = PATCH[library] + USE
    line = [sys.executable, "-W", "ignore", "-c", code, real.shared().tcp, shards]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("works\n", "")
