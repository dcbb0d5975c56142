"""Replies, feed entries and data of the scripts match their heads: every operation, by every kind of store."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys, room_commands
from redis_kvpoll.protocol import settings as settings_module
from redis_kvpoll.protocol.script_call import NOT_REPORTED
from redis_kvpoll.protocol.script_specs import OPEN, REAP, REPLAY, WRITE_RANKS
from redis_kvpoll.protocol.settings import ExpectedSettings
from tests.support.calls_of_scripts import (
    ACTORS,
    OPERATIONS,
    A,
    B,
    absent,
    at,
    fills,
    mark_lost,
    send,
    table,
    take_lease,
)
from tests.support.feeds import entries
from tests.support.heads import codes, head, listed, words

SCRIPTS = {
    command.spec.of(table(actor)).script.name for some in OPERATIONS.values() for command in some for actor in ACTORS
}
SNAPSHOTS = {"snapshot", "snapshot_ranks", "snapshot_fields", "failures"}
"""They append nothing, or the first entry of a feed; their ids are those of other changes."""
# Words of a reply that must equal a field of the room: {word: field}.
FIELDS = {
    "generation": "generation",
    "request": "request",
    "of_request": "request",
    "opened": "opened",
    "of_owner": "owner",
}
FIELDS["version"] = "version"


class Answer:
    """One call, with the table and the feed before and after it."""

    def __init__(self, client, command, context):
        spec = command.spec.of(context)
        self.rooms, self.spec = command.rooms, spec
        self.before, entries_before = self.poll(client, context), entries(client, "ns")
        self.reply = send(client, command, context)
        self.after, entries_after = self.poll(client, context), entries(client, "ns")
        self.appended = entries_after[len(entries_before) :]
        self.last = entries_after[-1] if entries_after else (b"", [])
        assert entries_after[: len(entries_before)] == entries_before
        self.epoch = client.hget(keys.epoch("ns"), "epoch")
        self.fields = [client.hgetall(key) for key in keys.rooms("ns", self.rooms)]
        once, each = words(head(spec.script.name)[1]["REPLY"])
        assert len(self.reply) == len(once) + len(each) * len(self.rooms)
        self.once = dict(zip(once, self.reply, strict=False))
        self.words = {word: self.reply[len(once) + n :: len(each)] for n, word in enumerate(each)}

    def poll(self, client, context):
        return send(client, room_commands.poll(self.rooms), context)

    def check(self):
        if "feed_id" in self.once:
            if not self.appended and self.spec in (OPEN, REPLAY):
                assert self.is_feed_end()
            else:
                last = self.appended[-1][0] if self.appended else None
                assert self.once["feed_id"] == last or self.spec.script.name in SNAPSHOTS
        else:
            assert not self.appended
        if "epoch" in self.once:
            assert self.once["epoch"] == self.epoch
        self.check_statuses()
        self.check_fields()

    def is_feed_end(self):
        """Whether the reply has the feed's end, as open and replay return it where they append nothing."""
        if self.once["feed_id"] is None:
            return False
        feed_id, room, status = self.once["feed_id"].decode().split("/")
        entry_id, fields = self.last
        at = fields.index(room.encode()) if room else 0
        return feed_id == entry_id.decode() and (not room or fields[at + 1] == status.encode())

    def check_statuses(self):
        """The statuses after the call, which a mirror takes from the reply, are those in the table."""
        width = len(self.once)
        if self.spec in (REAP, WRITE_RANKS):
            return  # they change rooms of others, and their replies have what those see
        statuses_after = self.spec.statuses_after(self.reply[width:]) if self.spec.statuses_after else self.before
        expected = [
            there if left is NOT_REPORTED else left for left, there in zip(statuses_after, self.before, strict=True)
        ]
        assert self.after == expected

    def check_fields(self):
        for word, name in FIELDS.items():
            for value, fields in zip(self.words.get(word, []), self.fields, strict=False):
                assert value == fields.get(name.encode())


def answers(client, script, mode="none", policies=("compat",)):
    """All calls of a script by any kind of store, on a room in every state that makes a difference."""
    for actor in ACTORS:
        for policy in policies:
            context = table(actor, mode=mode, policy=policy)
            for fill in fills(context):
                for command in (command for some in OPERATIONS.values() for command in some):
                    if command.spec.of(context).script.name == script:
                        client.flushall()
                        take_lease(client, context)
                        fill(client, context)
                        if script == "reap":
                            mark_lost(client)
                        yield Answer(client, command, context)


@pytest.mark.parametrize("mode", ["none", "prefill"])
@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_script_does_what_its_head_says(server, script, mode):
    client = server.client()
    found_codes, found_words = set(), {}
    for answer in answers(client, script, mode, ("compat", "strict") if script == "update" else ("compat",)):
        answer.check()
        found_codes.update(answer.words.get("outcome", ()))
        for _, fields in answer.appended:
            found_words.update(dict.fromkeys(feed_words(fields)))
    assert found_codes == set(codes(script)), "all of these occur, and no others"
    assert list(found_words) == listed(script, "FEED")


@pytest.mark.parametrize("script", sorted(SCRIPTS - SNAPSHOTS))  # mirrors need a feed
def test_script_without_feed_appends_nothing(server, script):
    client = server.client()
    for actor in ACTORS:
        context = table(actor, feed_length="0")
        for fill in (absent, at(1), at(4)):
            for command in (command for some in OPERATIONS.values() for command in some):
                if command.spec.of(context).script.name == script:
                    client.flushall()
                    take_lease(client, context)
                    fill(client, context)
                    (call,) = command.calls(context)
                    reply = client.eval(call.spec.script.source, *call.words()[2:])
                    assert not call.spec.feed or reply[0] in (None, b"//")
                    assert not client.exists(keys.feed("ns"))


def test_settings_reply_has_all_names(client):
    call = ExpectedSettings.checked("ns", None, None, None, None).call()
    reply = client.eval(call.spec.script.source, *call.words()[2:])
    assert len(reply) == len(settings_module.NAMES)


def feed_words(fields):
    """The names and values of an entry, in the words of a head."""
    text = [word.decode() for word in fields]
    room = None
    for name, value in zip(text[::2], text[1::2], strict=True):
        if name.isdigit():
            room = int(name)
            assert room in (A, B)
            assert value == "absent" or value in KVPoll.__members__
            yield "absent" if value == "absent" else "status"
        elif name.startswith(("rank:", "first:")):
            assert room is not None, "it belongs to the room before it"
            word, _, rank = name.partition(":")
            assert rank.isdigit()
            assert value in KVPoll.__members__ or (word, value) == ("rank", "absent")
            yield word
        else:
            yield name
