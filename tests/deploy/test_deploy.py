"""The files of deploy/: as far as they can be checked here, they do what they say."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
import redis
import yaml
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.integrations.sglang import settings
from redis_kvpoll.transport.embedded import EmbeddedServer
from redis_kvpoll.transport.password_file import with_password
from tests.support import real
from tests.support.documents import ROOT, shell_lines, text_of
from tests.support.examining import be_patient, examine, raised
from tests.support.leasing import ManualLease
from tests.support.prometheus import promtool
from tests.support.servers import program, why_absent

DEPLOY = ROOT / "deploy"
YAML = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
COMPOSE = DEPLOY / "compose" / "compose.yaml"


def load(path):
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def objects():
    """{(kind, name): object} of deploy/kubernetes."""
    found = [one for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for one in load(path)]
    return {(one["kind"], one["metadata"]["name"]): one for one in found if one["kind"] != "Kustomization"}


def needs(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH")
    return found


def test_made_files_are_current():
    made = runpy.run_path(str(DEPLOY / "update.py"))["made"]()
    for name, text in made.items():
        assert (DEPLOY / name).read_text(encoding="utf-8") == text, f"{name}: run python deploy/update.py"


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_yaml_is_valid(path):
    assert load(path)


@pytest.fixture
def secrets(tmp_path):
    """The folder of the secrets that secrets.sh makes, in a copy of deploy/."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets*"))
    shutil.copy(DEPLOY / "compose" / "secrets.sh", tmp_path / "deploy" / "compose")
    subprocess.run([tmp_path / "deploy" / "compose" / "secrets.sh"], check=True, capture_output=True)
    return tmp_path / "deploy" / "compose" / "secrets"


class TestSecrets:
    def test_no_placeholder_is_left(self, secrets):
        for file in secrets.iterdir():
            assert "PASSWORD " not in file.read_text().replace("ADMIN_PASSWORD=", ""), file
        assert secrets.stat().st_mode & 0o777 == 0o700

    def test_a_second_run_changes_nothing(self, secrets):
        before = {file.name: file.read_text() for file in secrets.iterdir()}
        subprocess.run([secrets.parent / "secrets.sh"], check=True, capture_output=True)
        assert {file.name: file.read_text() for file in secrets.iterdir()} == before


class DeployedServer(EmbeddedServer):
    """A server with deploy/valkey/valkey.conf, on a port and in a folder of its own."""

    def __init__(self, kind, folder, users):
        if (found := program(kind)) is None:
            pytest.skip(why_absent(kind))
        self.port = real.free_port()
        wrapper = folder / "server"
        conf = DEPLOY / "valkey" / "valkey.conf"
        own = f'--bind 127.0.0.1 --port {self.port} --aclfile "{users}" --dir "{folder}" --unixsocket "$4"'
        wrapper.write_text(f'#!/bin/sh\nexec "{found}" "{conf}" {own}\n')  # $4 is the socket by which it is awaited
        wrapper.chmod(0o755)
        super().__init__(str(wrapper))


@pytest.fixture(params=["valkey", "redis", "redis62"])
def server(request, secrets, tmp_path):
    with DeployedServer(request.param, tmp_path, secrets / "users.acl") as server:
        yield server


def url_in(secrets, user, port):
    """The URL that the secrets have for a user, with this port."""
    text = "".join(file.read_text() for file in secrets.iterdir())
    return re.sub(r"@[\w]+:6379", f"@127.0.0.1:{port}", re.search(rf"redis://{user}:\S+", text)[0])


