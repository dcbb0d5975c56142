-- Fail each room that was opened under a lost lease and is still live, with all its ranks. Times are milliseconds.
--
-- KEYS   feed, owned; each: room, prefix in mode prefill
-- ARGV   feed_length, terminal_ttl_ms; each: incarnation, reason
-- REPLY  feed_id; each: outcome, status
-- FEED   ttl_ms, status, reason
-- CODES  3 UNCHANGED, 4 FAILED, 5 SKIPPED
-- USES   feed
--
-- A room that is absent, or somebody else's by now, is SKIPPED. In any case it is not owned by that lease any more. It
-- is the owner that has failed it. A key of another type (made by hand) puts its error in the place of its status.

local count = (#ARGV - 2) / 2
local step = (#KEYS - 2) / count
local now
local reply, changes, renew = {false}, {}, false

for i = 1, count do
  local room, incarnation, reason = KEYS[(i - 1) * step + 3], ARGV[i * 2 + 1], ARGV[i * 2 + 2]
  local id = string.sub(room, #KEYS[1] + 2)
  local was = redis.pcall('HMGET', room, 'status', 'incarnation', 'world_size', 'owner')
  local outcome, current = 3, was[1]
  if was.err then
    current = was
  elseif not current or was[2] ~= incarnation then
    outcome = 5
  elseif current ~= 'Success' and current ~= 'Failed' then
    if not now then
      local time = redis.call('TIME')
      now = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    outcome, current = 4, 'Failed'
    if was[3] then
      for _, name in ipairs(redis.call('HKEYS', room)) do
        if string.find(name, '^status:') then redis.call('HSET', room, name, 'Failed') end
      end
      redis.call('HINCRBY', room, 'version', '1')
    end
    if step == 2 then redis.call('DEL', KEYS[i * 2 + 2]) end
    redis.call('HSET', room, 'status', 'Failed', 'updated_ms', now)
    local first = redis.call('HSETNX', room, 'reason', reason) == 1
    if was[4] then redis.call('HSETNX', room, 'failed_by', was[4]) end
    redis.call('PEXPIRE', room, ARGV[2])
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = room, 'Failed', ARGV[2]
    changes[n + 4], changes[n + 5] = first and reason, false
  end
  -- Opened anew under another lease since it was listed, it is that one's.
  local score = redis.call('ZSCORE', KEYS[2], id)
  if score and score - incarnation == 0 then redis.call('ZREM', KEYS[2], id) end
  reply[i * 2], reply[i * 2 + 1] = outcome, current
end
