-- Fail each room for a reason, with all its ranks, in one step. A reason that is already there is the first cause and
-- stays. Times are milliseconds.
--
-- KEYS   feed; each: room, prefix in mode prefill
-- ARGV   feed_length, terminal_ttl_ms, author, rank; each: reason
-- REPLY  feed_id; each: outcome, status
-- FEED   ttl_ms, status, reason
-- CODES  3 UNCHANGED, 4 FAILED, 5 SKIPPED
-- USES   feed
--
-- author is who fails it, and rank the caller's, or both are empty. To a rank that has cleared the room is absent; it
-- comes too late. The decode prefix lengths of a room with ranks are dropped for all of them. A key of another type
-- (made by hand) puts its error in the place of its status; the other rooms go on.

local count = #ARGV - 4
local step = (#KEYS - 1) / count
local rank = ARGV[4]
local now
local reply, changes, renew = {false}, {}, false

for i = 1, count do
  local room = KEYS[(i - 1) * step + 2]
  local there = redis.pcall('HMGET', room, 'status', 'world_size', 'cleared:' .. rank)
  local current, has_ranks = there[1], there[2]
  if there.err then current = there end
  if has_ranks and there[3] then current, has_ranks = false, false end
  local outcome = 3
  if step == 2 then
    local prefix = KEYS[i * 2 + 1]
    local field = (current or rank == '') and 'length' or 'length:' .. rank
    local dropped = has_ranks and redis.call('DEL', prefix) or redis.pcall('HDEL', prefix, field)
    if type(dropped) == 'table' then current = dropped end
  end
  if not current then
    outcome = 5
  elseif current ~= 'Failed' and type(current) ~= 'table' then
    if not now then
      local time = redis.call('TIME')
      now = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    outcome, current = 4, 'Failed'
    if has_ranks then
      for _, name in ipairs(redis.call('HKEYS', room)) do
        if string.find(name, '^status:') then redis.call('HSET', room, name, 'Failed') end
      end
      redis.call('HINCRBY', room, 'version', '1')
    end
    redis.call('HSET', room, 'status', 'Failed', 'updated_ms', now)
    local first = redis.call('HSETNX', room, 'reason', ARGV[i + 4]) == 1
    if ARGV[3] ~= '' then redis.call('HSETNX', room, 'failed_by', ARGV[3]) end
    redis.call('PEXPIRE', room, ARGV[2])
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = room, 'Failed', ARGV[2]
    changes[n + 4], changes[n + 5] = first and ARGV[i + 4], false
  end
  reply[i * 2], reply[i * 2 + 1] = outcome, current
end