class TestServer:
    def test_doctor_finds_nothing(self, server, secrets, monkeypatch):
        """With a live table of each role, by the user of kvpoll serve."""
        be_patient(monkeypatch)
        url, read_url = (url_in(secrets, user, server.port) for user in ("kvpoll", "kvpoll-read"))
        with (
            StatusStore.from_url(url, namespace="prod-prefill") as prefill,
            StatusStore.from_url(url, namespace="prod-decode") as decode,
        ):
            for store in (prefill, decode):
                ManualLease(store, ttl=600.0).take()
                store.open(1)
                store.update_status(2, KVPoll.Success)
            for namespace in ("prod-prefill", "prod-decode"):
                found = examine(read_url, namespace)
                assert raised(found) == set()
                assert found["memory"].level is found["eviction"].level is Level.WELL

    def test_everybody_else_may_only_ping(self, server):
        with redis.Redis(port=server.port) as client:
            assert client.ping()
            for call in (lambda: client.info(), lambda: client.get("x"), lambda: client.hgetall("kvpoll:{prod}:x")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    call()

    def test_operator_may_do_what_the_runbook_says(self, server, secrets):
        (password,) = re.findall(r"^user operator on >(\w+)", (secrets / "users.acl").read_text(), re.MULTILINE)
        assert f"password {password}\n" in (secrets / "passwords.txt").read_text()
        with redis.Redis(port=server.port, username="operator", password=password) as client:
            for line in shell_lines(["docs/runbook.md"], "redis-cli"):
                client.execute_command(*shlex.split(line)[1:])

    def test_nothing_goes_to_disk(self, server, secrets, tmp_path):
        with redis.Redis.from_url(url_in(secrets, "kvpoll-read", server.port)) as client:
            persistence = client.info("persistence")
        assert not persistence["aof_enabled"]
        assert persistence["rdb_last_bgsave_status"] == "ok"
        assert not list(tmp_path.glob("*.rdb"))


class TestCompose:
    def test_it_follows_the_schema(self):
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_every_file_and_name_is_there(self, secrets):
        (compose,) = load(COMPOSE)
        for kind in ("configs", "secrets"):
            for one in compose[kind].values():
                assert (secrets.parent / one["file"]).is_file(), one
            used = [
                use if isinstance(use, str) else use["source"]
                for s in compose["services"].values()
                for use in s.get(kind, [])
            ]
            assert set(used) == set(compose[kind])
        for service in compose["services"].values():
            assert "env_file" not in service or (secrets.parent / service["env_file"]).is_file()

    def test_only_redis_is_open_to_other_hosts(self):
        (compose,) = load(COMPOSE)
        ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
        assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["6379:6379"]

    def test_prometheus_takes_its_configuration(self, tmp_path):
        shutil.copy(DEPLOY / "compose" / "prometheus.yml", tmp_path)
        shutil.copy(DEPLOY / "monitoring" / "kvpoll.rules.yml", tmp_path)
        promtool("check", "config", tmp_path / "prometheus.yml")

    def test_sglang_is_scraped_once_two_signs_are_removed(self):
        """As the comment there says; a blank too many in front is an error."""
        text = (DEPLOY / "compose" / "prometheus.yml").read_text()
        for name in ("- job_name", "  static_configs"):
            assert text.count(f"#{name}: ") == 1
            text = text.replace(f"#{name}: ", f"{name}: ")
        ours, sglang = yaml.safe_load(text)["scrape_configs"]
        assert sglang["job_name"] == "sglang"
        assert sglang.keys() == ours.keys()

    def test_image_copies_what_the_package_is_built_from(self):
        copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "compose" / "Dockerfile").read_text(), re.MULTILINE)
        assert {name for line in copied for name in line.split()} == {
            *("pyproject.toml", "README.md", "LICENSE"),
            *("redis_kvpoll", "lua"),
        }


