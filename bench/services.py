"""The services of the alternatives: each private, for one run, by TCP on loopback, with no data on disk.

A guard shell runs each service, as with embedded://. When its standard input closes, which the kernel does however
this process dies, the guard ends the service by its process id and removes its folder.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

START_SECONDS = 15.0
_STOP_SECONDS = 10.0
_MIN_FREE = 1 << 30
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian installs some of them; PATH may not have it."""

# $1 is the signal that ends the service at once, $2 its folder; the rest is its command line.
_GUARD = """
how=$1; folder=$2; shift 2
trap 'kill -$how $! 2>/dev/null; wait $!; rm -rf "$folder"' EXIT
trap 'exit 0' TERM INT HUP
trap '' PIPE
"$@" >"$folder/log" 2>&1 </dev/null &
echo $! 2>/dev/null
exec >/dev/null 2>&1
read -r _
"""


class ServiceMissingError(Exception):
    """A service is not installed, or did not start; the message goes into the table."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that a way needs besides Redis."""

    package: str
    """The name of Debian's package."""
    program: str
    client: str
    """The Python module of its client; empty if none is needed."""
    start: Callable[[str], contextlib.AbstractContextManager[str]]
    """Runs the program in a block that gets its address."""


def find(service: Service) -> str:
    """The program's path; empty if there is none to run."""
    if service.client and find_spec(service.client) is None:
        raise ServiceMissingError(f"not installed: Python's {service.client} (extra bench)")
    if not service.program:
        return ""
    found = shutil.which(service.program, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    # Debian installs several versions of PostgreSQL side by side, outside PATH.
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{service.program}")
    newest = max(versions, key=lambda path: int(path.parts[-3]), default=None)
    if found is None and newest is not None:
        found = str(newest)
    if found is None:
        raise ServiceMissingError(f"not installed: Debian's {service.package}")
    return found


@contextlib.contextmanager
def running(name: str) -> Iterator[str]:
    """Start a service and yield its address; raises ServiceMissingError."""
    service = SERVICES[name]
    with service.start(find(service)) as address:
        yield address


@contextlib.contextmanager
def _postgres(program: str) -> Iterator[str]:
    user = _plain_user()
    folder = _folder()
    as_user: list[str] = []
    if user is not None:  # PostgreSQL refuses to run as root
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    (port,) = free_ports(1)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    command = [*as_user, program, "-D", str(folder / "data"), *options]
    try:
        password = _made_cluster([*as_user, str(Path(program).with_name("initdb"))], folder, user)
        # QUIT is its immediate shutdown, without a checkpoint.
        with _guarded(command, folder, "QUIT", lambda: answers(port)):
            yield f"host=127.0.0.1 port={port} user=bench password={password} dbname=postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made_cluster(initdb: list[str], folder: Path, user: pwd.struct_passwd | None) -> str:
    """Create PostgreSQL's data folder; returns the superuser's password.

    There is one because every local user can connect by TCP, and PostgreSQL's superuser may run programs.
    """
    secret, password = folder / "secret", secrets.token_hex(16)
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user is not None:
        os.chown(secret, user.pw_uid, user.pw_gid)
    made = subprocess.run(  # noqa: S603 - the program is one that find found
        [*initdb, "-D", str(folder / "data"), "-N", "-U", "bench", "-A", "scram-sha-256", "--pwfile", str(secret)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=START_SECONDS,
        cwd=folder,
        check=False,
    )
    if made.returncode:
        raise ServiceMissingError(f"initdb failed: {_last_line(made.stderr)}")
    return password


@contextlib.contextmanager
def _etcd(program: str) -> Iterator[str]:
    folder = _folder()
    port, peer_port = free_ports(2)
    client, peer = (f"http://127.0.0.1:{number}" for number in (port, peer_port))
    command = [
        *(program, "--name", "bench", "--data-dir", str(folder / "data"), "--logger", "zap", "--log-level", "error"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"bench={peer}"),
    ]
    with _guarded(command, folder, "TERM", lambda: answers(port)):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _nats(program: str) -> Iterator[str]:
    folder = _folder()
    (port,) = free_ports(1)
    command = [program, "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", str(folder / "data")]
    with _guarded(command, folder, "TERM", lambda: answers(port)):
        yield f"nats://127.0.0.1:{port}"


@contextlib.contextmanager
def _guarded(command: list[str], folder: Path, how: str, ready: Callable[[], bool]) -> Iterator[None]:
    """Run a command until the block ends, in its own session, so that Ctrl-C reaches only this process."""
    guard = subprocess.Popen(  # noqa: S603 - the program is one that find found
        ["/bin/sh", "-c", _GUARD, "bench-guard", how, str(folder), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    assert guard.stdin is not None and guard.stdout is not None  # noqa: S101, PT018 - they are pipes
    pid = 0
    try:
        pid = int(guard.stdout.readline())
        give_up_at = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > give_up_at or guard.poll() is not None or _ended(pid):
                raise ServiceMissingError(f"did not start: {_last_line((folder / 'log').read_text(errors='replace'))}")
            time.sleep(0.02)
        yield
    finally:
        guard.stdin.close()
        guard.stdout.close()
        try:
            guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            guard.wait(_STOP_SECONDS)


def answers(port: int) -> bool:
    """Whether a process listens at a port on loopback."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _ended(pid: int) -> bool:
    """Whether a child of the guard has ended; it stays a zombie until the guard ends."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return Path("/proc/self/stat").exists()  # without /proc the timeout decides


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _folder() -> Path:
    """A new folder, in memory if the system has space there, so that no disk slows a service."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private folder
    has_space = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _MIN_FREE  # a container may have 64 MB
    return Path(tempfile.mkdtemp(prefix="kvpoll-bench-", dir=memory if has_space else None))


def _plain_user() -> pwd.struct_passwd | None:
    """The user for programs that refuse root; None if this process is not root's."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServiceMissingError("it refuses root, and there is no user nobody")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:200]


SERVICES = {
    "postgres": Service("postgresql", "postgres", "psycopg", _postgres),
    "etcd": Service("etcd-server", "etcd", "", _etcd),
    "nats": Service("nats-server", "nats-server", "nats", _nats),
    "zmq": Service("", "", "zmq", contextlib.nullcontext),
}
