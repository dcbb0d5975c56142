-- Fail each room that was created under a lost lease and is still live, with all its ranks. Times are milliseconds.
--
-- KEYS     feed, owned; each: room, prefix in mode prefill
-- ARGV     feed_length, terminal_ttl_ms; each: incarnation, reason
-- REPLY    feed_id; each: outcome, status
-- FEED     ttl_ms, status, reason
-- CODES    3 UNCHANGED, 4 FAILED, 5 SKIPPED
-- INCLUDE  numbers, fail_room, room_id, feed
--
-- A room that is absent, or owned by another lease by now, is SKIPPED. In any case the lost lease no longer owns it.
-- failed_by is its owner. For a key of another type, the error replaces the status; so does a version that is no number
-- (both made by hand). The other rooms are processed.

local count = (#ARGV - 2) / 2
local step = (#KEYS - 2) / count
local now_ms
local reply = {false}

for i = 1, count do
  local room, incarnation, reason = KEYS[(i - 1) * step + 3], ARGV[i * 2 + 1], ARGV[i * 2 + 2]
  local fields = redis.pcall('HMGET', room, 'status', 'incarnation', 'world_size', 'owner', 'version')
  local outcome, status = 3, fields.err and fields or fields[1]
  if type(status) == 'table' then
    outcome = 3
  elseif not status or fields[2] ~= incarnation then
    outcome = 5
  elseif fields[5] and not is_number(fields[5]) then
    status = 'version ' .. fields[5]
  elseif status ~= 'Success' and status ~= 'Failed' then
    if step == 2 then redis.call('DEL', KEYS[i * 2 + 2]) end
    if not now_ms then  -- as in clock.lua, but without a function, for speed
      local time = redis.call('TIME')
      now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    outcome, status = 4, 'Failed'
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = room, status, ARGV[2]
    changes[n + 4], changes[n + 5] = fail_room(room, fields[3], reason, fields[4] or '', now_ms, ARGV[2]), false
  end
  -- A room that was created again under another lease since it was listed stays owned by that lease.
  local score = redis.pcall('ZSCORE', KEYS[2], room_id(room))
  if type(score) == 'string' and score - incarnation == 0 then redis.call('ZREM', KEYS[2], room_id(room)) end
  reply[i * 2], reply[i * 2 + 1] = outcome, status
end
