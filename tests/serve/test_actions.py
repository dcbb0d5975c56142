"""Actions: off by default, confirmed by the room's number, sent by another user of Redis, and logged with who."""

from __future__ import annotations

import json
import logging

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.serve.credentials import User

ALICE = User("alice", "correct horse")
CI = User("ci", "0123456789abcdef")


@pytest.fixture
def acting(serve, table, caplog):
    """Its page reads as a user who may only read."""
    caplog.set_level(logging.WARNING, "redis_kvpoll.serve.actions")
    users = (ALICE, CI)
    return serve(ready=False, users=users, allow_actions=True, actions_url=table.tcp)


def cookie(serving):
    answer = serving.post("/login", {"name": "alice", "secret": ALICE.secret}, Origin=serving.url)
    return answer.headers["set-cookie"].partition(";")[0]


def act(serving, path, **form):
    return serving.post(path, form, Cookie=cookie(serving), Origin=serving.url)


@pytest.mark.parametrize("path", ["/room/5/abort", "/room/5/clear", "/api/rooms/5/abort", "/api/rooms/5/clear"])
def test_page_only_looks_by_default(serving, store, path):
    store.update_status(5, KVPoll.Bootstrapping)
    answer = serving.post(path, {"confirm": "5"}, Origin=serving.url)
    assert answer.status == 403
    assert "--allow-actions" in answer.body
    assert store.check_status(5) is KVPoll.Bootstrapping
    assert "<form" not in serving.get("/room/5").body.partition("</header>")[2].partition("<dialog")[0]


def test_abort_fails_the_room_with_its_reason(acting, store, caplog):
    store.update_status(5, KVPoll.Bootstrapping)
    page = act(acting, "/room/5/abort", confirm="5", reason="drained for an upgrade")
    assert page.status == 200
    assert "Room 5 was aborted." in page.text
    assert store.failure_reason(5) == "Aborted by hand: drained for an upgrade"
    said = [record.getMessage() for record in caplog.records if record.name == "redis_kvpoll.serve.actions"]
    assert said == [
        "abort of room 5 in prod-prefill by alice: Aborted by hand: drained for an upgrade",
        "abort of room 5 in prod-prefill by alice: Room 5 was aborted.",
    ]


def test_abort_leaves_a_room_at_success(acting, store):
    """It may have ended while the operator looked at it."""
    for status in (KVPoll.Bootstrapping, KVPoll.Success):
        store.update_status(5, status)
    assert "Room 5 is at Success: abort fails live rooms only." in act(acting, "/room/5/abort", confirm="5").text
    assert store.check_status(5) is KVPoll.Success


def test_abort_without_a_reason_names_who(acting, store):
    store.update_status(5, KVPoll.Bootstrapping)
    act(acting, "/room/5/abort", confirm="5")
    assert store.failure_reason(5) == "aborted by alice on the page of kvpoll"


def test_clear_removes_the_room(acting, store):
    store.update_status(5, KVPoll.Bootstrapping)
    assert "Room 5 was cleared; it was at Bootstrapping." in act(acting, "/room/5/clear", confirm="5").text
    assert store.get(5) is None


@pytest.mark.parametrize("fields", [{"status": "Nonsense"}, {"reason": "no status"}])
def test_clear_removes_a_corrupt_room(acting, store, table, fields):
    with table.client() as client:
        client.hset("kvpoll:{prod-prefill}:room:5", mapping=fields)
        client.expire("kvpoll:{prod-prefill}:room:5", 600)
    answer = act(acting, "/room/5/clear", confirm="5")
    assert (answer.status, "Room 5 was cleared; it was corrupt." in answer.text) == (200, True)
    assert store.get(5) is None


def test_abort_fails_a_room_of_unknown_status(acting, store, table):
    """As the command does; what else is corrupt is refused."""
    with table.client() as client:
        client.hset("kvpoll:{prod-prefill}:room:5", "status", "Nonsense")
        client.expire("kvpoll:{prod-prefill}:room:5", 600)
        client.rpush("kvpoll:{prod-prefill}:room:6", "x")
        client.expire("kvpoll:{prod-prefill}:room:6", 600)
    assert act(acting, "/room/5/abort", confirm="5").status == 200
    assert store.get(5) is KVPoll.Failed
    assert act(acting, "/room/6/abort", confirm="6").status == 502


@pytest.mark.parametrize("confirm", ["", "6", "05", "yes"])
def test_action_that_is_not_confirmed_does_nothing(acting, store, caplog, confirm):
    store.update_status(5, KVPoll.Bootstrapping)
    for action in ("abort", "clear"):
        answer = act(acting, f"/room/5/{action}", confirm=confirm)
        assert answer.status == 400
        assert "type 5 to confirm" in answer.text
    assert store.check_status(5) is KVPoll.Bootstrapping
    assert not caplog.records


def test_action_on_an_absent_room_creates_none(acting, store):
    for action in ("abort", "clear"):
        assert act(acting, f"/room/5/{action}", confirm="5").status == 404
    assert store.get(5) is None


def test_action_needs_a_user_and_this_origin(acting, store):
    store.update_status(5, KVPoll.Bootstrapping)
    session = cookie(acting)
    assert acting.post("/room/5/abort", {"confirm": "5"}, Origin=acting.url).status == 401
    assert acting.post("/room/5/abort", {"confirm": "5"}, Cookie=session).status == 403
    assert acting.post("/room/5/abort", {"confirm": "5"}, Cookie=session, Origin="https://evil.example").status == 403
    assert acting.send("GET", "/room/5/abort", Cookie=session).status == 405
    assert store.check_status(5) is KVPoll.Bootstrapping


def test_api_acts_with_a_token(acting, store, caplog):
    store.update_status(5, KVPoll.Bootstrapping)
    bearer = f"Bearer {CI.secret}"
    body = json.dumps({"confirm": 5, "reason": "by a script"})
    answer = acting.send("POST", "/api/rooms/5/abort", body, Authorization=bearer)
    assert answer.json == {"result": "Room 5 was aborted."}
    assert "by ci: Aborted by hand: by a script" in caplog.text
    again = acting.send("POST", "/api/rooms/5/abort", body, Authorization=bearer)
    assert again.status == 409
    for wrong in ("", "[]", "{", '{"confirm": 6}'):
        assert acting.send("POST", "/api/rooms/5/clear", wrong, Authorization=bearer).status == 400


def test_reason_in_the_log_has_no_line_break(acting, store, caplog):
    store.update_status(5, KVPoll.Bootstrapping)
    act(acting, "/room/5/abort", confirm="5", reason="x\nWARNING forged\x1b[2J")
    assert "\n" not in caplog.records[0].getMessage()
    assert "\x1b" not in caplog.records[0].getMessage()
