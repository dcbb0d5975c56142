"""Every answer of the JSON API is what its schema in docs/reference/api says, in whatever state the table is."""

from __future__ import annotations

import json

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.doctor.findings import Finding, Level
from redis_kvpoll.serve.examine import Examination
from tests.support import pace, real, schema

DOCUMENTS = ("session", "namespaces", "stats", "seconds", "rooms", "owners", "doctor")
FINDINGS = (
    Finding("eviction", Level.PROBLEM, "allkeys-lru", "noeviction", "CONFIG SET maxmemory-policy noeviction"),
    Finding("clock", Level.UNKNOWN, "the user may not call TIME"),
)


def check(name, answer, status=200):
    """The document of an answer, which fits its schema."""
    assert answer.status == status, answer.body
    assert schema.faults(answer.json, schema.load(f"api/{name}")) == []
    return answer.json


@pytest.fixture
def full(serve, store, table):
    """A server over a table in which there is something of everything."""
    with store.lease("prefill/10.0.0.1:8998", ttl=pace.seconds(60)):
        store.update_many(dict.fromkeys(range(1, 9), KVPoll.Bootstrapping))
        store.open(10, request="rid-10").fail("Mooncake session 10.0.0.2:1 failed")
        opened = store.open(11, request="rid-11")
        for status in (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success):
            opened.update(status)
        gone = store.open(13, request="rid-13")
        gone.clear()
        gone.update(KVPoll.WaitingForInput)
        store.set_decode_prefix_len(1, 1024)
        store.clear(2)
        for rank in (0, 1):
            with StatusStore.from_url(table.tcp, namespace="prod-prefill", rank=rank, world_size=2) as one:
                one.open(2**64 - 1, request="ranks").update(KVPoll.WaitingForInput if rank else KVPoll.Transferring)
        serving = serve(
            namespaces=("prod-prefill", "prod-absent"),
            examine_of=lambda *_: lambda _: Examination(FINDINGS, "valkey", "9.1.2"),
        )
        real.until(lambda: serving.get("/api/doctor").json["findings"], "the doctor's first look")
        yield serving


def test_each_answer_fits_its_schema(full, store):
    found = {name: check(name, full.get(f"/api/{name}")) for name in DOCUMENTS}
    store.open(12, request="rid-12").fail("Mooncake session 10.0.0.3:1 failed")
    real.until(lambda: full.get("/api/stats").json["reasons"], "the reason")
    stats = check("stats", full.get("/api/stats"))
    assert all(stats[name] for name in ("transitions", "failures", "feeds", "owners", "room_seconds"))
    assert stats["last_refused"]["room"] == "13"
    assert {each["room"] for each in found["rooms"]["rooms"]} >= {"1", str(2**64 - 1)}
    assert found["rooms"]["matching"] == 8
    assert found["doctor"]["findings"][0]["check"] == "eviction"
    assert check("owners", full.get("/api/owners"))["owners"][0]["owner"] == "prefill/10.0.0.1:8998"


@pytest.mark.parametrize(
    ("name", "here", "there"),
    [
        ("doctor", {"examined_at"}, set()),
        ("owners", set(), {"replica"}),
        ("namespaces", set(), {"replica"}),
        ("stats", {"state", "walked", "refusals_seen"}, {"replica"}),
    ],
)
def test_api_and_command_have_the_same_names(name, here, there):
    """``here`` has what only the API tells, ``there`` what only the command does."""
    api, command = schema.fields(schema.load(f"api/{name}")), schema.fields(schema.load(name))
    deeper = {"bounds", "counts", "state", "text", "detail", "server", "server_version"}
    assert {field for field in api - command if field.rpartition(".")[2] not in deeper} == here - deeper
    assert {field for field in command - api if not field.startswith("replica.")} == there


def test_api_and_show_have_the_same_names_of_a_room():
    room = schema.load("ls")["properties"]["rooms"]["items"]["oneOf"][0]["properties"]
    assert set(schema.load("api/room")["properties"]) == {*room, "changes"}
    assert set(schema.load("api/rooms")["properties"]["rooms"]["items"]["properties"]) == {*room} & {
        "room",
        "status",
        "opened_at",
        "ttl_seconds",
        "owner",
    } | {"since"}


@pytest.mark.parametrize(
    ("query", "matching", "listed"),
    [
        ("?status=Failed", 1, 1),
        ("?status=Success,Failed", 2, 2),
        ("?status=success,FAILED", 2, 2),
        ("?longer_than=0.001&limit=3", 8, 3),
        ("?limit=99999999999", 8, 8),
        ("?stuck=1", 0, 0),
        ("?owner=prefill/10.0.0.1:8998", None, 7),
        ("?status=Failed&longer_than=0.001", None, 1),
        ("?n=prod-absent", 0, 0),
    ],
)
def test_rooms_of_each_kind_fit_their_schema(full, query, matching, listed):
    found = check("rooms", full.get(f"/api/rooms{query}"))
    assert (found["matching"], len(found["rooms"])) == (matching, listed)


@pytest.mark.parametrize("room", [1, 10, 11, 2**64 - 1])
def test_room_fits_its_schema(full, room):
    found = check("room", full.get(f"/api/rooms/{room}"))
    assert (found["room"], bool(found["changes"])) == (str(room), True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/stats?n=other", 404),
        ("/api/rooms/12345", 404),
        ("/api/rooms/9", 422),
        ("/api/rooms/x", 404),
        ("/api/nothing", 404),
        ("/api/rooms?status=Done", 400),
        ("/api/rooms?status=Success,", 400),
        ("/api/rooms?longer_than=nan", 400),
        ("/api/rooms?longer_than=-1", 400),
        ("/api/rooms?limit=all", 400),
        ("/api/rooms?limit=-1", 400),
        ("/api/seconds?count=x", 400),
    ],
)
def test_refused_question_fits_its_schema(full, table, watched, path, status):
    watched[-1].set("kvpoll:{prod-prefill}:room:9", "by hand", ex=600)
    check("error", full.get(path), status)


def test_answers_without_a_table_or_a_server_fit_their_schemas(full, serve):
    """Nothing is known yet: what is null then is null in the schemas."""
    away = serve(url=f"redis://127.0.0.1:{real.free_port()}", ready=False)
    for name in DOCUMENTS:
        check(name, away.get(f"/api/{name}"))
        check(name, full.get(f"/api/{name}?n=prod-absent"))
    check("error", away.get("/api/rooms/1"), 503)


def test_action_fits_its_schema(serve, store, table):
    store.open(5)
    acting = serve(allow_actions=True, actions_url=table.tcp)
    check("action", acting.send("POST", "/api/rooms/5/abort", json.dumps({"confirm": "4"})), 400)
    check("action", acting.send("POST", "/api/rooms/5/abort", json.dumps({"confirm": "5"})))
    check("action", acting.send("POST", "/api/rooms/5/clear", json.dumps({"confirm": "5"})))
    check("action", acting.send("POST", "/api/rooms/5/clear", "x"), 400)
    check("action", acting.send("POST", "/api/rooms/5/clear", "[" * 9000), 400)


def test_every_address_has_a_schema(serving):
    """A new address needs a schema, and a test here."""
    assert set(schema.names("api")) == {*DOCUMENTS, "room", "action", "error"}
    routes = {route.path for route in serving.routes if route.path.startswith("/api/")}
    assert routes == {
        *(f"/api/{name}" for name in DOCUMENTS),
        "/api/rooms/{room}",
        "/api/rooms/{room}/abort",
        "/api/rooms/{room}/clear",
    }
