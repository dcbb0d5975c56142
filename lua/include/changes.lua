-- What a call changes, for the change feed (feed.lua appends it).
--
-- changes has five items per changed room: its key; its new status, or absent; its new TTL, or false if unchanged; the
-- reason if this change records one, or false; further names and values, such as {the rank's field in the feed, the
-- rank's new status}, or false. renew: whether to renew the feed's TTL. openings: by the number of its change, which of
-- the call's rooms is to keep the id of its entry as opened; with keys, how many keys come before those of the rooms,
-- and width, the fields of a room in the reply, of which that id is the last. failures: by its key, of each room that
-- has become Failed, or has got its first reason then: generation, request, owner, failed_by, reason, origin. Scripts
-- append to changes inline, without a function call, for the speed of calls with one room. refused, refused_room,
-- refused_by: see refused.lua.

local changes, renew, openings, failures = {}, false, nil, nil
local refused, refused_room, refused_by

-- Whether a stream took no entry as it was made by hand: it has another type, or an entry with the last possible id.
-- Any other error, as that of a denied permission, says nothing of the stream, which then must stay. In fakeredis,
-- which has no permissions, an error is no string.
local function takes_no_entry(reply)
  local text = type(reply) == 'table' and reply.err
  return text and (type(text) ~= 'string' or string.find(text, 'WRONGTYPE') or string.find(text, ' ID'))
end
