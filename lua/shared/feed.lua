-- The change feed: what a call changes is appended to the stream of its shard, in the same step. This file goes
-- before every script that says USES feed. Times are milliseconds.
--
-- KEYS[1] is the feed, ARGV[1] the feed_length: how many entries it keeps, 0 for no feed. An entry is a list of names
-- and values in turn. A room's id has its new status, or absent; ttl_ms, the TTL of the rooms after it; reason, why
-- the room before it fails.

local FEED_TTL_MS = '86400000'
-- So many that a batch costs little more than a room, so few that the longest feed stays at some 40 MB.
local ROOMS_AN_ENTRY = 16

local entry, rooms_in_entry, entry_ttl, feed_id, renew_feed = {}, 0, nil, false, false
-- Where the id begins in "…:room:42", beside "…:feed".
local id_at = #KEYS[1] + 2

local function append_entry()
  feed_id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', unpack(entry))
  if not feed_id then
    feed_id, renew_feed = redis.call('XADD', KEYS[1], '*', unpack(entry)), true
  end
  entry, rooms_in_entry, entry_ttl = {}, 0, nil
end

-- Note what a room is now. Without ttl_ms, its TTL is what it was.
local function changed(room, status, ttl_ms, reason)
  if ARGV[1] == '0' then return end
  if ttl_ms ~= entry_ttl then
    entry[#entry + 1], entry[#entry + 2], entry_ttl = 'ttl_ms', ttl_ms, ttl_ms
  end
  local size = #entry
  entry[size + 1], entry[size + 2] = string.sub(room, id_at), status
  if reason then entry[size + 3], entry[size + 4] = 'reason', reason end
  rooms_in_entry = rooms_in_entry + 1
  if rooms_in_entry == ROOMS_AN_ENTRY then append_entry() end
end

-- Append what is left, and see to the feed's TTL. The id of the last entry; false when nothing has changed.
local function announced()
  if rooms_in_entry > 0 then append_entry() end
  if renew_feed and feed_id then redis.call('PEXPIRE', KEYS[1], FEED_TTL_MS) end
  return feed_id
end

-- The server's time. As text: of the microseconds' six digits, the first three.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] .. string.sub('00000' .. time[2], -6, -4)
end
