-- Fail each room with a reason, with all its ranks, in one step. The first reason stays. Times are milliseconds.
--
-- KEYS     feed; each: room, prefix in mode prefill; last: failed
-- ARGV     feed_length, terminal_ttl_ms, author, rank; each: reason
-- REPLY    feed_id; each: outcome, status
-- FEED     ttl_ms, status, reason
-- CODES    3 UNCHANGED, 4 FAILED, 5 SKIPPED, -4 CORRUPT
-- INCLUDE  numbers, fail_room, refused, feed
--
-- author names the caller in failed_by, and rank is the caller's; both may be empty. To a rank that has cleared, the
-- room is absent. A room with ranks loses the decode prefix lengths of all ranks. For a key of another type (made by
-- hand), the error replaces the status; with CORRUPT, a field and its value; the other rooms are processed.

local count = #ARGV - 4
local step = (#KEYS - 2) / count
local rank = ARGV[4]
local now_ms
local reply = {false}

for i = 1, count do
  local room = KEYS[(i - 1) * step + 2]
  local fields = redis.pcall('HMGET', room, 'status', 'world_size', 'cleared:' .. rank, 'version')
  local status, has_ranks = fields.err and fields or fields[1], fields[2]
  local is_corrupt = fields[4] and not is_number(fields[4])
  if has_ranks and fields[3] then status, has_ranks = false, false end
  local outcome = 3
  if step == 2 and not is_corrupt then
    local prefix = KEYS[i * 2 + 1]
    local field = (status or rank == '') and 'length' or 'length:' .. rank
    local dropped = has_ranks and redis.call('DEL', prefix) or redis.pcall('HDEL', prefix, field)
    if type(dropped) == 'table' then
      status = dropped  -- as in write_room.lua
      if type(redis.pcall('HLEN', prefix)) ~= 'table' then redis.call('HDEL', prefix, field) end
    end
  end
  if is_corrupt then
    outcome, status = -4, 'version ' .. fields[4]
  elseif not status then
    outcome = 5
    refused = refused or {}
    refused[5] = (refused[5] or 0) + 1
    refused_room = room
  elseif status ~= 'Failed' and type(status) ~= 'table' then
    if not now_ms then  -- as in clock.lua, but without a function, for speed
      local time = redis.call('TIME')
      now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    outcome, status = 4, 'Failed'
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = room, status, ARGV[2]
    changes[n + 4], changes[n + 5] = fail_room(room, has_ranks, ARGV[i + 4], ARGV[3], now_ms, ARGV[2]), false
    failures = failures or {}
    failures[room] = redis.call('HMGET', room, 'generation', 'request', 'owner', 'failed_by', 'reason')
    failures[room][6] = ARGV[3] == '' and 'operator' or 'abort'
  end
  reply[i * 2], reply[i * 2 + 1] = outcome, status
  if fields_read > MAX_FIELDS then break end
end
