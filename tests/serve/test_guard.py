"""Who may call what: the three realms, sessions, other sites, and the headers of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest
from starlette.datastructures import Headers

from redis_kvpoll.serve import guesses
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.credentials import Credentials, User
from redis_kvpoll.serve.guard import Guard, cookie_name
from tests.support.serving import stream, views

ALICE = User("alice", "correct horse")
TOKEN = User("ci", "0123456789abcdef")
PROBES = ("/healthz", "/readyz")
DATA = (
    "/",
    "/owners",
    "/failed",
    "/feed",
    "/doctor",
    "/room/1",
    "/find?q=x",
    "/events?page=/",
    "/api/stats",
    "/api/rooms",
)


@pytest.fixture
def closed(serve):
    return serve(ready=False, users=(ALICE, TOKEN), metrics_tokens=(User("prometheus", "scrape-scrape-scrape"),))


def log_in(serving, secret=ALICE.secret, goal="/", name="alice"):
    return serving.post("/login", {"name": name, "secret": secret, "next": goal}, Origin=serving.url)


def session(serving):
    return log_in(serving).headers["set-cookie"].partition(";")[0]


@pytest.mark.parametrize("path", DATA)
def test_data_needs_credentials(closed, path):
    answer = closed.get(path)
    assert answer.status == 401
    assert "prod-prefill" not in answer.body
    if not path.startswith("/events"):  # which does not end
        assert closed.get(path, Authorization=f"Bearer {TOKEN.secret}").status in (200, 404, 503)  # not read yet


@pytest.mark.parametrize("path", PROBES)
def test_probes_are_open_and_say_nothing_of_the_data(closed, path):
    closed.until_ready()
    answer = closed.get(path, Host="10.1.2.3:9464")
    assert answer.status == 200
    assert answer.body in ("ok\n", "ready\n")


def test_metrics_have_their_own_token(closed):
    assert closed.get("/metrics").status == 401
    assert closed.get("/metrics", Authorization=f"Bearer {TOKEN.secret}").status == 401
    answer = closed.get("/metrics", Authorization="Bearer scrape-scrape-scrape")
    assert answer.status == 200
    assert closed.get("/api/stats", Authorization="Bearer scrape-scrape-scrape").status == 401


def test_metrics_are_open_by_default(serve):
    serving = serve(users=(ALICE,))
    assert serving.get("/metrics").status == 200


def test_page_leads_to_the_login_and_back(closed):
    answer = closed.get("/failed?n=prod-prefill", Accept="text/html")
    assert answer.status == 303
    assert answer.headers["location"] == "/login?next=/failed%3Fn%3Dprod-prefill"
    assert closed.get("/login").status == 200
    welcome = log_in(closed, goal="/failed")
    assert welcome.status == 303
    assert welcome.headers["location"] == "/failed"
    cookie = welcome.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    page = closed.get("/failed", Accept="text/html", Cookie=cookie.partition(";")[0])
    assert page.status == 200
    assert "Log out alice" in page.text


def test_cookie_is_secure_behind_https(serve):
    serving = serve(users=(ALICE,), public_url="https://ops.example/kvpoll")
    answer = serving.post("/login", {"secret": ALICE.secret}, Origin="https://ops.example", Host="ops.example")
    assert "Secure" in answer.headers["set-cookie"]
    assert "Path=/kvpoll" in answer.headers["set-cookie"]


@pytest.mark.parametrize("other", ["flag", "version=1", "path=/x", 'prefs={"a": [1, 2]}', "a b=c", "x=é"])
def test_session_is_found_beside_other_cookies(closed, other):
    """Another program on this host may set any."""
    cookie = session(closed)
    for both in (f"{cookie}; {other}", f"{other}; {cookie}"):
        assert closed.get("/", Cookie=both).status == 200


def test_open_page_ends_with_its_session(closed, monkeypatch):
    """Else whoever had a page open when the session ended would see the table for as long as he likes."""
    cookie = session(closed)
    monkeypatch.setattr(closed.service.credentials, "session_ends_at", lambda _: time.time() + 0.5)
    with stream(closed.port, "/events?page=/", Cookie=cookie) as answer:
        assert answer.read().startswith(b"retry")  # to its end


def test_events_of_a_token_do_not_end(closed):
    """Each of its requests has the token: there is no session."""
    with stream(closed.port, "/events?page=/", Authorization=f"Bearer {TOKEN.secret}") as answer:
        assert next(views(answer))


def test_logout_ends_the_session_of_this_browser(closed):
    answer = closed.post("/logout", Cookie=session(closed), Origin=closed.url)
    assert answer.status == 303
    assert f'kvpoll_session_{closed.port}=""' in answer.headers["set-cookie"]


def test_servers_of_one_host_have_a_session_each(serve):
    """A browser keeps cookies by host and name, whatever the port."""
    other, kept = User("alice", "another horse"), {}
    servings = [serve(users=(ALICE,)), serve(users=(other,))]
    for serving, user in zip(servings, (ALICE, other), strict=True):
        cookie = log_in(serving, user.secret).headers["set-cookie"].partition(";")[0]
        kept[cookie.partition("=")[0]] = cookie
    both = "; ".join(kept.values())
    assert [serving.get("/", Cookie=both).status for serving in servings] == [200, 200]


@pytest.mark.parametrize(
    ("host", "public_url", "name"),
    [
        ("localhost:9464", "", "kvpoll_session_9464"),
        ("[::1]", "", "kvpoll_session"),
        ("a:b;c=d", "", "kvpoll_session"),
        ("127.0.0.1:9464", "https://ops.example:8443/kvpoll", "kvpoll_session_8443"),
        ("127.0.0.1:9464", "https://ops.example/kvpoll", "kvpoll_session"),
    ],
)
def test_cookie_has_the_port_that_the_browser_sees(host, public_url, name):
    config = ServeConfig("redis://localhost", ("prod",), public_url=public_url)
    assert cookie_name(config, Headers({"host": host})) == name


@pytest.mark.parametrize(
    "goal",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/x\r\nA: b", ""],
    ids=["relative", "absolute", "backslash", "header", "empty"],
)
def test_login_leads_to_no_other_site(closed, goal):
    assert log_in(closed, goal=goal).headers["location"] == "/"


def test_wrong_secret_is_refused_and_logged(closed, caplog):
    answer = log_in(closed, "a guess")
    assert answer.status == 401
    assert "do not match" in answer.text
    assert "set-cookie" not in answer.headers
    assert closed.get("/", Authorization="Bearer another-guess").status == 401
    assert caplog.text.count("wrong credentials") == 2
    assert "guess" not in caplog.text, "it may be the right one of another server"


def test_name_and_secret_of_different_users_do_not_match(closed):
    assert log_in(closed, TOKEN.secret, name="alice").status == 401


def test_many_wrong_secrets_are_turned_away(closed, monkeypatch):
    """A pause for each, one after the other, and no more than twenty of one address that wait."""
    monkeypatch.setattr(guesses, "DELAY", 0.1)
    cookie, found = session(closed), []
    threads = [
        threading.Thread(target=lambda: found.append(closed.get("/", Authorization="Bearer wrong").status))
        for _ in range(60)
    ]
    for thread in threads:
        thread.start()
    assert closed.get("/", Cookie=cookie).status == 200  # a session waits for nothing
    for thread in threads:
        thread.join()
    assert set(found) <= {401, 429}
    assert 401 in found


def client(*address):
    return {"type": "http", "client": (*address, 1) if address else None}


async def guess(guard, secret, *address):
    """The user, or the status of the answer."""
    found = await guard.user_or_refusal(client(*address), "kvpoll", lambda: Credentials([ALICE]).check(secret))
    return found if isinstance(found, str) else found.status_code


@contextlib.asynccontextmanager
async def guessing(guard, count, *address):
    """During the block, so many wrong secrets of an address wait for their answers."""
    tasks = [asyncio.create_task(guess(guard, "wrong", *address)) for _ in range(count)]
    await asyncio.sleep(0)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.setattr(guesses, "DELAY", 1000.0)
    return Guard(None, ServeConfig("redis://localhost", ("prod",)), Credentials([ALICE]))


def test_right_secret_is_not_told_from_wrong_ones(guard):
    """Else whoever lets twenty wait could try the rest of a list at full speed, and see which one gets no 429."""

    async def play():
        async with guessing(guard, guesses.LIMIT, "10.0.0.1"):
            assert await guess(guard, ALICE.secret, "10.0.0.1") == 429
            assert await guess(guard, ALICE.secret, "::ffff:10.0.0.1") == await guess(guard, "wrong", "10.0.0.1") == 429
            assert await guess(guard, ALICE.secret, "10.0.0.2") == "alice"
        # Whoever ends his connections has not tried less.
        assert await guess(guard, ALICE.secret, "10.0.0.1") == 429

    asyncio.run(play())


def test_right_secret_beside_a_few_wrong_ones_is_accepted(guard):
    async def play():
        async with guessing(guard, guesses.LIMIT - 1, "10.0.0.1"):
            assert await guess(guard, ALICE.secret, "10.0.0.1") == "alice"

    asyncio.run(play())


def test_addresses_of_one_network_count_as_one(guard):
    async def play():
        async with guessing(guard, guesses.LIMIT, "2001:db8::1"):
            assert await guess(guard, ALICE.secret, "2001:db8::ffff:2") == 429
            for other in (["2001:db8:0:1::1"], ["::1"], ["fe80::1%lo"], []):
                assert await guess(guard, ALICE.secret, *other) == "alice"

    asyncio.run(play())


def test_addresses_beyond_a_number_count_as_one(guard, monkeypatch):
    """Else many addresses would fill the memory, or guess without a limit."""
    monkeypatch.setattr(guesses, "MOST_ADDRESSES", 1)

    async def play():
        async with guessing(guard, 1, "10.0.0.1"), guessing(guard, guesses.LIMIT, "10.0.0.2"):
            assert await guess(guard, ALICE.secret, "10.0.0.3") == 429
            assert await guess(guard, ALICE.secret, "10.0.0.1") == "alice"

    asyncio.run(play())


def test_login_is_refused_while_many_wrong_ones_wait(closed, monkeypatch):
    monkeypatch.setattr(guesses.Guesses, "may_try", lambda *_: False)
    for answer in (log_in(closed), closed.get("/", Authorization=f"Bearer {TOKEN.secret}"), closed.get("/metrics")):
        assert answer.status == 429
    assert "was not looked at" in log_in(closed).text


def test_link_from_another_site_keeps_the_session(closed):
    """The browser withholds a Strict cookie from it; the page asks once more, by itself."""
    answer = closed.get("/", Accept="text/html", Sec_Fetch_Site="cross-site")
    assert answer.status == 200
    assert 'http-equiv="refresh"' in answer.body
    assert closed.get("/", Accept="text/html", Sec_Fetch_Site="same-origin").status == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_change_from_another_site_is_refused(serve, headers):
    serving = serve()
    for path in ("/login", "/room/1/abort", "/api/rooms/1/abort"):
        assert serving.post(path, **headers).status == 403


def test_change_with_a_cookie_needs_an_origin(closed):
    cookie = session(closed)
    assert closed.post("/room/1/abort", Cookie=cookie).body == "a change needs an Origin header\n"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "10.0.0.1", "localhost.evil.example", "[", ""])
def test_name_of_another_site_is_refused_without_users(serving, host):
    """Else a page of that site could read the tables, by a name that it points at loopback."""
    for path in ("/", "/api/stats", "/metrics"):
        assert serving.get(path, Host=host).status == 421
    assert serving.get("/", Host="localhost:1").status == 200
    assert serving.get("/", Host="[::1]:9464").status == 200


def test_session_that_is_no_ascii_is_refused(closed):
    """Whoever sends it has no credentials, so it must not make a traceback."""
    assert closed.get("/", Cookie=rf'kvpoll_session_{closed.port}="alice:9999999999:\351"').status == 401


def test_page_that_is_no_address_has_no_events(serving):
    assert serving.get("/events?page=//[").status == 404


def test_public_name_is_known(serve):
    serving = serve(public_url="https://ops.example:8443", no_auth=True)
    for host in ("ops.example:8443", "ops.example", "OPS.example"):  # nginx's $host has no port, and small letters
        assert serving.get("/", Host=host).status == 200
        assert serving.post("/logout", Host=host, Origin="https://ops.example:8443").status == 303
    assert serving.get("/", Host="other.example:8443").status == 421


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/nowhere", "/static/x/app.js", "/login", "/api/stats"])
def test_every_answer_has_the_headers(serving, path):
    headers = serving.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "'unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"]
    assert "server" not in headers


def test_long_form_is_refused(serving):
    assert serving.post("/room/1/abort", {"reason": "x" * 20_000}).status == 403
    assert serving.post("/login", {"secret": "x" * 20_000}).status == 303