class TestKubernetes:
    def test_selectors_match_their_pods(self):
        specs = [one.get("spec", {}) for one in objects().values()]
        pods = [spec["template"]["metadata"]["labels"] for spec in specs if "template" in spec]
        selectors = [spec["selector"] for spec in specs if "selector" in spec]
        assert len(selectors) >= 6
        for selector in selectors:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods), wanted

    def test_server_reaches_its_maxmemory_before_the_pods(self):
        """As the runbook says, too: who raises one must raise the other."""
        (container,) = objects()["StatefulSet", "kvpoll-valkey"]["spec"]["template"]["spec"]["containers"]
        (gigabytes,) = re.findall(r"^maxmemory (\d+)gb$", (DEPLOY / "valkey" / "valkey.conf").read_text(), re.MULTILINE)
        assert container["resources"]["limits"]["memory"] == f"{1536 * int(gigabytes)}Mi"
        assert "1.5 times the new limit" in text_of("docs/runbook.md")

    def test_page_is_reachable_while_redis_is_away(self):
        """Then /readyz is 503, and a Service without ready pods leads nowhere."""
        spec = objects()["Deployment", "kvpoll-serve"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", "else the Service needs no such option"
        assert objects()["Service", "kvpoll-serve"]["spec"]["publishNotReadyAddresses"] is True

    def test_secret_has_every_key_that_is_used(self):
        secret = objects()["Secret", "kvpoll"]["stringData"]
        text = "".join(path.read_text() for path in (DEPLOY / "kubernetes").glob("*.yaml"))
        used = set(re.findall(r"secretKeyRef: \{name: kvpoll, key: ([\w.-]+)\}", text)) | set(
            re.findall(r"items: \[\{key: ([\w.-]+),", text)
        )
        assert used | {"operator"} == set(secret), "that one is for people"

    def test_variables_are_the_plugins(self):
        (container,) = objects()["Deployment", "sglang-prefill"]["spec"]["template"]["spec"]["containers"]
        known = {settings.URL, *(settings.PREFIX + name for name in settings.PARSERS)}
        assert {variable["name"] for variable in container["env"]} <= known

    def test_the_agent_and_sglang_share_its_socket(self):
        pod = objects()["Deployment", "sglang-prefill"]["spec"]["template"]["spec"]
        (agent,), (engine,) = pod["initContainers"], pod["containers"]
        assert agent["command"][:2] == ["kvpoll", "agent"]
        (path,) = [variable["value"] for variable in engine["env"] if variable["name"] == settings.PREFIX + "AGENT"]
        assert agent["command"][2:] == ["--socket", path]
        folders = [
            [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "kvpoll-agent"]
            for container in (agent, engine)
        ]
        assert folders[0] == folders[1] == [path.rpartition("/")[0]]
        assert agent["image"] == engine["image"], "the same user and the same release"

    def test_sglang_reads_its_password_where_it_is_mounted(self):
        pod = objects()["Deployment", "sglang-prefill"]["spec"]["template"]["spec"]
        (engine,) = pod["containers"]
        environment = {variable["name"]: variable["value"] for variable in engine["env"]}
        folder, _, name = environment["KVPOLL_PASSWORD_FILE"].rpartition("/")
        (volume,) = [mount["name"] for mount in engine["volumeMounts"] if mount["mountPath"] == folder]
        (secret,) = [one["secret"] for one in pod["volumes"] if one["name"] == volume]
        assert (secret["secretName"], [item["path"] for item in secret["items"]]) == ("kvpoll", [name])
        assert with_password(environment["KVPOLL_URL"], __file__).startswith("redis://kvpoll:")

    def test_metrics_are_found_and_keep_their_label_namespace(self):
        """The operator adds a label of this name, and every alert of a table is by the table's."""
        (endpoint,) = objects()["PodMonitor", "kvpoll-serve"]["spec"]["podMetricsEndpoints"]
        assert endpoint["honorLabels"] is True
        (of_sglang,) = objects()["PodMonitor", "kvpoll-sglang"]["spec"]["podMetricsEndpoints"]
        assert f"ports: [{{name: {of_sglang['port']}," in (DEPLOY / "kubernetes" / "sglang.yaml").read_text()

    def test_kustomize_puts_it_together(self):
        done = subprocess.run(
            [needs("kubectl"), "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=True
        )
        built = [one for one in yaml.safe_load_all(done.stdout) if one]
        names = {one["metadata"]["name"] for one in built if one["kind"] == "ConfigMap"}
        (server,) = [one for one in built if one["kind"] == "StatefulSet"]
        volumes = {volume["name"]: volume for volume in server["spec"]["template"]["spec"]["volumes"]}
        assert volumes["settings"]["configMap"]["name"] in names
        assert {one["kind"] for one in built} >= {"Deployment", "Service", "NetworkPolicy", "PrometheusRule"}


def test_images_have_a_version():
    images = re.findall(r"^ *image: (\S+)$", "".join(path.read_text() for path in YAML), re.MULTILINE)
    assert len(images) >= 5
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:v?\d[\w.]*", image)] == []


def served():
    """The arguments of kvpoll serve in each deployment."""
    yield load(COMPOSE)[0]["services"]["serve"]["command"]
    (container,) = objects()["Deployment", "kvpoll-serve"]["spec"]["template"]["spec"]["containers"]
    yield container["args"]
    unit = (DEPLOY / "systemd" / "kvpoll-serve.service").read_text()
    yield re.search(r"^ExecStart=\S+/kvpoll (.+)$", unit, re.MULTILINE)[1].split()


def test_serve_takes_the_arguments():
    options = CliRunner().invoke(kvpoll, ["serve", "--help"]).output
    for name, *arguments in served():
        assert name == "serve"
        assert [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in options] == []


def test_the_agents_unit_makes_the_folder_of_its_socket():
    unit = (DEPLOY / "systemd" / "kvpoll-agent.service").read_text()
    (path,) = re.findall(r"^ExecStart=\S+/kvpoll agent --socket (\S+)$", unit, re.MULTILINE)
    (folder,) = re.findall(r"^RuntimeDirectory=(\S+)$", unit, re.MULTILINE)
    assert path.startswith(f"/run/{folder}/")
    assert f"KVPOLL_AGENT={path}" in unit


def test_nothing_is_installed_by_a_name_from_an_index():
    """Nothing is published: whoever took the name would be installed. Python packages come as the wheel."""
    for path in sorted(path for path in DEPLOY.rglob("*") if path.is_file()):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"pip install\b.*['\" ]redis-kvpoll", line), (path, line)


def test_units_are_valid(tmp_path):
    analyze = needs("systemd-analyze")
    for unit in (DEPLOY / "systemd").glob("*.service"):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", *sorted(tmp_path.glob("*.service"))], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
